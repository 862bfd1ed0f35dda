//! Which instructions can run in a random sequence, and what they write.

use ktrace_machine::arm::instruction::{
    Address, DataOperation, Index, Instruction, Offset, Opaque, ShiftKind,
};

/// Whether the instruction waits for an interrupt, of which there are none, or may make data big-endian.
pub(super) fn waits_or_swaps_bytes(thumb: bool, bits: u32) -> bool {
    if thumb {
        bits == 0xbf30 || bits == 0xf3af_8003 || bits & 0xffe0_f2ff == 0xf380_8200
    } else {
        bits & 0x0fff_ffff == 0x0320_f003 || bits & 0x0db2_f000 == 0x0122_f000
    }
}

/// Whether a sequence can have the instruction: no branches but those that are made on purpose; of the opaque ones those
/// that neither change the machine nor memory.
pub(super) fn acceptable(instruction: &Instruction) -> bool {
    match *instruction {
        Instruction::Data { rd: 15, operation, .. } => is_comparison(operation),
        Instruction::AddressOf { rd: 15, .. } | Instruction::Load { rt: 15, .. } => false,
        Instruction::LoadMultiple { list, .. } => list >> 15 == 0,
        Instruction::Branch { .. }
        | Instruction::BranchExchange { .. }
        | Instruction::BranchRegister { .. }
        | Instruction::CompareBranch { .. }
        | Instruction::TableBranch { .. }
        | Instruction::IfThen { .. } => false,
        Instruction::Opaque(Opaque { mnemonic, writes, changes_mode, memory, changes_mapping }) => {
            const CHANGES_THE_MACHINE: [&str; 12] = [
                "hvc", "smc", "svc", "bkpt", "udf", "setend", "mcr", "mcrr", "mcr2", "vmsr", "bxj", "unknown",
            ];
            let loads = mnemonic.starts_with("ldrex") || mnemonic.starts_with("vld");
            !changes_mode
                && !changes_mapping
                && (!memory || loads)
                && writes >> 15 & 1 == 0
                && !CHANGES_THE_MACHINE.contains(&mnemonic)
        }
        _ => true,
    }
}

/// QEMU 10.0 saves ITSTATE before it checks the access to a system register. At the end of an IT block nothing clears
/// that again, and the instruction after it is conditional too: so this compares nothing there.
pub(super) fn reads_system_register(instruction: &Instruction) -> bool {
    matches!(instruction, Instruction::Opaque(Opaque { mnemonic: "mrc" | "mrrc", .. }))
}

pub(super) fn is_comparison(operation: DataOperation) -> bool {
    matches!(operation, DataOperation::Tst | DataOperation::Teq | DataOperation::Cmp | DataOperation::Cmn)
}

/// The registers that the instruction may write, bit n for rn.
pub(super) fn written(instruction: &Instruction) -> u32 {
    let address_written =
        |address: Address| if address.index == Index::Offset { 0 } else { 1 << address.base };
    match *instruction {
        Instruction::Data { operation, .. } if is_comparison(operation) => 0,
        Instruction::Data { rd, .. }
        | Instruction::AddressOf { rd, .. }
        | Instruction::MoveTop { rd, .. }
        | Instruction::Multiply { rd, .. }
        | Instruction::MultiplyHalves { rd, .. }
        | Instruction::MultiplyWordHalf { rd, .. }
        | Instruction::MultiplyDual { rd, .. }
        | Instruction::MultiplyMostSignificant { rd, .. }
        | Instruction::Divide { rd, .. }
        | Instruction::SaturatingArithmetic { rd, .. }
        | Instruction::Saturate { rd, .. }
        | Instruction::Saturate16 { rd, .. }
        | Instruction::Parallel { rd, .. }
        | Instruction::Select { rd, .. }
        | Instruction::SumAbsoluteDifferences { rd, .. }
        | Instruction::Pack { rd, .. }
        | Instruction::Extend { rd, .. }
        | Instruction::BitFieldInsert { rd, .. }
        | Instruction::BitFieldExtract { rd, .. }
        | Instruction::Unary { rd, .. } => 1 << rd,
        Instruction::MultiplyLong { low, high, .. }
        | Instruction::MultiplyAccumulateAccumulate { low, high, .. }
        | Instruction::MultiplyHalvesLong { low, high, .. }
        | Instruction::MultiplyDualLong { low, high, .. } => 1 << low | 1 << high,
        Instruction::Load { rt, address, .. } => 1 << rt | address_written(address),
        Instruction::Store { address, .. } | Instruction::StoreDual { address, .. } => {
            address_written(address)
        }
        Instruction::LoadDual { rt, rt2, address } => 1 << rt | 1 << rt2 | address_written(address),
        Instruction::LoadMultiple { base, list, writeback, .. } => {
            u32::from(list) | if writeback { 1 << base } else { 0 }
        }
        Instruction::StoreMultiple { base, writeback, .. } => {
            if writeback {
                1 << base
            } else {
                0
            }
        }
        Instruction::Branch { link, .. } | Instruction::BranchRegister { link, .. } => u32::from(link) << 14,
        Instruction::BranchExchange { .. } => 1 << 14,
        Instruction::Opaque(opaque) => opaque.writes,
        Instruction::CompareBranch { .. }
        | Instruction::TableBranch { .. }
        | Instruction::IfThen { .. }
        | Instruction::Nop => 0,
    }
}

/// The register gets a value that need not be an address in the sandbox any more.
pub(super) fn overwritten(instruction: &Instruction, register: u8) -> bool {
    written(instruction) >> register & 1 != 0 && !write_back(instruction, register).0
}

/// For a register that the instruction writes: is it still near where it was, and aligned if it was?
pub(super) fn write_back(instruction: &Instruction, register: u8) -> (bool, bool) {
    let address = match *instruction {
        Instruction::Load { rt, address, .. } if rt != register => address,
        Instruction::Store { address, .. } | Instruction::StoreDual { address, .. } => address,
        Instruction::LoadDual { rt, rt2, address } if rt != register && rt2 != register => address,
        Instruction::LoadMultiple { list, .. } => return (list >> register & 1 == 0, true),
        Instruction::StoreMultiple { .. } => return (true, true),
        _ => return (false, false),
    };
    match address.offset {
        Offset::Immediate(offset) => (true, offset % 4 == 0),
        Offset::Register { shift, .. } => (shift.kind == ShiftKind::Lsl && shift.amount < 5, false),
    }
}
