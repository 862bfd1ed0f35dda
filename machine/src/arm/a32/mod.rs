//! A32 decoding (DDI 0406C, chapter A5).
//!
//! Every encoding that the manual calls UNDEFINED or UNPREDICTABLE, also one whose should-be-zero and should-be-one
//! bits are not so, becomes [`Opaque::UNKNOWN`]: what QEMU does there is recorded, not modelled.

mod branch;
mod coprocessor;
mod data;
mod media;
mod memory;
mod multiply;
mod synchronization;
mod system;
mod unconditional;

use super::instruction::{Condition, Decoded, Instruction, Opaque, Register};

/// Decodes one A32 instruction.
pub fn decode(word: u32) -> Decoded {
    let word = Word(word);
    let condition = word.bits(28, 4) as u8;
    if condition == 15 {
        return Decoded {
            condition: Condition::ALWAYS,
            instruction: unconditional::decode(word).unwrap_or(UNKNOWN),
            length: 4,
        };
    }
    let instruction = match word.bits(25, 3) {
        0b000 if word.bit(4) && word.bit(7) => match (word.bits(5, 2), word.bit(24)) {
            (0, false) => multiply::decode(word),
            (0, true) => synchronization::decode(word),
            _ => memory::decode_extra(word),
        },
        0b000 if word.bits(23, 2) == 0b10 && !word.bit(20) => {
            if word.bit(7) {
                multiply::decode_halves(word)
            } else {
                system::decode_miscellaneous(word)
            }
        }
        0b001 if word.bits(23, 2) == 0b10 && !word.bit(20) => {
            if word.bit(21) {
                system::decode_immediate(word)
            } else {
                data::decode_move_wide(word)
            }
        }
        0b000 | 0b001 => data::decode(word),
        0b011 if word.bit(4) => media::decode(word),
        0b010 | 0b011 => memory::decode(word),
        0b100 => memory::decode_multiple(word),
        0b101 => Some(branch::decode(word)),
        _ if word.bits(24, 4) == 0b1111 => Some(system::supervisor_call(word)),
        _ => Some(Instruction::Opaque(coprocessor::decode(word.0))),
    };
    Decoded { condition: Condition(condition), instruction: instruction.unwrap_or(UNKNOWN), length: 4 }
}

const UNKNOWN: Instruction = Instruction::Opaque(Opaque::UNKNOWN);

/// An encoding, to take fields from.
#[derive(Clone, Copy)]
struct Word(u32);

impl Word {
    /// `count` bits, the lowest of which is bit `low`.
    fn bits(self, low: u32, count: u32) -> u32 {
        self.0 >> low & ((1 << count) - 1)
    }

    fn bit(self, index: u32) -> bool {
        self.0 >> index & 1 != 0
    }

    /// A register field.
    fn register(self, low: u32) -> Register {
        self.bits(low, 4) as Register
    }

    /// A register field in which r15 is UNPREDICTABLE.
    fn general(self, low: u32) -> Option<Register> {
        let register = self.register(low);
        (register != 15).then_some(register)
    }

    /// Whether the bits of `mask` are those of `value`.
    fn matches(self, mask: u32, value: u32) -> bool {
        self.0 & mask == value
    }
}

/// `Some(())` if a requirement holds: for `?` in decoders.
fn require(condition: bool) -> Option<()> {
    condition.then_some(())
}
