//! Status register access, hints, branches to registers, saturating addition and exception generation (A5.2.11,
//! A5.2.12).

use super::{UNKNOWN, Word, require};
use crate::arm::instruction::{Instruction, Opaque, SaturatingOperation, Unary};

/// An instruction that writes registers and does nothing else that matters.
pub(super) fn writer(mnemonic: &'static str, writes: u32) -> Opaque {
    Opaque { mnemonic, writes, changes_mode: false, memory: false, changes_mapping: false }
}

/// A write to CPSR of one that may change the mode field.
pub(super) fn mode_changer(mnemonic: &'static str, writes: u32, memory: bool) -> Opaque {
    Opaque { mnemonic, writes: writes | Opaque::CPSR, changes_mode: true, memory, changes_mapping: true }
}

/// MSR (immediate) and the hints: bits 27:20 are 0011_0x10.
pub(super) fn decode_immediate(word: Word) -> Option<Instruction> {
    require(word.bits(12, 4) == 15)?;
    let (spsr, mask) = (word.bit(22), word.bits(16, 4));
    if spsr || mask != 0 {
        return Some(Instruction::Opaque(move_to_status(spsr, mask)));
    }
    // NOP, YIELD, WFE, WFI, SEV, DBG and what is not allocated, which executes as NOP. QEMU waits in WFI and WFE, but
    // they change no register; only their exceptions would show.
    require(word.bits(8, 4) == 0)?;
    Some(Instruction::Nop)
}

fn move_to_status(spsr: bool, mask: u32) -> Opaque {
    if spsr {
        writer("msr", 0)
    } else if mask & 1 != 0 {
        mode_changer("msr", 0, false)
    } else {
        writer("msr", Opaque::CPSR)
    }
}

/// Bits 27:23 are 00010, bits 20 and 7 are clear.
pub(super) fn decode_miscellaneous(word: Word) -> Option<Instruction> {
    let operation = word.bits(21, 2);
    match (word.bits(4, 3), operation) {
        (0b000, _) => status(word).map(Instruction::Opaque),
        (0b001 | 0b010, 0b01) => {
            // BXJ is BX in QEMU, which has no Jazelle.
            require(word.bits(8, 12) == 0xfff)?;
            let bxj = word.bit(5);
            let rm = word.register(0);
            require(!bxj || rm != 15)?;
            Some(Instruction::BranchRegister { rm, link: false })
        }
        (0b001, 0b11) => {
            require(word.bits(16, 4) == 15 && word.bits(8, 4) == 15)?;
            Some(Instruction::Unary {
                operation: Unary::CountLeadingZeros,
                rd: word.general(12)?,
                rm: word.general(0)?,
            })
        }
        (0b011, 0b01) => {
            require(word.bits(8, 12) == 0xfff)?;
            Some(Instruction::BranchRegister { rm: word.general(0)?, link: true })
        }
        (0b100, _) => crc(word),
        (0b101, _) => {
            require(word.bits(8, 4) == 0)?;
            let operation = match operation {
                0b00 => SaturatingOperation::Add,
                0b01 => SaturatingOperation::Sub,
                0b10 => SaturatingOperation::DoubleAdd,
                _ => SaturatingOperation::DoubleSub,
            };
            let (rn, rd, rm) = (word.general(16)?, word.general(12)?, word.general(0)?);
            Some(Instruction::SaturatingArithmetic { operation, rd, rm, rn })
        }
        (0b110, 0b11) => {
            require(word.matches(0x000f_ff0f, 0x0000_000e))?;
            Some(Instruction::Opaque(mode_changer("eret", 1 << 15, false)))
        }
        (0b111, _) => Some(exception(word)),
        _ => None,
    }
}

/// MRS and MSR (register), also with banked registers (ARMv7 with the virtualization extensions).
fn status(word: Word) -> Option<Opaque> {
    let (to_status, spsr) = (word.bit(21), word.bit(22));
    if word.bit(9) {
        require(word.matches(0x0000_0cf0, 0))?;
        return if to_status {
            require(word.bits(12, 4) == 15)?;
            // The banked registers that it may write are those of other modes.
            word.general(0).map(|_| writer("msr", 0))
        } else {
            require(word.bits(0, 4) == 0)?;
            word.general(12).map(|rd| writer("mrs", 1 << rd))
        };
    }
    require(word.bits(8, 4) == 0)?;
    if to_status {
        require(word.bits(12, 4) == 15)?;
        word.general(0)?;
        Some(move_to_status(spsr, word.bits(16, 4)))
    } else {
        require(word.bits(16, 4) == 15 && word.bits(0, 4) == 0)?;
        word.general(12).map(|rd| writer("mrs", 1 << rd))
    }
}

/// CRC32 and CRC32C (ARMv8).
fn crc(word: Word) -> Option<Instruction> {
    require(word.bits(21, 2) != 3 && word.matches(0x0000_0d00, 0))?;
    let (_, rd, _) = (word.general(16)?, word.general(12)?, word.general(0)?);
    Some(Instruction::Opaque(writer(if word.bit(9) { "crc32c" } else { "crc32" }, 1 << rd)))
}

/// HLT, BKPT, HVC and SMC.
fn exception(word: Word) -> Instruction {
    let comment = word.bits(8, 12) << 4 | word.bits(0, 4);
    match word.bits(21, 2) {
        0b00 if comment == 0xf000 => semihosting("hlt"),
        0b00 => Instruction::Opaque(writer("hlt", 0)),
        0b01 => Instruction::Opaque(writer("bkpt", 0)),
        0b10 => Instruction::Opaque(firmware_call("hvc")),
        _ if word.bits(8, 12) == 0 => Instruction::Opaque(firmware_call("smc")),
        _ => UNKNOWN,
    }
}

/// QEMU answers PSCI calls itself, without an exception: the result is in r0. Other firmware interfaces of the same
/// calling convention return up to r3.
fn firmware_call(mnemonic: &'static str) -> Opaque {
    writer(mnemonic, 0xf)
}

/// QEMU executes semihosting calls itself: the result is in r0, and they may write memory.
fn semihosting(mnemonic: &'static str) -> Instruction {
    Instruction::Opaque(Opaque { memory: true, ..writer(mnemonic, 1) })
}

/// SVC. Its results come with an exception, unless it is a semihosting call.
pub(super) fn supervisor_call(word: Word) -> Instruction {
    if word.bits(0, 24) == 0x12_3456 { semihosting("svc") } else { Instruction::Opaque(writer("svc", 0)) }
}
