//! Loads and stores: word and byte (A5.3), halfword, signed and dual (A5.2.8 and A5.2.9), multiple (A5.5).

use super::data::immediate_shift;
use super::{Word, require};
use crate::arm::instruction::{
    Address, Index, Instruction, Offset, Opaque, Register, Shift, ShiftKind, Width,
};

const NO_SHIFT: Shift = Shift { kind: ShiftKind::Lsl, amount: 0 };

/// The addressing mode of bits 24, 23 and 21 (P, U, W) with an offset. P = 0 and W = 1 is an unprivileged access,
/// which is post-indexed.
fn address(word: Word, offset: Offset) -> Address {
    let index = match (word.bit(24), word.bit(21)) {
        (true, false) => Index::Offset,
        (true, true) => Index::Pre,
        (false, _) => Index::Post,
    };
    Address { base: word.register(16), offset, index }
}

fn unprivileged(word: Word) -> bool {
    !word.bit(24) && word.bit(21)
}

fn immediate(word: Word, magnitude: u32) -> Offset {
    let magnitude = magnitude as i32;
    Offset::Immediate(if word.bit(23) { magnitude } else { -magnitude })
}

fn register(word: Word, shift: Shift) -> Option<Offset> {
    Some(Offset::Register { rm: word.general(0)?, shift, subtract: !word.bit(23) })
}

/// Write-back to r15 or to a register that is also transferred is UNPREDICTABLE.
fn check_write_back(address: Address, transferred: &[Register]) -> Option<()> {
    require(address.index == Index::Offset || address.base != 15 && !transferred.contains(&address.base))
}

/// LDR, STR, LDRB, STRB and their unprivileged forms.
pub(super) fn decode(word: Word) -> Option<Instruction> {
    let offset =
        if word.bit(25) { register(word, immediate_shift(word))? } else { immediate(word, word.bits(0, 12)) };
    let rt = word.register(12);
    let address = address(word, offset);
    check_write_back(address, &[rt])?;
    let width = if word.bit(22) { Width::Byte } else { Width::Word };
    // Only whole words may be moved to and from the program counter.
    require(rt != 15 || width == Width::Word && !unprivileged(word))?;
    Some(if word.bit(20) {
        Instruction::Load { width, rt, address }
    } else {
        Instruction::Store { width, rt, address }
    })
}

/// Halfwords, signed bytes, and pairs of words. Bits 7 and 4 are set, bits 6:5 are not both clear.
pub(super) fn decode_extra(word: Word) -> Option<Instruction> {
    let offset = if word.bit(22) {
        immediate(word, word.bits(8, 4) << 4 | word.bits(0, 4))
    } else {
        require(word.bits(8, 4) == 0)?;
        register(word, NO_SHIFT)?
    };
    let rt = word.register(12);
    let address = address(word, offset);
    let load = word.bit(20);
    if !load && word.bits(5, 2) != 1 {
        return decode_dual(word, rt, address);
    }
    require(rt != 15)?;
    check_write_back(address, &[rt])?;
    let width = match word.bits(5, 2) {
        1 => Width::Half,
        2 => Width::SignedByte,
        _ => Width::SignedHalf,
    };
    Some(if load {
        Instruction::Load { width, rt, address }
    } else {
        Instruction::Store { width, rt, address }
    })
}

fn decode_dual(word: Word, rt: Register, address: Address) -> Option<Instruction> {
    let load = word.bits(5, 2) == 2;
    require(rt & 1 == 0 && rt != 14)?;
    let rt2 = rt + 1;
    require(!unprivileged(word))?;
    check_write_back(address, &[rt, rt2])?;
    if let (true, Offset::Register { rm, .. }) = (load, address.offset) {
        require(rm != rt && rm != rt2)?;
    }
    Some(if load {
        Instruction::LoadDual { rt, rt2, address }
    } else {
        Instruction::StoreDual { rt, rt2, address }
    })
}

/// LDM and STM.
pub(super) fn decode_multiple(word: Word) -> Option<Instruction> {
    let base = word.general(16)?;
    let list = word.bits(0, 16) as u16;
    require(list != 0)?;
    let (before, increment, writeback, load) = (word.bit(24), word.bit(23), word.bit(21), word.bit(20));
    if word.bit(22) {
        return user_registers(base, list, writeback, load);
    }
    let base_in_list = list >> base & 1 != 0;
    if load {
        require(!(writeback && base_in_list))?;
        return Some(Instruction::LoadMultiple { base, list, increment, before, writeback });
    }
    // The first register stored is the unchanged base; a later one would be UNKNOWN.
    require(!(writeback && base_in_list) || list.trailing_zeros() == u32::from(base))?;
    Some(Instruction::StoreMultiple { base, list, increment, before, writeback })
}

/// LDM and STM with `^`: the user mode's registers, or an exception return.
fn user_registers(base: Register, list: u16, writeback: bool, load: bool) -> Option<Instruction> {
    let loaded = if load { u32::from(list) } else { 0 };
    let written = if writeback { 1 << base } else { 0 };
    let returns = loaded & 1 << 15 != 0;
    require(!(writeback && load && (!returns || list >> base & 1 != 0)))?;
    Some(Instruction::Opaque(Opaque {
        mnemonic: if load { "ldm ^" } else { "stm ^" },
        writes: loaded | written | if returns { Opaque::CPSR } else { 0 },
        changes_mode: returns,
        memory: true,
        changes_mapping: returns,
    }))
}
