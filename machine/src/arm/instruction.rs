//! What one ARM instruction does, free of how it was encoded: the common ground of both decoders and the executor.
//!
//! Program counter operands are still registers here (`Register` 15); lowering, which knows the address, turns them
//! into constants: in A32 reading r15 gives the instruction's address + 8, in T32 + 4. Literal loads and ADR use
//! `Align(PC, 4)` and say so with `base: 15` (lowering aligns for T32).

/// A register number, 0 to 15.
pub type Register = u8;

/// Arithmetic and logic of the data-processing group (DDI 0406C, A5.2.1 and A6.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataOperation {
    /// Bitwise and.
    And,
    /// Exclusive or.
    Eor,
    /// `rn - operand`.
    Sub,
    /// `operand - rn`.
    Rsb,
    /// `rn + operand`.
    Add,
    /// `rn + operand + C`.
    Adc,
    /// `rn - operand - !C`.
    Sbc,
    /// `operand - rn - !C`.
    Rsc,
    /// And, flags only.
    Tst,
    /// Exclusive or, flags only.
    Teq,
    /// Subtract, flags only.
    Cmp,
    /// Add, flags only.
    Cmn,
    /// Or.
    Orr,
    /// Move the operand; `rn` is ignored.
    Mov,
    /// And with the operand's complement.
    Bic,
    /// Move the operand's complement; `rn` is ignored.
    Mvn,
    /// Or with the operand's complement (T32 only).
    Orn,
}

/// A shift of a register operand by a constant or by a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShiftKind {
    /// Logical left.
    Lsl,
    /// Logical right.
    Lsr,
    /// Arithmetic right.
    Asr,
    /// Rotate right.
    Ror,
    /// Rotate right by one through carry; the amount is ignored.
    Rrx,
}

/// A shift with its amount in bits. The amount is decoded (DDI 0406C, A8.4.3): LSL 0–31, LSR and ASR 1–32, ROR 1–31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// How.
    pub kind: ShiftKind,
    /// By how many bits.
    pub amount: u8,
}

/// The flexible second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A constant after expansion; `carry` is the carry-out of the expansion, `None` where C keeps its value.
    Immediate {
        /// The expanded constant.
        value: u32,
        /// The shifter's carry-out.
        carry: Option<bool>,
    },
    /// A register shifted by a constant.
    Register {
        /// The register.
        rm: Register,
        /// Its shift; `Lsl 0` for none.
        shift: Shift,
    },
    /// A register shifted by the low byte of another.
    RegisterShifted {
        /// The register.
        rm: Register,
        /// How.
        kind: ShiftKind,
        /// Whose low byte is the amount.
        rs: Register,
    },
}

/// The offset of a load's or store's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// A constant, already negated if the encoding subtracts.
    Immediate(i32),
    /// A shifted register.
    Register {
        /// The register.
        rm: Register,
        /// Its shift.
        shift: Shift,
        /// Subtract instead of adding.
        subtract: bool,
    },
}

/// When the base register gets the address with the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Never: `[rn, offset]`.
    Offset,
    /// Before the access: `[rn, offset]!`.
    Pre,
    /// After the access: `[rn], offset`.
    Post,
}

/// The address of a single or dual load or store. `base: 15` means `Align(PC, 4)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The base register.
    pub base: Register,
    /// What is added to it.
    pub offset: Offset,
    /// Write-back.
    pub index: Index,
}

/// What a single load or store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// An unsigned byte.
    Byte,
    /// A byte, sign-extended (loads only).
    SignedByte,
    /// An unsigned halfword.
    Half,
    /// A halfword, sign-extended (loads only).
    SignedHalf,
    /// A word.
    Word,
}

/// 16-bit halves of a multiplication's operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 15.
    Bottom,
    /// Bits 16 to 31.
    Top,
}

/// Signed or unsigned, and what happens on overflow, of the parallel additions (A5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParallelKind {
    /// Modulo, sets GE (S prefix).
    Signed,
    /// Saturating (Q prefix).
    SignedSaturating,
    /// Halving (SH prefix).
    SignedHalving,
    /// Modulo, sets GE (U prefix).
    Unsigned,
    /// Saturating (UQ prefix).
    UnsignedSaturating,
    /// Halving (UH prefix).
    UnsignedHalving,
}

/// The lanes of the parallel additions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParallelOperation {
    /// ADD16.
    Add16,
    /// ASX: add and subtract with exchange.
    Asx,
    /// SAX: subtract and add with exchange.
    Sax,
    /// SUB16.
    Sub16,
    /// ADD8.
    Add8,
    /// SUB8.
    Sub8,
}

/// Which part of a register an extend instruction takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// SXTB, SXTAB.
    SignedByte,
    /// SXTH, SXTAH.
    SignedHalf,
    /// SXTB16, SXTAB16.
    SignedByte16,
    /// UXTB, UXTAB.
    UnsignedByte,
    /// UXTH, UXTAH.
    UnsignedHalf,
    /// UXTB16, UXTAB16.
    UnsignedByte16,
}

/// Unary rearrangements of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// REV.
    ReverseBytes,
    /// REV16.
    ReverseBytes16,
    /// REVSH.
    ReverseBytesSignedHalf,
    /// RBIT.
    ReverseBits,
    /// CLZ.
    CountLeadingZeros,
}

/// QADD and its relatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaturatingOperation {
    /// QADD: `rm + rn`.
    Add,
    /// QSUB: `rm - rn`.
    Sub,
    /// QDADD: `rm + sat(2 * rn)`.
    DoubleAdd,
    /// QDSUB: `rm - sat(2 * rn)`.
    DoubleSub,
}

/// CPSR's mode field.
pub(crate) const MODE_FIELD: u32 = 0x1f;
/// Registers that change with the mode: r8 to r14.
pub(crate) const BANKED: u32 = 0x7f00;

/// Why an instruction is not modelled, and what it may do. Memory that it reads or writes is recorded in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// For the counts of `ktracer info`: the architecture's mnemonic in lower case (`mcr`, `ldrex`, `vldr`), `vfp` or
    /// `neon` for the data processing of those extensions, or `unknown`.
    pub mnemonic: &'static str,
    /// Registers it may write: bits 0 to 15 are r0 to r15, bit 16 is CPSR. Bit 15 only if it may branch. The program
    /// counter simply moving to the next instruction is no write.
    pub writes: u32,
    /// It may change the processor mode: r8 to r14 are then other registers if CPSR's mode field differs from
    /// before. `writes` has bit 16 set.
    pub changes_mode: bool,
    /// It may access memory.
    pub memory: bool,
    /// It may change the mapping of virtual to physical addresses (writes to CP15 c1, c2, c3, c8, c10, c13 c0 0/1,
    /// mode changes, anything unknown); not cache maintenance (c7), barriers, or the software thread identifiers.
    pub changes_mapping: bool,
}

impl Opaque {
    /// CPSR in [`Opaque::writes`].
    pub const CPSR: u32 = 1 << 16;

    /// An encoding that nothing is known about: it may do anything.
    pub const UNKNOWN: Opaque = Opaque {
        mnemonic: "unknown",
        writes: 0x1_ffff,
        changes_mode: true,
        memory: true,
        changes_mapping: true,
    };
}

/// A conditional instruction as either decoder understood it. The condition is kept beside it, see [`Decoded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields carry the names that the architecture manual gives them")]
pub enum Instruction {
    /// Data processing. `rd: 15` branches: with interworking if `set_flags` is off in A32 (ALUWritePC); without
    /// in T32 (BranchWritePC; only ADD and MOV of high registers). `set_flags` with `rd: 15` is an exception return
    /// and never appears here (it is opaque).
    Data { operation: DataOperation, set_flags: bool, rd: Register, rn: Register, operand: Operand },
    /// ADR: `rd = Align(PC, 4) + offset`.
    AddressOf { rd: Register, offset: i32 },
    /// MOVT: the upper half of `rd`. (MOVW is a `Data` move.)
    MoveTop { rd: Register, value: u16 },

    /// MUL (`accumulate` none), MLA, and MLS (`subtract`).
    Multiply {
        rd: Register,
        rn: Register,
        rm: Register,
        accumulate: Option<Register>,
        subtract: bool,
        set_flags: bool,
    },
    /// UMULL, SMULL, UMLAL, SMLAL.
    MultiplyLong {
        signed: bool,
        accumulate: bool,
        low: Register,
        high: Register,
        rn: Register,
        rm: Register,
        set_flags: bool,
    },
    /// UMAAL.
    MultiplyAccumulateAccumulate { low: Register, high: Register, rn: Register, rm: Register },
    /// SMULxy and SMLAxy.
    MultiplyHalves {
        rd: Register,
        rn: Register,
        n: Half,
        rm: Register,
        m: Half,
        accumulate: Option<Register>,
    },
    /// SMULWy and SMLAWy.
    MultiplyWordHalf { rd: Register, rn: Register, rm: Register, m: Half, accumulate: Option<Register> },
    /// SMLALxy.
    MultiplyHalvesLong { low: Register, high: Register, rn: Register, n: Half, rm: Register, m: Half },
    /// SMUAD, SMUSD, SMLAD, SMLSD, with X.
    MultiplyDual {
        rd: Register,
        rn: Register,
        rm: Register,
        exchange: bool,
        subtract: bool,
        accumulate: Option<Register>,
    },
    /// SMLALD, SMLSLD, with X.
    MultiplyDualLong {
        low: Register,
        high: Register,
        rn: Register,
        rm: Register,
        exchange: bool,
        subtract: bool,
    },
    /// SMMUL, SMMLA (`accumulate`), SMMLS (`subtract`), with R.
    MultiplyMostSignificant {
        rd: Register,
        rn: Register,
        rm: Register,
        accumulate: Option<Register>,
        subtract: bool,
        round: bool,
    },
    /// SDIV and UDIV; division by zero gives 0.
    Divide { signed: bool, rd: Register, rn: Register, rm: Register },

    /// QADD, QSUB, QDADD, QDSUB.
    SaturatingArithmetic { operation: SaturatingOperation, rd: Register, rm: Register, rn: Register },
    /// SSAT and USAT: saturate the shifted `rn` to `bits` bits (SSAT 1–32, USAT 0–31).
    Saturate { signed: bool, rd: Register, bits: u8, rn: Register, shift: Shift },
    /// SSAT16 and USAT16.
    Saturate16 { signed: bool, rd: Register, bits: u8, rn: Register },
    /// SADD16 and all its relatives.
    Parallel { kind: ParallelKind, operation: ParallelOperation, rd: Register, rn: Register, rm: Register },
    /// SEL.
    Select { rd: Register, rn: Register, rm: Register },
    /// USAD8 and USADA8.
    SumAbsoluteDifferences { rd: Register, rn: Register, rm: Register, accumulate: Option<Register> },
    /// PKHTB (`top_bottom`: top half of `rn`, bottom half of the shifted `rm`, shift ASR) and PKHBT (bottom half of `rn`,
    /// top half of the shifted `rm`, shift LSL).
    Pack { top_bottom: bool, rd: Register, rn: Register, rm: Register, shift: Shift },
    /// SXTB and its relatives: `rd = (add or 0) + extend(ror(rm, rotation))`.
    Extend { extend: Extend, rd: Register, add: Option<Register>, rm: Register, rotation: u8 },
    /// BFI (`rn` some) and BFC: `width` bits at `lsb`.
    BitFieldInsert { rd: Register, rn: Option<Register>, lsb: u8, width: u8 },
    /// SBFX and UBFX.
    BitFieldExtract { signed: bool, rd: Register, rn: Register, lsb: u8, width: u8 },
    /// REV, REV16, REVSH, RBIT, CLZ.
    Unary { operation: Unary, rd: Register, rm: Register },

    /// A single load. `rt: 15` branches with interworking. LDRT and its relatives are the same with post-indexing
    /// or plain offsets: permissions only matter to a fault.
    Load { width: Width, rt: Register, address: Address },
    /// A single store.
    Store { width: Width, rt: Register, address: Address },
    /// LDRD: one access of eight bytes, the low word to `rt`.
    LoadDual { rt: Register, rt2: Register, address: Address },
    /// STRD.
    StoreDual { rt: Register, rt2: Register, address: Address },
    /// LDM, POP: registers of `list` (bit n is rn) from rising addresses; r15 branches with interworking.
    /// `increment` and `before` as in the mnemonics IA, IB, DA, DB.
    LoadMultiple { base: Register, list: u16, increment: bool, before: bool, writeback: bool },
    /// STM, PUSH.
    StoreMultiple { base: Register, list: u16, increment: bool, before: bool, writeback: bool },

    /// B and BL within the instruction set; the target is `PC + offset`.
    Branch { offset: i32, link: bool },
    /// BLX to a constant: the target is `Align(PC, 4) + offset` (T32 to A32) or `PC + offset` (A32 to T32).
    BranchExchange { offset: i32 },
    /// BX and BLX (register): bit 0 chooses T32.
    BranchRegister { rm: Register, link: bool },
    /// CBZ and CBNZ; the target is `PC + offset`.
    CompareBranch { rn: Register, nonzero: bool, offset: i32 },
    /// TBB and TBH: loads a byte or halfword at `rn + rm` (`rn + 2 * rm`), target `PC + 2 * value`.
    TableBranch { rn: Register, rm: Register, halfword: bool },
    /// IT: `state` is ITSTATE after it (firstcond and mask, as in CPSR, bits 7:0).
    IfThen { state: u8 },
    /// Hints, preloads, barriers that QEMU ignores: nothing but the next instruction.
    Nop,
    /// Not modelled.
    Opaque(Opaque),
}

/// A condition field: 0 to 13 as encoded, 14 always. (The unconditional space, 15, never appears here.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition(pub u8);

impl Condition {
    /// AL.
    pub const ALWAYS: Condition = Condition(14);
}

/// One decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// When it executes. In T32 the decoder leaves `ALWAYS` except for conditional branches; the IT block's
    /// condition is applied by the block that knows it.
    pub condition: Condition,
    /// What it does.
    pub instruction: Instruction,
    /// Its length in bytes: 2 or 4.
    pub length: u8,
}
