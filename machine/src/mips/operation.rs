//! The compact form in which a [`Block`](super::block::Block) keeps its instructions.
//!
//! The frequent instructions have a variant of their own, so that one jump finds the code that executes them. Everything
//! else is [`Operation::General`] and executes from the neutral [`Instruction`](super::instruction::Instruction). Both
//! give the same results; a test holds them against each other.

use super::instruction::Register;

/// Where results go that are meant for r0, so that no write needs to look at its register's number. Nothing reads it.
pub(super) const SINK: Register = 127;

/// One instruction as the executor's loop sees it. Written registers are [`SINK`] where the instruction says r0.
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
    Move {
        rd: Register,
        rs: Register,
    },
    AddImmediate {
        rd: Register,
        rs: Register,
        value: u32,
    },
    AndImmediate {
        rd: Register,
        rs: Register,
        value: u32,
    },
    OrImmediate {
        rd: Register,
        rs: Register,
        value: u32,
    },
    ExclusiveOrImmediate {
        rd: Register,
        rs: Register,
        value: u32,
    },
    SetLessImmediate {
        rd: Register,
        rs: Register,
        value: u32,
    },
    SetLessUnsignedImmediate {
        rd: Register,
        rs: Register,
        value: u32,
    },
    Add {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    Subtract {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    And {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    Or {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    ExclusiveOr {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    Nor {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    SetLess {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    SetLessUnsigned {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    MoveIfZero {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    MoveIfNotZero {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    Multiply {
        rd: Register,
        rs: Register,
        rt: Register,
    },
    ShiftLeft {
        rd: Register,
        rt: Register,
        amount: u8,
    },
    ShiftRight {
        rd: Register,
        rt: Register,
        amount: u8,
    },
    ShiftRightArithmetic {
        rd: Register,
        rt: Register,
        amount: u8,
    },
    ShiftLeftVariable {
        rd: Register,
        rt: Register,
        rs: Register,
    },
    ShiftRightVariable {
        rd: Register,
        rt: Register,
        rs: Register,
    },
    ExtractField {
        rd: Register,
        rs: Register,
        lsb: u8,
        width: u8,
    },
    SignExtendByte {
        rd: Register,
        rs: Register,
    },
    SignExtendHalf {
        rd: Register,
        rs: Register,
    },
    MultiplyUnsigned {
        rs: Register,
        rt: Register,
    },

    LoadWord {
        rt: Register,
        base: Register,
        offset: i16,
    },
    LoadHalf {
        rt: Register,
        base: Register,
        offset: i16,
    },
    LoadSignedHalf {
        rt: Register,
        base: Register,
        offset: i16,
    },
    LoadByte {
        rt: Register,
        base: Register,
        offset: i16,
    },
    LoadSignedByte {
        rt: Register,
        base: Register,
        offset: i16,
    },
    StoreWord {
        rt: Register,
        base: Register,
        offset: i16,
    },
    StoreHalf {
        rt: Register,
        base: Register,
        offset: i16,
    },
    StoreByte {
        rt: Register,
        base: Register,
        offset: i16,
    },

    /// Branches that are not likely and do not link. One that is not taken goes on behind its slot.
    BranchEqual {
        rs: Register,
        rt: Register,
        target: u32,
    },
    BranchNotEqual {
        rs: Register,
        rt: Register,
        target: u32,
    },
    BranchNegative {
        rs: Register,
        target: u32,
    },
    BranchNotNegative {
        rs: Register,
        target: u32,
    },
    BranchPositive {
        rs: Register,
        target: u32,
    },
    BranchNotPositive {
        rs: Register,
        target: u32,
    },
    Jump {
        target: u32,
    },
    JumpLink {
        target: u32,
    },
    JumpRegister {
        rs: Register,
    },
    JumpRegisterLink {
        rs: Register,
        rd: Register,
    },
}

const _: () = assert!(size_of::<Operation>() <= 8);
