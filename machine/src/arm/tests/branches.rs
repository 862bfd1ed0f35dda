use super::*;
use crate::arm::Flow;

/// Where one word goes, and in which instruction set.
#[track_caller]
fn check(word: u32, before: Registers, target: u32, thumb: bool) {
    let mut memory = Memory::default();
    let after = run(&[word], before, &mut memory);
    assert_eq!((after.0[15], after.0[16] & T != 0), (target, thumb), "{word:#010x}");
    let linked = matches!(word, 0xebff_ffbe | 0xfa00_0056 | 0xfb00_0056 | 0xe12f_ff31 | 0xe12f_ff3e);
    assert_eq!(after.0[14], if linked { START + 4 } else { before.0[14] }, "{word:#010x}");
    // What the block says of its end must agree.
    let loaded = match memory.accesses.last() {
        Some(&Access::Load(_, _, value)) => value as u32,
        _ => 0,
    };
    match arm_block(&[word]).flow() {
        Flow::Branch { target: said, .. } => assert_eq!(said, target, "{word:#010x}"),
        Flow::Register(register) => assert_eq!(after.0[usize::from(register)] & !1, target, "{word:#010x}"),
        Flow::Loaded => assert_eq!(loaded & !1, target, "{word:#010x}"),
        Flow::Computed => {}
        other => panic!("{word:#010x} goes on as {other:?}"),
    }
}

#[test]
fn branches_to_constants() {
    check(0xea00_003e, registers(&[]), START + 8 + 0xf8, false); // b
    check(0xebff_ffbe, registers(&[]), START + 8 - 0x108, false); // bl
    check(0xfa00_0056, registers(&[]), START + 8 + 0x158, true); // blx
    check(0xfb00_0056, registers(&[]), START + 8 + 0x15a, true); // blx with H
    check(0xe12f_ff1f, registers(&[]), START + 8, false); // bx pc
}

#[test]
fn branches_to_registers_interwork() {
    for (word, register) in [
        (0xe12f_ff11, 1),  // bx r1
        (0xe12f_ff31, 1),  // blx r1
        (0xe12f_ff3e, 14), // blx lr
        (0xe12f_ff21, 1),  // bxj r1
        (0xe1a0_f00e, 14), // mov pc, lr
    ] {
        check(word, registers(&[(register, 0x1_0004)]), 0x1_0004, false);
        check(word, registers(&[(register, 0x1_0005)]), 0x1_0004, true);
        check(word, registers(&[(register, 0x1_0007)]), 0x1_0006, true);
        // QEMU keeps bit 1 and takes an alignment fault there.
        check(word, registers(&[(register, 0x1_0006)]), 0x1_0006, false);
    }
}

#[test]
fn computed_branches_interwork() {
    check(0xe08f_f102, registers(&[(2, 5)]), START + 8 + 20, false); // add pc, pc, r2, lsl #2
    check(0xe08f_f002, registers(&[(2, 5)]), START + 12, true); // add pc, pc, r2
    check(0xe24e_f004, registers(&[(14, 0x104)]), 0x100, false); // sub pc, lr, #4
    check(0xe3a0_fc01, registers(&[]), 0x100, false); // mov pc, #0x100
}

#[test]
fn loaded_branches_interwork() {
    for value in [0x1_0000u32, 0x1_0001] {
        // ldr pc, [r1]; ldr pc, [r1, #4]!; pop {r4, pc}; ldmda r1, {pc}; ldr pc, [pc, r2, lsl #2]
        for (word, address) in [
            (0xe591_f000, 0x2_0000),
            (0xe5b1_f004, 0x2_0004),
            (0xe8bd_8010, 0x3_0004),
            (0xe811_8000, 0x2_0000),
            (0xe79f_f102, START + 8 + 12),
        ] {
            let before = registers(&[(1, 0x2_0000), (2, 3), (13, 0x3_0000)]);
            let mut memory = Memory::default();
            memory.put(address, value);
            let after = run(&[word], before, &mut memory);
            assert_eq!((after.0[15], after.0[16] & T != 0), (value & !1, value & 1 != 0), "{word:#010x}");
            assert_eq!(arm_block(&[word]).flow(), Flow::Loaded);
        }
    }
}

#[test]
fn a_branch_whose_condition_fails_falls_through() {
    for word in [0x0a00_003e, 0x0b00_003e, 0x012f_ff11, 0x012f_ff31, 0x0591_f000, 0x08bd_8010, 0x008f_f102] {
        let block = arm_block(&[word]);
        assert!(block.conditional());
        let before = registers(&[]);
        let mut memory = Memory::default();
        let after = run(&[word], before, &mut memory);
        let mut expected = before;
        expected.0[15] += 4;
        assert_eq!(after, expected, "{word:#010x}");
        assert_eq!(memory.accesses, []);
    }
}

#[test]
fn a_block_says_where_it_goes() {
    let flow = |words: &[u32]| arm_block(words).flow();
    assert_eq!(flow(&[0xe1a0_0000]), Flow::Sequential); // mov r0, r0
    assert_eq!(flow(&[0xe154_0005]), Flow::Sequential); // cmp r4, r5
    assert_eq!(flow(&[0xee01_3f10]), Flow::Sequential); // mcr
    assert_eq!(flow(&[0xef00_0000]), Flow::Sequential); // svc
    assert_eq!(flow(&[0xea00_003e]), Flow::Branch { target: START + 0x100, conditional: false });
    assert_eq!(flow(&[0xe1a0_0000, 0x0a00_003e]), Flow::Branch { target: START + 0x104, conditional: true });
    assert_eq!(flow(&[0xe12f_ff1e]), Flow::Register(14)); // bx lr
    assert_eq!(flow(&[0xe12f_ff31]), Flow::Register(1)); // blx r1
    assert_eq!(flow(&[0xe12f_ff3e]), Flow::Computed); // blx lr
    assert_eq!(flow(&[0xe1a0_f102]), Flow::Computed); // mov pc, r2, lsl #2
    assert_eq!(flow(&[0xe8bd_8010]), Flow::Loaded); // pop {r4, pc}
    assert_eq!(flow(&[0xe25e_f004]), Flow::Opaque); // subs pc, lr, #4
}
