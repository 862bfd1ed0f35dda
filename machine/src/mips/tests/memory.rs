use super::*;
use AccessSize::{Byte, Double, Half, Word};

const BASE: u32 = 0x8002_0010;
/// From [`BASE`] on.
const BYTES: [u8; 8] = [0x81, 0x92, 0xa3, 0xb4, 0xc5, 0xd6, 0xe7, 0xf8];

/// Runs one instruction whose base is a0, and whose other register is v0 or f4. Returns the registers and the memory.
fn step(big_endian: bool, word: u32, base: u32) -> (Registers, Memory) {
    let mut memory = Memory::with(BASE, &BYTES);
    let before = registers(&[(4, base), (2, 0x0a0b_0c0d), (42, 0x1020_3040), (43, 0x5060_7080)]);
    let after = run_in(big_endian, &[word], &before, &mut memory);
    (after, memory)
}

#[test]
fn loads() {
    for (opcode, size, little, big) in [
        (0x80, Byte, 0xffff_ff92, 0xffff_ff92),
        (0x90, Byte, 0x92, 0x92),
        (0x84, Half, 0xffff_a392, 0xffff_92a3),
        (0x94, Half, 0xa392, 0x92a3),
        (0x8c, Word, 0xc5b4_a392, 0x92a3_b4c5),
    ] {
        for (big_endian, expected) in [(false, little), (true, big)] {
            // From one byte behind the base with the offset -2 of the base + 3: the offset is signed.
            let (after, memory) = step(big_endian, opcode << 24 | 0x0082_fffe, BASE + 3);
            assert_eq!(after.0[2], expected, "{opcode:#x}, {big_endian}");
            assert_eq!(memory.accesses, [Access::Load(BASE + 1, size)]);
        }
    }
}

#[test]
fn stores() {
    for (opcode, size, little, big) in
        [(0xa0, Byte, 0x0d, 0x0d), (0xa4, Half, 0x0c0d, 0x0d0c), (0xac, Word, 0x0a0b_0c0d, 0x0d0c_0b0a)]
    {
        for (big_endian, expected) in [(false, little), (true, big)] {
            let (_, memory) = step(big_endian, opcode << 24 | 0x0082_0004, BASE);
            assert_eq!(memory.accesses, [Access::Store(BASE + 4, size, expected)]);
        }
    }
}

/// The tables of the manual's LWL and LWR: with the word's bytes in the order of their significance called IJKL and the
/// register's efgh.
#[test]
fn parts_of_words_are_loaded() {
    let little = [
        // LWL: Lfgh, KLgh, JKLh, IJKL. LWR: IJKL, eIJK, efIJ, efgI.
        (0x810b_0c0d, 0xb4a3_9281),
        (0x9281_0c0d, 0x0ab4_a392),
        (0xa392_810d, 0x0a0b_b4a3),
        (0xb4a3_9281, 0x0a0b_0cb4),
    ];
    let big = [
        // LWL: IJKL, JKLh, KLgh, Lfgh. LWR: efgI, efIJ, eIJK, IJKL.
        (0x8192_a3b4, 0x0a0b_0c81),
        (0x92a3_b40d, 0x0a0b_8192),
        (0xa3b4_0c0d, 0x0a81_92a3),
        (0xb40b_0c0d, 0x8192_a3b4),
    ];
    for (big_endian, table) in [(false, little), (true, big)] {
        for (offset, (left, right)) in (0..).zip(table) {
            for (opcode, expected) in [(0x88u32, left), (0x98, right)] {
                let (after, memory) = step(big_endian, opcode << 24 | 0x0082_0000, BASE + offset);
                assert_eq!(after.0[2], expected, "{opcode:#x} {big_endian} {offset}");
                assert_eq!(memory.accesses, [Access::Load(BASE + offset, Byte), Access::Load(BASE, Word)]);
            }
        }
    }
}

/// QEMU stores byte by byte, beginning with the addressed one.
#[test]
fn parts_of_words_are_stored() {
    let store = |offset: u32, byte: u64| Access::Store(BASE + offset, Byte, byte);
    for (big_endian, offset, left, right) in [
        (
            false,
            0,
            vec![store(0, 0x0a)],
            vec![store(0, 0x0d), store(1, 0x0c), store(2, 0x0b), store(3, 0x0a)],
        ),
        (
            false,
            1,
            vec![store(1, 0x0a), store(0, 0x0b)],
            vec![store(1, 0x0d), store(2, 0x0c), store(3, 0x0b)],
        ),
        (
            false,
            3,
            vec![store(3, 0x0a), store(2, 0x0b), store(1, 0x0c), store(0, 0x0d)],
            vec![store(3, 0x0d)],
        ),
        (true, 0, vec![store(0, 0x0a), store(1, 0x0b), store(2, 0x0c), store(3, 0x0d)], vec![store(0, 0x0d)]),
        (true, 1, vec![store(1, 0x0a), store(2, 0x0b), store(3, 0x0c)], vec![store(1, 0x0d), store(0, 0x0c)]),
        (true, 3, vec![store(3, 0x0a)], vec![store(3, 0x0d), store(2, 0x0c), store(1, 0x0b), store(0, 0x0a)]),
    ] {
        let (_, memory) = step(big_endian, 0xa882_0000, BASE + offset);
        assert_eq!(memory.accesses, left, "swl {big_endian} {offset}");
        let (_, memory) = step(big_endian, 0xb882_0000, BASE + offset);
        assert_eq!(memory.accesses, right, "swr {big_endian} {offset}");
    }
}

#[test]
fn the_floating_point_unit() {
    let (after, memory) = step(false, 0xc484_0000, BASE);
    assert_eq!((after.0[42], &memory.accesses[..]), (0xb4a3_9281, &[Access::Load(BASE, Word)][..]));
    let (after, _) = step(true, 0xc484_0000, BASE);
    assert_eq!(after.0[42], 0x8192_a3b4);
    let (_, memory) = step(false, 0xe484_0000, BASE);
    assert_eq!(memory.accesses, [Access::Store(BASE, Word, 0x1020_3040)]);

    // The pair f4 and f5, also where the odd one is named: f4 is the low word.
    for word in [0xd484_0000, 0xd485_0000] {
        let (after, memory) = step(false, word, BASE);
        assert_eq!(after.0[42..44], [0xb4a3_9281, 0xf8e7_d6c5]);
        assert_eq!(memory.accesses, [Access::Load(BASE, Double)]);
        let (after, _) = step(true, word, BASE);
        assert_eq!(after.0[42..44], [0xc5d6_e7f8, 0x8192_a3b4]);
    }
    let (_, memory) = step(false, 0xf484_0000, BASE);
    assert_eq!(memory.accesses, [Access::Store(BASE, Double, 0x5060_7080_1020_3040)]);
    let (_, memory) = step(true, 0xf484_0000, BASE);
    assert_eq!(memory.accesses, [Access::Store(BASE, Double, 0x4030_2010_8070_6050)]);
}

#[test]
fn a_refused_access_halts() {
    // addiu v0, zero, 1; lw v1, 0(a0); addiu v0, zero, 2
    let block = block(&[0x2402_0001, 0x8c83_0000, 0x2402_0002]);
    let mut cpu = Cpu::new(&registers(&[(4, BASE)]), mode(false));
    let mut memory = Memory { limit: Some(0), ..Memory::default() };
    assert_eq!(cpu.run(&block, 0, 3, &mut memory), Exit::Halted(1));
    assert_eq!(cpu.registers().0[2], 1);
}
