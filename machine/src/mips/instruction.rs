//! What one MIPS32 instruction does, free of how it was encoded: the common ground of the decoder and the executor.
//!
//! All registers have gdb's numbers, as in [`Registers`](super::cpu::Registers), also HI, LO and those of the
//! floating-point unit. So moving between register files is an ordinary move, and LWC1 an ordinary load.

/// A register number, 0 to 71.
pub type Register = u8;

/// LO.
pub const LO: Register = 33;
/// HI.
pub const HI: Register = 34;
/// The floating-point control and status register.
pub const FCSR: Register = 70;
/// The floating-point implementation register.
pub const FIR: Register = 71;

/// The floating-point register `number`, 0 to 31.
pub const fn fpr(number: u8) -> Register {
    38 + (number & 31)
}

/// Three-register operations `rd = rs op rt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterOperation {
    /// ADD: the exception on overflow comes from the trace.
    Add,
    /// ADDU.
    Addu,
    /// SUB, like ADD.
    Sub,
    /// SUBU.
    Subu,
    /// AND.
    And,
    /// OR.
    Or,
    /// XOR.
    Xor,
    /// NOR.
    Nor,
    /// SLT.
    Slt,
    /// SLTU.
    Sltu,
    /// MUL: the low word; HI and LO stay as they are in QEMU.
    Mul,
    /// MOVZ: `rd = rs` if `rt` is zero.
    Movz,
    /// MOVN: `rd = rs` if `rt` is not zero.
    Movn,
}

/// Operations with a constant `rt = rs op value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImmediateOperation {
    /// ADDI: the exception on overflow comes from the trace.
    Addi,
    /// ADDIU.
    Addiu,
    /// SLTI.
    Slti,
    /// SLTIU.
    Sltiu,
    /// ANDI.
    Andi,
    /// ORI.
    Ori,
    /// XORI.
    Xori,
}

/// Shifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShiftKind {
    /// SLL, SLLV.
    Left,
    /// SRL, SRLV.
    Right,
    /// SRA, SRAV.
    RightArithmetic,
    /// ROTR, ROTRV (release 2).
    Rotate,
}

/// Operations on one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// SEB.
    SignExtendByte,
    /// SEH.
    SignExtendHalf,
    /// WSBH.
    SwapBytesInHalves,
    /// CLZ.
    CountLeadingZeros,
    /// CLO.
    CountLeadingOnes,
}

/// What a multiplication does with HI and LO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// MULT, MULTU: they take the product.
    No,
    /// MADD, MADDU.
    Add,
    /// MSUB, MSUBU.
    Subtract,
}

/// What a load or store accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// A byte, zero-extended.
    Byte,
    /// A byte, sign-extended.
    SignedByte,
    /// A halfword, zero-extended.
    Half,
    /// A halfword, sign-extended.
    SignedHalf,
    /// A word.
    Word,
}

/// When a branch is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// `rs == rt`.
    Equal {
        /// The one register.
        rs: Register,
        /// The other one.
        rt: Register,
    },
    /// `rs != rt`.
    NotEqual {
        /// The one register.
        rs: Register,
        /// The other one.
        rt: Register,
    },
    /// `rs < 0`.
    Negative(Register),
    /// `rs >= 0`.
    NotNegative(Register),
    /// `rs > 0`.
    Positive(Register),
    /// `rs <= 0`.
    NotPositive(Register),
    /// A bit of FCSR is as `set` says.
    Flag {
        /// The bit's number in FCSR.
        bit: u8,
        /// How it must be.
        set: bool,
    },
}

/// What is known of an instruction that is not modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// Its name in the manual, without operands, for statistics.
    pub mnemonic: &'static str,
    /// Which registers it may write: bit n is the register of gdb's number n. r0 is never among them. The program counter
    /// is, for the last instruction of a block, where control may go elsewhere than to the next address (or, in a delay
    /// slot, than to where the branch says).
    pub writes: u128,
    /// It may access memory.
    pub memory: bool,
    /// It may change the mapping of virtual to physical addresses: it writes the TLB, the ASID, or what decides between
    /// kernel and user mode.
    pub changes_mapping: bool,
}

/// A register's bit in [`Opaque::writes`]; none for r0, which cannot be written.
pub const fn bit(register: Register) -> u128 {
    if register == 0 { 0 } else { 1 << register }
}

/// Status in [`Opaque::writes`].
pub const STATUS: u128 = bit(32);
/// Cause in [`Opaque::writes`].
pub const CAUSE: u128 = bit(36);
/// The program counter in [`Opaque::writes`].
pub const PROGRAM_COUNTER: u128 = bit(37);

impl Opaque {
    /// Every register but r0.
    pub const EVERYTHING: u128 = (1 << 72) - 2;

    /// An encoding about which nothing is known.
    pub const UNKNOWN: Opaque =
        Opaque { mnemonic: "unknown", writes: Opaque::EVERYTHING, memory: true, changes_mapping: true };

    /// It writes these registers and does nothing else that matters.
    pub(super) const fn writer(mnemonic: &'static str, writes: u128) -> Opaque {
        Opaque { mnemonic, writes, memory: false, changes_mapping: false }
    }
}

/// One instruction. `rt`, `rd`, `base` are named as in the manual; a write to r0 is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the manual's")]
pub enum Instruction {
    /// Does nothing: SLL to r0, SYNC, SYNCI, PREF, CACHE.
    Nop,
    /// TEQ and its relatives: either nothing or an exception, and that is in the trace.
    Trap,

    /// `rd = rs op rt`.
    Register { operation: RegisterOperation, rd: Register, rs: Register, rt: Register },
    /// `rt = rs op value`; the constant is already extended.
    Immediate { operation: ImmediateOperation, rt: Register, rs: Register, value: u32 },
    /// LUI: the constant is already shifted.
    LoadUpper { rt: Register, value: u32 },
    /// `rd = rt shifted by amount`, 0 to 31.
    Shift { kind: ShiftKind, rd: Register, rt: Register, amount: u8 },
    /// `rd = rt shifted by the low five bits of rs`.
    ShiftVariable { kind: ShiftKind, rd: Register, rt: Register, rs: Register },
    /// `rd = op rs`.
    Unary { operation: Unary, rd: Register, rs: Register },
    /// EXT: `width` bits (1 to 32) from bit `lsb` of `rs`.
    ExtractField { rt: Register, rs: Register, lsb: u8, width: u8 },
    /// INS: the low `width` bits of `rs` to bit `lsb` of `rt`.
    InsertField { rt: Register, rs: Register, lsb: u8, width: u8 },
    /// MULT, MADD, MSUB and their unsigned forms.
    Multiply { signed: bool, accumulate: Accumulate, rs: Register, rt: Register },
    /// DIV, DIVU.
    Divide { signed: bool, rs: Register, rt: Register },
    /// `rd = rs` between any registers.
    Move { rd: Register, rs: Register },
    /// MOV.D where it moves two registers: the even ones are named.
    MovePair { rd: Register, rs: Register },
    /// MOVF, MOVT: `rd = rs` if a bit of FCSR is as `set` says.
    MoveOnFlag { rd: Register, rs: Register, bit: u8, set: bool },

    /// A load of a word and less at `base + offset`.
    Load { width: Width, rt: Register, base: Register, offset: i16 },
    /// A store.
    Store { width: Width, rt: Register, base: Register, offset: i16 },
    /// LDC1 into two registers, of which the even one is named: one access of eight bytes.
    LoadPair { rt: Register, base: Register, offset: i16 },
    /// SDC1.
    StorePair { rt: Register, base: Register, offset: i16 },
    /// LWL (`left`), LWR.
    LoadPart { left: bool, rt: Register, base: Register, offset: i16 },
    /// SWL (`left`), SWR.
    StorePart { left: bool, rt: Register, base: Register, offset: i16 },

    /// A branch to the address of its slot + `offset`; `link` writes r31, whether it is taken or not.
    Branch { condition: Condition, offset: i32, link: bool, likely: bool },
    /// A branch that is never taken, by its operands. QEMU executes it without a delay slot: the next instruction is an
    /// ordinary one. With `skip` it is a branch-likely, which then has eight bytes: QEMU does not even look at what is
    /// in its slot.
    BranchNever { skip: bool, link: bool },
    /// J, JAL, JALX: the target is `index` in the region of 256 MiB that the slot is in; `exchange` changes to compressed
    /// code.
    Jump { index: u32, link: bool, exchange: bool },
    /// JR and JALR; bit 0 of the target chooses compressed code. `rd` is r0 without a link.
    JumpRegister { rs: Register, rd: Register },
    /// A branch with a delay slot that is not modelled.
    OpaqueBranch(&'static str),

    /// Not modelled.
    Opaque(Opaque),
}
