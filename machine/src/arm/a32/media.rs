//! Media instructions (A5.4): parallel arithmetic, packing, saturation, extension, bit-fields, dual multiplication,
//! division.

use super::data::immediate_shift;
use super::{Word, require};
use crate::arm::instruction::{Extend, Instruction, ParallelKind, ParallelOperation, Register, Unary};

/// Bits 27:25 are 011 and bit 4 is set.
pub(super) fn decode(word: Word) -> Option<Instruction> {
    let operation = word.bits(20, 5);
    match operation {
        0b00000..=0b00111 => parallel(word),
        0b01000..=0b01111 => pack_and_saturate(word),
        0b10000..=0b10111 => multiply(word),
        0b11000 => sum_absolute_differences(word),
        _ => bit_field(word),
    }
}

/// `rn`, `rd`, `rm` at their usual places, none of them r15.
fn registers(word: Word) -> Option<(Register, Register, Register)> {
    Some((word.general(16)?, word.general(12)?, word.general(0)?))
}

fn parallel(word: Word) -> Option<Instruction> {
    let kind = match word.bits(20, 3) {
        0b001 => ParallelKind::Signed,
        0b010 => ParallelKind::SignedSaturating,
        0b011 => ParallelKind::SignedHalving,
        0b101 => ParallelKind::Unsigned,
        0b110 => ParallelKind::UnsignedSaturating,
        0b111 => ParallelKind::UnsignedHalving,
        _ => return None,
    };
    let operation = match word.bits(5, 3) {
        0b000 => ParallelOperation::Add16,
        0b001 => ParallelOperation::Asx,
        0b010 => ParallelOperation::Sax,
        0b011 => ParallelOperation::Sub16,
        0b100 => ParallelOperation::Add8,
        0b111 => ParallelOperation::Sub8,
        _ => return None,
    };
    require(word.bits(8, 4) == 15)?;
    let (rn, rd, rm) = registers(word)?;
    Some(Instruction::Parallel { kind, operation, rd, rn, rm })
}

/// A5.4.3.
fn pack_and_saturate(word: Word) -> Option<Instruction> {
    let unsigned = word.bit(22);
    match (word.bits(20, 2), word.bits(5, 3)) {
        (0b00, 0b000 | 0b010 | 0b100 | 0b110) if !unsigned => {
            let (rn, rd, rm) = registers(word)?;
            Some(Instruction::Pack { top_bottom: word.bit(6), rd, rn, rm, shift: immediate_shift(word) })
        }
        (0b00, 0b101) if !unsigned => {
            require(word.bits(8, 4) == 15)?;
            let (rn, rd, rm) = registers(word)?;
            Some(Instruction::Select { rd, rn, rm })
        }
        (0b10 | 0b11, 0b000 | 0b010 | 0b100 | 0b110) => {
            let bits = word.bits(16, 5) as u8 + u8::from(!unsigned);
            let (rd, rn) = (word.general(12)?, word.general(0)?);
            Some(Instruction::Saturate { signed: !unsigned, rd, bits, rn, shift: immediate_shift(word) })
        }
        (0b10, 0b001) => {
            require(word.bits(8, 4) == 15)?;
            let bits = word.bits(16, 4) as u8 + u8::from(!unsigned);
            let (rd, rn) = (word.general(12)?, word.general(0)?);
            Some(Instruction::Saturate16 { signed: !unsigned, rd, bits, rn })
        }
        (operation, 0b011) => {
            let extend = match (operation, unsigned) {
                (0b00, false) => Extend::SignedByte16,
                (0b10, false) => Extend::SignedByte,
                (0b11, false) => Extend::SignedHalf,
                (0b00, true) => Extend::UnsignedByte16,
                (0b10, true) => Extend::UnsignedByte,
                (0b11, true) => Extend::UnsignedHalf,
                _ => return None,
            };
            require(word.bits(8, 2) == 0)?;
            let (rd, rm) = (word.general(12)?, word.general(0)?);
            let rotation = 8 * word.bits(10, 2) as u8;
            Some(Instruction::Extend { extend, rd, add: word.general(16), rm, rotation })
        }
        (0b11, operation @ (0b001 | 0b101)) => {
            require(word.bits(16, 4) == 15 && word.bits(8, 4) == 15)?;
            let operation = match (operation, unsigned) {
                (0b001, false) => Unary::ReverseBytes,
                (_, false) => Unary::ReverseBytes16,
                (0b001, true) => Unary::ReverseBits,
                (_, true) => Unary::ReverseBytesSignedHalf,
            };
            Some(Instruction::Unary { operation, rd: word.general(12)?, rm: word.general(0)? })
        }
        _ => None,
    }
}

/// A5.4.4: signed multiplication and division. The destination is in bits 19:16.
fn multiply(word: Word) -> Option<Instruction> {
    let (rd, rm, rn) = (word.general(16)?, word.general(8)?, word.general(0)?);
    let ra = word.register(12);
    let accumulate = word.general(12);
    // SMUAD and others without an accumulator have r15 in its place.
    let exchange = word.bit(5);
    let kind = word.bits(6, 2);
    match word.bits(20, 3) {
        0b000 if kind < 2 => {
            Some(Instruction::MultiplyDual { rd, rn, rm, exchange, subtract: kind == 1, accumulate })
        }
        operation @ (0b001 | 0b011) if word.bits(5, 3) == 0 => {
            require(ra == 15)?;
            Some(Instruction::Divide { signed: operation == 0b001, rd, rn, rm })
        }
        0b100 if kind < 2 => {
            require(ra != 15 && ra != rd)?;
            Some(Instruction::MultiplyDualLong { low: ra, high: rd, rn, rm, exchange, subtract: kind == 1 })
        }
        0b101 if kind == 0 || kind == 3 => {
            let subtract = kind == 3;
            require(!(subtract && ra == 15))?;
            let round = word.bit(5);
            Some(Instruction::MultiplyMostSignificant { rd, rn, rm, accumulate, subtract, round })
        }
        _ => None,
    }
}

/// USAD8 and USADA8.
fn sum_absolute_differences(word: Word) -> Option<Instruction> {
    require(word.bits(5, 3) == 0)?;
    let (rd, rm, rn) = (word.general(16)?, word.general(8)?, word.general(0)?);
    Some(Instruction::SumAbsoluteDifferences { rd, rn, rm, accumulate: word.general(12) })
}

/// SBFX, UBFX, BFI and BFC. What is left is UDF and unallocated.
fn bit_field(word: Word) -> Option<Instruction> {
    let rd = word.general(12)?;
    let lsb = word.bits(7, 5) as u8;
    let last = word.bits(16, 5) as u8;
    match (word.bits(21, 4), word.bits(5, 2)) {
        (operation @ (0b1101 | 0b1111), 0b10) => {
            require(lsb + last < 32)?;
            let rn = word.general(0)?;
            Some(Instruction::BitFieldExtract { signed: operation == 0b1101, rd, rn, lsb, width: last + 1 })
        }
        (0b1110, 0b00) => {
            require(last >= lsb)?;
            Some(Instruction::BitFieldInsert { rd, rn: word.general(0), lsb, width: last - lsb + 1 })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::a32::decode;
    use crate::arm::instruction::{Shift, ShiftKind};

    /// `pkhtb r0, r1, r2` without a shift is encoded as PKHBT; PKHTB's amount 0 means 32.
    #[test]
    fn pkhtb_shifts_by_32_for_an_amount_of_zero() {
        let expected = Instruction::Pack {
            top_bottom: true,
            rd: 0,
            rn: 1,
            rm: 2,
            shift: Shift { kind: ShiftKind::Asr, amount: 32 },
        };
        assert_eq!(decode(0xe681_0052).instruction, expected);
    }
}
