//! Coprocessors, and the VFP and Advanced SIMD instructions in their space (A5.6, A7.4 to A7.9). All are opaque.
//!
//! T32 has the same encodings with 1110 and 1111 in the place of the condition.

use super::Word;
use crate::arm::instruction::{Opaque, Register};

/// What a coprocessor instruction may do: bits 27:24 are 1100, 1101 or 1110, bits 31:28 are a condition or 1111.
pub(in crate::arm) fn decode(word: u32) -> Opaque {
    let word = Word(word);
    let unconditional = word.bits(28, 4) == 15;
    let coprocessor = word.bits(8, 4);
    match (coprocessor, unconditional) {
        (9..=11, false) => floating_point(word),
        (9..=11, true) if word.bits(24, 4) == 0b1110 && !word.bit(4) => simple("vfp", 0),
        (8..=13, _) => None,
        _ => general(word),
    }
    .unwrap_or(Opaque::UNKNOWN)
}

fn simple(mnemonic: &'static str, writes: u32) -> Option<Opaque> {
    Some(Opaque { mnemonic, writes, changes_mode: false, memory: false, changes_mapping: false })
}

fn transfer(mnemonic: &'static str, writes: u32) -> Option<Opaque> {
    simple(mnemonic, writes).map(|opaque| Opaque { memory: true, ..opaque })
}

/// A destination register; r15 stands for the flags.
fn destination(rt: Register) -> u32 {
    if rt == 15 { Opaque::CPSR } else { 1 << rt }
}

/// The pair of registers of a 64-bit transfer.
fn pair(word: Word) -> Option<u32> {
    Some(1 << word.general(12)? | 1 << word.general(16)?)
}

/// The base of a load or store if it is written, that is, if W is set. It must not be r15 then.
fn base_written(word: Word) -> Option<u32> {
    if word.bit(21) { word.general(16).map(|base| 1 << base) } else { Some(0) }
}

/// MCR, MRC, MCRR, MRRC, CDP, LDC and STC.
fn general(word: Word) -> Option<Opaque> {
    let load = word.bit(20);
    let mapping = |opaque: Opaque| Opaque { changes_mapping: maps(word), ..opaque };
    if word.bits(24, 4) == 0b1110 {
        return match (word.bit(4), load) {
            (false, _) => simple("cdp", 0),
            (true, true) => simple("mrc", destination(word.register(12))),
            (true, false) => {
                word.general(12)?;
                simple("mcr", 0).map(mapping)
            }
        };
    }
    match word.bits(21, 4) {
        0b0010 if load => simple("mrrc", pair(word)?),
        0b0010 => {
            pair(word)?;
            simple("mcrr", 0).map(mapping)
        }
        0b0000 => None,
        _ => transfer(if load { "ldc" } else { "stc" }, base_written(word)?),
    }
}

/// Whether a write to a coprocessor register may change the mapping of memory: everything may that is not known to
/// be something else. (DDI 0406C, B3.17.1 and B4.1.)
fn maps(word: Word) -> bool {
    let double = word.bits(24, 4) != 0b1110;
    let (crn, crm) = (word.bits(16, 4), word.bits(0, 4));
    let (opc1, opc2) = (word.bits(21, 3), word.bits(5, 3));
    match (word.bits(8, 4), double) {
        // Debug.
        (14, _) => false,
        // Cache maintenance and the physical address of a translation, interrupt controller, timers.
        (15, true) => !matches!(crm, 7 | 12 | 14),
        (15, false) => match crn {
            // Cache selection, fault status and address, cache maintenance, vectors and interrupt controller, timers.
            0 | 5 | 6 | 7 | 12 | 14 => false,
            // The performance monitors.
            9 => crm < 12,
            // The software thread identifiers; the others are CONTEXTIDR and FCSEIDR.
            13 => !(opc1 == 0 && crm == 0 && (2..=4).contains(&opc2)),
            _ => true,
        },
        _ => true,
    }
}

/// VFP and Advanced SIMD in the conditional space (A7.5 to A7.9).
fn floating_point(word: Word) -> Option<Opaque> {
    let load = word.bit(20);
    if word.bits(24, 4) == 0b1110 {
        if !word.bit(4) {
            return simple("vfp", 0);
        }
        let special = word.bits(21, 3) == 0b111 && word.bits(8, 4) == 10;
        return match (load, special) {
            (true, true) => simple("vmrs", destination(word.register(12))),
            (true, false) => simple("vmov", 1 << word.general(12)?),
            (false, true) => simple("vmsr", 0),
            (false, false) => simple("vmov", 0),
        };
    }
    match word.bits(21, 4) {
        0b0010 if load => simple("vmov", pair(word)?),
        0b0010 => simple("vmov", 0),
        0b0000 => None,
        // P = 1 and W = 0 is VLDR or VSTR, everything else a multiple transfer.
        _ if word.bit(24) && !word.bit(21) => transfer(if load { "vldr" } else { "vstr" }, 0),
        _ => transfer(if load { "vldm" } else { "vstm" }, base_written(word)?),
    }
}
