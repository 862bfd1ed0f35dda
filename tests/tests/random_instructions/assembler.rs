//! The few instructions that the harness needs by name, as encodings.

/// A32.
pub mod a32 {
    /// `movw rd, #value; movt rd, #value >> 16`.
    pub fn load_constant(rd: u8, value: u32) -> [u32; 2] {
        let half =
            |opcode: u32, half: u32| opcode | (half & 0xf000) << 4 | u32::from(rd) << 12 | half & 0xfff;
        [half(0xe300_0000, value & 0xffff), half(0xe340_0000, value >> 16)]
    }

    /// `b` or `bl`, under a condition, `offset` bytes from the instruction.
    pub fn branch(condition: u32, link: bool, offset: u32) -> u32 {
        condition << 28 | 0x0a00_0000 | u32::from(link) << 24 | (offset.wrapping_sub(8) >> 2) & 0x00ff_ffff
    }

    /// `add rd, pc, #immediate`.
    pub fn add_to_pc(rd: u8, immediate: u8) -> u32 {
        0xe28f_0000 | u32::from(rd) << 12 | u32::from(immediate)
    }

    /// `ldr rt, [pc, #offset]`, an offset below 4096.
    pub fn load_literal(rt: u8, offset: u32) -> u32 {
        0xe59f_0000 | u32::from(rt) << 12 | offset
    }

    /// `hvc #0`.
    pub const HVC: u32 = 0xe140_0070;
    /// `cps #0x13`: supervisor mode.
    pub const CPS_SUPERVISOR: u32 = 0xf102_0013;
    /// `bx lr`.
    pub const BX_LR: u32 = 0xe12f_ff1e;
    /// `isb`.
    pub const ISB: u32 = 0xf57f_f06f;
    /// `mcr p15, 0, r0, c13, c0, 4`: TPIDRPRW, where the handler finds the next sequence.
    pub const WRITE_NEXT: u32 = 0xee0d_0f90;
    /// `mrc p15, 0, lr, c13, c0, 4`.
    pub const READ_NEXT: u32 = 0xee1d_ef90;
    /// `msr cpsr_fs, r0`.
    pub const WRITE_FLAGS: u32 = 0xe12c_f000;
    /// `ldmia r0, {r0-lr}`.
    pub const LOAD_ALL: u32 = 0xe890_7fff;
}

/// T32.
pub mod t32 {
    /// `movw rd, #value; movt rd, #value >> 16`, first halfwords on top.
    pub fn load_constant(rd: u8, value: u32) -> [u32; 2] {
        let half = |opcode: u32, half: u32| {
            opcode
                | (half >> 12) << 16
                | (half >> 11 & 1) << 26
                | (half >> 8 & 7) << 12
                | u32::from(rd) << 8
                | half & 0xff
        };
        [half(0xf240_0000, value & 0xffff), half(0xf2c0_0000, value >> 16)]
    }

    /// `adr.w rd, Align(pc, 4) + offset`, an offset below 4096.
    pub fn adr(rd: u8, offset: u32) -> u32 {
        0xf20f_0000 | (offset >> 11 & 1) << 26 | (offset >> 8 & 7) << 12 | u32::from(rd) << 8 | offset & 0xff
    }

    /// `b.w` or `bl`, less than 1 MiB forward from the instruction.
    pub fn branch(link: bool, offset: u32) -> u32 {
        let offset = offset - 4;
        0xf000_b800 | u32::from(link) << 14 | (offset >> 12) << 16 | offset >> 1 & 0x7ff
    }

    /// `b<c>.w`, less than 256 KiB forward from the instruction.
    pub fn branch_conditional(condition: u32, offset: u32) -> u32 {
        let offset = offset - 4;
        0xf000_8000 | condition << 22 | (offset >> 12) << 16 | offset >> 1 & 0x7ff
    }

    /// `nop`.
    pub const NOP: u16 = 0xbf00;
    /// `bx pc`, which goes on in A32 behind the next halfword.
    pub const BX_PC: u16 = 0x4778;
}
