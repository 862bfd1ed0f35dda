//! T32 decoding.

use super::instruction::{Condition, Decoded, Instruction, Opaque};

/// Decodes one T32 instruction; `second` matters only if `first` is 0xe800 or above.
pub fn decode(first: u16, _second: u16, _in_it_block: bool) -> Decoded {
    Decoded {
        condition: Condition::ALWAYS,
        instruction: Instruction::Opaque(Opaque::UNKNOWN),
        length: if first >= 0xe800 { 4 } else { 2 },
    }
}
