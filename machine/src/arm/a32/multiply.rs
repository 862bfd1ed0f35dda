//! Multiplication (A5.2.5) and multiplication of halfwords (A5.2.7).

use super::{Word, require};
use crate::arm::instruction::{Half, Instruction};

/// The multiplications of whole words. Bits 7:4 are 1001.
pub(super) fn decode(word: Word) -> Option<Instruction> {
    let set_flags = word.bit(20);
    let (rd, ra) = (word.general(16)?, word.register(12));
    let (rm, rn) = (word.general(8)?, word.general(0)?);
    let operation = word.bits(21, 3);
    if operation == 0 {
        require(ra == 0)?;
        return Some(Instruction::Multiply { rd, rn, rm, accumulate: None, subtract: false, set_flags });
    }
    require(ra != 15)?;
    if operation == 1 {
        return Some(Instruction::Multiply { rd, rn, rm, accumulate: Some(ra), subtract: false, set_flags });
    }
    if operation == 3 {
        require(!set_flags)?;
        return Some(Instruction::Multiply { rd, rn, rm, accumulate: Some(ra), subtract: true, set_flags });
    }
    let (low, high) = (ra, rd);
    require(low != high)?;
    if operation == 2 {
        require(!set_flags)?;
        return Some(Instruction::MultiplyAccumulateAccumulate { low, high, rn, rm });
    }
    let (signed, accumulate) = (word.bit(22), word.bit(21));
    Some(Instruction::MultiplyLong { signed, accumulate, low, high, rn, rm, set_flags })
}

fn half(top: bool) -> Half {
    if top { Half::Top } else { Half::Bottom }
}

/// The multiplications of halfwords. Bit 7 is set, bit 4 is not.
pub(super) fn decode_halves(word: Word) -> Option<Instruction> {
    let (rd, ra) = (word.general(16)?, word.register(12));
    let (rm, rn) = (word.general(8)?, word.general(0)?);
    let (n, m) = (half(word.bit(5)), half(word.bit(6)));
    match word.bits(21, 2) {
        0 => {
            require(ra != 15)?;
            Some(Instruction::MultiplyHalves { rd, rn, n, rm, m, accumulate: Some(ra) })
        }
        1 if word.bit(5) => {
            require(ra == 0)?;
            Some(Instruction::MultiplyWordHalf { rd, rn, rm, m, accumulate: None })
        }
        1 => {
            require(ra != 15)?;
            Some(Instruction::MultiplyWordHalf { rd, rn, rm, m, accumulate: Some(ra) })
        }
        2 => {
            require(ra != 15 && ra != rd)?;
            Some(Instruction::MultiplyHalvesLong { low: ra, high: rd, rn, n, rm, m })
        }
        _ => {
            require(ra == 0)?;
            Some(Instruction::MultiplyHalves { rd, rn, n, rm, m, accumulate: None })
        }
    }
}
