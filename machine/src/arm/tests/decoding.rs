use crate::arm::a32::decode;
use crate::arm::instruction::{Instruction, Opaque};

fn opaque(word: u32) -> Option<Opaque> {
    match decode(word).instruction {
        Instruction::Opaque(opaque) => Some(opaque),
        _ => None,
    }
}

const CPSR: u32 = Opaque::CPSR;
const PC: u32 = 1 << 15;

/// (word, mnemonic, writes, memory, changes mode, changes mapping)
#[test]
fn opaque_instructions_say_what_they_write() {
    for (word, mnemonic, writes, memory, mode, mapping) in [
        (0xe25e_f004, "subs pc", PC | CPSR, false, true, true), // subs pc, lr, #4
        (0xe1b0_f00e, "movs pc", PC | CPSR, false, true, true), // movs pc, lr
        (0xee11_3f10, "mrc", 1 << 3, false, false, false),      // mrc p15, 0, r3, c1, c0, 0
        (0xee10_fe11, "mrc", CPSR, false, false, false),        // mrc p14, 0, APSR_nzcv, c0, c1, 0
        (0xee01_3f10, "mcr", 0, false, false, true),            // mcr p15, 0, r3, c1, c0, 0
        (0xee02_3f10, "mcr", 0, false, false, true),            // mcr p15, 0, r3, c2, c0, 0
        (0xee07_3f15, "mcr", 0, false, false, false),           // mcr p15, 0, r3, c7, c5, 0
        (0xee0d_3f70, "mcr", 0, false, false, false),           // mcr p15, 0, r3, c13, c0, 3
        (0xee0d_3f30, "mcr", 0, false, false, true),            // mcr p15, 0, r3, c13, c0, 1
        (0xee09_3f1c, "mcr", 0, false, false, false),           // mcr p15, 0, r3, c9, c12, 0
        (0xee08_3f17, "mcr", 0, false, false, true),            // mcr p15, 0, r3, c8, c7, 0
        (0xec54_3f0e, "mrrc", 3 << 3, false, false, false),     // mrrc p15, 0, r3, r4, c14
        (0xec44_3f02, "mcrr", 0, false, false, true),           // mcrr p15, 0, r3, r4, c2
        (0xec44_3f0e, "mcrr", 0, false, false, false),          // mcrr p15, 0, r3, r4, c14
        (0xee11_0762, "cdp", 0, false, false, false),           // cdp p7, 1, c0, c1, c2, 3
        (0xecb1_5e01, "ldc", 1 << 1, true, false, false),       // ldc p14, c5, [r1], #4
        (0xed81_5e01, "stc", 0, true, false, false),            // stc p14, c5, [r1, #4]
        (0xe10f_3000, "mrs", 1 << 3, false, false, false),      // mrs r3, cpsr
        (0xe14f_3000, "mrs", 1 << 3, false, false, false),      // mrs r3, spsr
        (0xe105_3200, "mrs", 1 << 3, false, false, false),      // mrs r3, sp_usr
        (0xe128_f003, "msr", CPSR, false, false, false),        // msr cpsr_f, r3
        (0xe121_f003, "msr", CPSR, false, true, true),          // msr cpsr_c, r3
        (0xe32f_f0d3, "msr", CPSR, false, true, true),          // msr cpsr_fsxc, #0xd3
        (0xe16f_f003, "msr", 0, false, false, false),           // msr spsr_fsxc, r3
        (0xe125_f203, "msr", 0, false, false, false),           // msr sp_usr, r3
        (0xf10c_0080, "cps", CPSR, false, false, false),        // cpsid i
        (0xf102_0013, "cps", CPSR, false, true, true),          // cps #0x13
        (0xf10a_00df, "cps", CPSR, false, true, true),          // cpsie if, #0x1f
        (0xf101_0200, "setend", CPSR, false, false, false),     // setend be
        (0xf96d_0513, "srs", 1 << 13, true, false, false),      // srsdb sp!, #0x13
        (0xf8b1_0a00, "rfe", PC | CPSR | 2, true, true, true),  // rfeia r1!
        (0xf891_0a00, "rfe", PC | CPSR, true, true, true),      // rfeia r1
        (0xe160_006e, "eret", PC | CPSR, false, true, true),    // eret
        (0xe8d1_2004, "ldm ^", 0x2004, true, false, false),     // ldmia r1, {r2, r13}^
        (0xe8fd_8004, "ldm ^", 0xa004 | CPSR, true, true, true), // ldmia sp!, {r2, pc}^
        (0xe8c1_2004, "stm ^", 0, true, false, false),          // stmia r1, {r2, sp}^
        (0xe191_3f9f, "ldrex", 1 << 3, true, false, false),     // ldrex r3, [r1]
        (0xe181_3f94, "strex", 1 << 3, true, false, false),     // strex r3, r4, [r1]
        (0xe1b1_4f9f, "ldrexd", 3 << 4, true, false, false),    // ldrexd r4, r5, [r1]
        (0xe1a1_3f94, "strexd", 1 << 3, true, false, false),    // strexd r3, r4, r5, [r1]
        (0xe1c1_3f94, "strexb", 1 << 3, true, false, false),    // strexb r3, r4, [r1]
        (0xe1f1_3f9f, "ldrexh", 1 << 3, true, false, false),    // ldrexh r3, [r1]
        (0xf57f_f01f, "clrex", 0, false, false, false),         // clrex
        (0xe101_3094, "swp", 1 << 3, true, false, false),       // swp r3, r4, [r1]
        (0xef00_0000, "svc", 0, false, false, false),           // svc #0
        (0xef12_3456, "svc", 1, true, false, false),            // svc #0x123456
        (0xe140_0070, "hvc", 0xf, false, false, false),         // hvc #0
        (0xe160_0070, "smc", 0xf, false, false, false),         // smc #0
        (0xe120_0070, "bkpt", 0, false, false, false),          // bkpt #0
        (0xee30_0a81, "vfp", 0, false, false, false),           // vadd.f32 s0, s1, s2
        (0xee10_3a10, "vmov", 1 << 3, false, false, false),     // vmov r3, s0
        (0xee00_3a10, "vmov", 0, false, false, false),          // vmov s0, r3
        (0xec54_3b10, "vmov", 3 << 3, false, false, false),     // vmov r3, r4, d0
        (0xec44_3b10, "vmov", 0, false, false, false),          // vmov d0, r3, r4
        (0xee30_3b10, "vmov", 1 << 3, false, false, false),     // vmov.32 r3, d0[1]
        (0xeea0_3b10, "vmov", 0, false, false, false),          // vdup.32 q0, r3
        (0xeef1_fa10, "vmrs", CPSR, false, false, false),       // vmrs APSR_nzcv, fpscr
        (0xeef1_3a10, "vmrs", 1 << 3, false, false, false),     // vmrs r3, fpscr
        (0xeee1_3a10, "vmsr", 0, false, false, false),          // vmsr fpscr, r3
        (0xed91_0b00, "vldr", 0, true, false, false),           // vldr d0, [r1]
        (0xed81_0a00, "vstr", 0, true, false, false),           // vstr s0, [r1]
        (0xecb1_0b08, "vldm", 2, true, false, false),           // vldmia r1!, {d0-d3}
        (0xed2d_8b02, "vstm", 1 << 13, true, false, false),     // vpush {d8}
        (0xec91_0a01, "vldm", 0, true, false, false),           // vldmia r1, {s0}
        (0xf222_0844, "neon", 0, false, false, false),          // vadd.i32 q0, q1, q2
        (0xf421_078f, "vld", 0, true, false, false),            // vld1.32 {d0}, [r1]
        (0xf421_078d, "vld", 2, true, false, false),            // vld1.32 {d0}, [r1]!
        (0xf401_0782, "vst", 2, true, false, false),            // vst1.32 {d0}, [r1], r2
    ] {
        let expected = Opaque { mnemonic, writes, changes_mode: mode, memory, changes_mapping: mapping };
        assert_eq!(opaque(word), Some(expected), "{word:#010x}");
    }
}

#[test]
fn hints_barriers_and_preloads_do_nothing() {
    for word in [
        0xe320_f000, // nop
        0xe320_f003, // wfi
        0xe320_f002, // wfe
        0xe320_f004, // sev
        0xe320_f001, // yield
        0xe320_f0f1, // dbg #1
        0xf57f_f05f, // dmb sy
        0xf57f_f04f, // dsb sy
        0xf57f_f06f, // isb sy
        0xf5d1_f004, // pld [r1, #4]
        0xf591_f000, // pldw [r1]
        0xf4d1_f000, // pli [r1]
        0xf7d1_f002, // pld [r1, r2]
    ] {
        assert_eq!(decode(word).instruction, Instruction::Nop, "{word:#010x}");
    }
}

/// Encodings that the manual calls UNPREDICTABLE or UNDEFINED.
#[test]
fn unpredictable_encodings_are_unknown() {
    for (word, why) in [
        (0xe7f0_00f0, "udf #0"),
        (0xe081_311f, "add r3, r1, pc, lsl r1"),
        (0xe08f_3112, "add r3, pc, r2, lsl r1"),
        (0xe081_f112, "add pc, r1, r2, lsl r1"),
        (0xe151_3002, "cmp r1, r2 with a destination"),
        (0xe1a1_3002, "mov r3, r2 with a first operand"),
        (0xe211_f001, "ands pc, r1, #1"),
        (0xe300_f000, "movw pc, #0"),
        (0xe340_f000, "movt pc, #0"),
        (0xe003_1291, "mul r3, r1, r2 with an accumulator"),
        (0xe00f_0291, "mul pc, r1, r2"),
        (0xe083_3291, "umull r3, r3, r1, r2"),
        (0xe053_3291, "umaal with S"),
        (0xe073_3291, "mls with S"),
        (0xe491_1004, "ldr r1, [r1], #4"),
        (0xe4b1_1004, "ldrt r1, [r1], #4"),
        (0xe4b1_f004, "ldrt pc, [r1], #4"),
        (0xe5bf_3004, "ldr r3, [pc, #4]!"),
        (0xe791_300f, "ldr r3, [r1, pc]"),
        (0xe5d1_f000, "ldrb pc, [r1]"),
        (0xe5c1_f000, "strb pc, [r1]"),
        (0xe5a1_1004, "str r1, [r1, #4]!"),
        (0xe1d1_f0b2, "ldrh pc, [r1, #2]"),
        (0xe191_31b2, "ldrh r3, [r1, r2] with a shift"),
        (0xe1c1_30d0, "ldrd r3, r4, [r1]"),
        (0xe1c1_e0d0, "ldrd lr, pc, [r1]"),
        (0xe1e4_40d8, "ldrd r4, r5, [r4, #8]!"),
        (0xe181_40d4, "ldrd r4, r5, [r1, r4]"),
        (0xe061_40d2, "ldrd r4, r5, [r1] with P = 0, W = 1"),
        (0xe891_0000, "ldm r1, {}"),
        (0xe89f_0002, "ldm pc, {r1}"),
        (0xe8b1_0003, "ldm r1!, {r0, r1}"),
        (0xe8a1_0003, "stm r1!, {r0, r1}"),
        (0xe8f1_0004, "ldm r1!, {r2}^"),
        (0xe12f_ff3f, "blx pc"),
        (0xe12f_ff2f, "bxj pc"),
        (0xe12f_0f11, "bx r1 with zeros"),
        (0xe16f_ff11, "clz pc, r1"),
        (0xe10f_3052, "qadd r3, r2, pc"),
        (0xe1b1_5f9f, "ldrexd r5, r6, [r1]"),
        (0xe181_1f94, "strex r1, r4, [r1]"),
        (0xe7df_3f51, "ubfx without the low bit"),
        (0xe7bf_30d1, "sbfx r3, r1, #1, #32"),
        (0xe7c0_3111, "bfi r3, r1 with msb below lsb"),
        (0xe753_f2d1, "smmls r3, r1, r2, pc"),
        (0xe713_3211, "sdiv with an accumulator"),
        (0xe601_3112, "sadd16 with zeros"),
        (0xe10f_f000, "mrs pc, cpsr"),
        (0xe129_f00f, "msr cpsr, pc"),
        (0xec5f_3f0e, "mrrc p15, 0, r3, pc, c14"),
        (0xee00_ff10, "mcr p15, 0, pc, c0, c0, 0"),
        (0xff00_0000, "svc in the unconditional space"),
        (0xf7d1_f00f, "pld [r1, pc]"),
    ] {
        assert_eq!(opaque(word), Some(Opaque::UNKNOWN), "{word:#010x}: {why}");
    }
}

#[test]
fn results_of_a_mode_change_are_the_banked_registers_too() {
    let cps = opaque(0xf102_0013).unwrap_or(Opaque::UNKNOWN);
    assert_eq!((cps.writes, cps.changes_mode), (CPSR, true));
    let mrs = opaque(0xe10f_3000).unwrap_or(Opaque::UNKNOWN);
    assert_eq!((mrs.writes, mrs.changes_mode), (1 << 3, false));
}
