//! The few instructions that the tests write themselves.

/// `lui rt, value >> 16; ori rt, rt, value`.
pub fn load_constant(rt: u8, value: u32) -> [u32; 2] {
    [immediate(0x0f, 0, rt, value >> 16), immediate(0x0d, rt, rt, value)]
}

/// An instruction with a 16-bit constant.
pub fn immediate(opcode: u32, rs: u8, rt: u8, value: u32) -> u32 {
    opcode << 26 | u32::from(rs) << 21 | u32::from(rt) << 16 | value & 0xffff
}

/// An instruction with three registers.
pub fn register(function: u32, rs: u8, rt: u8, rd: u8) -> u32 {
    u32::from(rs) << 21 | u32::from(rt) << 16 | u32::from(rd) << 11 | function
}

/// `lw rt, offset(base)`.
pub fn load_word(rt: u8, base: u8, offset: u32) -> u32 {
    immediate(0x23, base, rt, offset)
}

/// `mtc0 rt, register`.
pub fn move_to_system(rt: u8, register: u8) -> u32 {
    0x4080_0000 | u32::from(rt) << 16 | u32::from(register) << 11
}

/// `mfc0 rt, register`.
pub fn move_from_system(rt: u8, register: u8) -> u32 {
    0x4000_0000 | u32::from(rt) << 16 | u32::from(register) << 11
}

/// `syscall`.
pub const SYSCALL: u32 = 0x0000_000c;
/// `nop`.
pub const NOP: u32 = 0;
/// `ehb`.
pub const EHB: u32 = 0x0000_00c0;
/// `eret`.
pub const ERET: u32 = 0x4200_0018;
/// `tlbwi`.
pub const TLBWI: u32 = 0x4200_0002;

/// Numbers of registers of coprocessor 0.
pub mod system {
    /// Index.
    pub const INDEX: u8 = 0;
    /// EntryLo0.
    pub const ENTRY_LO_0: u8 = 2;
    /// EntryLo1.
    pub const ENTRY_LO_1: u8 = 3;
    /// PageMask.
    pub const PAGE_MASK: u8 = 5;
    /// EntryHi.
    pub const ENTRY_HI: u8 = 10;
    /// Status.
    pub const STATUS: u8 = 12;
    /// EPC.
    pub const EPC: u8 = 14;
    /// ErrorEPC: where the handler finds the next sequence.
    pub const ERROR_EPC: u8 = 30;
}
