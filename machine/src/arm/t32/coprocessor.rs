//! Coprocessors, VFP and Advanced SIMD (A6.3.18, A7): all opaque.
//!
//! In the coprocessor space with the unconditional bit (28) set there are the two-suffixed instructions (MCR2), which no
//! ARMv7-A processor implements, and ARMv8 floating point: not known.

use super::super::instruction::{Instruction, Opaque};
use super::{any_bad, bit, field, is_bad, opaque, opaque_memory, register, written};

pub(super) fn decode(word: u32) -> Option<Instruction> {
    if field(word, 27, 24) == 0b1111 {
        return Some(opaque("neon", 0));
    }
    if bit(word, 28) {
        return None;
    }
    let is_floating_point = matches!(field(word, 11, 8), 10 | 11);
    match (field(word, 25, 24), is_floating_point) {
        (0b10, true) => floating_point_operation_or_transfer(word),
        (0b10, false) => operation_or_transfer(word),
        (0b11, _) => None,
        (_, _) if field(word, 24, 21) == 0b0010 => double_transfer(word, is_floating_point),
        (_, _) if field(word, 24, 21) == 0b0000 => None,
        (_, true) => floating_point_load_store(word),
        (_, false) => {
            let writeback = if bit(word, 21) { base_written(word)? } else { 0 };
            Some(opaque_memory(if bit(word, 20) { "ldc" } else { "stc" }, writeback))
        }
    }
}

fn base_written(word: u32) -> Option<u32> {
    let base = register(word, 16);
    (base != 15).then_some(written(base))
}

/// CDP, MCR and MRC.
fn operation_or_transfer(word: u32) -> Option<Instruction> {
    let rt = register(word, 12);
    if !bit(word, 4) {
        return Some(opaque("cdp", 0));
    }
    if bit(word, 20) {
        return match rt {
            13 => None,
            15 => Some(opaque("mrc", Opaque::CPSR)),
            _ => Some(opaque("mrc", written(rt))),
        };
    }
    let changes_mapping = field(word, 11, 8) == 15
        && system_write_changes_mapping(field(word, 19, 16), field(word, 3, 0), field(word, 7, 5));
    (!is_bad(rt)).then_some(Instruction::Opaque(Opaque {
        mnemonic: "mcr",
        writes: 0,
        changes_mode: false,
        memory: false,
        changes_mapping,
    }))
}

/// Whether a write to a CP15 register may change translation: all may but the ones known to be harmless, which are
/// identification and cache selection (c0), fault status and address (c5, c6), cache maintenance and translation
/// queries (c7), performance monitors (c9), vectors (c12), software thread identifiers (c13) and timers (c14).
fn system_write_changes_mapping(crn: u32, crm: u32, opc2: u32) -> bool {
    !matches!((crn, crm, opc2), (0 | 5 | 6 | 7 | 12 | 14, _, _) | (9, 12..=14, _) | (13, 0, 2..=4))
}

/// MCRR, MRRC, and VMOV between two core registers and the floating-point registers.
fn double_transfer(word: u32, is_floating_point: bool) -> Option<Instruction> {
    let (rt, rt2) = (register(word, 12), register(word, 16));
    let to_core = bit(word, 20);
    if any_bad([rt, rt2]) || (to_core && rt == rt2) {
        return None;
    }
    let writes = if to_core { written(rt) | written(rt2) } else { 0 };
    if is_floating_point {
        return Some(opaque("vmov", writes));
    }
    // 64-bit CP15 registers that are not about translation: the physical address (c7) and the timers (c14).
    let changes_mapping = !to_core && field(word, 11, 8) == 15 && !matches!(field(word, 3, 0), 7 | 14);
    Some(Instruction::Opaque(Opaque {
        mnemonic: if to_core { "mrrc" } else { "mcrr" },
        writes,
        changes_mode: false,
        memory: false,
        changes_mapping,
    }))
}

/// VFP data processing, and transfers of 8, 16 and 32 bits.
fn floating_point_operation_or_transfer(word: u32) -> Option<Instruction> {
    if !bit(word, 4) {
        return Some(opaque("vfp", 0));
    }
    let rt = register(word, 12);
    let to_core = bit(word, 20);
    let is_system = field(word, 23, 21) == 0b111 && field(word, 11, 8) == 10;
    match (is_system, to_core) {
        // The flags, with 15 for the destination.
        (true, true) if rt == 15 => Some(opaque("vmrs", Opaque::CPSR)),
        _ if is_bad(rt) => None,
        (true, true) => Some(opaque("vmrs", written(rt))),
        (true, false) => Some(opaque("vmsr", 0)),
        (false, true) => Some(opaque("vmov", written(rt))),
        (false, false) => Some(opaque("vmov", 0)),
    }
}

/// VLDR, VSTR, VLDM, VSTM.
fn floating_point_load_store(word: u32) -> Option<Instruction> {
    let (before, add, writeback, load) = (bit(word, 24), bit(word, 23), bit(word, 21), bit(word, 20));
    if before && !writeback {
        return Some(opaque_memory(if load { "vldr" } else { "vstr" }, 0));
    }
    if before == add {
        return None;
    }
    let writes = if writeback { base_written(word)? } else { 0 };
    Some(opaque_memory(if load { "vldm" } else { "vstm" }, writes))
}

/// A7.7: Advanced SIMD element or structure loads and stores. An `rm` of 15 means no write-back.
pub(super) fn simd_load_store(word: u32) -> Option<Instruction> {
    let single_structure = bit(word, 23);
    if !single_structure && field(word, 11, 8) > 0b1010 {
        return None;
    }
    let base = base_written(word)?;
    let writes = if register(word, 0) == 15 { 0 } else { base };
    Some(opaque_memory(if bit(word, 21) { "vld" } else { "vst" }, writes))
}
