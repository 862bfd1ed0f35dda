use super::*;
use crate::mips::Flow;
use crate::mips::block::DecodeError;
use crate::mips::cpu::OpaqueError;
use crate::mips::mode::Slot;

const NOP: u32 = 0;
/// `beq a0, a1, START + 20`.
const BRANCH: u32 = 0x1085_0004;
/// `beql a0, a1, START + 20`.
const LIKELY: u32 = 0x5085_0004;
/// `mfc0 v0, status`.
const OPAQUE: u32 = 0x4002_6000;
/// `addiu v0, v0, 1`.
const COUNT: u32 = 0x2442_0001;

fn decode(words: &[u32]) -> Result<Block, DecodeError> {
    Block::decode(START, mode(false), &code(words, mode(false)))
}

#[test]
fn what_is_no_block() {
    let error = |address, code: &[u8]| Block::decode(address, mode(false), code).expect_err("it is no block");
    assert_eq!(error(START, &[]), DecodeError::Empty);
    assert_eq!(error(START + 2, &[0; 8]), DecodeError::Misaligned { address: START + 2 });
    assert_eq!(error(START + 2, &[0; 3]), DecodeError::Truncated { offset: 0 });
    assert_eq!(error(START, &[0; 6]), DecodeError::Truncated { offset: 4 });
    assert_eq!(error(START, &vec![0; 0x1_0000]), DecodeError::TooLong { length: 0x1_0000 });
    assert_eq!(decode(&[BRANCH, NOP, NOP]).err(), Some(DecodeError::BranchInside { offset: 4 }));
    // A branch-likely that is never taken has eight bytes.
    assert_eq!(decode(&[NOP, 0x5484_0004]).err(), Some(DecodeError::Truncated { offset: 4 }));
}

/// QEMU raises an address error in such a block, whatever is there.
#[test]
fn a_block_at_no_multiple_of_four_is_one_unknown_instruction() {
    for address in [START + 1, START + 2, START + 3] {
        let block = Block::decode(address, mode(false), &code(&[COUNT], mode(false))).unwrap();
        assert_eq!((block.len(), block.flow(), block.address_of(1)), (1, Flow::Opaque, address + 4));
        assert_eq!(block.opaque(0).map(|opaque| opaque.mnemonic), Some("unknown"));
        assert!(block.writes_floating_point(0) && block.may_stop_at(0));
    }
    let slot = mode(false).with_slot(Slot::Branch);
    let error = Block::decode(START + 2, slot, &[0; 4]).err();
    assert_eq!(error, Some(DecodeError::Misaligned { address: START + 2 }));
}

/// QEMU does not fetch the slot of a branch-likely that is never taken, and goes on behind it.
#[test]
fn a_slot_in_another_page_can_be_missing() {
    let last = START + 0xffc;
    // bnel a0, a0; bgtzl r0; bltzl r0; bltzall r0.
    for (word, link) in
        [(0x5484_0004, false), (0x5c00_0004, false), (0x0402_0004, false), (0x0412_0004, true)]
    {
        for words in [&[COUNT, word][..], &[word]] {
            let start = last - 4 * (words.len() as u32 - 1);
            let block = Block::decode(start, mode(false), &code(words, mode(false))).unwrap();
            let index = words.len() - 1;
            assert_eq!((block.len(), block.flow()), (words.len(), Flow::Sequential), "{word:#010x}");
            assert_eq!((block.address_of(index), block.length_of(index)), (last, 8), "{word:#010x}");
            assert_eq!(
                (block.address_of(words.len()), block.mode_before(words.len())),
                (last + 8, mode(false))
            );
            let mut before = registers(&[(2, 0)]);
            before.0[PC] = start;
            let mut cpu = Cpu::new(&before, mode(false));
            assert_eq!(cpu.run(&block, 0, 2, &mut Memory::default()), Exit::Done);
            assert_eq!((cpu.pc(), cpu.mode(), cpu.registers().0[2]), (last + 8, mode(false), index as u32));
            assert_eq!(cpu.registers().0[31] == last + 8, link, "{word:#010x}");
        }
        let cut = [&code(&[word], mode(false))[..], &[0, 0]].concat();
        let error = Block::decode(last, mode(false), &cut).err();
        assert_eq!(error, Some(DecodeError::Truncated { offset: 0 }));
        let elsewhere = Block::decode(last - 4, mode(false), &code(&[word], mode(false))).err();
        assert_eq!(elsewhere, Some(DecodeError::Truncated { offset: 0 }));
    }
}

#[test]
fn a_block_knows_its_slot() {
    let block = decode(&[COUNT, LIKELY, COUNT]).unwrap();
    let slots: Vec<Slot> = (0..5).map(|index| block.mode_before(index).slot()).collect();
    assert_eq!(slots, [Slot::None, Slot::None, Slot::Likely, Slot::None, Slot::None]);
    assert_eq!(
        (block.flow(), block.conditional()),
        (Flow::Branch { target: START + 24, conditional: true }, true)
    );

    let block = decode(&[COUNT, BRANCH]).unwrap();
    assert_eq!((block.flow(), block.conditional()), (Flow::Sequential, false));
    assert_eq!(block.mode_before(2).slot(), Slot::Branch);
    assert_eq!(block.mode_before(9).slot(), Slot::Branch);
}

#[test]
fn a_slot_can_be_a_block_of_its_own() {
    for (word, equal, pc, count) in [
        (BRANCH, true, START + 20, 1),
        (BRANCH, false, START + 8, 1),
        (LIKELY, true, START + 20, 1),
        (LIKELY, false, START + 8, 0),
    ] {
        let before = registers(&[(4, 7), (5, if equal { 7 } else { 8 }), (2, 0)]);
        let mut cpu = Cpu::new(&before, mode(false));
        let mut memory = Memory::default();
        assert_eq!(cpu.run(&decode(&[word]).unwrap(), 0, 1, &mut memory), Exit::Done);
        assert_eq!((cpu.pc(), cpu.mode().in_delay_slot()), (START + 4, true));

        let slot = Block::decode(cpu.pc(), cpu.mode(), &code(&[COUNT], mode(false))).unwrap();
        assert_eq!((slot.flow(), slot.conditional()), (Flow::Computed, word == LIKELY));
        assert_eq!(cpu.run(&slot, 0, 1, &mut memory), Exit::Done);
        assert_eq!((cpu.pc(), cpu.mode(), cpu.registers().0[2]), (pc, mode(false), count));
        let more = Block::decode(START + 4, slot.mode(), &code(&[COUNT, NOP], mode(false)));
        assert_eq!(more.err(), Some(DecodeError::BranchInside { offset: 0 }));
    }
}

/// An opaque instruction in a slot stops the executor even where it is nullified; the trace has its registers.
#[test]
fn an_opaque_slot() {
    for (word, equal, pc) in [
        (BRANCH, true, START + 20),
        (BRANCH, false, START + 8),
        (LIKELY, true, START + 20),
        (LIKELY, false, START + 8),
    ] {
        let before = registers(&[(4, 7), (5, if equal { 7 } else { 8 })]);
        let mut cpu = Cpu::new(&before, mode(false));
        let block = decode(&[word, OPAQUE]).unwrap();
        assert_eq!(cpu.run(&block, 0, 2, &mut Memory::default()), Exit::Opaque(1));
        assert_eq!((cpu.pc(), cpu.mode()), (START + 4, block.mode_before(1)));
        assert_eq!(cpu.complete_opaque(&block, 1, 1 << 2, &[99]), Ok(()));
        assert_eq!((cpu.pc(), cpu.mode(), cpu.registers().0[2]), (pc, mode(false), 99));
        // Whatever comes next is not nullified.
        let next = Block::decode(pc, mode(false), &code(&[COUNT], mode(false))).unwrap();
        assert_eq!(cpu.run(&next, 0, 1, &mut Memory::default()), Exit::Done);
        assert_eq!(cpu.registers().0[2], 100);
    }
}

#[test]
fn a_branch_that_is_not_modelled() {
    // bposge32
    let block = decode(&[0x041c_0004, COUNT]).unwrap();
    assert_eq!((block.opaque_indices(), block.flow()), (&[0, 1][..], Flow::Opaque));
    assert_eq!(block.opaque(0).map(|opaque| opaque.writes), Some(0));
    let mut cpu = Cpu::new(&registers(&[]), mode(false));
    assert_eq!(cpu.run(&block, 0, 2, &mut Memory::default()), Exit::Opaque(0));
    assert_eq!(cpu.complete_opaque(&block, 0, 0, &[]), Ok(()));
    assert_eq!(cpu.mode(), block.mode_before(1));
    assert_eq!(cpu.run(&block, 1, 2, &mut Memory::default()), Exit::Opaque(1));
    assert_eq!(cpu.complete_opaque(&block, 1, 1 << 2 | 1 << PC, &[6, 0x8000_5000]), Ok(()));
    assert_eq!((cpu.pc(), cpu.mode(), cpu.registers().0[2]), (0x8000_5000, mode(false), 6));
}

#[test]
fn a_branch_in_a_slot_is_opaque() {
    // Branches, one that is never taken, jumps.
    for slot in [BRANCH, LIKELY, 0x1484_0004, 0x5484_0004, 0x0800_0123, 0x03e0_0008, 0x041c_0004] {
        let block = decode(&[BRANCH, slot]).unwrap();
        assert_eq!((block.opaque_indices(), block.flow()), (&[1][..], Flow::Opaque), "{slot:#010x}");
    }
}

#[test]
fn what_can_stop_a_block() {
    // addu, add, addi, sub, teq, lw, sdc1, mfc0, bposge32, mult, bne a0, a0; each is followed by something.
    for (word, expected) in [
        (0x0085_1021, false),
        (0x0085_1020, true),
        (0x2082_0001, true),
        (0x0085_1022, true),
        (0x0085_0034, true),
        (0x8c82_0000, true),
        (0xf484_0000, true),
        (OPAQUE, true),
        (0x041c_0004, true),
        (0x0085_0018, false),
        (BRANCH, false),
    ] {
        let block = decode(&[word, NOP]).unwrap();
        assert_eq!(
            (block.may_stop_at(0), block.may_stop_at(1), block.may_stop_at(2)),
            (expected, true, false),
            "{word:#010x}"
        );
    }
}

#[test]
fn recorded_results_must_belong_to_the_instruction() {
    let block = decode(&[NOP, OPAQUE, NOP]).unwrap();
    let mut cpu = Cpu::new(&registers(&[]), mode(false));
    assert_eq!(cpu.run(&block, 0, 3, &mut Memory::default()), Exit::Opaque(1));
    let before = cpu.registers();
    let wrong = OpaqueError::NotOpaque { address: START, index: 0 };
    assert_eq!(cpu.complete_opaque(&block, 0, 0, &[]), Err(wrong));
    let wrong = OpaqueError::Unwritten { address: START, index: 1, excess: 1 << 3 };
    assert_eq!(cpu.complete_opaque(&block, 1, 3 << 2, &[0, 0]), Err(wrong));
    let wrong = OpaqueError::Count { registers: 1, values: 2 };
    assert_eq!(cpu.complete_opaque(&block, 1, 1 << 2, &[0, 0]), Err(wrong));
    assert_eq!(cpu.registers(), before);
    assert_eq!(cpu.complete_opaque(&block, 1, 1 << 2, &[5]), Ok(()));
    assert_eq!((cpu.pc(), cpu.registers().0[2]), (START + 8, 5));
}

#[test]
fn the_mode_follows_status_and_the_program_counter() {
    // mtc0 v0, status
    let block = decode(&[0x4082_6000]).unwrap();
    let mut cpu = Cpu::new(&registers(&[]), mode(false));
    assert_eq!(cpu.run(&block, 0, 1, &mut Memory::default()), Exit::Opaque(0));
    assert_eq!(cpu.complete_opaque(&block, 0, 1 << 32, &[1 << 26]), Ok(()));
    assert!(cpu.mode().fpu_64());

    // jr a0 to an odd address, and eret back.
    let mut cpu = Cpu::new(&registers(&[(4, 0x8000_2003)]), mode(false));
    assert_eq!(cpu.run(&decode(&[0x0080_0008, NOP]).unwrap(), 0, 2, &mut Memory::default()), Exit::Done);
    assert_eq!((cpu.pc(), cpu.mode().compressed(), cpu.registers().0[PC]), (0x8000_2002, true, 0x8000_2003));
    assert_eq!(Cpu::new(&cpu.registers(), mode(false)).mode(), cpu.mode());
    let compressed = Block::decode(cpu.pc(), cpu.mode(), &[0x00, 0x65, 0x20, 0xe8, 0x00, 0x65]).unwrap();
    assert_eq!((compressed.len(), compressed.flow()), (3, Flow::Opaque));
    for index in 0..3 {
        assert_eq!(cpu.run(&compressed, index, 3, &mut Memory::default()), Exit::Opaque(index));
        let written = if index == 2 { 1 << PC } else { 0 };
        let values: &[u32] = if index == 2 { &[0x8000_3000] } else { &[] };
        assert_eq!(cpu.complete_opaque(&compressed, index, written, values), Ok(()));
    }
    assert_eq!((cpu.pc(), cpu.mode()), (0x8000_3000, mode(false)));
}

#[test]
fn compressed_code_is_measured() {
    let mips16 = Mode::at(mode(true), 0, 1);
    // li 1; jal; nop in its slot; an extended instruction.
    let code = [0x6a, 0x01, 0x18, 0x00, 0x00, 0x00, 0x65, 0x00, 0xf0, 0x00, 0x6a, 0x01];
    let block = Block::decode(START + 2, mips16, &code).unwrap();
    let offsets: Vec<u32> = (0..5).map(|index| block.address_of(index) - START).collect();
    assert_eq!(offsets, [2, 4, 8, 10, 14]);
    assert_eq!(
        block.opaque(0).map(|opaque| (opaque.mnemonic, opaque.writes >> PC & 1)),
        Some(("mips16e", 0))
    );
    assert_eq!(block.opaque(3).map(|opaque| opaque.writes >> PC & 1), Some(1));
    assert_eq!(Block::decode(START, mips16, &code[..3]).err(), Some(DecodeError::Truncated { offset: 2 }));
    assert_eq!(Block::decode(START, mips16, &code[..5]).err(), Some(DecodeError::Truncated { offset: 2 }));
    assert_eq!(
        Block::decode(START + 1, mips16, &code).err(),
        Some(DecodeError::Misaligned { address: START + 1 })
    );
}
