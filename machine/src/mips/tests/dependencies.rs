//! Of every instruction: what it does not read makes no difference to what it computes, and it changes nothing else.

use proptest::prelude::*;

use super::*;
use crate::{Dependencies, RegisterSet, Writes};

const HI_AND_LO: u128 = 1 << 33 | 1 << 34;
const STATUS: usize = 32;

fn decoded(mode: Mode, word: u32) -> Option<Block> {
    let block = Block::decode_with_dependencies(START, mode, &code(&[word], mode)).ok()?;
    (block.len() == 1).then_some(block)
}

fn of(word: u32) -> Dependencies {
    let block = decoded(mode(true), word).expect("one instruction");
    block.dependencies(0).expect("they were asked for")
}

#[test]
fn known_instructions_depend_on_what_they_should() {
    for (word, reads, computed, loaded) in [
        (0x3c01_1000, 0, 1 << 1, 0),                              // lui at, 0x1000
        (0x3421_001f, 1 << 1, 1 << 1, 0),                         // ori at, at, 0x1f
        (0x0101_4025, 1 << 8 | 1 << 1, 1 << 8, 0),                // or t0, t0, at
        (0x0109_500b, 1 << 8 | 1 << 9 | 1 << 10, 1 << 10, 0),     // movn t2, t0, t1
        (0x0000_4025, 0, 1 << 8, 0),                              // move t0, zero
        (0x0109_0018, 1 << 8 | 1 << 9, HI_AND_LO, 0),             // mult t0, t1
        (0x7109_0000, 1 << 8 | 1 << 9 | HI_AND_LO, HI_AND_LO, 0), // madd t0, t1
        (0x0000_4012, 1 << 33, 1 << 8, 0),                        // mflo t0
        (0x8fa8_0010, 0, 0, 1 << 8),                              // lw t0, 16(sp)
        (0xafa8_0010, 0, 0, 0),                                   // sw t0, 16(sp)
        (0x0c00_0000, 0, 1 << 31, 0),                             // jal
        (0x4008_6000, 0, 0, 1 << 8),                              // mfc0 t0, c0_status
        (0x0109_0020, 1 << 8 | 1 << 9, 0, 0),                     // add zero, t0, t1
    ] {
        let [reads, computed, loaded] = [reads, computed, loaded].map(RegisterSet::from_bits);
        let found = of(word);
        assert_eq!((found.reads, found.computed, found.loaded), (reads, computed, loaded), "{word:08x}");
    }
}

#[test]
fn an_instruction_writes_what_it_may_unless_it_is_nullified() {
    use Writes::{No, Perhaps, Yes};
    let writes = |words: &[u32], index: usize, register| {
        let mode = mode(true);
        let block = Block::decode_with_dependencies(START, mode, &code(words, mode)).expect("a block");
        let mut registers = Registers([0; 72]);
        registers.0[PC] = START;
        let mut cpu = Cpu::new(&registers, mode);
        assert_eq!(cpu.run(&block, 0, index, &mut Memory::default()), Exit::Done);
        cpu.writes(&block, index, register)
    };
    assert_eq!(writes(&[0x0101_4025], 0, 8), Yes); // or t0, t0, at
    assert_eq!(writes(&[0x0101_4025], 0, 9), No);
    assert_eq!(writes(&[0x0109_500b], 0, 10), Perhaps); // movn t2, t0, t1
    assert_eq!(writes(&[0x0109_0018], 0, 33), Yes); // mult t0, t1
    assert_eq!(writes(&[0x8fa8_0010], 0, 8), Yes); // lw t0, 16(sp)
    assert_eq!(writes(&[0x4008_6000], 0, 8), Perhaps); // mfc0 t0, c0_status
    // beql zero, zero / beql t0, t0 are taken, bnel t0, t0 is not; lui at, 0x1000 in the slot
    assert_eq!(writes(&[0x5100_0004, 0x3c01_1000], 1, 1), Yes);
    assert_eq!(writes(&[0x5500_0004, 0x3c01_1000], 1, 1), No);
}

#[test]
fn nothing_is_known_behind_compressed_code() {
    let mode = Mode::at(Mode::of_processor(true), 0, 1);
    let block = Block::decode_with_dependencies(START, mode, &[0x65, 0x00, 0x65, 0x00]).expect("two NOPs");
    let unknown = block.dependencies(0).expect("they were asked for").unknown_after(RegisterSet::EMPTY);
    assert_eq!(unknown.bits(), (1 << 72) - 2 - (1 << PC), "but for r0 and the program counter");
    assert!(block.dependencies(2).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40_000))]

    #[test]
    fn only_what_it_reads_makes_a_difference(
        word in prop_oneof![
            any::<u32>(),
            // SPECIAL, SPECIAL2 and 3, the floating-point unit, with fields that must be zero.
            any::<u32>().prop_map(|word| word & 0x03ff_f83f),
            any::<u32>().prop_map(|word| word & 0x03ff_f83f | 0x7000_0000),
            any::<u32>().prop_map(|word| word & 0x03ff_ffff | 0x7c00_0000),
            any::<u32>().prop_map(|word| word & 0x03ff_ffff | 0x4400_0000),
            // MOV.D, MOVF and MOVT, MOVF.S and MOVT.S, LDC1, SDC1.
            any::<u32>().prop_map(|word| word & 0x0000_ffc0 | 0x4620_0006),
            any::<u32>().prop_map(|word| word & 0x03fd_f800 | 0x0000_0001),
            any::<u32>().prop_map(|word| word & 0x001d_ffc0 | 0x4600_0011),
            any::<u32>().prop_map(|word| word & 0x23ff_ffff | 0xd400_0000),
        ],
        big_endian: bool, fpu_64: bool, which: u128, seed: u64,
    ) {
        let mode = Mode::at(mode(big_endian), if fpu_64 { 1 << 26 } else { 0 }, START);
        let Some(block) = decoded(mode, word) else { return Ok(()) };
        let dependencies = block.dependencies(0).expect("they were asked for");
        if block.opaque(0).is_some() {
            prop_assert!(dependencies.computed.is_empty());
            return Ok(());
        }
        let mut random = seed;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 32) as u32
        };
        let mut first = Registers(std::array::from_fn(|_| next()));
        first.0[0] = 0;
        first.0[PC] = START;
        first.0[STATUS] = first.0[STATUS] & !(1 << 26) | u32::from(fpu_64) << 26;
        // Some of what it does not read is different.
        let mut second = first;
        for number in (1..72).filter(|number| which >> number & 1 != 0 && ![PC, STATUS].contains(number)) {
            if !dependencies.reads.contains(number) {
                second.0[number] = next();
            }
        }
        let [first_after, second_after] = [first, second].map(|registers| {
            let mut cpu = Cpu::new(&registers, mode);
            assert_eq!(cpu.run(&block, 0, 1, &mut Memory::default()), Exit::Done);
            cpu.registers()
        });
        for number in (0..72).filter(|number| *number != PC) {
            if Cpu::new(&first, mode).writes(&block, 0, number) == Writes::No {
                prop_assert_eq!(first_after.0[number], first.0[number], "{} {:?}", number, dependencies);
            }
            if dependencies.computed.without(dependencies.loaded).contains(number) {
                prop_assert_eq!(first_after.0[number], second_after.0[number], "{} {:?}", number, dependencies);
            } else if !dependencies.loaded.contains(number) {
                prop_assert_eq!(first_after.0[number], first.0[number], "{} {:?}", number, dependencies);
                prop_assert_eq!(second_after.0[number], second.0[number], "{} {:?}", number, dependencies);
            }
        }
    }
}
