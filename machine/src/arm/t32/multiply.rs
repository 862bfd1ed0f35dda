//! Multiplication and division (A6.3.16, A6.3.17).

use super::super::instruction::{Half, Instruction};
use super::{any_bad, bit, field, register};

pub(super) fn decode(word: u32) -> Option<Instruction> {
    if bit(word, 23) { long_or_divide(word) } else { short(word) }
}

fn half(word: u32, position: u32) -> Half {
    if bit(word, position) { Half::Top } else { Half::Bottom }
}

/// A6.3.16: 32-bit results. An accumulator of 15 means none.
fn short(word: u32) -> Option<Instruction> {
    let (rd, rn, rm, ra) = (register(word, 8), register(word, 16), register(word, 0), register(word, 12));
    if any_bad([rd, rn, rm]) || ra == 13 {
        return None;
    }
    let accumulate = (ra != 15).then_some(ra);
    let exchange = bit(word, 4);
    match (field(word, 22, 20), field(word, 7, 4)) {
        (0b000, 0b0000) => {
            Some(Instruction::Multiply { rd, rn, rm, accumulate, subtract: false, set_flags: false })
        }
        (0b000, 0b0001) => {
            accumulate?;
            Some(Instruction::Multiply { rd, rn, rm, accumulate, subtract: true, set_flags: false })
        }
        (0b001, 0b0000..=0b0011) => {
            Some(Instruction::MultiplyHalves { rd, rn, n: half(word, 5), rm, m: half(word, 4), accumulate })
        }
        (code @ (0b010 | 0b100), 0b0000 | 0b0001) => {
            Some(Instruction::MultiplyDual { rd, rn, rm, exchange, subtract: code == 0b100, accumulate })
        }
        (0b011, 0b0000 | 0b0001) => {
            Some(Instruction::MultiplyWordHalf { rd, rn, rm, m: half(word, 4), accumulate })
        }
        (0b101, 0b0000 | 0b0001) => Some(Instruction::MultiplyMostSignificant {
            rd,
            rn,
            rm,
            accumulate,
            subtract: false,
            round: bit(word, 4),
        }),
        (0b110, 0b0000 | 0b0001) => {
            accumulate?;
            Some(Instruction::MultiplyMostSignificant {
                rd,
                rn,
                rm,
                accumulate,
                subtract: true,
                round: bit(word, 4),
            })
        }
        (0b111, 0b0000) => Some(Instruction::SumAbsoluteDifferences { rd, rn, rm, accumulate }),
        _ => None,
    }
}

/// A6.3.17: 64-bit results, and division.
fn long_or_divide(word: u32) -> Option<Instruction> {
    let (low, high, rn, rm) = (register(word, 12), register(word, 8), register(word, 16), register(word, 0));
    let (operation, variant) = (field(word, 22, 20), field(word, 7, 4));
    if any_bad([high, rn, rm]) {
        return None;
    }
    if let (0b001 | 0b011, 0b1111) = (operation, variant) {
        return (low == 15).then_some(Instruction::Divide { signed: operation == 0b001, rd: high, rn, rm });
    }
    if any_bad([low]) || low == high {
        return None;
    }
    let long = |signed, accumulate| {
        Some(Instruction::MultiplyLong { signed, accumulate, low, high, rn, rm, set_flags: false })
    };
    match (operation, variant) {
        (0b000, 0b0000) => long(true, false),
        (0b010, 0b0000) => long(false, false),
        (0b100, 0b0000) => long(true, true),
        (0b110, 0b0000) => long(false, true),
        (0b110, 0b0110) => Some(Instruction::MultiplyAccumulateAccumulate { low, high, rn, rm }),
        (0b100, 0b1000..=0b1011) => {
            Some(Instruction::MultiplyHalvesLong { low, high, rn, n: half(word, 5), rm, m: half(word, 4) })
        }
        (0b100 | 0b101, 0b1100 | 0b1101) => Some(Instruction::MultiplyDualLong {
            low,
            high,
            rn,
            rm,
            exchange: bit(word, 4),
            subtract: operation == 0b101,
        }),
        _ => None,
    }
}
