//! Coprocessor 0: all of it is opaque. What it may write follows QEMU's `gen_cp0`, `gen_mtc0` and `cp0_helper.c`.

use super::{Opaque, Word, bit};
use crate::mips::instruction::{CAUSE, PROGRAM_COUNTER, STATUS};

/// BadVAddr, Status and Cause.
const CONTROL: u128 = bit(35) | STATUS | CAUSE;

/// An instruction of coprocessor 0.
pub(super) fn decode(word: Word) -> Opaque {
    let (rt, rd) = (word.rt(), word.rd());
    match word.rs() {
        0o00 => Opaque::writer("mfc0", bit(rt)),
        0o02 => Opaque::writer("mfhc0", bit(rt)),
        0o04 => move_to(rd, word.bits(0, 3)),
        0o06 => Opaque { changes_mapping: true, ..Opaque::writer("mthc0", CONTROL) },
        // Without shadow registers they move between general ones.
        0o12 => Opaque::writer("rdpgpr", bit(rd)),
        0o16 => Opaque::writer("wrpgpr", bit(rd)),
        0o13 => match word.bits(0, 16) {
            0x6000 => Opaque::writer("di", bit(rt) | STATUS),
            0x6020 => Opaque::writer("ei", bit(rt) | STATUS),
            _ => Opaque::UNKNOWN,
        },
        0o20..=0o37 => operation(word),
        _ => Opaque::UNKNOWN,
    }
}

/// MTC0.
fn move_to(register: u8, select: u32) -> Opaque {
    let (writes, changes_mapping) = match (register, select) {
        // Index, Random, EntryLo0 and 1, Context, HWREna, BadVAddr; EPC, ErrorEPC, LLAddr, DESAVE; watchpoints and cache
        // tags. EntryLo counts when TLBWI or TLBWR writes it.
        (0..=4 | 7 | 14 | 18 | 19 | 28..=30, 0) | (17 | 31, _) => (0, false),
        // Count and Compare set and clear the timer's bits in Cause.
        (9 | 11 | 13, 0) => (CAUSE, false),
        (12, 0) => (STATUS | CAUSE, true),
        (5 | 6 | 10 | 16, 0) => (0, true),
        _ => (CONTROL, true),
    };
    Opaque { changes_mapping, ..Opaque::writer("mtc0", writes) }
}

/// Those with a function field.
fn operation(word: Word) -> Opaque {
    let mapping = |mnemonic, writes| Opaque { changes_mapping: true, ..Opaque::writer(mnemonic, writes) };
    match word.function() {
        // It loads EntryHi, with the ASID.
        0o01 => mapping("tlbr", 0),
        0o02 => mapping("tlbwi", 0),
        0o03 => mapping("tlbinv", 0),
        0o04 => mapping("tlbinvf", 0),
        0o06 => mapping("tlbwr", 0),
        // Where it finds nothing, QEMU gives up entries behind those of the TLB that the guest could notice.
        0o10 => mapping("tlbp", 0),
        0o30 => mapping("eret", PROGRAM_COUNTER | STATUS),
        0o37 => mapping("deret", PROGRAM_COUNTER | STATUS),
        0o40 => Opaque::writer("wait", 0),
        _ => Opaque::UNKNOWN,
    }
}
