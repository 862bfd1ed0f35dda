//! The compact form in which a [`Block`](super::block::Block) keeps its instructions.
//!
//! The frequent forms of the frequent instructions have a variant of their own, so that one jump finds the code that
//! executes them; program counter operands are constants already. Everything else is [`Operation::General`] and
//! executes from the neutral [`Instruction`](super::instruction::Instruction). Both give the same results; a test
//! holds them against each other.

use super::instruction::{Condition, Register, Shift};

/// One instruction as the executor's loop sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MicroOperation {
    pub operation: Operation,
    pub condition: Condition,
    /// ITSTATE before it.
    pub it: u8,
    /// Where it is from the block's start, in bytes.
    pub offset: u16,
}

/// What to do. Registers are never 15 unless a comment says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Nop,
    /// An entry of the block's opaque instructions.
    Opaque(u16),
    /// An entry of the block's neutral instructions.
    General(u16),

    MoveImmediate {
        rd: Register,
        value: u32,
    },
    MoveTop {
        rd: Register,
        value: u16,
    },
    Move {
        rd: Register,
        rm: Register,
    },
    MoveNot {
        rd: Register,
        rm: Register,
    },
    MoveShifted {
        rd: Register,
        rm: Register,
        shift: Shift,
    },
    AddImmediate {
        rd: Register,
        rn: Register,
        value: u32,
    },
    ReverseSubtractImmediate {
        rd: Register,
        rn: Register,
        value: u32,
    },
    AndImmediate {
        rd: Register,
        rn: Register,
        value: u32,
    },
    OrImmediate {
        rd: Register,
        rn: Register,
        value: u32,
    },
    ExclusiveOrImmediate {
        rd: Register,
        rn: Register,
        value: u32,
    },
    Add {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    Subtract {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    And {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    Or {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    ExclusiveOr {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    BitClear {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    AddShifted {
        rd: Register,
        rn: Register,
        rm: Register,
        shift: Shift,
    },
    SubtractShifted {
        rd: Register,
        rn: Register,
        rm: Register,
        shift: Shift,
    },
    OrShifted {
        rd: Register,
        rn: Register,
        rm: Register,
        shift: Shift,
    },
    ExclusiveOrShifted {
        rd: Register,
        rn: Register,
        rm: Register,
        shift: Shift,
    },
    ExtendByte {
        rd: Register,
        rm: Register,
    },
    ExtendHalf {
        rd: Register,
        rm: Register,
    },
    /// UBFX: `rm >> lsb`, then `mask`, whose length is the width.
    ExtractField {
        rd: Register,
        rn: Register,
        lsb: u8,
        width: u8,
    },
    Multiply {
        rd: Register,
        rn: Register,
        rm: Register,
    },

    CompareImmediate {
        rn: Register,
        value: u32,
    },
    CompareNegativeImmediate {
        rn: Register,
        value: u32,
    },
    Compare {
        rn: Register,
        rm: Register,
    },
    /// TST of a constant that leaves C alone.
    TestImmediate {
        rn: Register,
        value: u32,
    },
    Test {
        rn: Register,
        rm: Register,
    },
    MoveImmediateFlags {
        rd: Register,
        value: u32,
    },
    MoveFlags {
        rd: Register,
        rm: Register,
    },
    MoveShiftedFlags {
        rd: Register,
        rm: Register,
        shift: Shift,
    },
    AddImmediateFlags {
        rd: Register,
        rn: Register,
        value: u32,
    },
    SubtractImmediateFlags {
        rd: Register,
        rn: Register,
        value: u32,
    },
    /// ANDS of a constant that leaves C alone.
    AndImmediateFlags {
        rd: Register,
        rn: Register,
        value: u32,
    },
    AddFlags {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    SubtractFlags {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    AndFlags {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    OrFlags {
        rd: Register,
        rn: Register,
        rm: Register,
    },
    AddWithCarry {
        rd: Register,
        rn: Register,
        rm: Register,
    },

    LoadWord {
        rt: Register,
        base: Register,
        offset: u32,
    },
    LoadHalf {
        rt: Register,
        base: Register,
        offset: u32,
    },
    LoadByte {
        rt: Register,
        base: Register,
        offset: u32,
    },
    /// A literal.
    LoadWordAbsolute {
        rt: Register,
        address: u32,
    },
    /// `[base, rm, LSL #left]`.
    LoadWordRegister {
        rt: Register,
        base: Register,
        rm: Register,
        left: u8,
    },
    LoadHalfRegister {
        rt: Register,
        base: Register,
        rm: Register,
        left: u8,
    },
    LoadByteRegister {
        rt: Register,
        base: Register,
        rm: Register,
        left: u8,
    },
    LoadWordPost {
        rt: Register,
        base: Register,
        offset: u32,
    },
    LoadByteWriteback {
        rt: Register,
        base: Register,
        offset: i16,
        post: bool,
    },
    StoreWord {
        rt: Register,
        base: Register,
        offset: u32,
    },
    StoreHalf {
        rt: Register,
        base: Register,
        offset: u32,
    },
    StoreByte {
        rt: Register,
        base: Register,
        offset: u32,
    },
    StoreWordRegister {
        rt: Register,
        base: Register,
        rm: Register,
        left: u8,
    },
    StoreByteRegister {
        rt: Register,
        base: Register,
        rm: Register,
        left: u8,
    },
    StoreWordPre {
        rt: Register,
        base: Register,
        offset: u32,
    },
    StoreWordPost {
        rt: Register,
        base: Register,
        offset: u32,
    },
    StoreByteWriteback {
        rt: Register,
        base: Register,
        offset: i16,
        post: bool,
    },
    /// The registers of `list` at rising addresses from `base + start`; `base` then moves by `step`, unless that is 0.
    /// `list` may have bit 15: a branch with interworking.
    LoadMultiple {
        base: Register,
        list: u16,
        start: i8,
        step: i8,
    },
    /// `list` has no bit 15.
    StoreMultiple {
        base: Register,
        list: u16,
        start: i8,
        step: i8,
    },

    Branch {
        target: u32,
    },
    BranchLink {
        target: u32,
    },
    /// BX, and MOV to the program counter in A32.
    BranchRegister {
        rm: Register,
    },
    CompareBranch {
        rn: Register,
        nonzero: bool,
        target: u32,
    },
}

const _: () = assert!(size_of::<MicroOperation>() <= 16);
