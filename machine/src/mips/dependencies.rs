//! What the results of MIPS instructions depend on: see [`Dependencies`].

use super::instruction::{
    Accumulate, FCSR, HI, Instruction, LO, Opaque, PROGRAM_COUNTER, Register, RegisterOperation, bit,
};
use crate::RegisterSet;
use crate::dependencies::Dependencies;

/// Those of an instruction, which may be in a delay slot. One in the slot of a branch-likely may be nullified; nothing of
/// its block comes behind it.
pub(super) fn of(instruction: &Instruction) -> Dependencies {
    let (reads, computed, loaded) = sets(instruction);
    let set = |bits: u128| RegisterSet::from_bits(bits & !PROGRAM_COUNTER);
    let conditional = matches!(
        instruction,
        Instruction::Register { operation: RegisterOperation::Movz | RegisterOperation::Movn, .. }
            | Instruction::MoveOnFlag { .. }
            | Instruction::Opaque(_)
    );
    Dependencies {
        reads: set(reads),
        computed: set(computed),
        loaded: set(loaded),
        uncertain: if conditional { set(computed | loaded) } else { RegisterSet::EMPTY },
    }
}

/// Those of an opaque instruction.
pub(super) fn of_opaque(opaque: &Opaque) -> Dependencies {
    of(&Instruction::Opaque(*opaque))
}

fn pair(register: Register) -> u128 {
    bit(register) | bit(register + 1)
}

/// What `computed` depends on, what is computed, what is loaded.
fn sets(instruction: &Instruction) -> (u128, u128, u128) {
    let computed = instruction.writes();
    match *instruction {
        Instruction::Register { operation, rd, rs, rt } => {
            let old = matches!(operation, RegisterOperation::Movz | RegisterOperation::Movn);
            (bit(rs) | bit(rt) | if old { bit(rd) } else { 0 }, computed, 0)
        }
        Instruction::Immediate { rs, .. }
        | Instruction::Unary { rs, .. }
        | Instruction::ExtractField { rs, .. }
        | Instruction::Move { rs, .. } => (bit(rs), computed, 0),
        Instruction::LoadUpper { .. } => (0, computed, 0),
        Instruction::Shift { rt, .. } => (bit(rt), computed, 0),
        Instruction::ShiftVariable { rt, rs, .. } => (bit(rt) | bit(rs), computed, 0),
        Instruction::InsertField { rt, rs, .. } => (bit(rt) | bit(rs), computed, 0),
        Instruction::Multiply { accumulate, rs, rt, .. } => {
            let old = if accumulate == Accumulate::No { 0 } else { bit(HI) | bit(LO) };
            (bit(rs) | bit(rt) | old, computed, 0)
        }
        Instruction::Divide { rs, rt, .. } => (bit(rs) | bit(rt), computed, 0),
        Instruction::MovePair { rs, .. } => (pair(rs), computed, 0),
        Instruction::MoveOnFlag { rd, rs, .. } => (bit(rs) | bit(rd) | bit(FCSR), computed, 0),
        Instruction::Load { .. } | Instruction::LoadPair { .. } | Instruction::LoadPart { .. } => {
            (0, 0, computed)
        }
        // Of a branch only the link is a result, and that is a constant.
        Instruction::Branch { .. }
        | Instruction::BranchNever { .. }
        | Instruction::Jump { .. }
        | Instruction::JumpRegister { .. } => (0, computed, 0),
        Instruction::Nop
        | Instruction::Trap
        | Instruction::Store { .. }
        | Instruction::StorePair { .. }
        | Instruction::StorePart { .. }
        | Instruction::OpaqueBranch(_) => (0, 0, 0),
        Instruction::Opaque(opaque) => (0, 0, opaque.writes),
    }
}
