//! Branches and miscellaneous control (A6.3.4).

use super::super::instruction::{Condition, Instruction, Opaque};
use super::{Conditional, bit, field, is_bad, opaque, opaque_mode, register, sign_extend, written};

pub(super) fn decode(word: u32) -> Conditional {
    let instruction = match (bit(word, 14), bit(word, 12)) {
        (false, false) if field(word, 25, 23) != 0b111 => {
            let magnitude = field(word, 26, 26) << 20
                | field(word, 11, 11) << 19
                | field(word, 13, 13) << 18
                | field(word, 21, 16) << 12
                | field(word, 10, 0) << 1;
            let instruction = Instruction::Branch { offset: sign_extend(magnitude, 21), link: false };
            return Some((Condition(field(word, 25, 22) as u8), instruction));
        }
        (false, false) => miscellaneous(word)?,
        (false, true) => Instruction::Branch { offset: long_offset(word), link: false },
        (true, true) => Instruction::Branch { offset: long_offset(word), link: true },
        (true, false) if bit(word, 0) => return None,
        (true, false) => Instruction::BranchExchange { offset: long_offset(word) },
    };
    Some((Condition::ALWAYS, instruction))
}

/// The 25-bit offset of B, BL and BLX, whose two topmost bits are stored exclusive-ored with the sign.
fn long_offset(word: u32) -> i32 {
    let sign = field(word, 26, 26);
    let top = (field(word, 13, 13) ^ sign ^ 1) << 1 | (field(word, 11, 11) ^ sign ^ 1);
    sign_extend(sign << 24 | top << 22 | field(word, 25, 16) << 12 | field(word, 10, 0) << 1, 25)
}

/// The rest of table A6-13. Bits in parentheses in the manual are required, as the rest is UNPREDICTABLE.
fn miscellaneous(word: u32) -> Option<Instruction> {
    let second = field(word, 15, 0);
    match field(word, 31, 20) {
        0xf38 | 0xf39 => move_to_status(word),
        0xf3a if field(word, 19, 16) == 15 && field(word, 13, 11) == 0 => change_state_or_hint(word),
        0xf3b if field(word, 19, 16) == 15 && field(word, 15, 8) == 0x8f => match field(word, 7, 4) {
            0b0010 if second == 0x8f2f => Some(opaque("clrex", 0)),
            0b0100..=0b0110 => Some(Instruction::Nop),
            _ => None,
        },
        0xf3c if second == 0x8f00 => {
            let rm = register(word, 16);
            (!is_bad(rm)).then_some(opaque("bxj", written(15) | Opaque::CPSR))
        }
        0xf3d if register(word, 16) == 14 && field(word, 15, 8) == 0x8f => {
            let mnemonic = if field(word, 7, 0) == 0 { "eret" } else { "subs" };
            Some(opaque_mode(mnemonic, written(15), false))
        }
        0xf3e | 0xf3f => move_from_status(word),
        0xf7e if field(word, 15, 12) == 0b1000 => Some(opaque("hvc", 0xf)),
        0xf7f if second == 0x8000 => Some(opaque("smc", 0xf)),
        0xf7f if field(word, 15, 12) == 0b1010 => Some(opaque("udf", 0)),
        _ => None,
    }
}

fn move_to_status(word: u32) -> Option<Instruction> {
    let to_saved = bit(word, 20);
    if is_bad(register(word, 16)) {
        return None;
    }
    if bit(word, 5) {
        // Another mode's register, unless the mode is the current one, where the manual is silent.
        let banked = field(word, 13, 13) == 0 && field(word, 7, 6) == 0 && field(word, 3, 0) == 0;
        return banked.then_some(opaque("msr", if to_saved { 0 } else { 0x7f00 }));
    }
    let mask = field(word, 11, 8);
    if field(word, 13, 12) != 0 || field(word, 7, 0) != 0 || mask == 0 {
        return None;
    }
    Some(match (to_saved, mask & 1 != 0) {
        (true, _) => opaque("msr", 0),
        (false, false) => opaque("msr", Opaque::CPSR),
        (false, true) => opaque_mode("msr", 0, false),
    })
}

fn move_from_status(word: u32) -> Option<Instruction> {
    let rd = register(word, 8);
    let plain = field(word, 19, 16) == 15 && field(word, 7, 0) == 0;
    let banked = bit(word, 5) && field(word, 7, 6) == 0 && field(word, 3, 0) == 0;
    (!is_bad(rd) && field(word, 13, 12) == 0 && (plain || banked)).then_some(opaque("mrs", written(rd)))
}

fn change_state_or_hint(word: u32) -> Option<Instruction> {
    if field(word, 10, 8) == 0 {
        return Some(Instruction::Nop);
    }
    let (effect, changes_mode) = (field(word, 10, 9), bit(word, 8));
    let (masks, mode) = (field(word, 7, 5), field(word, 4, 0));
    let effective = bit(effect, 1);
    if effect == 0b01 || effective != (masks != 0) || (mode != 0 && !changes_mode) {
        return None;
    }
    Some(if changes_mode { opaque_mode("cps", 0, false) } else { opaque("cps", Opaque::CPSR) })
}
