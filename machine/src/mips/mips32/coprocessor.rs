//! Coprocessor 1, the floating-point unit (MD00086, appendix A).
//!
//! Moves are modelled where registers have 32 bits (Status.FR clear). Arithmetic is opaque; a pair of registers stands for
//! each of its destinations, which is right for every format.

use super::{Instruction, Mode, Opaque, Word, bit, require};
use crate::mips::instruction::{Condition, FCSR, FIR, Register, STATUS, fpr};

/// The bit of FCSR that has condition code `cc`, 0 to 7 (QEMU's `get_fp_bit`).
pub(super) fn flag_bit(cc: u32) -> u8 {
    if cc == 0 { 23 } else { 24 + (cc & 7) as u8 }
}

/// An even-odd pair of registers, one of which is given.
fn pair(register: u8) -> u128 {
    bit(fpr(register & !1)) | bit(fpr(register | 1))
}

/// The opcode COP1.
pub(super) fn decode(word: Word, mode: Mode) -> Option<Instruction> {
    let (rt, fs, fd) = (word.rt(), word.rd(), word.sa());
    match word.rs() {
        0o00 | 0o02..=0o04 | 0o06 | 0o07 => {
            require(word.bits(0, 11) == 0)?;
            Some(moves(word.rs(), rt, fs, mode))
        }
        0o10 => {
            let condition = Condition::Flag { bit: flag_bit(word.bits(18, 3)), set: word.bit(16) };
            let offset = i32::from(word.immediate()) << 2;
            Some(Instruction::Branch { condition, offset, link: false, likely: word.bit(17) })
        }
        // MIPS-3D.
        0o11 => Some(Instruction::OpaqueBranch("bc1any2")),
        0o12 => Some(Instruction::OpaqueBranch("bc1any4")),
        // MSA.
        0o13 => Some(Instruction::OpaqueBranch("bz.v")),
        0o17 => Some(Instruction::OpaqueBranch("bnz.v")),
        0o30..=0o33 => Some(Instruction::OpaqueBranch("bz.df")),
        0o34..=0o37 => Some(Instruction::OpaqueBranch("bnz.df")),
        format @ (0o20 | 0o21 | 0o24..=0o26) => {
            if word.function() == 0o06 && !mode.fpu_64() && rt == 0 {
                match format {
                    0o20 => return Some(Instruction::Move { rd: fpr(fd), rs: fpr(fs) }),
                    0o21 if (fs | fd) & 1 == 0 => {
                        return Some(Instruction::MovePair { rd: fpr(fd), rs: fpr(fs) });
                    }
                    _ => {}
                }
            }
            Some(Instruction::Opaque(arithmetic(word)))
        }
        _ => None,
    }
}

/// Moves between the register files.
fn moves(operation: u8, rt: Register, fs: u8, mode: Mode) -> Instruction {
    let upper = fpr(fs | 1);
    match (operation, fs) {
        (0o02, 0) => Instruction::Move { rd: rt, rs: FIR },
        (0o02, 31) => Instruction::Move { rd: rt, rs: FCSR },
        (0o02, _) => Instruction::Opaque(Opaque::writer("cfc1", bit(rt))),
        // Some of its registers change Status.FR.
        (0o06, _) => Instruction::Opaque(Opaque::writer("ctc1", bit(FCSR) | STATUS)),
        (0o00, _) if mode.fpu_64() => Instruction::Opaque(Opaque::writer("mfc1", bit(rt))),
        (0o03, _) if mode.fpu_64() => Instruction::Opaque(Opaque::writer("mfhc1", bit(rt))),
        (0o04, _) if mode.fpu_64() => Instruction::Opaque(Opaque::writer("mtc1", pair(fs))),
        (_, _) if mode.fpu_64() => Instruction::Opaque(Opaque::writer("mthc1", pair(fs))),
        (0o00, _) => Instruction::Move { rd: rt, rs: fpr(fs) },
        (0o03, _) => Instruction::Move { rd: rt, rs: upper },
        (0o04, _) => Instruction::Move { rd: fpr(fs), rs: rt },
        (_, _) => Instruction::Move { rd: upper, rs: rt },
    }
}

/// Names of the functions from 0 on, without their format.
const ARITHMETIC: [&str; 64] = {
    let mut names = ["fpu"; 64];
    let known = [
        "add", "sub", "mul", "div", "sqrt", "abs", "mov", "neg", "round.l", "trunc.l", "ceil.l", "floor.l",
        "round.w", "trunc.w", "ceil.w", "floor.w", "fpu", "movcf", "movz", "movn", "fpu", "recip", "rsqrt",
    ];
    let mut index = 0;
    while index < known.len() {
        names[index] = known[index];
        index += 1;
    }
    names[0o40] = "cvt.s";
    names[0o41] = "cvt.d";
    names[0o44] = "cvt.w";
    names[0o45] = "cvt.l";
    let mut compare = 0o60;
    while compare < 64 {
        names[compare] = "c.cond";
        compare += 1;
    }
    names
};

/// Arithmetic, conversion and comparison.
fn arithmetic(word: Word) -> Opaque {
    let function = word.function();
    let result = if function >= 0o60 { 0 } else { pair(word.sa()) };
    Opaque::writer(ARITHMETIC[function as usize], result | bit(FCSR))
}

/// The opcode COP1X (release 2).
pub(super) fn decode_extended(word: Word) -> Option<Opaque> {
    // Both loads and multiply-adds have their destination here.
    let destination = pair(word.sa());
    let access = |mnemonic, writes| Some(Opaque { memory: true, ..Opaque::writer(mnemonic, writes) });
    match word.function() {
        0o00 => access("lwxc1", destination),
        0o01 => access("ldxc1", destination),
        0o05 => access("luxc1", destination),
        0o10 => access("swxc1", 0),
        0o11 => access("sdxc1", 0),
        0o15 => access("suxc1", 0),
        0o17 => Some(Opaque::writer("prefx", 0)),
        0o36 => Some(Opaque::writer("alnv.ps", destination)),
        0o40..=0o77 => Some(Opaque::writer("madd.fmt", destination | bit(FCSR))),
        _ => None,
    }
}
