//! What T32 does otherwise than A32: the program counter, branches, and IT blocks.

use super::*;
use crate::arm::Flow;

/// Not a multiple of four: `Align(PC, 4)` is then two bytes below the program counter that an instruction reads.
const HERE: u32 = START + 2;
const ALIGNED: u32 = START + 4;

fn thumb_code(halves: &[u16]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

fn thumb_block(halves: &[u16]) -> Block {
    Block::decode(HERE, Mode::from_cpsr(T), &thumb_code(halves)).expect("the code is a block")
}

fn before(values: &[(usize, u32)]) -> Registers {
    let mut registers = registers(&[(15, HERE), (16, SUPERVISOR | T)]);
    for &(register, value) in values {
        registers.0[register] = value;
    }
    registers
}

/// Executes a T32 block at [`HERE`] in both forms, which must agree.
fn run_thumb(halves: &[u16], before: Registers, memory: &mut Memory) -> Registers {
    let block = thumb_block(halves);
    let neutral =
        Block::decode_neutral(HERE, Mode::from_cpsr(T), &thumb_code(halves)).expect("the code is a block");
    let (mut cpu, mut neutral_cpu, mut neutral_memory) =
        (Cpu::new(&before), Cpu::new(&before), memory.clone());
    assert_eq!(cpu.run(&block, 0, block.len(), memory), Exit::Done);
    assert_eq!(neutral_cpu.run(&neutral, 0, neutral.len(), &mut neutral_memory), Exit::Done);
    assert_eq!(cpu.registers(), neutral_cpu.registers());
    assert_eq!(*memory, neutral_memory);
    cpu.registers()
}

#[track_caller]
fn check(halves: &[u16], before: Registers, target: u32, thumb: bool, link: Option<u32>) {
    let mut memory = Memory::default();
    memory.put(0x2_0000, 0x1_0005);
    memory.put(0x2_0008, 0x1_0008);
    let after = run_thumb(halves, before, &mut memory);
    assert_eq!((after.0[15], after.0[16] & T != 0), (target, thumb), "{halves:#06x?}");
    assert_eq!(after.0[14], link.unwrap_or(before.0[14]), "{halves:#06x?}");
}

#[test]
fn branches() {
    let to = |value| before(&[(1, value)]);
    check(&[0x468f], to(0x1_0005), 0x1_0004, true, None); // mov pc, r1
    check(&[0x468f], to(0x1_0006), 0x1_0006, true, None);
    check(&[0x448f], to(0x10), HERE + 4 + 0x10, true, None); // add pc, r1
    check(&[0x448f], to(0x11), HERE + 4 + 0x10, true, None);
    check(&[0x4708], to(0x1_0005), 0x1_0004, true, None); // bx r1
    check(&[0x4708], to(0x1_0004), 0x1_0004, false, None);
    check(&[0x4788], to(0x1_0004), 0x1_0004, false, Some((HERE + 2) | 1)); // blx r1
    check(&[0xf000, 0xf87e], to(0), HERE + 0x100, true, Some((HERE + 4) | 1)); // bl .+0x100
    check(&[0xf000, 0xe820], to(0), ALIGNED + 0x40, false, Some((HERE + 4) | 1)); // blx
    check(&[0xe07e], to(0), HERE + 0x100, true, None); // b .+0x100
    check(&[0xd01e], before(&[(16, SUPERVISOR | T | Z)]), HERE + 0x40, true, None); // beq .+0x40
    check(&[0xd01e], to(0), HERE + 2, true, None);
    check(&[0xb171], to(0), HERE + 0x20, true, None); // cbz r1, .+0x20
    check(&[0xb171], to(1), HERE + 2, true, None);
    check(&[0xb971], to(1), HERE + 0x20, true, None); // cbnz r1, .+0x20
    check(&[0xb971], to(0), HERE + 2, true, None);
    check(&[0xf8d1, 0xf000], to(0x2_0000), 0x1_0004, true, None); // ldr.w pc, [r1]
    check(&[0xf8d1, 0xf000], to(0x2_0008), 0x1_0008, false, None);
    check(&[0xbd00], before(&[(13, 0x2_0000)]), 0x1_0004, true, None); // pop {pc}
}

#[test]
fn table_branches_go_forward_by_twice_the_entry() {
    let table = [(1, 0x2_0000), (2, 3)];
    for (halves, address, size, entry) in [
        ([0xe8d1, 0xf002], 0x2_0003, AccessSize::Byte, 0xff), // tbb [r1, r2]
        ([0xe8d1, 0xf012], 0x2_0006, AccessSize::Half, 0x80ff), // tbh [r1, r2, lsl #1]
        ([0xe8df, 0xf002], HERE + 7, AccessSize::Byte, 0xff), // tbb [pc, r2]
    ] {
        let mut memory = Memory::default();
        memory.put(address, 0x80ff);
        let after = run_thumb(&halves, before(&table), &mut memory);
        assert_eq!(memory.accesses, [Access::Load(address, size, entry.into())]);
        assert_eq!((after.0[15], after.0[16] & T), (HERE + 4 + 2 * entry, T));
    }
}

#[test]
fn the_program_counter_reads_four_ahead_and_is_aligned_for_literals() {
    let mut memory = Memory::default();
    let mut r3 = |halves: &[u16]| run_thumb(halves, before(&[(3, 0x100)]), &mut memory).0[3];
    assert_eq!(r3(&[0xf20f, 0x0306]), ALIGNED + 6); // addw r3, pc, #6
    assert_eq!(r3(&[0x467b]), HERE + 4); // mov r3, pc
    assert_eq!(r3(&[0x447b]), HERE + 4 + 0x100); // add r3, pc
    let literal = ALIGNED + 4;
    assert_eq!(r3(&[0x4b01]), Memory::default().word(literal)); // ldr r3, [pc, #4]
    assert_eq!(memory.accesses, [Access::Load(literal, AccessSize::Word, memory.word(literal).into())]);
    let mut memory = Memory::default();
    run_thumb(&[0xe9df, 0x4502], before(&[]), &mut memory); // ldrd r4, r5, [pc, #8]
    assert!(
        matches!(memory.accesses[..], [Access::Load(address, AccessSize::Double, _)] if address == literal + 4)
    );
}

#[test]
fn orn_is_or_with_the_complement() {
    let values = before(&[(1, 0x1234_5678), (2, 0x0f0f_0f0f)]);
    assert_eq!(run_thumb(&[0xf061, 0x03ff], values, &mut Memory::default()).0[3], 0x1234_5678 | !0xff); // orn r3, r1, #0xff
    let after = run_thumb(&[0xea71, 0x0302], values, &mut Memory::default()); // orns r3, r1, r2
    assert_eq!((after.0[3], after.0[16] & NZCV), (0x1234_5678 | 0xf0f0_f0f0, N));
}

/// itte eq; moveq r0, #1; addeq r1, r1, r1; movne r2, #3
const IT_BLOCK: [u16; 4] = [0xbf06, 0x2001, 0x1849, 0x2203];

#[test]
fn an_it_block_gives_conditions_and_takes_flags_away() {
    let mut memory = Memory::default();
    let equal = before(&[(16, SUPERVISOR | T | Z | C)]);
    let mut expected = equal;
    expected.0[0] = 1;
    expected.0[1] *= 2;
    expected.0[15] += 8;
    assert_eq!(run_thumb(&IT_BLOCK, equal, &mut memory), expected);
    let unequal = before(&[]);
    let mut expected = unequal;
    expected.0[2] = 3;
    expected.0[15] += 8;
    assert_eq!(run_thumb(&IT_BLOCK, unequal, &mut memory), expected);
}

#[test]
fn a_stop_inside_an_it_block_has_its_state() {
    let block = thumb_block(&IT_BLOCK);
    let states: Vec<u8> = (0..=4).map(|index| block.mode_before(index).it()).collect();
    assert_eq!(states, [0, 0x06, 0x0c, 0x18, 0]);
    assert_eq!(block.mode_before(2), Mode::from_cpsr(T | 0x0c00));
    let start = before(&[(16, SUPERVISOR | T | Z)]);
    let mut cpu = Cpu::new(&start);
    let mut memory = Memory::default();
    assert_eq!(cpu.run(&block, 0, 2, &mut memory), Exit::Done);
    assert_eq!((cpu.pc(), cpu.cpsr()), (HERE + 4, SUPERVISOR | T | Z | 0x0c00));
    // QEMU ends a block there if it has to; what follows is then a block that starts in that mode.
    let rest = Block::decode(HERE + 4, cpu.mode(), &thumb_code(&IT_BLOCK[2..])).expect("the rest is a block");
    assert_eq!(cpu.run(&rest, 0, 2, &mut memory), Exit::Done);
    assert_eq!(cpu.registers(), run_thumb(&IT_BLOCK, start, &mut memory));
}

/// QEMU executes the reserved condition always, but inside an IT block all the same: `movs r0, #1` sets no flags.
#[test]
fn a_reserved_it_condition_executes_always() {
    let block = thumb_block(&[0xbff8, 0x2001]);
    assert_eq!(block.opaque_indices(), [0]);
    let mut cpu = Cpu::new(&before(&[(16, SUPERVISOR | T | NZCV)]));
    assert_eq!(cpu.complete_opaque(&block, 0, 0, &[]), Ok(()));
    assert_eq!(cpu.mode().it(), 0xf8);
    assert_eq!(cpu.run(&block, 1, 2, &mut Memory::default()), Exit::Done);
    assert_eq!((cpu.registers().0[0], cpu.cpsr()), (1, SUPERVISOR | T | NZCV));
}

#[test]
fn lengths_and_flows_are_those_of_the_halfwords() {
    let block = thumb_block(&[0xf20f, 0x0306, 0x467b, 0xbf18, 0x4770]); // addw r3, pc, #6; mov r3, pc; it ne; bxne lr
    assert_eq!([0, 1, 2, 3, 4].map(|index| block.address_of(index) - HERE), [0, 4, 6, 8, 10]);
    assert_eq!([0, 1, 4].map(|index| block.length_of(index)), [4, 2, 0]);
    assert_eq!((block.flow(), block.conditional()), (Flow::Register(14), true));
    assert_eq!(thumb_block(&[0xb171]).flow(), Flow::Branch { target: HERE + 0x20, conditional: true });
    assert_eq!(thumb_block(&[0x468f]).flow(), Flow::Register(1));
    assert_eq!(thumb_block(&[0x448f]).flow(), Flow::Computed);
    assert_eq!(thumb_block(&[0xe8d1, 0xf002]).flow(), Flow::Computed);
    assert_eq!(thumb_block(&[0xbd00]).flow(), Flow::Loaded);
}
