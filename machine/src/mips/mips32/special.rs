//! The opcodes SPECIAL, SPECIAL2 and SPECIAL3.

use super::{
    Instruction, Mode, Opaque, RegisterOperation, ShiftKind, Word, bit, coprocessor::flag_bit, require,
};
use crate::mips::instruction::{Accumulate, HI, LO, Unary};

/// The opcode SPECIAL.
pub(super) fn decode(word: Word, mode: Mode) -> Option<Instruction> {
    let (rs, rt, rd, sa) = (word.rs(), word.rt(), word.rd(), word.sa());
    match word.function() {
        0o00 | 0o02 | 0o03 => {
            let kind = match (word.function(), rs) {
                (0o00, 0) => ShiftKind::Left,
                (0o02, 0) => ShiftKind::Right,
                (0o02, 1) if mode.release_2() => ShiftKind::Rotate,
                (0o03, 0) => ShiftKind::RightArithmetic,
                _ => return None,
            };
            // NOP, SSNOP, EHB and PAUSE among them.
            if rd == 0 {
                return Some(Instruction::Nop);
            }
            Some(Instruction::Shift { kind, rd, rt, amount: sa })
        }
        0o04 | 0o06 | 0o07 => {
            let kind = match (word.function(), sa) {
                (0o04, 0) => ShiftKind::Left,
                (0o06, 0) => ShiftKind::Right,
                (0o06, 1) if mode.release_2() => ShiftKind::Rotate,
                (0o07, 0) => ShiftKind::RightArithmetic,
                _ => return None,
            };
            Some(Instruction::ShiftVariable { kind, rd, rt, rs })
        }
        0o01 => {
            require(!word.bit(17) && sa == 0)?;
            let flag = flag_bit(word.bits(18, 3));
            Some(Instruction::MoveOnFlag { rd, rs, bit: flag, set: word.bit(16) })
        }
        // QEMU does not look at the other fields.
        0o10 => Some(Instruction::JumpRegister { rs, rd: 0 }),
        // The hint 16 makes it JALR.HB; QEMU reserves the others.
        0o11 => (sa & !16 == 0).then_some(Instruction::JumpRegister { rs, rd }),
        0o14 => Some(Instruction::Opaque(Opaque::writer("syscall", 0))),
        0o15 => Some(Instruction::Opaque(Opaque::writer("break", 0))),
        0o17 => {
            require(word.bits(11, 15) == 0)?;
            Some(Instruction::Nop)
        }
        0o20 | 0o22 => {
            require(word.bits(16, 10) == 0 && sa == 0)?;
            Some(Instruction::Move { rd, rs: if word.function() == 0o20 { HI } else { LO } })
        }
        0o21 | 0o23 => {
            require(word.bits(6, 15) == 0)?;
            Some(Instruction::Move { rd: if word.function() == 0o21 { HI } else { LO }, rs })
        }
        0o30 | 0o31 => {
            require(word.bits(6, 10) == 0)?;
            let signed = word.function() == 0o30;
            Some(Instruction::Multiply { signed, accumulate: Accumulate::No, rs, rt })
        }
        0o32 | 0o33 => {
            require(word.bits(6, 10) == 0)?;
            Some(Instruction::Divide { signed: word.function() == 0o32, rs, rt })
        }
        0o60..=0o64 | 0o66 => Some(Instruction::Trap),
        function => {
            let operation = match function {
                0o12 => RegisterOperation::Movz,
                0o13 => RegisterOperation::Movn,
                0o40 => RegisterOperation::Add,
                0o41 => RegisterOperation::Addu,
                0o42 => RegisterOperation::Sub,
                0o43 => RegisterOperation::Subu,
                0o44 => RegisterOperation::And,
                0o45 => RegisterOperation::Or,
                0o46 => RegisterOperation::Xor,
                0o47 => RegisterOperation::Nor,
                0o52 => RegisterOperation::Slt,
                0o53 => RegisterOperation::Sltu,
                _ => return None,
            };
            require(sa == 0)?;
            Some(Instruction::Register { operation, rd, rs, rt })
        }
    }
}

/// The opcode SPECIAL2.
pub(super) fn decode_2(word: Word) -> Option<Instruction> {
    let (rs, rt, rd) = (word.rs(), word.rt(), word.rd());
    match word.function() {
        0o00 | 0o01 | 0o04 | 0o05 => {
            require(word.bits(6, 10) == 0)?;
            let signed = !word.bit(0);
            let accumulate = if word.bit(2) { Accumulate::Subtract } else { Accumulate::Add };
            Some(Instruction::Multiply { signed, accumulate, rs, rt })
        }
        0o02 => {
            require(word.sa() == 0)?;
            Some(Instruction::Register { operation: RegisterOperation::Mul, rd, rs, rt })
        }
        0o40 | 0o41 => {
            require(word.sa() == 0 && rt == rd)?;
            let operation = if word.bit(0) { Unary::CountLeadingOnes } else { Unary::CountLeadingZeros };
            Some(Instruction::Unary { operation, rd, rs })
        }
        // A debug exception, or a semihosting call that QEMU answers itself.
        0o77 => Some(Instruction::Opaque(Opaque { mnemonic: "sdbbp", ..Opaque::UNKNOWN })),
        _ => None,
    }
}

/// The opcode SPECIAL3 (release 2).
pub(super) fn decode_3(word: Word) -> Option<Instruction> {
    let (rs, rt, rd, sa) = (word.rs(), word.rt(), word.rd(), word.sa());
    match word.function() {
        0o00 => {
            require(sa + rd < 32)?;
            Some(Instruction::ExtractField { rt, rs, lsb: sa, width: rd + 1 })
        }
        0o04 => {
            require(sa <= rd)?;
            Some(Instruction::InsertField { rt, rs, lsb: sa, width: rd - sa + 1 })
        }
        0o40 => {
            let operation = match sa {
                0o02 => Unary::SwapBytesInHalves,
                0o20 => Unary::SignExtendByte,
                0o30 => Unary::SignExtendHalf,
                _ => return None,
            };
            require(rs == 0)?;
            Some(Instruction::Unary { operation, rd, rs: rt })
        }
        0o73 => Some(Instruction::Opaque(Opaque::writer("rdhwr", bit(rt)))),
        // DSP and EVA instructions among them.
        _ => None,
    }
}
