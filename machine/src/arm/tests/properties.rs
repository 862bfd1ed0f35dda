use super::*;
use crate::arm::block::DecodeError;
use crate::arm::mode::{CPSR_IT, it_in_cpsr};
use crate::arm::{a32, t32};
use proptest::prelude::*;

fn mode() -> impl Strategy<Value = Mode> {
    any::<u16>().prop_map(|bits| Mode::from_bits(bits & 0xff03).unwrap_or_default())
}

/// A32 words in which the classes are equally likely, with few registers so that they meet.
fn word() -> impl Strategy<Value = u32> {
    let condition = prop_oneof![4 => Just(14u32), 1 => 0u32..16];
    (condition, any::<u32>()).prop_map(|(condition, word)| condition << 28 | word & 0x0fff_ffff)
}

fn cpu_state() -> impl Strategy<Value = Registers> {
    let value = prop_oneof![any::<u32>(), 0u32..40, Just(0x8000_0000), Just(u32::MAX)];
    proptest::collection::vec(value, 17).prop_map(|values| {
        let mut registers = Registers::default();
        registers.0.copy_from_slice(&values);
        registers
    })
}

/// The state at the start of a block.
fn at_start(mut registers: Registers, mode: Mode) -> Registers {
    registers.0[15] = START;
    registers.0[16] &= !(T | CPSR_IT);
    registers.0[16] |= if mode.thumb() { T } else { 0 } | it_in_cpsr(mode.it());
    registers
}

/// Code bytes; a block is what is left when everything behind the first branch is cut off.
fn block_of(address: u32, mode: Mode, code: &[u8]) -> Option<Block> {
    match Block::decode(address, mode, code) {
        Ok(block) => Some(block),
        Err(DecodeError::BranchInside { offset }) => {
            let length = if mode.thumb() && u16::from_le_bytes([code[offset], code[offset + 1]]) < 0xe800 {
                2
            } else {
                4
            };
            Block::decode(address, mode, &code[..offset + length]).ok()
        }
        Err(DecodeError::Truncated { offset }) if offset > 0 => block_of(address, mode, &code[..offset]),
        Err(_) => None,
    }
}

/// Runs `from..to`, giving each opaque instruction results that depend on its index only.
fn run_all(cpu: &mut Cpu, block: &Block, from: usize, to: usize, memory: &mut Memory) -> Result<(), usize> {
    let mut from = from;
    loop {
        match cpu.run(block, from, to, memory) {
            Exit::Done => return Ok(()),
            Exit::Halted(index) => return Err(index),
            Exit::Opaque(index) => {
                let written = block.opaque(index).map_or(0, |opaque| opaque.writes);
                let values: Vec<u32> =
                    (0..written.count_ones()).map(|n| n.wrapping_mul(0x1234_5677) ^ index as u32).collect();
                assert_eq!(cpu.complete_opaque(block, index, written, &values), Ok(()));
                from = index + 1;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_word_is_too_strange_to_decode(word: u32, first: u16, second: u16, in_it_block: bool) {
        prop_assert_eq!(a32::decode(word).length, 4);
        let length = t32::decode(first, second, in_it_block).length;
        prop_assert_eq!(length, if first >= 0xe800 { 4 } else { 2 });
    }

    #[test]
    fn no_code_is_too_strange_to_decode_and_run(
        address: u32, mode in mode(), code in proptest::collection::vec(any::<u8>(), 0..64),
        before in cpu_state(), limit in proptest::option::of(0usize..20),
    ) {
        let address = address & !3;
        let _ = Block::decode(address | 2, mode, &code);
        if let Some(block) = block_of(address, mode, &code) {
            let mut memory = Memory { limit, ..Memory::default() };
            let mut cpu = Cpu::new(&before);
            let _ = run_all(&mut cpu, &block, 0, block.len(), &mut memory);
            for index in 0..block.len() {
                prop_assert_eq!(block.address_of(index).wrapping_add(block.length_of(index)), block.address_of(index + 1));
            }
        }
    }

    #[test]
    fn stopping_on_the_way_makes_no_difference(
        words in proptest::collection::vec(word(), 1..12), halves in proptest::collection::vec(any::<u16>(), 1..16),
        thumb: bool, it: u8, before in cpu_state(), at in any::<prop::sample::Index>(), limit in proptest::option::of(0usize..20),
    ) {
        let mode = if thumb { Mode::from_cpsr(T).with_it(it) } else { Mode::default() };
        let code = if thumb { halves.iter().flat_map(|half| half.to_le_bytes()).collect() } else { arm_code(&words) };
        let before = at_start(before, mode);
        if let Some(block) = block_of(START, mode, &code) {
            let middle = at.index(block.len() + 1);
            let start = Memory { limit, ..Memory::default() };
            let (mut whole, mut whole_memory) = (Cpu::new(&before), start.clone());
            let whole_exit = run_all(&mut whole, &block, 0, block.len(), &mut whole_memory);
            let (mut parts, mut parts_memory) = (Cpu::new(&before), start);
            let parts_exit = run_all(&mut parts, &block, 0, middle, &mut parts_memory);
            let parts_exit = match parts_exit {
                Ok(()) => {
                    if middle < block.len() {
                        prop_assert_eq!(parts.pc(), block.address_of(middle));
                        prop_assert_eq!(parts.mode().thumb(), mode.thumb());
                        prop_assert_eq!(parts.mode().it(), block.mode_before(middle).it());
                    }
                    // Going on from the registers, as a replay does from a keyframe.
                    parts = Cpu::new(&parts.registers());
                    run_all(&mut parts, &block, middle, block.len(), &mut parts_memory)
                }
                error => error,
            };
            prop_assert_eq!(parts_exit, whole_exit);
            prop_assert_eq!(&parts_memory, &whole_memory);
            if whole_exit.is_ok() {
                prop_assert_eq!(parts.registers(), whole.registers());
            }
        }
    }

    /// The compact operations against the neutral form.
    #[test]
    fn both_executors_agree(
        words in proptest::collection::vec(word(), 1..12), halves in proptest::collection::vec(any::<u16>(), 1..16),
        thumb: bool, it: u8, before in cpu_state(), limit in proptest::option::of(0usize..20),
    ) {
        let mode = if thumb { Mode::from_cpsr(T).with_it(it) } else { Mode::default() };
        let code = if thumb { halves.iter().flat_map(|half| half.to_le_bytes()).collect() } else { arm_code(&words) };
        let before = at_start(before, mode);
        if let Some(block) = block_of(START, mode, &code) {
            let length = block.address_of(block.len()).wrapping_sub(START) as usize;
            let neutral = Block::decode_neutral(START, mode, &code[..length]).expect("it decoded before");
            let start = Memory { limit, ..Memory::default() };
            let (mut compact_cpu, mut compact_memory) = (Cpu::new(&before), start.clone());
            let compact_exit = run_all(&mut compact_cpu, &block, 0, block.len(), &mut compact_memory);
            let (mut neutral_cpu, mut neutral_memory) = (Cpu::new(&before), start);
            let neutral_exit = run_all(&mut neutral_cpu, &neutral, 0, block.len(), &mut neutral_memory);
            prop_assert_eq!(compact_exit, neutral_exit);
            prop_assert_eq!(&compact_memory, &neutral_memory);
            if compact_exit.is_ok() {
                prop_assert_eq!(compact_cpu.registers(), neutral_cpu.registers());
            }
        }
    }
}
