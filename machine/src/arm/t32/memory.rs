//! 32-bit loads and stores (A6.3.5 to A6.3.10).

use super::super::instruction::{Address, Index, Instruction, Offset, Register, Shift, ShiftKind, Width};
use super::{any_bad, bit, field, is_bad, opaque_memory, opaque_mode, register, written};

/// A6.3.5: load and store multiple; RFE and SRS are among them.
pub(super) fn multiple(word: u32) -> Option<Instruction> {
    let load = bit(word, 20);
    let writeback = bit(word, 21);
    let base = register(word, 16);
    let increment = match field(word, 24, 23) {
        0b01 => true,
        0b10 => false,
        _ => return return_state(word),
    };
    let list = field(word, 15, 0) as u16;
    let forbidden = if load { 0x2000 } else { 0xa000 };
    let base_lost = writeback && list >> base & 1 != 0;
    if base == 15 || list == 0 || list & forbidden != 0 || base_lost || (load && list & 0xc000 == 0xc000) {
        return None;
    }
    let before = !increment;
    Some(if load {
        Instruction::LoadMultiple { base, list, increment, before, writeback }
    } else {
        Instruction::StoreMultiple { base, list, increment, before, writeback }
    })
}

/// RFE and SRS.
fn return_state(word: u32) -> Option<Instruction> {
    let base = register(word, 16);
    let writeback = if bit(word, 21) { written(base) } else { 0 };
    if bit(word, 20) {
        return (base != 15 && field(word, 15, 0) == 0xc000).then_some(opaque_mode(
            "rfe",
            writeback | written(15),
            true,
        ));
    }
    (base == 13 && field(word, 15, 5) == 0b110_0000_0000).then_some(opaque_memory("srs", writeback))
}

/// A6.3.6: load and store dual, exclusives, table branches.
pub(super) fn dual_exclusive_or_table(word: u32) -> Option<Instruction> {
    if bit(word, 24) || bit(word, 21) {
        return dual(word);
    }
    let (rn, rt, rt2, low) = (register(word, 16), register(word, 12), register(word, 8), register(word, 0));
    let load = bit(word, 20);
    if !bit(word, 23) {
        let predictable = if load {
            rn != 15 && !is_bad(rt) && rt2 == 15
        } else {
            rn != 15 && !any_bad([rt, rt2]) && rt2 != rn && rt2 != rt
        };
        let instruction =
            if load { opaque_memory("ldrex", written(rt)) } else { opaque_memory("strex", written(rt2)) };
        return predictable.then_some(instruction);
    }
    if load && field(word, 15, 5) == 0b111_1000_0000 {
        let predictable = rn != 13 && !is_bad(low);
        return predictable.then_some(Instruction::TableBranch { rn, rm: low, halfword: bit(word, 4) });
    }
    let (load_name, store_name) = match field(word, 7, 4) {
        0b0100 => ("ldrexb", "strexb"),
        0b0101 => ("ldrexh", "strexh"),
        0b0111 => ("ldrexd", "strexd"),
        _ => return None,
    };
    let is_dual = field(word, 7, 4) == 0b0111;
    if rn == 15 || is_bad(rt) || (if is_dual { is_bad(rt2) } else { rt2 != 15 }) {
        return None;
    }
    let second = if is_dual { written(rt2) } else { 0 };
    if load {
        let predictable = low == 15 && !(is_dual && rt == rt2);
        return predictable.then_some(opaque_memory(load_name, written(rt) | second));
    }
    let predictable = !is_bad(low) && low != rn && low != rt && !(is_dual && low == rt2);
    predictable.then_some(opaque_memory(store_name, written(low)))
}

fn dual(word: u32) -> Option<Instruction> {
    let (base, rt, rt2) = (register(word, 16), register(word, 12), register(word, 8));
    let index = match (bit(word, 24), bit(word, 21)) {
        (true, false) => Index::Offset,
        (true, true) => Index::Pre,
        _ => Index::Post,
    };
    let load = bit(word, 20);
    let base_lost = index != Index::Offset && (base == rt || base == rt2 || base == 15);
    if any_bad([rt, rt2]) || base_lost || (load && rt == rt2) || (!load && base == 15) {
        return None;
    }
    let offset = signed_offset(field(word, 7, 0) * 4, bit(word, 23));
    let address = Address { base, offset, index };
    Some(if load {
        Instruction::LoadDual { rt, rt2, address }
    } else {
        Instruction::StoreDual { rt, rt2, address }
    })
}

fn signed_offset(magnitude: u32, add: bool) -> Offset {
    Offset::Immediate(if add { magnitude as i32 } else { -(magnitude as i32) })
}

/// The address of a single load or store, and whether the encoding is an unprivileged one (LDRT and its relatives).
struct SingleAddress {
    address: Address,
    unprivileged: bool,
}

/// The addressing forms that loads and stores share. A base of 15 is left to the caller.
fn single_address(word: u32) -> Option<SingleAddress> {
    let base = register(word, 16);
    if bit(word, 23) {
        let offset = signed_offset(field(word, 11, 0), true);
        return Some(SingleAddress {
            address: Address { base, offset, index: Index::Offset },
            unprivileged: false,
        });
    }
    if !bit(word, 11) {
        let rm = register(word, 0);
        if field(word, 11, 6) != 0 || is_bad(rm) {
            return None;
        }
        let shift = Shift { kind: ShiftKind::Lsl, amount: field(word, 5, 4) as u8 };
        let offset = Offset::Register { rm, shift, subtract: false };
        return Some(SingleAddress {
            address: Address { base, offset, index: Index::Offset },
            unprivileged: false,
        });
    }
    let (before, add, writeback) = (bit(word, 10), bit(word, 9), bit(word, 8));
    let index = match (before, writeback) {
        (true, false) => Index::Offset,
        (true, true) => Index::Pre,
        (false, true) => Index::Post,
        (false, false) => return None,
    };
    let offset = signed_offset(field(word, 7, 0), add);
    Some(SingleAddress {
        address: Address { base, offset, index },
        unprivileged: before && add && !writeback,
    })
}

/// A6.3.10, store single data item.
pub(super) fn store(word: u32) -> Option<Instruction> {
    let width = match field(word, 22, 21) {
        0b00 => Width::Byte,
        0b01 => Width::Half,
        0b10 => Width::Word,
        _ => return None,
    };
    let rt = register(word, 12);
    let SingleAddress { address, unprivileged } = single_address(word)?;
    let narrow = width != Width::Word;
    let base_lost = address.index != Index::Offset && address.base == rt;
    if address.base == 15 || rt == 15 || (rt == 13 && (narrow || unprivileged)) || base_lost {
        return None;
    }
    Some(Instruction::Store { width, rt, address })
}

/// A6.3.7 to A6.3.9: loads of words, halfwords and bytes, and memory hints.
pub(super) fn load(word: u32) -> Option<Instruction> {
    let signed = bit(word, 24);
    let width = match (field(word, 22, 21), signed) {
        (0b00, false) => Width::Byte,
        (0b00, true) => Width::SignedByte,
        (0b01, false) => Width::Half,
        (0b01, true) => Width::SignedHalf,
        (0b10, false) => Width::Word,
        _ => return None,
    };
    let rt: Register = register(word, 12);
    let SingleAddress { address, unprivileged } = if register(word, 16) == 15 {
        let offset = signed_offset(field(word, 11, 0), bit(word, 23));
        SingleAddress { address: Address { base: 15, offset, index: Index::Offset }, unprivileged: false }
    } else {
        single_address(word)?
    };
    let narrow = width != Width::Word;
    if narrow && rt == 15 && address.index == Index::Offset && !unprivileged {
        // PLD, PLDW, PLI, and hints that are not allocated.
        return Some(Instruction::Nop);
    }
    let base_lost = address.index != Index::Offset && address.base == rt;
    if base_lost || ((narrow || unprivileged) && is_bad(rt)) {
        return None;
    }
    Some(Instruction::Load { width, rt, address })
}
