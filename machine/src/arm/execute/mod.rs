//! Execution of instructions in their neutral form: everything that has no compact operation.
//!
//! The results are those of DDI 0406C's pseudocode. Where an instruction both loads and writes back, or reads and
//! writes the same register, the order is that of QEMU's `translate.c`.

mod media;
mod memory;
mod multiply;

use super::arithmetic::{add_with_carry, shift_by_amount, shift_with_carry};
use super::cpu::Cpu;
use super::instruction::{DataOperation, Instruction, Operand, Register};
use crate::bus::{Bus, Halt};

/// Where control goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub address: u32,
    pub thumb: bool,
}

impl Target {
    /// Bit 0 chooses the instruction set (BXWritePC). Like QEMU, it leaves bit 1 as it is for A32 too.
    #[inline(always)]
    pub(super) fn interworking(value: u32) -> Target {
        Target { address: value & !1, thumb: value & 1 != 0 }
    }
}

/// What an instruction knows of its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// What reading r15 gives.
    pc: u32,
    /// The address of the next instruction.
    next: u32,
    thumb: bool,
}

impl Place {
    pub(super) fn new(address: u32, length: u32, thumb: bool) -> Place {
        Place {
            pc: address.wrapping_add(if thumb { 4 } else { 8 }),
            next: address.wrapping_add(length),
            thumb,
        }
    }

    /// The return address as BL and BLX leave it in r14.
    fn link(self) -> u32 {
        self.next | u32::from(self.thumb)
    }

    /// A target in the same instruction set.
    fn branch(self, address: u32) -> Target {
        Target { address, thumb: self.thumb }
    }
}

/// Executes one instruction whose condition holds. Returns its target if it branches.
#[inline(never)]
pub(super) fn execute<B: Bus>(
    cpu: &mut Cpu,
    instruction: &Instruction,
    place: Place,
    bus: &mut B,
) -> Result<Option<Target>, Halt> {
    cpu.r[15] = place.pc;
    match *instruction {
        Instruction::Data { operation, set_flags, rd, rn, operand } => {
            return Ok(data(cpu, operation, set_flags, rd, rn, operand, place));
        }
        Instruction::AddressOf { rd, offset } => {
            let value = (place.pc & !3).wrapping_add_signed(offset);
            if rd == 15 {
                return Ok(Some(Target::interworking(value)));
            }
            cpu.set(rd, value);
        }
        Instruction::MoveTop { rd, value } => cpu.set(rd, cpu.get(rd) & 0xffff | u32::from(value) << 16),

        Instruction::Load { width, rt, address } => {
            let value = memory::load(cpu, width, address, bus)?;
            if rt == 15 {
                return Ok(Some(Target::interworking(value)));
            }
            cpu.set(rt, value);
        }
        Instruction::Store { width, rt, address } => memory::store(cpu, width, rt, address, bus)?,
        Instruction::LoadDual { rt, rt2, address } => memory::load_dual(cpu, rt, rt2, address, bus)?,
        Instruction::StoreDual { rt, rt2, address } => memory::store_dual(cpu, rt, rt2, address, bus)?,
        Instruction::LoadMultiple { base, list, increment, before, writeback } => {
            return memory::load_multiple(cpu, base, list, increment, before, writeback, bus);
        }
        Instruction::StoreMultiple { base, list, increment, before, writeback } => {
            memory::store_multiple(cpu, base, list, increment, before, writeback, bus)?;
        }

        Instruction::Branch { offset, link } => {
            if link {
                cpu.set(14, place.link());
            }
            return Ok(Some(place.branch(place.pc.wrapping_add_signed(offset))));
        }
        Instruction::BranchExchange { offset } => {
            cpu.set(14, place.link());
            let address = (place.pc & !3).wrapping_add_signed(offset);
            return Ok(Some(Target { address, thumb: !place.thumb }));
        }
        Instruction::BranchRegister { rm, link } => {
            let target = Target::interworking(cpu.get(rm));
            if link {
                cpu.set(14, place.link());
            }
            return Ok(Some(target));
        }
        Instruction::CompareBranch { rn, nonzero, offset } => {
            let taken = (cpu.get(rn) != 0) == nonzero;
            return Ok(taken.then(|| place.branch(place.pc.wrapping_add_signed(offset))));
        }
        Instruction::TableBranch { rn, rm, halfword } => {
            let entry = memory::table_entry(cpu, rn, rm, halfword, bus)?;
            return Ok(Some(place.branch(place.pc.wrapping_add(2 * entry) & !1)));
        }
        // The block advances ITSTATE, and stops before an opaque instruction.
        Instruction::IfThen { .. } | Instruction::Nop | Instruction::Opaque(_) => {}

        Instruction::Multiply { .. }
        | Instruction::MultiplyLong { .. }
        | Instruction::MultiplyAccumulateAccumulate { .. }
        | Instruction::MultiplyHalves { .. }
        | Instruction::MultiplyWordHalf { .. }
        | Instruction::MultiplyHalvesLong { .. }
        | Instruction::MultiplyDual { .. }
        | Instruction::MultiplyDualLong { .. }
        | Instruction::MultiplyMostSignificant { .. }
        | Instruction::Divide { .. } => multiply::execute(cpu, instruction),

        Instruction::SaturatingArithmetic { .. }
        | Instruction::Saturate { .. }
        | Instruction::Saturate16 { .. }
        | Instruction::Parallel { .. }
        | Instruction::Select { .. }
        | Instruction::SumAbsoluteDifferences { .. }
        | Instruction::Pack { .. }
        | Instruction::Extend { .. }
        | Instruction::BitFieldInsert { .. }
        | Instruction::BitFieldExtract { .. }
        | Instruction::Unary { .. } => media::execute(cpu, instruction),
    }
    Ok(None)
}

/// Data processing (DDI 0406C, A8.8). Returns the target if the result goes to the program counter.
fn data(
    cpu: &mut Cpu,
    operation: DataOperation,
    set_flags: bool,
    rd: Register,
    rn: Register,
    operand: Operand,
    place: Place,
) -> Option<Target> {
    use DataOperation::*;
    let (operand, carry) = match operand {
        Operand::Immediate { value, carry } => (value, carry.map_or(cpu.c, u32::from)),
        Operand::Register { rm, shift } => shift_with_carry(cpu.get(rm), shift, cpu.c),
        Operand::RegisterShifted { rm, kind, rs } => {
            shift_by_amount(cpu.get(rm), kind, cpu.get(rs) as u8, cpu.c)
        }
    };
    let first = cpu.get(rn);
    let sum = match operation {
        Sub | Cmp => Some(add_with_carry(first, !operand, 1)),
        Rsb => Some(add_with_carry(operand, !first, 1)),
        Add | Cmn => Some(add_with_carry(first, operand, 0)),
        Adc => Some(add_with_carry(first, operand, cpu.c)),
        Sbc => Some(add_with_carry(first, !operand, cpu.c)),
        Rsc => Some(add_with_carry(operand, !first, cpu.c)),
        _ => None,
    };
    let compares = matches!(operation, Tst | Teq | Cmp | Cmn);
    let result = match (sum, operation) {
        (Some(sum), _) => sum.result,
        (None, And | Tst) => first & operand,
        (None, Eor | Teq) => first ^ operand,
        (None, Orr) => first | operand,
        (None, Bic) => first & !operand,
        (None, Orn) => first | !operand,
        (None, Mvn) => !operand,
        (None, _) => operand,
    };
    if set_flags || compares {
        match sum {
            Some(sum) => cpu.set_sum_flags(sum),
            None => {
                cpu.set_result_flags(result);
                cpu.c = carry;
            }
        }
    }
    if compares {
        return None;
    }
    if rd != 15 {
        cpu.set(rd, result);
        return None;
    }
    // ALUWritePC interworks in A32 only (from ARMv7 on).
    Some(if place.thumb { place.branch(result & !1) } else { Target::interworking(result) })
}
