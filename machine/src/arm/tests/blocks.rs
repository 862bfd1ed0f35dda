use super::*;
use crate::arm::block::DecodeError;
use crate::arm::cpu::OpaqueError;
use crate::arm::instruction::Opaque;

const MOVE: u32 = 0xe1a0_0000; // mov r0, r0
const MRC: u32 = 0xee11_3f10; // mrc p15, 0, r3, c1, c0, 0
const UNKNOWN: u32 = 0xe7f0_00f0; // udf #0

#[test]
fn a_block_knows_its_instructions() {
    let block = arm_block(&[MOVE, MRC, MOVE, UNKNOWN]);
    assert_eq!((block.len(), block.address(), block.mode()), (4, START, Mode::default()));
    assert_eq!(
        [0, 1, 4, 5, usize::MAX].map(|index| block.address_of(index)),
        [0, 4, 16, 16, 16].map(|at| START + at)
    );
    assert_eq!([0, 3, 4, usize::MAX].map(|index| block.length_of(index)), [4, 4, 0, 0]);
    assert_eq!(block.opaque_indices(), [1, 3]);
    assert_eq!(block.opaque(1).map(|opaque| opaque.writes), Some(1 << 3));
    assert_eq!(block.opaque(3), Some(&Opaque::UNKNOWN));
    assert_eq!([0, 2, 4, usize::MAX].map(|index| block.opaque(index)), [None; 4]);
    assert_eq!(block.mode_before(2), Mode::default());
}

#[test]
fn only_the_last_opaque_instruction_can_branch() {
    let block = arm_block(&[UNKNOWN, UNKNOWN]);
    assert_eq!(block.opaque(0).map(|opaque| opaque.writes), Some(0x1_7fff));
    assert_eq!(block.opaque(1).map(|opaque| opaque.writes), Some(0x1_ffff));
}

#[test]
fn code_that_is_no_block_is_refused() {
    let arm = Mode::default();
    let thumb = Mode::from_cpsr(T);
    let error = |address, mode, code: &[u8]| Block::decode(address, mode, code).err();
    assert_eq!(error(START, arm, &[]), Some(DecodeError::Empty));
    assert_eq!(
        error(START + 2, arm, &arm_code(&[MOVE])),
        Some(DecodeError::Misaligned { address: START + 2 })
    );
    assert_eq!(error(START + 1, thumb, &[0, 0]), Some(DecodeError::Misaligned { address: START + 1 }));
    assert_eq!(error(START, arm, &arm_code(&[MOVE])[..3]), Some(DecodeError::Truncated { offset: 0 }));
    assert_eq!(error(START, arm, &arm_code(&[MOVE, MOVE])[..6]), Some(DecodeError::Truncated { offset: 4 }));
    assert_eq!(error(START, thumb, &[0, 0, 0xf0, 0xf0]), Some(DecodeError::Truncated { offset: 2 }));
    assert_eq!(error(START, arm, &[0; 0x1_0000]), Some(DecodeError::TooLong { length: 0x1_0000 }));
    assert_eq!(
        error(START, arm, &arm_code(&[MOVE, 0xea00_003e, MOVE])),
        Some(DecodeError::BranchInside { offset: 4 })
    );
}

#[test]
fn an_opaque_instruction_stops_the_executor_exactly_there() {
    // add r0, r0, #1; mrceq; add r0, r0, #1
    let block = arm_block(&[0xe280_0001, 0x0e11_3f10, 0xe280_0001]);
    let mut cpu = Cpu::new(&registers(&[(0, 10)]));
    let mut memory = Memory::default();
    assert_eq!(cpu.run(&block, 0, 3, &mut memory), Exit::Opaque(1), "though its condition does not hold");
    let mut expected = registers(&[(0, 11), (15, START + 4)]);
    assert_eq!(cpu.registers(), expected);
    assert_eq!(cpu.run(&block, 1, 3, &mut memory), Exit::Opaque(1));
    assert_eq!(cpu.registers(), expected);
    assert_eq!(cpu.complete_opaque(&block, 1, 1 << 3, &[77]), Ok(()));
    expected.0[3] = 77;
    expected.0[15] += 4;
    assert_eq!(cpu.registers(), expected);
    assert_eq!(cpu.run(&block, 2, usize::MAX, &mut memory), Exit::Done);
    assert_eq!((cpu.pc(), cpu.registers().0[0]), (START + 12, 12));
}

#[test]
fn results_of_another_instruction_are_refused() {
    let block = arm_block(&[MOVE, MRC]);
    let mut cpu = Cpu::new(&registers(&[]));
    let before = cpu.registers();
    let address = START;
    for (index, written, values, error) in [
        (0, 1 << 3, &[1u32][..], OpaqueError::NotOpaque { address, index: 0 }),
        (2, 1 << 3, &[1], OpaqueError::NotOpaque { address, index: 2 }),
        (1, 1 << 4, &[1], OpaqueError::Unwritten { address, index: 1, excess: 1 << 4 }),
        (1, 1 << 20, &[1], OpaqueError::Unwritten { address, index: 1, excess: 1 << 20 }),
        (1, 1 << 3, &[], OpaqueError::Count { registers: 1, values: 0 }),
        (1, 1 << 3, &[1, 2], OpaqueError::Count { registers: 1, values: 2 }),
    ] {
        assert_eq!(cpu.complete_opaque(&block, index, written, values), Err(error));
        assert_eq!(cpu.registers(), before);
    }
}

#[test]
fn a_mode_change_brings_banked_registers() {
    let block = arm_block(&[0xf102_0012, MOVE]); // cps #0x12
    let mut cpu = Cpu::new(&registers(&[]));
    let values = [8, 9, 10, 11, 12, 13, 14, 0xf000_01d2];
    assert_eq!(cpu.complete_opaque(&block, 0, Opaque::CPSR | 0x7f00, &values), Ok(()));
    let after = cpu.registers();
    assert_eq!(after.0[8..15], [8, 9, 10, 11, 12, 13, 14]);
    assert_eq!((after.0[15], after.0[16]), (START + 4, 0xf000_01d2));
}

#[test]
fn an_exception_return_takes_the_whole_status_register() {
    let block = arm_block(&[0xe1b0_f00e]); // movs pc, lr
    let mut cpu = Cpu::new(&registers(&[]));
    // To T32, in the middle of an IT block.
    let cpsr = 0x0400_0810 | T;
    assert_eq!(cpu.complete_opaque(&block, 0, Opaque::CPSR | 1 << 15, &[0x1_0002, cpsr]), Ok(()));
    assert_eq!((cpu.pc(), cpu.cpsr(), cpu.mode()), (0x1_0002, cpsr, Mode::from_cpsr(cpsr)));
}

#[test]
fn a_status_register_from_inside_a_block_has_no_say_in_its_mode() {
    let block = arm_block(&[0xe128_f003, MOVE]); // msr cpsr_f, r3
    let mut cpu = Cpu::new(&registers(&[]));
    assert_eq!(cpu.complete_opaque(&block, 0, Opaque::CPSR, &[N | SUPERVISOR | T | 0x0600_fc00]), Ok(()));
    assert_eq!(cpu.cpsr(), N | SUPERVISOR);
}

/// Memory accesses are opaque where data is big-endian, with everything that they write.
#[test]
fn big_endian_accesses_are_opaque() {
    let mode = Mode::from_cpsr(1 << 9);
    for (word, mnemonic, writes) in [
        (0xe591_3004, "ldr", 1 << 3),                // ldr r3, [r1, #4]
        (0xe4d1_3001, "ldrb", 1 << 3 | 1 << 1),      // ldrb r3, [r1], #1
        (0xe1d1_30d3, "ldrsb", 1 << 3),              // ldrsb r3, [r1, #3]
        (0xe191_30f2, "ldrsh", 1 << 3),              // ldrsh r3, [r1, r2]
        (0xe161_30b2, "strh", 1 << 1),               // strh r3, [r1, #-2]!
        (0xe581_3004, "str", 0),                     // str r3, [r1, #4]
        (0xe081_40d2, "ldrd", 3 << 4 | 1 << 1),      // ldrd r4, r5, [r1], r2
        (0xe1e1_40f8, "strd", 1 << 1),               // strd r4, r5, [r1, #8]!
        (0xe8b1_001c, "ldm", 0b1_1110),              // ldmia r1!, {r2, r3, r4}
        (0xe92d_4030, "stm", 1 << 13),               // push {r4, r5, lr}
        (0xe8bd_8010, "ldm", 0xa010 | Opaque::CPSR), // pop {r4, pc}
    ] {
        let block = Block::decode(START, mode, &arm_code(&[word])).expect("one instruction is a block");
        let expected = Opaque { mnemonic, writes, changes_mode: false, memory: true, changes_mapping: false };
        assert_eq!(block.opaque(0), Some(&expected), "{word:#010x}");
    }
    let block = Block::decode(START, mode, &arm_code(&[MOVE])).expect("one instruction is a block");
    assert_eq!(block.opaque(0), None);
}
