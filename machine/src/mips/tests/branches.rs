use super::*;
use crate::mips::Flow;

const NOP: u32 = 0;
/// `addiu v0, v0, 1`: shows whether a slot executed.
const COUNT: u32 = 0x2442_0001;
const BEHIND: u32 = START + 8;
/// Where a branch with the offset 4 leads.
const TARGET: u32 = START + 4 + 16;

/// Runs a branch with [`COUNT`] in its slot. Returns the program counter, whether the slot executed, and r31.
fn branch(word: u32, values: &[(usize, u32)]) -> (u32, bool, u32) {
    let before = registers(values);
    let after = run(&[word, COUNT], &before);
    (after.0[PC], after.0[2] != before.0[2], after.0[31])
}

#[test]
fn conditions() {
    let (negative, zero, positive) = (0x8000_0000, 0, 1);
    for (word, taken) in [
        (0x1880_0004, [true, true, false]),  // blez a0
        (0x1c80_0004, [false, false, true]), // bgtz a0
        (0x0480_0004, [true, false, false]), // bltz a0
        (0x0481_0004, [false, true, true]),  // bgez a0
        (0x1080_0004, [false, true, false]), // beqz a0
        (0x1480_0004, [true, false, true]),  // bnez a0
        (0x0490_0004, [true, false, false]), // bltzal a0
        (0x0491_0004, [false, true, true]),  // bgezal a0
    ] {
        for (value, taken) in [negative, zero, positive].into_iter().zip(taken) {
            let links = word & 0xfc10_0000 == 0x0410_0000;
            let expected = if taken { TARGET } else { BEHIND };
            let link = if links { BEHIND } else { 0x1f1f_1f1f };
            assert_eq!(branch(word, &[(4, value)]), (expected, true, link), "{word:#010x} {value:#x}");
            // The likely form.
            let likely = if word >> 26 == 1 { word | 2 << 16 } else { word | 0x10 << 26 };
            assert_eq!(branch(likely, &[(4, value)]), (expected, taken, link), "{likely:#010x} {value:#x}");
        }
    }
}

#[test]
fn conditions_on_floating_point_flags() {
    for code in 0..8 {
        let bit = if code == 0 { 23 } else { 24 + code };
        for flags in [1u32 << bit, !(1 << bit)] {
            let set = flags == 1 << bit;
            for (operation, taken) in [(0, !set), (1, set), (2, !set), (3, set)] {
                let word = 0x4500_0004 | code << 18 | operation << 16;
                let expected = if taken { TARGET } else { BEHIND };
                let executed = taken || operation < 2;
                assert_eq!(branch(word, &[(FCSR, flags)]), (expected, executed, 0x1f1f_1f1f));
            }
        }
    }
}

#[test]
fn jumps() {
    assert_eq!(branch(0x0800_0123, &[]), (0x8000_048c, true, 0x1f1f_1f1f), "j");
    assert_eq!(branch(0x0c00_0123, &[]), (0x8000_048c, true, BEHIND), "jal");
    assert_eq!(branch(0x7400_0123, &[]), (0x8000_048d, true, BEHIND), "jalx");
    assert_eq!(branch(0x0080_0008, &[(4, 0x8123_4560)]).0, 0x8123_4560, "jr a0");
    assert_eq!(branch(0x0080_0408, &[(4, 0x8123_4560)]).0, 0x8123_4560, "jr.hb a0");
    assert_eq!(branch(0x0080_f809, &[(4, 0x8123_4560)]), (0x8123_4560, true, BEHIND), "jalr a0");
    assert_eq!(branch(0x0080_0008, &[(4, 0x8123_4561)]).0, 0x8123_4561, "jr a0 to compressed code");
    // The target is what the register holds before the link, and before the slot.
    assert_eq!(branch(0x03e0_f809, &[(31, 0x8123_4560)]), (0x8123_4560, true, BEHIND), "jalr ra, ra");
    assert_eq!(branch(0x0040_0008, &[(2, 0x8123_4560)]).0, 0x8123_4560, "jr v0");
}

#[test]
fn a_jump_takes_the_region_of_its_slot() {
    let block = Block::decode(0x8fff_fffc, mode(false), &code(&[0x0800_0001, NOP], mode(false)));
    assert_eq!(block.map(|block| block.flow()), Ok(Flow::Branch { target: 0x9000_0004, conditional: false }));
}

#[test]
fn operands_can_decide_a_branch() {
    let always = Flow::Branch { target: TARGET, conditional: false };
    // beq a0, a0; blez zero; bgez zero; bal.
    for word in [0x1084_0004, 0x1800_0004, 0x0401_0004, 0x0411_0004] {
        assert_eq!(block(&[word, COUNT]).flow(), always, "{word:#010x}");
        assert_eq!(branch(word, &[]).0, TARGET, "{word:#010x}");
    }
    // bltzal zero: a branch to where it leads anyway.
    assert_eq!(branch(0x0410_0004, &[]), (BEHIND, true, BEHIND));
    // bne a0, a0; bgtz zero; bltz zero have no slot, so that what follows may branch: b 0x10.
    for word in [0x1484_0004, 0x1c00_0004, 0x0400_0004] {
        let block = block(&[word, COUNT, 0x1000_0003, NOP]);
        assert_eq!(block.len(), 4);
        assert!(!block.mode_before(1).in_delay_slot());
        assert_eq!(run(&[word, COUNT], &registers(&[])).0[PC], BEHIND);
    }
    // bnel a0, a0; bgtzl zero; bltzl zero; bltzall zero: QEMU passes over the slot.
    for word in [0x5484_0004, 0x5c00_0004, 0x0402_0004, 0x0412_0004] {
        let block = block(&[word, 0xffff_ffff, COUNT]);
        assert_eq!((block.len(), block.length_of(0), block.address_of(1)), (2, 8, START + 8));
        let after = run(&[word, 0xffff_ffff, COUNT], &registers(&[(2, 5)]));
        assert_eq!((after.0[PC], after.0[2]), (START + 12, 6));
        assert_eq!(after.0[31], if word == 0x0412_0004 { BEHIND } else { 0x1f1f_1f1f });
    }
}

#[test]
fn a_register_is_the_flow_if_it_keeps_its_value() {
    for (words, flow) in [
        ([0x0080_0008, COUNT], Flow::Register(4)),       // jr a0
        ([0x0040_0008, COUNT], Flow::Computed),          // jr v0
        ([0x0080_f809, COUNT], Flow::Register(4)),       // jalr a0
        ([0x03e0_f809, COUNT], Flow::Computed),          // jalr ra, ra
        ([0x0080_0008, 0x8c84_0000], Flow::Computed),    // jr a0; lw a0, 0(a0)
        ([0x0080_0008, 0x4004_6000], Flow::Computed),    // jr a0; mfc0 a0, status
        ([0x0080_0008, 0x4005_6000], Flow::Register(4)), // jr a0; mfc0 a1, status
        ([0x0080_0008, 0x4200_0018], Flow::Opaque),      // jr a0; eret
    ] {
        assert_eq!(block(&words).flow(), flow, "{words:x?}");
    }
}
