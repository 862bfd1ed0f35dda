//! What the results of ARM instructions depend on: see [`Dependencies`](crate::Dependencies).

use super::instruction::{
    Address, Condition, DataOperation, Index, Instruction, Offset, Opaque, Operand, Register, Shift,
    ShiftKind,
};
use crate::{Dependencies, RegisterSet};

/// The sets, as bits 0 to 15 for r0 to r15 and bit 16 for CPSR as a whole.
struct Sets {
    reads: u32,
    computed: u32,
    loaded: u32,
}

const CPSR: u32 = Opaque::CPSR;
const PROGRAM_COUNTER: u32 = 1 << 15;
/// r8 to r14, which a change of mode exchanges.
const BANKED: u32 = 0x7f00;

/// Those of an instruction that is executed under a condition.
pub(super) fn of(instruction: &Instruction, condition: Condition) -> Dependencies {
    let mut found = unconditional(instruction);
    // Where it goes may decide about the instruction set: T is in CPSR.
    if found.loaded & PROGRAM_COUNTER != 0 {
        found.loaded |= CPSR;
    }
    if found.computed & PROGRAM_COUNTER != 0 {
        found.computed |= CPSR;
    }
    found.reads &= !PROGRAM_COUNTER;
    found.computed &= !PROGRAM_COUNTER;
    found.loaded &= !PROGRAM_COUNTER;
    if condition != Condition::ALWAYS {
        // What it does not write keeps its value.
        found.reads |= CPSR | found.computed;
    }
    if found.computed & CPSR != 0 {
        // No instruction writes all of it.
        found.reads |= CPSR;
    }
    let set = |bits: u32| RegisterSet::from_bits(bits.into());
    let uncertain = match instruction {
        Instruction::Opaque(_) => found.loaded,
        _ if sets_flags(instruction) => 0,
        // Q, where it saturates; GE, if it is one that sets them; T, which may be as it was.
        _ => CPSR,
    };
    Dependencies {
        reads: set(found.reads),
        computed: set(found.computed),
        loaded: set(found.loaded),
        uncertain: set(uncertain & (found.computed | found.loaded)),
    }
}

/// It always writes the flags.
fn sets_flags(instruction: &Instruction) -> bool {
    match *instruction {
        Instruction::Data { operation, set_flags, .. } => {
            use DataOperation::*;
            set_flags || matches!(operation, Tst | Teq | Cmp | Cmn)
        }
        Instruction::Multiply { set_flags, .. } | Instruction::MultiplyLong { set_flags, .. } => set_flags,
        _ => false,
    }
}

fn bit(register: Register) -> u32 {
    1 << register
}

fn bits(registers: &[Register]) -> u32 {
    registers.iter().fold(0, |set, register| set | bit(*register))
}

fn optional(register: Option<Register>) -> u32 {
    register.map_or(0, bit)
}

fn flags(set_flags: bool) -> u32 {
    if set_flags { CPSR } else { 0 }
}

/// What a shifted register depends on.
fn shifted(rm: Register, shift: Shift) -> u32 {
    bit(rm) | flags(shift.kind == ShiftKind::Rrx)
}

/// What an address depends on, and the base register if it is written back.
fn addressed(address: Address) -> (u32, u32) {
    let offset = match address.offset {
        Offset::Immediate(_) => 0,
        Offset::Register { rm, shift, .. } => shifted(rm, shift),
    };
    let base = bit(address.base);
    (base | offset, if address.index == Index::Offset { 0 } else { base })
}

fn unconditional(instruction: &Instruction) -> Sets {
    let computes = |reads, computed| Sets { reads, computed, loaded: 0 };
    match *instruction {
        Instruction::Data { operation, set_flags, rd, rn, operand } => {
            use DataOperation::*;
            let first = if matches!(operation, Mov | Mvn) { 0 } else { bit(rn) };
            let second = match operand {
                Operand::Immediate { .. } => 0,
                Operand::Register { rm, shift } => shifted(rm, shift),
                Operand::RegisterShifted { rm, rs, .. } => bits(&[rm, rs]),
            };
            let carry = flags(matches!(operation, Adc | Sbc | Rsc));
            let compares = matches!(operation, Tst | Teq | Cmp | Cmn);
            let result = if compares { 0 } else { bit(rd) };
            computes(first | second | carry, result | flags(set_flags || compares))
        }
        Instruction::AddressOf { rd, .. } => computes(0, bit(rd)),
        Instruction::MoveTop { rd, .. } => computes(bit(rd), bit(rd)),

        Instruction::Multiply { rd, rn, rm, accumulate, set_flags, .. } => {
            computes(bits(&[rn, rm]) | optional(accumulate), bit(rd) | flags(set_flags))
        }
        Instruction::MultiplyLong { accumulate, low, high, rn, rm, set_flags, .. } => {
            let results = bits(&[low, high]);
            computes(bits(&[rn, rm]) | if accumulate { results } else { 0 }, results | flags(set_flags))
        }
        Instruction::MultiplyAccumulateAccumulate { low, high, rn, rm } => {
            computes(bits(&[low, high, rn, rm]), bits(&[low, high]))
        }
        // These may set Q, where they accumulate or saturate.
        Instruction::MultiplyHalves { rd, rn, rm, accumulate, .. }
        | Instruction::MultiplyWordHalf { rd, rn, rm, accumulate, .. }
        | Instruction::MultiplyDual { rd, rn, rm, accumulate, .. } => {
            computes(bits(&[rn, rm]) | optional(accumulate), bit(rd) | CPSR)
        }
        Instruction::MultiplyHalvesLong { low, high, rn, rm, .. }
        | Instruction::MultiplyDualLong { low, high, rn, rm, .. } => {
            computes(bits(&[low, high, rn, rm]), bits(&[low, high]))
        }
        Instruction::MultiplyMostSignificant { rd, rn, rm, accumulate, .. } => {
            computes(bits(&[rn, rm]) | optional(accumulate), bit(rd))
        }
        Instruction::Divide { rd, rn, rm, .. } => computes(bits(&[rn, rm]), bit(rd)),

        Instruction::SaturatingArithmetic { rd, rm, rn, .. } => computes(bits(&[rm, rn]), bit(rd) | CPSR),
        Instruction::Saturate { rd, rn, shift, .. } => computes(shifted(rn, shift), bit(rd) | CPSR),
        Instruction::Saturate16 { rd, rn, .. } => computes(bit(rn), bit(rd) | CPSR),
        // Some of them set GE.
        Instruction::Parallel { rd, rn, rm, .. } => computes(bits(&[rn, rm]), bit(rd) | CPSR),
        Instruction::Select { rd, rn, rm } => computes(bits(&[rn, rm]) | CPSR, bit(rd)),
        Instruction::SumAbsoluteDifferences { rd, rn, rm, accumulate } => {
            computes(bits(&[rn, rm]) | optional(accumulate), bit(rd))
        }
        Instruction::Pack { rd, rn, rm, shift, .. } => computes(bit(rn) | shifted(rm, shift), bit(rd)),
        Instruction::Extend { rd, add, rm, .. } => computes(bit(rm) | optional(add), bit(rd)),
        Instruction::BitFieldInsert { rd, rn, .. } => computes(bit(rd) | optional(rn), bit(rd)),
        Instruction::BitFieldExtract { rd, rn, .. } => computes(bit(rn), bit(rd)),
        Instruction::Unary { rd, rm, .. } => computes(bit(rm), bit(rd)),

        Instruction::Load { rt, address, .. } => {
            let (reads, computed) = addressed(address);
            Sets { reads, computed, loaded: bit(rt) }
        }
        Instruction::LoadDual { rt, rt2, address } => {
            let (reads, computed) = addressed(address);
            Sets { reads, computed, loaded: bits(&[rt, rt2]) }
        }
        Instruction::Store { address, .. } | Instruction::StoreDual { address, .. } => {
            let (reads, computed) = addressed(address);
            computes(reads, computed)
        }
        Instruction::LoadMultiple { base, list, writeback, .. } => {
            Sets { reads: bit(base), computed: if writeback { bit(base) } else { 0 }, loaded: list.into() }
        }
        Instruction::StoreMultiple { base, writeback, .. } => {
            computes(bit(base), if writeback { bit(base) } else { 0 })
        }

        Instruction::Branch { link, .. } => computes(0, if link { bit(14) } else { 0 }),
        // To the other instruction set: T is in CPSR.
        Instruction::BranchExchange { .. } => computes(0, bit(14) | CPSR),
        Instruction::BranchRegister { rm, link } => computes(bit(rm), CPSR | if link { bit(14) } else { 0 }),
        Instruction::CompareBranch { rn, .. } => computes(bit(rn), 0),
        Instruction::TableBranch { rn, rm, .. } => computes(bits(&[rn, rm]), 0),
        Instruction::IfThen { .. } | Instruction::Nop => computes(0, 0),
        Instruction::Opaque(opaque) => Sets {
            reads: 0,
            computed: 0,
            loaded: opaque.writes | if opaque.changes_mode { BANKED } else { 0 },
        },
    }
}
