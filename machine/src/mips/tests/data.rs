use super::*;
use proptest::prelude::*;

/// SPECIAL: rs a0 (4), rt a1 (5), rd v0 (2).
fn special(function: u32) -> u32 {
    0x0085_1000 | function
}

/// What an instruction leaves in v0 for values of a0 and a1.
fn result(word: u32, a0: u32, a1: u32) -> u32 {
    run(&[word], &registers(&[(4, a0), (5, a1)])).0[2]
}

/// LO and HI afterwards, from 0x1111_1111 and 0x2222_2222 before.
fn product(word: u32, a0: u32, a1: u32) -> (u32, u32) {
    let after = run(&[word], &registers(&[(4, a0), (5, a1), (LO, 0x1111_1111), (HI, 0x2222_2222)]));
    (after.0[LO], after.0[HI])
}

const ACCUMULATOR: u64 = 0x2222_2222_1111_1111;

fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

proptest! {
    #[test]
    fn three_registers(a0: u32, a1 in prop_oneof![any::<u32>(), Just(0), 0u32..40]) {
        let (wide0, wide1) = (i64::from(a0 as i32), i64::from(a1 as i32));
        let before = 0x0202_0202;
        for (function, expected) in [
            (0x20, (wide0 + wide1) as u32),
            (0x21, (wide0 + wide1) as u32),
            (0x22, (wide0 - wide1) as u32),
            (0x23, (wide0 - wide1) as u32),
            (0x24, a0 & a1),
            (0x25, a0 | a1),
            (0x26, (a0 | a1) & !(a0 & a1)),
            (0x27, !a0 & !a1),
            (0x2a, u32::from(wide0 < wide1)),
            (0x2b, u32::from(u64::from(a0) < u64::from(a1))),
            (0x0a, if a1 == 0 { a0 } else { before }),
            (0x0b, if a1 != 0 { a0 } else { before }),
            (0x04, (u64::from(a1) << (a0 % 32)) as u32),
            (0x06, (u64::from(a1) >> (a0 % 32)) as u32),
            (0x07, (wide1 >> (a0 % 32)) as u32),
        ] {
            prop_assert_eq!(result(special(function), a0, a1), expected, "function {:#x}", function);
        }
        prop_assert_eq!(result(0x7085_1002, a0, a1), (wide0 * wide1) as u32, "mul");
    }

    #[test]
    fn shifts_by_constants(a1: u32, amount in 0u32..32) {
        let wide = u64::from(a1) << 32 | u64::from(a1);
        let shift = |function: u32| result(0x0005_1000 | amount << 6 | function, 0, a1);
        prop_assert_eq!(shift(0x00), a1 << amount);
        prop_assert_eq!(shift(0x02), a1 >> amount);
        prop_assert_eq!(shift(0x03), (i64::from(a1 as i32) >> amount) as u32);
        prop_assert_eq!(shift(0x0020_0002), (wide >> amount) as u32, "rotr");
        prop_assert_eq!(result(0x0085_1046, amount | 0xabcd_ef00 & !31, a1), (wide >> amount) as u32, "rotrv");
    }

    #[test]
    fn constants(a0: u32, value: u16) {
        let (signed, unsigned) = (i64::from(value as i16), u32::from(value));
        let immediate = |opcode: u32| result(opcode << 26 | 0x0082_0000 | unsigned, a0, 0);
        let wide = i64::from(a0 as i32);
        prop_assert_eq!(immediate(0x08), (wide + signed) as u32);
        prop_assert_eq!(immediate(0x09), (wide + signed) as u32);
        prop_assert_eq!(immediate(0x0a), u32::from(wide < signed));
        prop_assert_eq!(immediate(0x0b), u32::from(a0 < signed as u32));
        prop_assert_eq!(immediate(0x0c), a0 & unsigned);
        prop_assert_eq!(immediate(0x0d), a0 | unsigned);
        prop_assert_eq!(immediate(0x0e), a0 ^ unsigned);
        prop_assert_eq!(result(0x3c02_0000 | unsigned, 0, 0), unsigned << 16);
    }

    #[test]
    fn fields(a0: u32, v0: u32, lsb in 0u32..32, size in 1u32..33) {
        prop_assume!(lsb + size <= 32);
        let mask = (((1u64 << size) - 1) << lsb) as u32;
        let ext = 0x7c82_0000 | (size - 1) << 11 | lsb << 6;
        prop_assert_eq!(result(ext, a0, 0), (a0 & mask) >> lsb);
        let ins = 0x7c82_0004 | (lsb + size - 1) << 11 | lsb << 6;
        let after = run(&[ins], &registers(&[(4, a0), (2, v0)])).0[2];
        prop_assert_eq!(after, v0 & !mask | (u64::from(a0) << lsb) as u32 & mask);
    }

    #[test]
    fn multiplication(a0: u32, a1: u32) {
        let signed = (i128::from(a0 as i32) * i128::from(a1 as i32)) as u64;
        let unsigned = (u128::from(a0) * u128::from(a1)) as u64;
        prop_assert_eq!(product(0x0085_0018, a0, a1), halves(signed));
        prop_assert_eq!(product(0x0085_0019, a0, a1), halves(unsigned));
        prop_assert_eq!(product(0x7085_0000, a0, a1), halves(ACCUMULATOR.wrapping_add(signed)));
        prop_assert_eq!(product(0x7085_0001, a0, a1), halves(ACCUMULATOR.wrapping_add(unsigned)));
        prop_assert_eq!(product(0x7085_0004, a0, a1), halves(ACCUMULATOR.wrapping_sub(signed)));
        prop_assert_eq!(product(0x7085_0005, a0, a1), halves(ACCUMULATOR.wrapping_sub(unsigned)));
    }

    #[test]
    fn division(a0: u32, a1 in prop_oneof![any::<u32>(), 1u32..100]) {
        prop_assume!(a1 != 0);
        let (wide0, wide1) = (i64::from(a0 as i32), i64::from(a1 as i32));
        prop_assert_eq!(product(0x0085_001a, a0, a1), ((wide0 / wide1) as u32, (wide0 % wide1) as u32));
        prop_assert_eq!(product(0x0085_001b, a0, a1), (a0 / a1, a0 % a1));
    }
}

/// As QEMU has it: the divisor becomes 1.
#[test]
fn divisions_without_a_result() {
    assert_eq!(product(0x0085_001a, 77, 0), (77, 0));
    assert_eq!(product(0x0085_001b, 77, 0), (77, 0));
    assert_eq!(product(0x0085_001a, 0x8000_0000, u32::MAX), (0x8000_0000, 0));
}

#[test]
fn one_register() {
    for (value, byte, half, swapped, zeros, ones) in [
        (0, 0, 0, 0, 32, 0),
        (u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0, 32),
        (0x0102_8384, 0xffff_ff84, 0xffff_8384, 0x0201_8483, 7, 0),
        (0xfff0_7f01, 1, 0x7f01, 0xf0ff_017f, 0, 12),
    ] {
        assert_eq!(result(0x7c05_1420, 0, value), byte, "seb");
        assert_eq!(result(0x7c05_1620, 0, value), half, "seh");
        assert_eq!(result(0x7c05_10a0, 0, value), swapped, "wsbh");
        assert_eq!(result(0x7082_1020, value, 0), zeros, "clz");
        assert_eq!(result(0x7082_1021, value, 0), ones, "clo");
    }
}

#[test]
fn moves_between_register_files() {
    let before = registers(&[(LO, 0xaaaa), (HI, 0xbbbb)]);
    assert_eq!(run(&[0x0000_1010], &before).0[2], 0xbbbb, "mfhi v0");
    assert_eq!(run(&[0x0000_1012], &before).0[2], 0xaaaa, "mflo v0");
    assert_eq!(run(&[0x0080_0011], &before).0[HI], 0x0404_0404, "mthi a0");
    assert_eq!(run(&[0x0080_0013], &before).0[LO], 0x0404_0404, "mtlo a0");
    let f = |number: usize| 38 + number;
    assert_eq!(run(&[0x4402_1800], &before).0[2], before.0[f(3)], "mfc1 v0, f3");
    assert_eq!(run(&[0x4462_1000], &before).0[2], before.0[f(3)], "mfhc1 v0, f2");
    assert_eq!(run(&[0x4484_1800], &before).0[f(3)], before.0[4], "mtc1 a0, f3");
    assert_eq!(run(&[0x44e4_1000], &before).0[f(3)], before.0[4], "mthc1 a0, f2");
    assert_eq!(run(&[0x4600_1946], &before).0[f(5)], before.0[f(3)], "mov.s f5, f3");
    let after = run(&[0x4620_1106], &before);
    assert_eq!(after.0[f(4)..=f(5)], before.0[f(2)..=f(3)], "mov.d f4, f2");
    assert_eq!(run(&[0x4442_f800], &before).0[2], before.0[FCSR], "cfc1 v0, fcsr");
    assert_eq!(run(&[0x4442_0000], &before).0[2], before.0[71], "cfc1 v0, fir");
}

/// Condition code 0 is bit 23, the others are from bit 25 on.
#[test]
fn moves_on_condition_codes() {
    for code in 0..8 {
        let bit = if code == 0 { 23 } else { 24 + code };
        for flags in [1 << bit, !(1u32 << bit)] {
            let before = registers(&[(FCSR, flags)]);
            let set = flags == 1 << bit;
            let (moved, kept) = (before.0[4], before.0[2]);
            let movf = run(&[0x0080_1001 | code << 18], &before).0[2];
            let movt = run(&[0x0081_1001 | code << 18], &before).0[2];
            assert_eq!((movf, movt), if set { (kept, moved) } else { (moved, kept) });
        }
    }
}

#[test]
fn r0_stays_zero() {
    let before = registers(&[]);
    let mut memory = Memory::default();
    // addu, addiu, lui, sll, movn, mul, ext, seb, mfhi, mfc1; lw, lwl; jalr r0 by way of its link.
    for word in [
        0x0085_0021,
        0x2480_0001,
        0x3c00_1234,
        0x0005_00c0,
        0x0085_000b,
        0x7085_0002,
        0x7c80_f800,
        0x7c05_0420,
        0x0000_0010,
        0x4400_1800,
        0x8c80_0000,
        0x8880_0001,
        0x0080_0009,
    ] {
        let after = run_in(false, &[word], &before, &mut memory);
        assert_eq!(after.0[0], 0, "{word:#010x}");
        for number in (1..72).filter(|number| *number != PC) {
            assert_eq!(after.0[number], before.0[number], "{word:#010x}");
        }
    }
    assert_eq!(memory.accesses.len(), 3, "loads to r0 are made");
}
