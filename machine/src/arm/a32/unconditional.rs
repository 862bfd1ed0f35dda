//! The unconditional space (A5.7).

use super::system::{mode_changer, writer};
use super::{Word, branch, coprocessor, require};
use crate::arm::instruction::{Instruction, Opaque};

/// Bits 31:28 are 1111.
pub(super) fn decode(word: Word) -> Option<Instruction> {
    match word.bits(24, 4) {
        0b0001 => state(word).map(Instruction::Opaque),
        0b0010 | 0b0011 => Some(Instruction::Opaque(writer("neon", 0))),
        0b0100 if !word.bit(20) => neon_element(word),
        0b0100..=0b0111 => hint(word),
        0b1000 | 0b1001 => exception_state(word).map(Instruction::Opaque),
        0b1010 | 0b1011 => Some(branch::decode_exchange(word)),
        0b1100..=0b1110 => Some(Instruction::Opaque(coprocessor::decode(word.0))),
        _ => None,
    }
}

/// CPS and SETEND.
fn state(word: Word) -> Option<Opaque> {
    if word.matches(0x00ff_fdff, 0x0001_0000) {
        return Some(writer("setend", Opaque::CPSR));
    }
    require(word.matches(0x00f1_fe20, 0))?;
    Some(if word.bit(17) { mode_changer("cps", 0, false) } else { writer("cps", Opaque::CPSR) })
}

/// RFE and SRS.
fn exception_state(word: Word) -> Option<Opaque> {
    let written = if word.bit(21) { 1 << word.register(16) } else { 0 };
    match (word.bit(22), word.bit(20)) {
        (false, true) => {
            require(word.bits(0, 16) == 0x0a00)?;
            word.general(16)?;
            Some(mode_changer("rfe", written | 1 << 15, true))
        }
        (true, false) => {
            require(word.matches(0x000f_ffe0, 0x000d_0500))?;
            // The stack pointer is that of the mode in the encoding, which may be the present one.
            Some(Opaque { memory: true, ..writer("srs", written) })
        }
        _ => None,
    }
}

/// Loads and stores of elements and structures (A7.7): `rm` 15 means no write-back.
fn neon_element(word: Word) -> Option<Instruction> {
    let rn = word.general(16)?;
    let written = if word.register(0) == 15 { 0 } else { 1 << rn };
    let mnemonic = if word.bit(21) { "vld" } else { "vst" };
    Some(Instruction::Opaque(Opaque { memory: true, ..writer(mnemonic, written) }))
}

/// Preloads, memory hints, barriers and CLREX (A5.7.1).
fn hint(word: Word) -> Option<Instruction> {
    let by_register = word.bit(25);
    require(!(by_register && word.bit(4)))?;
    if word.matches(0xfff0_ff00, 0xf570_f000) {
        return barrier(word);
    }
    require(word.bit(20) && !word.bit(21))?;
    let unallocated_hint = !word.bit(24) && !word.bit(22);
    if !unallocated_hint {
        require(word.bits(12, 4) == 15)?;
        // PLDW has no literal form.
        require(word.bit(22) || word.register(16) != 15)?;
        require(!by_register || word.register(0) != 15)?;
    }
    Some(Instruction::Nop)
}

fn barrier(word: Word) -> Option<Instruction> {
    require(word.bits(16, 4) == 15)?;
    match (word.bits(4, 4), word.bits(0, 4)) {
        (0b0001, 15) => Some(Instruction::Opaque(writer("clrex", 0))),
        // DSB, DMB and ISB.
        (0b0100..=0b0110, _) => Some(Instruction::Nop),
        _ => None,
    }
}
