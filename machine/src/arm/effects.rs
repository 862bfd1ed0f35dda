//! What an instruction touches besides registers: where control goes after it, and whether it accesses memory.

use super::instruction::{
    Address, Condition, DataOperation, Index, Instruction, Opaque, Operand, Register, Shift, ShiftKind, Width,
};
use super::lower::Site;
use crate::flow::Flow;

impl Instruction {
    /// It may write the program counter other than by moving on, as a modelled instruction.
    pub(super) fn branches(&self) -> bool {
        use DataOperation::{Cmn, Cmp, Teq, Tst};
        match *self {
            Instruction::Data { operation, rd, .. } => {
                rd == 15 && !matches!(operation, Tst | Teq | Cmp | Cmn)
            }
            Instruction::AddressOf { rd, .. } => rd == 15,
            Instruction::Load { rt, .. } => rt == 15,
            Instruction::LoadMultiple { list, .. } => list & 1 << 15 != 0,
            Instruction::Branch { .. }
            | Instruction::BranchExchange { .. }
            | Instruction::BranchRegister { .. }
            | Instruction::CompareBranch { .. }
            | Instruction::TableBranch { .. } => true,
            _ => false,
        }
    }

    /// Where control goes after it.
    pub(super) fn flow(&self, condition: Condition, site: Site) -> Flow {
        let conditional = condition != Condition::ALWAYS;
        match *self {
            Instruction::Opaque(opaque) if opaque.writes & 1 << 15 != 0 => Flow::Opaque,
            _ if !self.branches() => Flow::Sequential,
            Instruction::Branch { offset, .. } => {
                Flow::Branch { target: site.pc.wrapping_add_signed(offset), conditional }
            }
            Instruction::BranchExchange { offset } => {
                Flow::Branch { target: site.aligned_pc().wrapping_add_signed(offset), conditional }
            }
            Instruction::CompareBranch { offset, .. } => {
                Flow::Branch { target: site.pc.wrapping_add_signed(offset), conditional: true }
            }
            Instruction::BranchRegister { rm, link } => register_flow(rm, link, conditional, site),
            Instruction::Data {
                operation: DataOperation::Mov,
                operand: Operand::Register { rm, shift: Shift { kind: ShiftKind::Lsl, amount: 0 } },
                ..
            } => register_flow(rm, false, conditional, site),
            Instruction::Load { .. } | Instruction::LoadMultiple { .. } => Flow::Loaded,
            _ => Flow::Computed,
        }
    }

    /// The same instruction as an opaque one, if it accesses memory: what a block uses where data is big-endian.
    pub(super) fn memory_as_opaque(&self) -> Option<Opaque> {
        let (mnemonic, writes) = match *self {
            Instruction::Load { width, rt, address } => (load_mnemonic(width), bit(rt) | write_back(address)),
            Instruction::Store { width, address, .. } => (store_mnemonic(width), write_back(address)),
            Instruction::LoadDual { rt, rt2, address } => ("ldrd", bit(rt) | bit(rt2) | write_back(address)),
            Instruction::StoreDual { address, .. } => ("strd", write_back(address)),
            Instruction::LoadMultiple { base, list, writeback, .. } => {
                ("ldm", u32::from(list) | if writeback { bit(base) } else { 0 })
            }
            Instruction::StoreMultiple { base, writeback, .. } => {
                ("stm", if writeback { bit(base) } else { 0 })
            }
            Instruction::TableBranch { .. } => ("tbb", bit(15)),
            _ => return None,
        };
        // Loading the program counter can change CPSR.T.
        let writes = if writes & bit(15) != 0 { writes | Opaque::CPSR } else { writes };
        Some(Opaque { mnemonic, writes, changes_mode: false, memory: true, changes_mapping: false })
    }
}

fn register_flow(rm: Register, link: bool, conditional: bool, site: Site) -> Flow {
    match rm {
        15 => Flow::Branch { target: site.pc & !1, conditional },
        14 if link => Flow::Computed,
        _ => Flow::Register(rm),
    }
}

fn bit(register: Register) -> u32 {
    1 << register
}

fn write_back(address: Address) -> u32 {
    if address.index == Index::Offset { 0 } else { bit(address.base) }
}

fn load_mnemonic(width: Width) -> &'static str {
    match width {
        Width::Byte => "ldrb",
        Width::SignedByte => "ldrsb",
        Width::Half => "ldrh",
        Width::SignedHalf => "ldrsh",
        Width::Word => "ldr",
    }
}

fn store_mnemonic(width: Width) -> &'static str {
    match width {
        Width::Byte | Width::SignedByte => "strb",
        Width::Half | Width::SignedHalf => "strh",
        Width::Word => "str",
    }
}
