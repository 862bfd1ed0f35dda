//! Of every instruction: what it does not read makes no difference to what it computes, and it changes nothing else.

use proptest::prelude::*;

use super::*;
use crate::arm::mode::CPSR_IT;
use crate::{Dependencies, RegisterSet, Writes};

const CPSR: u32 = 1 << 16;
/// What of CPSR modelled instructions compute.
const COMPUTED: u32 = NZCV | Q | GE;

fn decoded(mode: Mode, code: &[u8]) -> Option<Block> {
    Block::decode_with_dependencies(START, mode, code).ok().filter(|block| block.len() == 1)
}

fn set(bits: u32) -> RegisterSet {
    RegisterSet::from_bits(bits.into())
}

fn of(word: u32) -> Dependencies {
    let block = decoded(Mode::default(), &word.to_le_bytes()).expect("one instruction");
    block.dependencies(0).expect("they were asked for")
}

#[test]
fn known_instructions_depend_on_what_they_should() {
    for (word, reads, computed, loaded) in [
        (0xe3a0_0001, 0, 0b1, 0),                       // mov r0, #1
        (0xe081_0002, 0b110, 0b1, 0),                   // add r0, r1, r2
        (0xe0a1_0002, 0b110 | CPSR, 0b1, 0),            // adc r0, r1, r2
        (0xe091_0002, 0b110 | CPSR, 0b1 | CPSR, 0),     // adds r0, r1, r2
        (0xe351_0000, 0b10 | CPSR, CPSR, 0),            // cmp r1, #0
        (0x0081_0002, 0b111 | CPSR, 0b1, 0),            // addeq r0, r1, r2
        (0xe28f_0008, 0, 0b1, 0),                       // add r0, pc, #8
        (0xe591_0004, 0b10, 0, 0b1),                    // ldr r0, [r1, #4]
        (0xe491_0004, 0b10, 0b10, 0b1),                 // ldr r0, [r1], #4
        (0x0491_0004, 0b10 | CPSR, 0b10, 0b1),          // ldreq r0, [r1], #4
        (0xe781_0102, 0b110, 0, 0),                     // str r0, [r1, r2, lsl #2]
        (0xe92d_4010, 1 << 13, 1 << 13, 0),             // push {r4, lr}
        (0xe8bd_8010, 1 << 13, 1 << 13, 1 << 4 | CPSR), // pop {r4, pc}
        (0xebff_fffe, 0, 1 << 14, 0),                   // bl .
        (0xee11_0f10, 0, 0, 0b1),                       // mrc p15, 0, r0, c1, c0, 0
    ] {
        let [reads, computed, loaded] = [reads, computed, loaded].map(set);
        let found = of(word);
        assert_eq!((found.reads, found.computed, found.loaded), (reads, computed, loaded), "{word:08x}");
    }
}

#[test]
fn what_is_computed_from_the_unknown_is_unknown_and_from_the_known_is_known() {
    let after = |word, unknown| of(word).unknown_after(set(unknown)).bits();
    let add = 0xe081_0002;
    assert_eq!(after(add, 0), 0);
    assert_eq!(after(add, 0b100), 0b101);
    assert_eq!(after(add, 0b1), 0);
    assert_eq!(after(add, 0b1000 | CPSR), u128::from(0b1000 | CPSR));
    let load = 0xe491_0004;
    assert_eq!(after(load, 0), 0b1);
    assert_eq!(after(load, 0b10), 0b11);
    assert_eq!(after(0x0081_0002, 0b1), 0b1, "it may not have been executed");
}

#[test]
fn an_instruction_writes_what_it_may_if_its_condition_holds() {
    use Writes::{No, Perhaps, Yes};
    const ZERO: u32 = 1 << 30;
    for (word, flags, register, expected) in [
        (0xe3a0_0001_u32, 0, 0, Yes), // mov r0, #1
        (0xe3a0_0001, 0, 1, No),
        (0x03a0_0001, ZERO, 0, Yes), // moveq r0, #1
        (0x03a0_0001, 0, 0, No),
        (0xe351_0000, 0, 16, Yes),     // cmp r1, #0
        (0x0351_0000, 0, 16, No),      // cmpeq r1, #0
        (0xe081_0002, 0, 16, No),      // add r0, r1, r2
        (0xe102_0051, 0, 16, Perhaps), // qadd r0, r1, r2
        (0xe12f_ff1e, 0, 16, Perhaps), // bx lr
        (0xe491_0004, 0, 0, Yes),      // ldr r0, [r1], #4
        (0xe491_0004, 0, 1, Yes),
        (0xee11_0f10, 0, 0, Perhaps), // mrc p15, 0, r0, c1, c0, 0
        (0xee11_0f10, 0, 1, No),
        (0xe581_0000, 0, 0, No), // str r0, [r1]
        (0xe581_0000, 0, 15, Yes),
    ] {
        let block =
            crate::Block::Arm(decoded(Mode::default(), &word.to_le_bytes()).expect("one instruction"));
        let mut registers = crate::Registers::zero(17);
        (registers[15], registers[16]) = (START, SUPERVISOR | flags);
        let cpu = crate::Cpu::new(crate::InstructionSet::Arm, &registers);
        assert_eq!(cpu.writes(&block, 0, register), expected, "{word:08x} r{register}");
        let maybe = block.may_write(0).contains(register);
        assert_eq!(maybe, register != 15 && (expected != No || word >> 28 == 0), "{word:08x} r{register}");
    }
    let plain = crate::Block::Arm(arm_block(&[0xe1a0_0000]));
    let cpu = crate::Cpu::new(crate::InstructionSet::Arm, &crate::Registers::zero(17));
    assert_eq!((cpu.writes(&plain, 0, 3), plain.may_write(0)), (Perhaps, RegisterSet::ALL));
}

#[test]
fn nobody_pays_for_dependencies_that_were_not_asked_for() {
    assert_eq!(arm_block(&[0xe1a0_0000]).dependencies(0), None);
}

/// A32 words, many of them of the rarer classes: an encoding of each, and its register fields, which may be anything.
fn word() -> impl Strategy<Value = u32> {
    let rare = proptest::sample::select(vec![
        (0x0680_0fb0, 0x000f_f00f), // sel
        (0x0700_0010, 0x000f_ff6f), // smlad, smuad, smlsd
        (0x0740_0010, 0x000f_ff6f), // smlald, smlsld
        (0x0750_0010, 0x000f_ffef), // smmla, smmls
        (0x0040_0090, 0x000f_ff0f), // umaal
        (0x0020_0090, 0x001f_ff0f), // mla
        (0x0080_0090, 0x007f_ff0f), // umull and its relatives
        (0x0100_0080, 0x006f_ff6f), // smlabb and its relatives
        (0x0100_0050, 0x006f_f00f), // qadd
        (0x06a0_0010, 0x005f_ffcf), // ssat, usat
        (0x06a0_0f30, 0x004f_f00f), // ssat16, usat16
        (0x0610_0f10, 0x006f_f0ef), // sadd16 and its relatives
        (0x0780_0010, 0x000f_ff0f), // usada8
        (0x0680_0010, 0x000f_ffcf), // pkh
        (0x0680_0070, 0x007f_fc0f), // sxtab and its relatives
        (0x07c0_0010, 0x001f_ff8f), // bfi
        (0x07a0_0050, 0x005f_ff8f), // sbfx, ubfx
        (0x06bf_0f30, 0x0040_f08f), // rev and its relatives
        (0x0710_f010, 0x002f_0f0f), // sdiv, udiv
        (0x0000_0060, 0x01ff_f00f), // data processing with rrx
        (0x0340_0000, 0x000f_ffff), // movt
    ]);
    prop_oneof![
        any::<u32>(),
        (rare, any::<u32>()).prop_map(|((encoding, free), random)| encoding | random & free),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30_000))]

    #[test]
    fn only_what_it_reads_makes_a_difference(
        condition in prop_oneof![4 => Just(14u32), 1 => 0u32..15],
        word in word(), halves in any::<[u16; 2]>(), thumb: bool, it in prop_oneof![3 => Just(0u8), 1 => any::<u8>()],
        before in any::<[u32; 17]>(), other in any::<[u32; 17]>(), which: u32,
    ) {
        let mode = if thumb { Mode::from_cpsr(T).with_it(it) } else { Mode::default() };
        let code = if thumb {
            let length = if halves[0] < 0xe800 { 2 } else { 4 };
            halves.map(u16::to_le_bytes).concat()[..length].to_vec()
        } else {
            (condition << 28 | word & 0x0fff_ffff).to_le_bytes().to_vec()
        };
        let Some(block) = decoded(mode, &code) else { return Ok(()) };
        let dependencies = block.dependencies(0).expect("they were asked for");
        if block.opaque(0).is_some() {
            prop_assert!(dependencies.computed.is_empty());
            return Ok(());
        }
        let cpsr = SUPERVISOR | if thumb { T } else { 0 } | crate::arm::mode::it_in_cpsr(if thumb { it } else { 0 });
        let mut first = Registers(before);
        first.0[15] = START;
        first.0[16] = before[16] & COMPUTED | cpsr;
        // Some of what it does not read is different.
        let mut second = first;
        for number in (0..17).filter(|number| which >> number & 1 != 0 && !dependencies.reads.contains(*number) && *number != 15) {
            second.0[number] = if number == 16 { other[16] & COMPUTED | cpsr } else { other[number] };
        }
        let writes = |number: usize| Cpu::new(&first).writes(&block, 0, number);
        let [first_after, second_after] = [first, second].map(|registers| {
            let mut cpu = Cpu::new(&registers);
            assert_eq!(cpu.run(&block, 0, 1, &mut Memory::default()), Exit::Done);
            cpu.registers()
        });
        for number in (0..17).filter(|number| *number != 15) {
            // What advances by itself is not a result.
            let part = if number == 16 { !CPSR_IT } else { u32::MAX };
            let of = |registers: &Registers| registers.0[number] & part;
            if writes(number) == Writes::No {
                prop_assert_eq!(of(&first_after), of(&first), "r{} {:?}", number, dependencies);
            }
            // What is written for certain and does not depend on the old value is the same whatever that was.
            if writes(number) == Writes::Yes && number != 16 && !dependencies.reads.contains(number) {
                prop_assert!(dependencies.loaded.contains(number) || of(&first_after) == of(&second_after));
            }
            if dependencies.computed.without(dependencies.loaded).contains(number) {
                prop_assert_eq!(of(&first_after), of(&second_after), "r{} {:?}", number, dependencies);
            } else if !dependencies.loaded.contains(number) {
                prop_assert_eq!(of(&first_after), of(&first), "r{} {:?}", number, dependencies);
                prop_assert_eq!(of(&second_after), of(&second), "r{} {:?}", number, dependencies);
            }
        }
    }
}
