//! What an instruction touches besides its result: where control goes after it, and whether it can end a block's execution.

use super::instruction::{Condition, HI, Instruction, LO, Opaque, RegisterOperation, bit};
use super::instruction::{ImmediateOperation, PROGRAM_COUNTER};
use super::mode::Slot;

pub use crate::flow::Flow;

impl Instruction {
    /// Whose slot the next instruction is in.
    pub(super) fn slot(&self) -> Slot {
        match self {
            Instruction::Branch { likely: true, .. } => Slot::Likely,
            Instruction::Branch { .. } | Instruction::Jump { .. } | Instruction::JumpRegister { .. } => {
                Slot::Branch
            }
            Instruction::OpaqueBranch(_) => Slot::Opaque,
            _ => Slot::None,
        }
    }

    /// The same instruction in a delay slot. What the manual calls UNPREDICTABLE there becomes opaque.
    pub(super) fn in_slot(self, slot: Slot) -> Instruction {
        let unpredictable = match self {
            _ if slot == Slot::Opaque => true,
            // QEMU raises an exception for every branch, also for one that is never taken.
            Instruction::BranchNever { .. } => true,
            // QEMU goes on behind it with the branch still pending.
            Instruction::Opaque(opaque) => opaque.mnemonic == "wait",
            _ => self.slot() != Slot::None,
        };
        if !unpredictable {
            return self;
        }
        let mnemonic = match self {
            Instruction::Opaque(opaque) => opaque.mnemonic,
            _ => "slot",
        };
        Instruction::Opaque(Opaque { mnemonic, ..Opaque::UNKNOWN })
    }

    /// Where control goes behind its slot, whose instruction is given; the branch is at `address`.
    pub(super) fn flow(&self, address: u32, slot: &Instruction) -> Flow {
        if let Instruction::Opaque(opaque) = slot
            && opaque.writes & PROGRAM_COUNTER != 0
        {
            return Flow::Opaque;
        }
        match *self {
            Instruction::Branch { condition, offset, .. } => Flow::Branch {
                target: branch_target(address, offset),
                conditional: condition != Condition::Always,
            },
            Instruction::Jump { index, exchange, .. } => {
                Flow::Branch { target: jump_target(address, index, exchange), conditional: false }
            }
            Instruction::JumpRegister { rs, .. } => {
                if (self.writes() | slot.writes()) & bit(rs) != 0 {
                    Flow::Computed
                } else {
                    Flow::Register(rs)
                }
            }
            _ => Flow::Sequential,
        }
    }

    /// The registers that it may write, as in [`Opaque::writes`].
    pub(super) fn writes(&self) -> u128 {
        match *self {
            Instruction::Register { rd, .. }
            | Instruction::Shift { rd, .. }
            | Instruction::ShiftVariable { rd, .. }
            | Instruction::Unary { rd, .. }
            | Instruction::Move { rd, .. }
            | Instruction::MoveOnFlag { rd, .. }
            | Instruction::JumpRegister { rd, .. } => bit(rd),
            Instruction::Immediate { rt, .. }
            | Instruction::LoadUpper { rt, .. }
            | Instruction::ExtractField { rt, .. }
            | Instruction::InsertField { rt, .. }
            | Instruction::Load { rt, .. }
            | Instruction::LoadPart { rt, .. } => bit(rt),
            Instruction::Multiply { .. } | Instruction::Divide { .. } => bit(HI) | bit(LO),
            Instruction::MovePair { rd: register, .. } | Instruction::LoadPair { rt: register, .. } => {
                bit(register) | bit(register + 1)
            }
            Instruction::Branch { link, .. }
            | Instruction::BranchNever { link, .. }
            | Instruction::Jump { link, .. } => {
                if link {
                    bit(31)
                } else {
                    0
                }
            }
            Instruction::Opaque(opaque) => opaque.writes,
            Instruction::Nop
            | Instruction::Trap
            | Instruction::Store { .. }
            | Instruction::StorePair { .. }
            | Instruction::StorePart { .. }
            | Instruction::OpaqueBranch(_) => 0,
        }
    }

    /// Execution can end in it wherever it is in a block: it accesses memory, is opaque, or has an exception that depends
    /// on its operands. (QEMU ends a block with an instruction whose exception depends on nothing.)
    pub(super) fn may_stop(&self) -> bool {
        match *self {
            Instruction::Load { .. }
            | Instruction::Store { .. }
            | Instruction::LoadPair { .. }
            | Instruction::StorePair { .. }
            | Instruction::LoadPart { .. }
            | Instruction::StorePart { .. }
            | Instruction::Trap
            | Instruction::OpaqueBranch(_)
            | Instruction::Opaque(_) => true,
            Instruction::Register { operation, .. } => {
                matches!(operation, RegisterOperation::Add | RegisterOperation::Sub)
            }
            Instruction::Immediate { operation, .. } => operation == ImmediateOperation::Addi,
            _ => false,
        }
    }
}

/// The target of a branch at `address`.
pub(super) fn branch_target(address: u32, offset: i32) -> u32 {
    address.wrapping_add(4).wrapping_add_signed(offset)
}

/// The target of a jump at `address`, with bit 0 for compressed code.
pub(super) fn jump_target(address: u32, index: u32, exchange: bool) -> u32 {
    address.wrapping_add(4) & 0xf000_0000 | index | u32::from(exchange)
}
