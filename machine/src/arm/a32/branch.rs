//! B, BL and BLX to a constant (A5.5).

use super::Word;
use crate::arm::instruction::Instruction;

/// The offset of 26 bits.
fn offset(word: Word) -> i32 {
    (word.0 << 8) as i32 >> 6
}

/// Conditional: B and BL.
pub(super) fn decode(word: Word) -> Instruction {
    Instruction::Branch { offset: offset(word), link: word.bit(24) }
}

/// Unconditional: BLX; bit 24 is the target's bit 1.
pub(super) fn decode_exchange(word: Word) -> Instruction {
    Instruction::BranchExchange { offset: offset(word) | (word.bits(24, 1) << 1) as i32 }
}
