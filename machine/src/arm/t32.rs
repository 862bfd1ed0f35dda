//! The T32 decoder: Thumb and Thumb-2 up to ARMv7-A, as chapter A6 of the architecture manual (DDI 0406C) lays them
//! out.
//!
//! What the manual calls UNPREDICTABLE or UNDEFINED, and what it does not know, becomes [`Opaque::UNKNOWN`]: each
//! decoding function here answers `None` for it. One exception: a load or store multiple of a single register is
//! UNPREDICTABLE in the manual, but QEMU and all hardware known to it treat it as A32 does, and firmware relies on it.
//!
//! A 32-bit encoding is kept as one word with the first halfword on top, so bit numbers here are the manual's for
//! the second halfword, and the manual's plus 16 for the first.

mod control;
mod coprocessor;
mod data;
mod memory;
mod multiply;
mod narrow;

use super::instruction::{Condition, Decoded, Instruction, Opaque, Register, Shift, ShiftKind};

/// Decodes the instruction whose halfwords are `first` and, if it is a 32-bit encoding (`first` at least 0xe800),
/// `second`. `in_it_block` says whether an IT block covers it: most 16-bit data processing then leaves the flags
/// alone.
pub fn decode(first: u16, second: u16, in_it_block: bool) -> Decoded {
    let (decoded, length) = if is_wide(first) {
        (wide(u32::from(first) << 16 | u32::from(second)), 4)
    } else {
        (narrow::decode(u32::from(first), in_it_block), 2)
    };
    let (condition, instruction) =
        decoded.unwrap_or((Condition::ALWAYS, Instruction::Opaque(Opaque::UNKNOWN)));
    Decoded { condition, instruction, length }
}

/// Whether `first` is the first halfword of a 32-bit encoding.
pub fn is_wide(first: u16) -> bool {
    first >= 0xe800
}

/// What the decoding functions answer: `None` for UNPREDICTABLE, UNDEFINED, or not known.
type Conditional = Option<(Condition, Instruction)>;

/// Table A6-9.
fn wide(word: u32) -> Conditional {
    if matches!(field(word, 28, 27), 0b10) && bit(word, 15) {
        return control::decode(word);
    }
    let instruction = match field(word, 28, 25) {
        0b0100 if !bit(word, 22) => memory::multiple(word),
        0b0100 => memory::dual_exclusive_or_table(word),
        0b0101 => data::shifted_register(word),
        0b0110 | 0b0111 | 0b1110 | 0b1111 => coprocessor::decode(word),
        0b1000 | 0b1010 => data::modified_immediate(word),
        0b1001 | 0b1011 => data::plain_immediate(word),
        0b1100 if bit(word, 24) && !bit(word, 20) => coprocessor::simd_load_store(word),
        0b1100 if bit(word, 20) => memory::load(word),
        0b1100 => memory::store(word),
        0b1101 if bit(word, 24) => multiply::decode(word),
        0b1101 => data::from_registers(word),
        _ => None,
    }?;
    Some((Condition::ALWAYS, instruction))
}

/// Bits `high` to `low` of `word`, both included.
fn field(word: u32, high: u32, low: u32) -> u32 {
    word << (31 - high) >> (31 - high + low)
}

fn bit(word: u32, position: u32) -> bool {
    word >> position & 1 != 0
}

/// The register number in the four bits from `low` up.
fn register(word: u32, low: u32) -> Register {
    field(word, low + 3, low) as Register
}

/// The register number in the three bits from `low` up.
fn low_register(word: u32, low: u32) -> Register {
    field(word, low + 2, low) as Register
}

/// `value`'s low `width` bits as a signed number.
fn sign_extend(value: u32, width: u32) -> i32 {
    (value << (32 - width)) as i32 >> (32 - width)
}

/// The manual's "BadReg": neither the stack pointer nor the program counter may be used in most T32 encodings.
fn is_bad(register: Register) -> bool {
    register == 13 || register == 15
}

fn any_bad<const COUNT: usize>(registers: [Register; COUNT]) -> bool {
    registers.into_iter().any(is_bad)
}

/// DecodeImmShift (A8.4.3).
fn immediate_shift(kind: u32, amount: u32) -> Shift {
    let (kind, amount) = match (kind, amount) {
        (0, _) => (ShiftKind::Lsl, amount),
        (1, 0) => (ShiftKind::Lsr, 32),
        (1, _) => (ShiftKind::Lsr, amount),
        (2, 0) => (ShiftKind::Asr, 32),
        (2, _) => (ShiftKind::Asr, amount),
        (_, 0) => (ShiftKind::Rrx, 1),
        (_, _) => (ShiftKind::Ror, amount),
    };
    Shift { kind, amount: amount as u8 }
}

/// No shift.
const UNSHIFTED: Shift = Shift { kind: ShiftKind::Lsl, amount: 0 };

/// The bit of `register` in [`Opaque::writes`].
fn written(register: Register) -> u32 {
    1 << register
}

/// An opaque instruction that touches nothing but the registers `writes`.
fn opaque(mnemonic: &'static str, writes: u32) -> Instruction {
    Instruction::Opaque(Opaque {
        mnemonic,
        writes,
        changes_mode: false,
        memory: false,
        changes_mapping: false,
    })
}

/// An opaque instruction that accesses memory and writes the registers `writes`.
fn opaque_memory(mnemonic: &'static str, writes: u32) -> Instruction {
    Instruction::Opaque(Opaque {
        mnemonic,
        writes,
        changes_mode: false,
        memory: true,
        changes_mapping: false,
    })
}

/// An opaque instruction that may change the processor mode, and with it what memory looks like.
fn opaque_mode(mnemonic: &'static str, writes: u32, memory: bool) -> Instruction {
    let writes = writes | Opaque::CPSR;
    Instruction::Opaque(Opaque { mnemonic, writes, changes_mode: true, memory, changes_mapping: true })
}

#[cfg(test)]
mod tests;
