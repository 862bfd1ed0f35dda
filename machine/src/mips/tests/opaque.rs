use super::*;
use crate::mips::instruction::Opaque;

/// What is known of an instruction as the last one of a block.
fn opaque(word: u32) -> Opaque {
    *block(&[word]).opaque(0).unwrap_or_else(|| panic!("{word:#010x} is modelled"))
}

fn opaque_with_fr(word: u32) -> Opaque {
    let mode = Mode::at(mode(false), 1 << 26, 0);
    let block = Block::decode(START, mode, &code(&[word], mode)).unwrap();
    *block.opaque(0).unwrap_or_else(|| panic!("{word:#010x} is modelled"))
}

const STATUS: u128 = 1 << 32;
const CAUSE: u128 = 1 << 36;
const V0: u128 = 1 << 2;

#[test]
fn what_they_write() {
    let control = STATUS | CAUSE | 1 << 35;
    for (word, mnemonic, writes, memory, mapping) in [
        (0x4002_6000, "mfc0", V0, false, false),
        (0x4000_6000, "mfc0", 0, false, false),
        (0x4082_6000, "mtc0", STATUS | CAUSE, false, true),
        (0x4082_6800, "mtc0", CAUSE, false, false),
        (0x4082_5800, "mtc0", CAUSE, false, false),  // Compare
        (0x4082_5000, "mtc0", 0, false, true),       // EntryHi
        (0x4082_1000, "mtc0", 0, false, false),      // EntryLo0
        (0x4082_1001, "mtc0", control, false, true), // TCStatus
        (0x4162_6000, "di", V0 | STATUS, false, false),
        (0x4162_6020, "ei", V0 | STATUS, false, false),
        (0x4200_0002, "tlbwi", 0, false, true),
        (0x4200_0008, "tlbp", 0, false, true),
        (0x4200_0018, "eret", STATUS | 1 << PC, false, true),
        (0x4200_0020, "wait", 0, false, false),
        (0xc082_0000, "ll", V0, true, false),
        (0xe082_0000, "sc", V0, true, false),
        (0x7c02_e83b, "rdhwr", V0, false, false),
        (0x0000_000c, "syscall", 0, false, false),
        (0x4626_2080, "add", 3 << 40 | 1 << 70, false, false), // add.d f2, f4, f6
        (0x4606_20c1, "sub", 3 << 40 | 1 << 70, false, false), // sub.s f3, f4, f6
        (0x4626_203c, "c.cond", 1 << 70, false, false),
        (0x44c2_f800, "ctc1", STATUS | 1 << 70, false, false),
        (0x4442_c800, "cfc1", V0, false, false),
        (0x4c85_0080, "lwxc1", 3 << 40, true, false),
        // EXT with a field beyond the register.
        (0x7c85_ffc0, "unknown", Opaque::EVERYTHING, true, true),
    ] {
        let expected = Opaque { mnemonic, writes, memory, changes_mapping: mapping };
        assert_eq!(opaque(word), expected, "{word:#010x}");
    }
}

#[test]
fn with_64_bit_registers_the_floating_point_unit_is_opaque() {
    let f2 = 1 << 40;
    let pair = 3 << 40;
    for (word, mnemonic, writes, memory) in [
        (0xc482_0000, "lwc1", f2, true),
        (0xd482_0000, "ldc1", f2, true),
        (0xe482_0000, "swc1", 0, true),
        (0xf482_0000, "sdc1", 0, true),
        (0x4402_1000, "mfc1", V0, false),
        (0x4462_1000, "mfhc1", V0, false),
        (0x4484_1000, "mtc1", pair, false),
        (0x44e4_1000, "mthc1", pair, false),
        (0x4620_2086, "mov", pair | 1 << 70, false),
    ] {
        let expected = Opaque { mnemonic, writes, memory, changes_mapping: false };
        assert_eq!(opaque_with_fr(word), expected, "{word:#010x}");
    }
}

/// Nothing but the last instruction of a block branches.
#[test]
fn an_opaque_instruction_inside_a_block_leaves_the_program_counter_alone() {
    let block = block(&[0xffff_ffff, 0xffff_ffff]);
    let pc = |index| block.opaque(index).map(|opaque| opaque.writes >> PC & 1);
    assert_eq!((pc(0), pc(1)), (Some(0), Some(1)));
}

/// Release 1 executes ROTR and ROTRV as SRL and SRLV.
#[test]
fn rotation_needs_release_2() {
    let mode = Mode::of_processor(false);
    for word in [0x0025_10c2, 0x0085_1046] {
        assert!(block(&[word]).opaque(0).is_none());
        let block = Block::decode(START, mode, &code(&[word], mode)).unwrap();
        assert!(block.opaque(0).is_some(), "{word:#010x}");
    }
}
