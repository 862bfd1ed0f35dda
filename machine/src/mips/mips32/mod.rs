//! Decoding of MIPS32 (MD00086, appendix A).
//!
//! Every encoding that the manual does not define, also one whose must-be-zero bits are not zero, becomes
//! [`Opaque::UNKNOWN`]: what QEMU does there is recorded, not modelled. Branches are the exception. They decide what the
//! instruction after them is, so all that QEMU takes for a branch is one here too.

mod branch;
mod coprocessor;
mod special;
mod system;

use super::instruction::{
    ImmediateOperation, Instruction, Opaque, Register, RegisterOperation, ShiftKind, Width, bit, fpr,
};
use super::mode::Mode;

/// Decodes one MIPS32 instruction. Of `mode` only Status.FR and the release matter.
pub fn decode(word: u32, mode: Mode) -> Instruction {
    let word = Word(word);
    let instruction = match word.bits(26, 6) {
        0o00 => special::decode(word, mode),
        0o01 => branch::decode_register_immediate(word),
        0o02..=0o07 | 0o24..=0o27 | 0o35 => branch::decode(word),
        0o10..=0o17 => immediate(word),
        0o20 => Some(Instruction::Opaque(system::decode(word))),
        0o21 => coprocessor::decode(word, mode),
        0o23 => coprocessor::decode_extended(word).map(Instruction::Opaque),
        0o34 => special::decode_2(word),
        0o37 => special::decode_3(word),
        0o40..=0o73 | 0o75 => memory(word, mode),
        _ => None,
    };
    instruction.unwrap_or(UNKNOWN)
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

    fn rs(self) -> Register {
        self.bits(21, 5) as Register
    }

    fn rt(self) -> Register {
        self.bits(16, 5) as Register
    }

    fn rd(self) -> Register {
        self.bits(11, 5) as Register
    }

    fn sa(self) -> u8 {
        self.bits(6, 5) as u8
    }

    fn function(self) -> u32 {
        self.bits(0, 6)
    }

    fn immediate(self) -> i16 {
        self.0 as i16
    }
}

/// `Some(())` if a requirement holds: for `?` in decoders.
fn require(condition: bool) -> Option<()> {
    condition.then_some(())
}

/// The opcodes from ADDI to LUI.
fn immediate(word: Word) -> Option<Instruction> {
    use ImmediateOperation::{Addi, Addiu, Andi, Ori, Slti, Sltiu, Xori};
    let (signed, unsigned) = (word.immediate() as u32, word.bits(0, 16));
    let (operation, value) = match word.bits(26, 3) {
        0 => (Addi, signed),
        1 => (Addiu, signed),
        2 => (Slti, signed),
        3 => (Sltiu, signed),
        4 => (Andi, unsigned),
        5 => (Ori, unsigned),
        6 => (Xori, unsigned),
        _ => {
            require(word.rs() == 0)?;
            return Some(Instruction::LoadUpper { rt: word.rt(), value: unsigned << 16 });
        }
    };
    Some(Instruction::Immediate { operation, rt: word.rt(), rs: word.rs(), value })
}

/// Loads and stores, CACHE and PREF.
fn memory(word: Word, mode: Mode) -> Option<Instruction> {
    use Width::{Byte, Half, SignedByte, SignedHalf, Word as Full};
    let (rt, base, offset) = (word.rt(), word.rs(), word.immediate());
    let load = |width| Some(Instruction::Load { width, rt, base, offset });
    let store = |width| Some(Instruction::Store { width, rt, base, offset });
    let opaque = |mnemonic, writes| {
        Some(Instruction::Opaque(Opaque { memory: true, ..Opaque::writer(mnemonic, writes) }))
    };
    match word.bits(26, 6) {
        0o40 => load(SignedByte),
        0o41 => load(SignedHalf),
        0o42 => Some(Instruction::LoadPart { left: true, rt, base, offset }),
        0o43 => load(Full),
        0o44 => load(Byte),
        0o45 => load(Half),
        0o46 => Some(Instruction::LoadPart { left: false, rt, base, offset }),
        0o50 => store(Byte),
        0o51 => store(Half),
        0o52 => Some(Instruction::StorePart { left: true, rt, base, offset }),
        0o53 => store(Full),
        0o56 => Some(Instruction::StorePart { left: false, rt, base, offset }),
        // QEMU has no caches. Where a cache operation works on an ITC's tags it moves them to and from TagLo only.
        0o57 | 0o63 => Some(Instruction::Nop),
        0o60 => opaque("ll", bit(rt)),
        0o70 => opaque("sc", bit(rt)),
        // A floating-point register of 64 bits is more than the register file holds.
        0o61 if mode.fpu_64() => opaque("lwc1", bit(fpr(rt))),
        0o65 if mode.fpu_64() => opaque("ldc1", bit(fpr(rt))),
        0o71 if mode.fpu_64() => opaque("swc1", 0),
        0o75 if mode.fpu_64() => opaque("sdc1", 0),
        0o61 => Some(Instruction::Load { width: Full, rt: fpr(rt), base, offset }),
        0o65 => Some(Instruction::LoadPair { rt: fpr(rt & !1), base, offset }),
        0o71 => Some(Instruction::Store { width: Full, rt: fpr(rt), base, offset }),
        0o75 => Some(Instruction::StorePair { rt: fpr(rt & !1), base, offset }),
        _ => None,
    }
}
