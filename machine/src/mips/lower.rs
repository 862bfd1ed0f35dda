//! From the neutral form of an instruction to the executor's compact one.

use super::effects::{branch_target, jump_target};
use super::instruction::{
    Accumulate, Condition, ImmediateOperation, Instruction, Register, RegisterOperation, ShiftKind, Unary,
    Width,
};
use super::operation::{Operation, SINK};

/// The register to write where the instruction says this one.
fn written(register: Register) -> Register {
    if register == 0 { SINK } else { register }
}

/// The compact operation for an instruction at `address`; `None` if there is none and it executes in its neutral form.
/// Opaque instructions do not come here.
pub(super) fn lower(instruction: &Instruction, address: u32) -> Option<Operation> {
    match *instruction {
        Instruction::Nop | Instruction::Trap | Instruction::BranchNever { link: false, .. } => {
            Some(Operation::Nop)
        }
        Instruction::Register { operation, rd, rs, rt } => Some(register(operation, written(rd), rs, rt)),
        Instruction::Immediate { operation, rt, rs, value } => {
            Some(immediate(operation, written(rt), rs, value))
        }
        Instruction::LoadUpper { rt, value } => Some(Operation::MoveImmediate { rd: written(rt), value }),
        Instruction::Shift { kind, rd, rt, amount } => {
            let rd = written(rd);
            match kind {
                ShiftKind::Left => Some(Operation::ShiftLeft { rd, rt, amount }),
                ShiftKind::Right => Some(Operation::ShiftRight { rd, rt, amount }),
                ShiftKind::RightArithmetic => Some(Operation::ShiftRightArithmetic { rd, rt, amount }),
                ShiftKind::Rotate => None,
            }
        }
        Instruction::ShiftVariable { kind, rd, rt, rs } => {
            let rd = written(rd);
            match kind {
                ShiftKind::Left => Some(Operation::ShiftLeftVariable { rd, rt, rs }),
                ShiftKind::Right => Some(Operation::ShiftRightVariable { rd, rt, rs }),
                ShiftKind::RightArithmetic | ShiftKind::Rotate => None,
            }
        }
        Instruction::Unary { operation: Unary::SignExtendByte, rd, rs } => {
            Some(Operation::SignExtendByte { rd: written(rd), rs })
        }
        Instruction::Unary { operation: Unary::SignExtendHalf, rd, rs } => {
            Some(Operation::SignExtendHalf { rd: written(rd), rs })
        }
        Instruction::ExtractField { rt, rs, lsb, width } => {
            Some(Operation::ExtractField { rd: written(rt), rs, lsb, width })
        }
        Instruction::Multiply { signed: false, accumulate: Accumulate::No, rs, rt } => {
            Some(Operation::MultiplyUnsigned { rs, rt })
        }
        Instruction::Move { rd, rs } => Some(Operation::Move { rd: written(rd), rs }),
        Instruction::Load { width, rt, base, offset } => {
            let rt = written(rt);
            Some(match width {
                Width::Byte => Operation::LoadByte { rt, base, offset },
                Width::SignedByte => Operation::LoadSignedByte { rt, base, offset },
                Width::Half => Operation::LoadHalf { rt, base, offset },
                Width::SignedHalf => Operation::LoadSignedHalf { rt, base, offset },
                Width::Word => Operation::LoadWord { rt, base, offset },
            })
        }
        Instruction::Store { width, rt, base, offset } => Some(match width {
            Width::Byte | Width::SignedByte => Operation::StoreByte { rt, base, offset },
            Width::Half | Width::SignedHalf => Operation::StoreHalf { rt, base, offset },
            Width::Word => Operation::StoreWord { rt, base, offset },
        }),
        Instruction::Branch { condition, offset, link: false, likely: false } => {
            let target = branch_target(address, offset);
            match condition {
                Condition::Always => Some(Operation::Jump { target }),
                Condition::Equal { rs, rt } => Some(Operation::BranchEqual { rs, rt, target }),
                Condition::NotEqual { rs, rt } => Some(Operation::BranchNotEqual { rs, rt, target }),
                Condition::Negative(rs) => Some(Operation::BranchNegative { rs, target }),
                Condition::NotNegative(rs) => Some(Operation::BranchNotNegative { rs, target }),
                Condition::Positive(rs) => Some(Operation::BranchPositive { rs, target }),
                Condition::NotPositive(rs) => Some(Operation::BranchNotPositive { rs, target }),
                Condition::Flag { .. } => None,
            }
        }
        Instruction::Branch { condition: Condition::Always, offset, link: true, likely: false } => {
            Some(Operation::JumpLink { target: branch_target(address, offset) })
        }
        Instruction::Jump { index, link, exchange } => {
            let target = jump_target(address, index, exchange);
            Some(if link { Operation::JumpLink { target } } else { Operation::Jump { target } })
        }
        Instruction::JumpRegister { rs, rd: 0 } => Some(Operation::JumpRegister { rs }),
        Instruction::JumpRegister { rs, rd } => Some(Operation::JumpRegisterLink { rs, rd }),
        _ => None,
    }
}

fn register(operation: RegisterOperation, rd: Register, rs: Register, rt: Register) -> Operation {
    match operation {
        RegisterOperation::Add | RegisterOperation::Addu => Operation::Add { rd, rs, rt },
        RegisterOperation::Sub | RegisterOperation::Subu => Operation::Subtract { rd, rs, rt },
        RegisterOperation::And => Operation::And { rd, rs, rt },
        // Often one of them is r0: a move.
        RegisterOperation::Or if rt == 0 => Operation::Move { rd, rs },
        RegisterOperation::Or => Operation::Or { rd, rs, rt },
        RegisterOperation::Xor => Operation::ExclusiveOr { rd, rs, rt },
        RegisterOperation::Nor => Operation::Nor { rd, rs, rt },
        RegisterOperation::Slt => Operation::SetLess { rd, rs, rt },
        RegisterOperation::Sltu => Operation::SetLessUnsigned { rd, rs, rt },
        RegisterOperation::Mul => Operation::Multiply { rd, rs, rt },
        RegisterOperation::Movz => Operation::MoveIfZero { rd, rs, rt },
        RegisterOperation::Movn => Operation::MoveIfNotZero { rd, rs, rt },
    }
}

fn immediate(operation: ImmediateOperation, rd: Register, rs: Register, value: u32) -> Operation {
    use ImmediateOperation::{Addi, Addiu, Andi, Ori, Slti, Sltiu, Xori};
    match operation {
        Addi | Addiu | Ori | Xori if rs == 0 => Operation::MoveImmediate { rd, value },
        Addi | Addiu => Operation::AddImmediate { rd, rs, value },
        Slti => Operation::SetLessImmediate { rd, rs, value },
        Sltiu => Operation::SetLessUnsignedImmediate { rd, rs, value },
        Andi => Operation::AndImmediate { rd, rs, value },
        Ori => Operation::OrImmediate { rd, rs, value },
        Xori => Operation::ExclusiveOrImmediate { rd, rs, value },
    }
}
