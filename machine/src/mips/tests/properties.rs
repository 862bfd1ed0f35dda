use super::*;
use crate::mips::block::DecodeError;
use crate::mips::mips32;
use crate::mips::mode::Slot;
use proptest::prelude::*;

fn any_mode() -> impl Strategy<Value = Mode> {
    any::<u16>().prop_filter_map("two slots", |bits| Mode::from_bits(bits & 0xff))
}

/// A mode of uncompressed code.
fn plain_mode() -> impl Strategy<Value = Mode> {
    any::<[bool; 3]>().prop_map(|[big_endian, release_2, fpu_64]| {
        let processor = Mode::of_processor(big_endian);
        let processor = if release_2 { processor.with_release_2() } else { processor };
        Mode::at(processor, if fpu_64 { 1 << 26 } else { 0 }, START)
    })
}

/// Words in which the opcodes are equally likely, with few registers so that they meet, and must-be-zero fields that are
/// zero often.
fn word() -> impl Strategy<Value = u32> {
    let small = any::<u32>().prop_map(|word| word & 0xfc63_187f);
    let special = any::<u32>().prop_map(|word| word & 0x03e3_183f | ((word >> 16 & 1) * 0x7000_0000));
    prop_oneof![any::<u32>(), small, special]
}

fn cpu_state() -> impl Strategy<Value = Registers> {
    let value = prop_oneof![any::<u32>(), 0u32..40, Just(0x8000_0000), Just(u32::MAX)];
    proptest::collection::vec(value, 72).prop_map(|values| {
        let mut registers = Registers::default();
        registers.0.copy_from_slice(&values);
        registers.0[0] = 0;
        registers
    })
}

/// The state at the start of a block.
fn at_start(mut registers: Registers, mode: Mode) -> Registers {
    registers.0[PC] = START | u32::from(mode.compressed());
    registers.0[32] = registers.0[32] & !(1 << 26) | u32::from(mode.fpu_64()) << 26;
    registers
}

/// A block of code bytes, as much of them as can be one.
fn block_of(
    decode: fn(u32, Mode, &[u8]) -> Result<Block, DecodeError>,
    mode: Mode,
    code: &[u8],
) -> Option<Block> {
    match decode(START, mode, code) {
        Ok(block) => Some(block),
        Err(DecodeError::BranchInside { offset }) => decode(START, mode, &code[..offset + 4]).ok(),
        Err(DecodeError::Truncated { offset }) if offset > 0 => block_of(decode, mode, &code[..offset]),
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
                // Status stays, since it decides what the code means.
                let written = block.opaque(index).map_or(0, |opaque| opaque.writes) & !(1 << 32);
                let values: Vec<u32> =
                    (0..written.count_ones()).map(|n| n.wrapping_mul(0x1234_5677) ^ index as u32).collect();
                assert_eq!(cpu.complete_opaque(block, index, written, &values), Ok(()));
                from = index + 1;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_word_is_too_strange_to_decode(word: u32, mode in any_mode()) {
        let _ = mips32::decode(word, mode);
    }

    #[test]
    fn no_code_is_too_strange_to_decode_and_run(
        mode in any_mode(), code in proptest::collection::vec(any::<u8>(), 0..64),
        before in cpu_state(), limit in proptest::option::of(0usize..20),
    ) {
        let _ = Block::decode(START | 2, mode, &code);
        if let Some(block) = block_of(Block::decode, mode, &code) {
            let mut memory = Memory { limit, ..Memory::default() };
            let mut cpu = Cpu::new(&before, mode);
            let _ = run_all(&mut cpu, &block, 0, block.len(), &mut memory);
            prop_assert_eq!(cpu.registers().0[0], 0);
            for index in 0..block.len() {
                prop_assert_eq!(block.address_of(index).wrapping_add(block.length_of(index)), block.address_of(index + 1));
            }
        }
    }

    #[test]
    fn stopping_on_the_way_makes_no_difference(
        words in proptest::collection::vec(word(), 1..12), mode in plain_mode(), before in cpu_state(),
        at in any::<prop::sample::Index>(), limit in proptest::option::of(0usize..20),
    ) {
        let before = at_start(before, mode);
        if let Some(block) = block_of(Block::decode, mode, &code(&words, mode)) {
            let middle = at.index(block.len() + 1);
            let start = Memory { limit, ..Memory::default() };
            let (mut whole, mut whole_memory) = (Cpu::new(&before, mode), start.clone());
            let whole_exit = run_all(&mut whole, &block, 0, block.len(), &mut whole_memory);
            let (mut parts, mut parts_memory) = (Cpu::new(&before, mode), start);
            let parts_exit = run_all(&mut parts, &block, 0, middle, &mut parts_memory);
            let parts_exit = match parts_exit {
                Ok(()) => {
                    if middle < block.len() {
                        prop_assert_eq!(parts.pc(), block.address_of(middle));
                        prop_assert_eq!(parts.mode(), block.mode_before(middle));
                    }
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

    /// As QEMU splits blocks, also between a branch and its slot.
    #[test]
    fn a_block_is_its_instructions(
        words in proptest::collection::vec(word(), 1..12), mode in plain_mode(), before in cpu_state(),
    ) {
        let before = at_start(before, mode);
        let code = code(&words, mode);
        if let Some(block) = block_of(Block::decode, mode, &code) {
            let (mut whole, mut whole_memory) = (Cpu::new(&before, mode), Memory::default());
            prop_assert_eq!(run_all(&mut whole, &block, 0, block.len(), &mut whole_memory), Ok(()));
            let (mut single, mut single_memory) = (Cpu::new(&before, mode), Memory::default());
            for index in 0..block.len() {
                prop_assert_eq!(single.mode(), block.mode_before(index));
                let offset = (block.address_of(index) - START) as usize;
                let bytes = &code[offset..offset + block.length_of(index) as usize];
                let one = Block::decode(single.pc(), single.mode(), bytes).expect("it is one instruction");
                prop_assert_eq!(one.len(), 1);
                match (single.run(&one, 0, 1, &mut single_memory), block.opaque(index)) {
                    (Exit::Done, None) => {}
                    (Exit::Opaque(0), Some(opaque)) => {
                        let written = opaque.writes & !(1 << 32);
                        let values: Vec<u32> =
                            (0..written.count_ones()).map(|n| n.wrapping_mul(0x1234_5677) ^ index as u32).collect();
                        prop_assert_eq!(single.complete_opaque(&one, 0, written, &values), Ok(()));
                    }
                    (exit, _) => prop_assert!(false, "{exit:?}"),
                }
            }
            prop_assert_eq!(&single_memory, &whole_memory);
            prop_assert_eq!(single.registers(), whole.registers());
            prop_assert_eq!(single.mode(), whole.mode());
        }
    }

    /// The compact operations against the neutral form.
    #[test]
    fn both_executors_agree(
        words in proptest::collection::vec(word(), 1..12), mode in plain_mode(), before in cpu_state(),
        limit in proptest::option::of(0usize..20),
    ) {
        let before = at_start(before, mode);
        let code = code(&words, mode);
        if let Some(block) = block_of(Block::decode, mode, &code) {
            let neutral = block_of(Block::decode_neutral, mode, &code).expect("it decoded before");
            let start = Memory { limit, ..Memory::default() };
            let (mut compact_cpu, mut compact_memory) = (Cpu::new(&before, mode), start.clone());
            let compact_exit = run_all(&mut compact_cpu, &block, 0, block.len(), &mut compact_memory);
            let (mut neutral_cpu, mut neutral_memory) = (Cpu::new(&before, mode), start);
            let neutral_exit = run_all(&mut neutral_cpu, &neutral, 0, block.len(), &mut neutral_memory);
            prop_assert_eq!(compact_exit, neutral_exit);
            prop_assert_eq!(&compact_memory, &neutral_memory);
            if compact_exit.is_ok() {
                prop_assert_eq!(compact_cpu.registers(), neutral_cpu.registers());
                prop_assert_eq!(compact_cpu.mode(), neutral_cpu.mode());
            }
        }
    }

    /// What the flow promises of where control goes holds wherever it goes.
    #[test]
    fn control_goes_where_the_flow_says(
        words in proptest::collection::vec(word(), 1..6), mode in plain_mode(), before in cpu_state(),
    ) {
        use crate::mips::Flow;
        let before = at_start(before, mode);
        if let Some(block) = block_of(Block::decode, mode, &code(&words, mode)) {
            let mut cpu = Cpu::new(&before, mode);
            prop_assert_eq!(run_all(&mut cpu, &block, 0, block.len(), &mut Memory::default()), Ok(()));
            let pc = cpu.registers().0[PC];
            let behind = block.address_of(block.len());
            let skipped = block.conditional() && pc == behind;
            match block.flow() {
                Flow::Sequential => prop_assert_eq!(pc, behind),
                Flow::Branch { target, .. } => prop_assert!(pc == target || skipped),
                Flow::Register(number) => {
                    prop_assert_eq!(pc, cpu.registers().0[usize::from(number)]);
                }
                Flow::Computed | Flow::Opaque => {}
                Flow::Loaded => prop_assert!(false, "MIPS has no branch to a loaded value"),
            }
            if block.flow() != Flow::Opaque && pc & 1 == 0 {
                let slot = block.mode_before(block.len()).slot();
                prop_assert_eq!(cpu.mode().slot(), slot);
                prop_assert!(slot == Slot::None || pc == behind);
            }
        }
    }
}
