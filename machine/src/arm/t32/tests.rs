use proptest::prelude::*;

use super::super::instruction::{
    Address, Condition, DataOperation, Half, Index, Instruction, Offset, Opaque, Operand, Shift, ShiftKind,
    Width,
};
use super::{decode, is_wide};

fn narrow(first: u16) -> Instruction {
    let decoded = decode(first, 0xffff, false);
    assert_eq!(decoded.length, 2);
    decoded.instruction
}

fn wide(word: u32) -> Instruction {
    let decoded = decode((word >> 16) as u16, word as u16, false);
    assert_eq!(decoded.length, 4);
    decoded.instruction
}

fn opaque(word: u32) -> Opaque {
    match if word >> 16 == 0 { narrow(word as u16) } else { wide(word) } {
        Instruction::Opaque(opaque) => opaque,
        other => panic!("{word:#010x} is modelled as {other:?}"),
    }
}

fn offset(value: i32) -> Offset {
    Offset::Immediate(value)
}

#[test]
fn flags_follow_the_it_block_in_16_bit_data_processing_only() {
    let sets_flags = |first, second, in_it_block| match decode(first, second, in_it_block).instruction {
        Instruction::Data { set_flags, .. } | Instruction::Multiply { set_flags, .. } => set_flags,
        other => panic!("{first:#06x}: {other:?}"),
    };
    // adds r1, r2, r3; movs r0, #1; lsls r0, r1; muls r0, r1, r0
    for first in [0x18d1, 0x2001, 0x4088, 0x4348] {
        assert!(sets_flags(first, 0, false), "{first:#06x}");
        assert!(!sets_flags(first, 0, true), "{first:#06x}");
    }
    // cmp r0, #1; cmp r0, r1; cmn r0, r1; tst r0, r1; cmp r8, r0
    for first in [0x2801, 0x4288, 0x42c8, 0x4208, 0x4580] {
        assert!(sets_flags(first, 0, false), "{first:#06x}");
        assert!(sets_flags(first, 0, true), "{first:#06x}");
    }
    // adds.w r0, r1, r2; mov r0, r1 (high register form)
    assert!(sets_flags(0xeb11, 0x0002, true));
    assert!(!sets_flags(0x4608, 0, false));
}

#[test]
fn movs_between_low_registers_is_unpredictable_in_an_it_block() {
    assert!(matches!(decode(0x0008, 0, false).instruction, Instruction::Data { .. }));
    assert_eq!(decode(0x0008, 0, true).instruction, Instruction::Opaque(Opaque::UNKNOWN));
}

#[test]
fn shift_amounts_are_decoded() {
    let shift = |instruction| match instruction {
        Instruction::Data { operand: Operand::Register { shift, .. }, .. } => (shift.kind, shift.amount),
        other => panic!("{other:?}"),
    };
    assert_eq!(shift(narrow(0x0800)), (ShiftKind::Lsr, 32));
    assert_eq!(shift(narrow(0x1000)), (ShiftKind::Asr, 32));
    assert_eq!(shift(narrow(0x07c8)), (ShiftKind::Lsl, 31));
    assert_eq!(shift(wide(0xea4f_0031)), (ShiftKind::Rrx, 1));
    assert_eq!(shift(wide(0xea4f_70f1)), (ShiftKind::Ror, 31));
}

#[test]
fn immediates_expand() {
    let value = |word| match wide(word) {
        Instruction::Data { operand: Operand::Immediate { value, carry }, .. } => (value, carry),
        other => panic!("{word:#010x}: {other:?}"),
    };
    // mov.w r0, #0xab; #0x00ab00ab; #0xab00ab00; #0xabababab; #0xff000000; #0x100; movw r0, #0xabcd
    assert_eq!(value(0xf04f_00ab), (0xab, None));
    assert_eq!(value(0xf04f_10ab), (0x00ab_00ab, None));
    assert_eq!(value(0xf04f_20ab), (0xab00_ab00, None));
    assert_eq!(value(0xf04f_30ab), (0xabab_abab, None));
    assert_eq!(value(0xf04f_407f), (0xff00_0000, Some(true)));
    assert_eq!(value(0xf44f_7080), (0x100, Some(false)));
    assert_eq!(value(0xf64a_30cd), (0xabcd, None));
    // A repeated zero is UNPREDICTABLE.
    assert_eq!(opaque(0xf04f_1000), Opaque::UNKNOWN);
}

#[test]
fn branches_have_their_offsets() {
    assert_eq!(narrow(0xe7fe), Instruction::Branch { offset: -4, link: false });
    let decoded = decode(0xd1fd, 0, false);
    assert_eq!(decoded.condition, Condition(1));
    assert_eq!(decoded.instruction, Instruction::Branch { offset: -6, link: false });
    // bne.w -0x100; b.w +0xc00000; bl -4; blx +8
    let decoded = decode(0xf47f, 0xaf80, false);
    assert_eq!(decoded.condition, Condition(1));
    assert_eq!(decoded.instruction, Instruction::Branch { offset: -0x100, link: false });
    assert_eq!(wide(0xf000_9000), Instruction::Branch { offset: 0x00c0_0000, link: false });
    assert_eq!(wide(0xf7ff_fffe), Instruction::Branch { offset: -4, link: true });
    assert_eq!(wide(0xf000_e804), Instruction::BranchExchange { offset: 8 });
    assert_eq!(narrow(0xb911), Instruction::CompareBranch { rn: 1, nonzero: true, offset: 4 });
    assert_eq!(narrow(0x4770), Instruction::BranchRegister { rm: 14, link: false });
    assert_eq!(wide(0xe8df_f003), Instruction::TableBranch { rn: 15, rm: 3, halfword: false });
}

#[test]
fn loads_and_stores_have_their_addresses() {
    let address = |base, offset, index| Address { base, offset, index };
    // ldr r0, [pc, #8]; ldr.w pc, [sp], #4; strb.w r1, [r2, #-3]!; ldrsh.w r1, [r2, r3, lsl #3]; ldrt r0, [r1, #4]
    assert_eq!(
        narrow(0x4802),
        Instruction::Load { width: Width::Word, rt: 0, address: address(15, offset(8), Index::Offset) }
    );
    assert_eq!(
        wide(0xf85d_fb04),
        Instruction::Load { width: Width::Word, rt: 15, address: address(13, offset(4), Index::Post) }
    );
    assert_eq!(
        wide(0xf802_1d03),
        Instruction::Store { width: Width::Byte, rt: 1, address: address(2, offset(-3), Index::Pre) }
    );
    let scaled =
        Offset::Register { rm: 3, shift: Shift { kind: ShiftKind::Lsl, amount: 3 }, subtract: false };
    assert_eq!(
        wide(0xf932_1033),
        Instruction::Load { width: Width::SignedHalf, rt: 1, address: address(2, scaled, Index::Offset) }
    );
    assert_eq!(
        wide(0xf851_0e04),
        Instruction::Load { width: Width::Word, rt: 0, address: address(1, offset(4), Index::Offset) }
    );
    // ldrd r0, r1, [r2, #-8]!; strd r0, r1, [r2], #16
    assert_eq!(
        wide(0xe972_0102),
        Instruction::LoadDual { rt: 0, rt2: 1, address: address(2, offset(-8), Index::Pre) }
    );
    assert_eq!(
        wide(0xe8e2_0104),
        Instruction::StoreDual { rt: 0, rt2: 1, address: address(2, offset(16), Index::Post) }
    );
    // push {r4, lr}; pop {r4, pc}; ldmia r0, {r0, r1}; ldmia r0!, {r1}; ldmdb.w r1!, {r2, r3}
    let multiple = |base, list, increment, before, writeback| (base, list, increment, before, writeback);
    let parts = |instruction| match instruction {
        Instruction::LoadMultiple { base, list, increment, before, writeback }
        | Instruction::StoreMultiple { base, list, increment, before, writeback } => {
            multiple(base, list, increment, before, writeback)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(parts(narrow(0xb510)), multiple(13, 0x4010, false, true, true));
    assert_eq!(parts(narrow(0xbd10)), multiple(13, 0x8010, true, false, true));
    assert_eq!(parts(narrow(0xc803)), multiple(0, 3, true, false, false));
    assert_eq!(parts(narrow(0xc802)), multiple(0, 2, true, false, true));
    assert_eq!(parts(wide(0xe931_000c)), multiple(1, 0xc, false, true, true));
}

#[test]
fn preloads_hints_and_barriers_do_nothing() {
    // pld [pc]; pld [r0, #4]; pli [r1, r2]; pldw [r3, #-4]; dmb; dsb; isb; nop; nop.w; wfi; dbg
    for word in [0xf89f_f000, 0xf890_f004, 0xf911_f002, 0xf833_fc04, 0xf3bf_8f5f, 0xf3bf_8f4f, 0xf3bf_8f6f] {
        assert_eq!(wide(word), Instruction::Nop, "{word:#010x}");
    }
    assert_eq!(wide(0xf3af_8000), Instruction::Nop);
    assert_eq!(wide(0xf3af_80ff), Instruction::Nop);
    assert_eq!(narrow(0xbf00), Instruction::Nop);
    assert_eq!(narrow(0xbf30), Instruction::Nop);
    assert_eq!(narrow(0xbf08), Instruction::IfThen { state: 0x08 });
    // it al with an else, it nv
    assert_eq!(opaque(0xbfec), Opaque::UNKNOWN);
    assert_eq!(opaque(0xbff8), Opaque::UNKNOWN);
}

#[test]
fn multiplications_take_their_halves_and_accumulators() {
    // smlabt r0, r1, r2, r3; smultb r0, r1, r2
    assert_eq!(
        wide(0xfb11_3012),
        Instruction::MultiplyHalves {
            rd: 0,
            rn: 1,
            n: Half::Bottom,
            rm: 2,
            m: Half::Top,
            accumulate: Some(3)
        }
    );
    assert_eq!(
        wide(0xfb11_f022),
        Instruction::MultiplyHalves { rd: 0, rn: 1, n: Half::Top, rm: 2, m: Half::Bottom, accumulate: None }
    );
    // mls r0, r1, r2, r3; and with no accumulator it is UNPREDICTABLE
    assert!(matches!(wide(0xfb01_3012), Instruction::Multiply { subtract: true, accumulate: Some(3), .. }));
    assert_eq!(opaque(0xfb01_f012), Opaque::UNKNOWN);
    // udiv r0, r1, r2; umull r0, r0, r1, r2 (both halves in one register)
    assert_eq!(wide(0xfbb1_f0f2), Instruction::Divide { signed: false, rd: 0, rn: 1, rm: 2 });
    assert_eq!(opaque(0xfba1_0002), Opaque::UNKNOWN);
}

#[test]
fn the_stack_pointer_is_allowed_where_the_manual_allows_it() {
    let modelled = |word| !matches!(wide(word), Instruction::Opaque(_));
    // add.w sp, sp, r0, lsl #3; sub.w sp, sp, #16; add.w r0, sp, r1, asr #4; mov.w sp, r0; subw sp, sp, #1; cmp.w sp, r0
    for word in [0xeb0d_0dc0, 0xf1ad_0d10, 0xeb0d_1021, 0xea4f_0d00, 0xf2ad_0d01, 0xebbd_0f00] {
        assert!(modelled(word), "{word:#010x}");
    }
    // add.w sp, sp, r0, lsl #4; add.w sp, r0, #1; and.w sp, r0, r1; mov.w sp, sp; ldrb.w sp, [r0]; strh.w sp, [r0]
    for word in [0xeb0d_1d00, 0xf100_0d01, 0xea00_0d01, 0xea4f_0d0d, 0xf890_d000, 0xf8a0_d000] {
        assert_eq!(opaque(word), Opaque::UNKNOWN, "{word:#010x}");
    }
}

#[test]
fn opaque_instructions_say_what_they_write() {
    let writes = |word| {
        let opaque = opaque(word);
        (opaque.mnemonic, opaque.writes, opaque.memory, opaque.changes_mode, opaque.changes_mapping)
    };
    const CPSR: u32 = Opaque::CPSR;
    assert_eq!(writes(0xdf00), ("svc", 0, false, false, false));
    assert_eq!(writes(0xdfab), ("svc", 1, true, false, false));
    assert_eq!(writes(0xde01), ("udf", 0, false, false, false));
    assert_eq!(writes(0xbe00), ("bkpt", 0, false, false, false));
    assert_eq!(writes(0xb672), ("cps", CPSR, false, false, false));
    assert_eq!(writes(0xb658), ("setend", CPSR, false, false, false));
    // stmia r1!, {r0, r1}
    assert_eq!(writes(0xc103), ("stm", 2, true, false, false));
    // mrc p15, 0, r3, c1, c0, 0; mrc p15, 0, apsr, …; mcr to SCTLR, to c7, to TPIDRURW
    assert_eq!(writes(0xee11_3f10), ("mrc", 8, false, false, false));
    assert_eq!(writes(0xee11_ff10), ("mrc", CPSR, false, false, false));
    assert_eq!(writes(0xee01_3f10), ("mcr", 0, false, false, true));
    assert_eq!(writes(0xee07_3f15), ("mcr", 0, false, false, false));
    assert_eq!(writes(0xee0d_3f50), ("mcr", 0, false, false, false));
    assert_eq!(writes(0xee0d_3f30), ("mcr", 0, false, false, true));
    // mrrc p15, 0, r0, r1, c14; mcrr p15, 0, r0, r1, c2 (TTBR0)
    assert_eq!(writes(0xec51_0f0e), ("mrrc", 3, false, false, false));
    assert_eq!(writes(0xec41_0f02), ("mcrr", 0, false, false, true));
    // ldrex r0, [r1]; strex r2, r0, [r1]; ldrexd r0, r1, [r2]; strexd r3, r0, r1, [r2]; strexb r3, r0, [r2]; clrex
    assert_eq!(writes(0xe851_0f00), ("ldrex", 1, true, false, false));
    assert_eq!(writes(0xe841_0200), ("strex", 4, true, false, false));
    assert_eq!(writes(0xe8d2_017f), ("ldrexd", 3, true, false, false));
    assert_eq!(writes(0xe8c2_0173), ("strexd", 8, true, false, false));
    assert_eq!(writes(0xe8c2_0f43), ("strexb", 8, true, false, false));
    assert_eq!(writes(0xf3bf_8f2f), ("clrex", 0, false, false, false));
    // vldr d0, [r0]; vpush {d8}; vmrs apsr, fpscr; vmov r0, s0; vmov s0, r0; vadd.f32; vadd.i32 q; vld1.8 {d0}, [r1]!
    assert_eq!(writes(0xed90_0b00), ("vldr", 0, true, false, false));
    assert_eq!(writes(0xed2d_8b02), ("vstm", 1 << 13, true, false, false));
    assert_eq!(writes(0xeef1_fa10), ("vmrs", CPSR, false, false, false));
    assert_eq!(writes(0xee10_0a10), ("vmov", 1, false, false, false));
    assert_eq!(writes(0xee00_0a10), ("vmov", 0, false, false, false));
    assert_eq!(writes(0xee30_0a00), ("vfp", 0, false, false, false));
    assert_eq!(writes(0xef20_0840), ("neon", 0, false, false, false));
    assert_eq!(writes(0xf921_070d), ("vld", 2, true, false, false));
    assert_eq!(writes(0xf921_070f), ("vld", 0, true, false, false));
    assert_eq!(writes(0xec51_0b10), ("vmov", 3, false, false, false));
    // mrs r0, cpsr; msr cpsr_f, r0; msr cpsr_c, r0; msr spsr_fsxc, r0; cps #0x13; subs pc, lr, #4; rfeia r0!; srsdb sp!, #19
    assert_eq!(writes(0xf3ef_8000), ("mrs", 1, false, false, false));
    assert_eq!(writes(0xf380_8800), ("msr", CPSR, false, false, false));
    assert_eq!(writes(0xf380_8100), ("msr", CPSR, false, true, true));
    assert_eq!(writes(0xf390_8f00), ("msr", 0, false, false, false));
    assert_eq!(writes(0xf3af_8113), ("cps", CPSR, false, true, true));
    assert_eq!(writes(0xf3de_8f04), ("subs", 0x8000 | CPSR, false, true, true));
    assert_eq!(writes(0xe9b0_c000), ("rfe", 0x8001 | CPSR, true, true, true));
    assert_eq!(writes(0xe82d_c013), ("srs", 1 << 13, true, false, false));
    assert_eq!(writes(0xf7e0_8000), ("hvc", 0xf, false, false, false));
    assert_eq!(writes(0xf7f0_8000), ("smc", 0xf, false, false, false));
}

#[test]
fn no_data_processing_with_flags_writes_the_program_counter() {
    for first in 0xe800..=0xffff_u32 {
        for second in (0..=0xffff_u32).step_by(0x101) {
            if let Instruction::Data { rd: 15, .. } = decode(first as u16, second as u16, false).instruction {
                panic!("{first:#06x} {second:#06x} writes the program counter");
            }
        }
    }
}

proptest! {
    #[test]
    fn every_encoding_decodes_with_its_length(first: u16, second: u16, in_it_block: bool) {
        let decoded = decode(first, second, in_it_block);
        prop_assert_eq!(decoded.length, if is_wide(first) { 4 } else { 2 });
        prop_assert!(decoded.condition.0 <= 14);
    }

    #[test]
    fn the_second_halfword_of_a_narrow_encoding_is_ignored(first in 0..0xe800_u16, second: u16, in_it_block: bool) {
        prop_assert_eq!(decode(first, second, in_it_block), decode(first, 0, in_it_block));
    }

    #[test]
    fn shifts_and_bit_fields_stay_within_a_word(first: u16, second: u16) {
        match decode(first, second, false).instruction {
            Instruction::BitFieldExtract { lsb, width, .. } | Instruction::BitFieldInsert { lsb, width, .. } => {
                prop_assert!(width >= 1 && lsb + width <= 32);
            }
            Instruction::Saturate { signed, bits, .. } => prop_assert!(bits <= 31 + u8::from(signed)),
            Instruction::Data { operand: Operand::Register { shift: Shift { kind, amount }, .. }, .. } => match kind {
                ShiftKind::Lsl => prop_assert!(amount <= 31),
                ShiftKind::Lsr | ShiftKind::Asr => prop_assert!((1..=32).contains(&amount)),
                ShiftKind::Ror => prop_assert!((1..=31).contains(&amount)),
                ShiftKind::Rrx => {}
            },
            Instruction::Data { operation: DataOperation::Rsc, .. } => prop_assert!(false, "T32 has no RSC"),
            _ => {}
        }
    }
}
