//! From the neutral form of an instruction to the executor's compact one.

use super::instruction::{
    Address, DataOperation, Extend, Index, Instruction, Offset, Operand, Register, Shift, ShiftKind, Width,
};
use super::operation::Operation;

/// What lowering needs to know of an instruction's place.
#[derive(Clone, Copy)]
pub(super) struct Site {
    /// What reading r15 gives.
    pub pc: u32,
}

impl Site {
    /// Of the instruction at `address`.
    pub(super) fn new(address: u32, thumb: bool) -> Site {
        Site { pc: address.wrapping_add(if thumb { 4 } else { 8 }) }
    }

    /// `Align(PC, 4)`.
    pub(super) fn aligned_pc(self) -> u32 {
        self.pc & !3
    }
}

/// The compact operation for an instruction; `None` if there is none and it executes in its neutral form.
/// `thumb` is the instruction set; opaque instructions do not come here.
pub(super) fn lower(instruction: &Instruction, site: Site, thumb: bool) -> Option<Operation> {
    match *instruction {
        Instruction::Nop | Instruction::IfThen { .. } => Some(Operation::Nop),
        Instruction::Data { operation, set_flags, rd, rn, operand } => {
            data(operation, set_flags, rd, rn, operand, site, thumb)
        }
        Instruction::AddressOf { rd, offset } if rd != 15 => {
            Some(Operation::MoveImmediate { rd, value: site.aligned_pc().wrapping_add_signed(offset) })
        }
        Instruction::MoveTop { rd, value } if rd != 15 => Some(Operation::MoveTop { rd, value }),
        Instruction::Multiply { rd, rn, rm, accumulate: None, set_flags: false, .. }
            if no_pc([rd, rn, rm]) =>
        {
            Some(Operation::Multiply { rd, rn, rm })
        }
        Instruction::Extend { extend, rd, add: None, rm, rotation: 0 } if no_pc([rd, rm, rm]) => match extend
        {
            Extend::UnsignedByte => Some(Operation::ExtendByte { rd, rm }),
            Extend::UnsignedHalf => Some(Operation::ExtendHalf { rd, rm }),
            _ => None,
        },
        Instruction::BitFieldExtract { signed: false, rd, rn, lsb, width } if no_pc([rd, rn, rn]) => {
            Some(Operation::ExtractField { rd, rn, lsb, width })
        }
        Instruction::Load { width, rt, address } if rt != 15 => load(width, rt, address, site),
        Instruction::Store { width, rt, address } if rt != 15 => store(width, rt, address),
        Instruction::LoadMultiple { base, list, increment, before, writeback } if base != 15 => {
            let (start, step) = multiple_offsets(list, increment, before);
            let step = if writeback { step } else { 0 };
            Some(Operation::LoadMultiple { base, list, start, step })
        }
        Instruction::StoreMultiple { base, list, increment, before, writeback }
            if base != 15 && list & 1 << 15 == 0 =>
        {
            let (start, step) = multiple_offsets(list, increment, before);
            let step = if writeback { step } else { 0 };
            Some(Operation::StoreMultiple { base, list, start, step })
        }
        Instruction::Branch { offset, link } => {
            let target = site.pc.wrapping_add_signed(offset);
            Some(if link { Operation::BranchLink { target } } else { Operation::Branch { target } })
        }
        Instruction::BranchRegister { rm, link: false } if rm != 15 => Some(Operation::BranchRegister { rm }),
        Instruction::CompareBranch { rn, nonzero, offset } if rn != 15 => {
            Some(Operation::CompareBranch { rn, nonzero, target: site.pc.wrapping_add_signed(offset) })
        }
        _ => None,
    }
}

fn no_pc(registers: [Register; 3]) -> bool {
    registers.iter().all(|&register| register != 15)
}

/// Where the lowest word of a multiple transfer is from its base, and how far write-back moves the base.
pub(super) fn multiple_offsets(list: u16, increment: bool, before: bool) -> (i8, i8) {
    let bytes = 4 * list.count_ones() as i8;
    match (increment, before) {
        (true, false) => (0, bytes),
        (true, true) => (4, bytes),
        (false, false) => (4 - bytes, -bytes),
        (false, true) => (-bytes, -bytes),
    }
}

fn data(
    operation: DataOperation,
    set_flags: bool,
    rd: Register,
    rn: Register,
    operand: Operand,
    site: Site,
    thumb: bool,
) -> Option<Operation> {
    use DataOperation::*;
    let moves = matches!(operation, Mov | Mvn);
    let compares = matches!(operation, Tst | Teq | Cmp | Cmn);
    if rd == 15 && !compares {
        return match operand {
            Operand::Register { rm, shift: Shift { kind: ShiftKind::Lsl, amount: 0 } }
                if operation == Mov && rm != 15 && !thumb && !set_flags =>
            {
                Some(Operation::BranchRegister { rm })
            }
            _ => None,
        };
    }
    // A constant that is computed from the program counter, or is just one.
    if !set_flags {
        let constant = match (operation, rn, operand) {
            (Mov, _, Operand::Immediate { value, .. }) => Some(value),
            (Mvn, _, Operand::Immediate { value, .. }) => Some(!value),
            (Add, 15, Operand::Immediate { value, .. }) => Some(site.pc.wrapping_add(value)),
            (Sub, 15, Operand::Immediate { value, .. }) => Some(site.pc.wrapping_sub(value)),
            (Mov, _, Operand::Register { rm: 15, shift: Shift { kind: ShiftKind::Lsl, amount: 0 } }) => {
                Some(site.pc)
            }
            _ => None,
        };
        if let Some(value) = constant {
            return Some(Operation::MoveImmediate { rd, value });
        }
    }
    if rn == 15 && !moves {
        return None;
    }
    match operand {
        Operand::Immediate { value, carry } => match (operation, set_flags, carry) {
            (Add, false, _) => Some(Operation::AddImmediate { rd, rn, value }),
            (Sub, false, _) => Some(Operation::AddImmediate { rd, rn, value: value.wrapping_neg() }),
            (Rsb, false, _) => Some(Operation::ReverseSubtractImmediate { rd, rn, value }),
            (And, false, _) => Some(Operation::AndImmediate { rd, rn, value }),
            (Bic, false, _) => Some(Operation::AndImmediate { rd, rn, value: !value }),
            (Orr, false, _) => Some(Operation::OrImmediate { rd, rn, value }),
            (Eor, false, _) => Some(Operation::ExclusiveOrImmediate { rd, rn, value }),
            (Cmp, _, _) => Some(Operation::CompareImmediate { rn, value }),
            (Cmn, _, _) => Some(Operation::CompareNegativeImmediate { rn, value }),
            (Add, true, _) => Some(Operation::AddImmediateFlags { rd, rn, value }),
            (Sub, true, _) => Some(Operation::SubtractImmediateFlags { rd, rn, value }),
            (Tst, _, None) => Some(Operation::TestImmediate { rn, value }),
            (And, true, None) => Some(Operation::AndImmediateFlags { rd, rn, value }),
            (Bic, true, None) => Some(Operation::AndImmediateFlags { rd, rn, value: !value }),
            (Mov, true, None) => Some(Operation::MoveImmediateFlags { rd, value }),
            _ => None,
        },
        Operand::Register { rm: 15, .. } => None,
        Operand::Register { rm, shift: Shift { kind: ShiftKind::Lsl, amount: 0 } } => {
            match (operation, set_flags) {
                (Mov, false) => Some(Operation::Move { rd, rm }),
                (Mvn, false) => Some(Operation::MoveNot { rd, rm }),
                (Add, false) => Some(Operation::Add { rd, rn, rm }),
                (Sub, false) => Some(Operation::Subtract { rd, rn, rm }),
                (And, false) => Some(Operation::And { rd, rn, rm }),
                (Orr, false) => Some(Operation::Or { rd, rn, rm }),
                (Eor, false) => Some(Operation::ExclusiveOr { rd, rn, rm }),
                (Bic, false) => Some(Operation::BitClear { rd, rn, rm }),
                (Adc, false) => Some(Operation::AddWithCarry { rd, rn, rm }),
                (Cmp, _) => Some(Operation::Compare { rn, rm }),
                (Tst, _) => Some(Operation::Test { rn, rm }),
                (Mov, true) => Some(Operation::MoveFlags { rd, rm }),
                (Add, true) => Some(Operation::AddFlags { rd, rn, rm }),
                (Sub, true) => Some(Operation::SubtractFlags { rd, rn, rm }),
                (And, true) => Some(Operation::AndFlags { rd, rn, rm }),
                (Orr, true) => Some(Operation::OrFlags { rd, rn, rm }),
                _ => None,
            }
        }
        Operand::Register { rm, shift } => match (operation, set_flags) {
            (Mov, false) => Some(Operation::MoveShifted { rd, rm, shift }),
            (Mov, true) => Some(Operation::MoveShiftedFlags { rd, rm, shift }),
            (Add, false) => Some(Operation::AddShifted { rd, rn, rm, shift }),
            (Sub, false) => Some(Operation::SubtractShifted { rd, rn, rm, shift }),
            (Orr, false) => Some(Operation::OrShifted { rd, rn, rm, shift }),
            (Eor, false) => Some(Operation::ExclusiveOrShifted { rd, rn, rm, shift }),
            _ => None,
        },
        Operand::RegisterShifted { .. } => None,
    }
}

fn load(width: Width, rt: Register, address: Address, site: Site) -> Option<Operation> {
    let base = address.base;
    match (address.offset, address.index) {
        (Offset::Immediate(offset), Index::Offset) if base == 15 => match width {
            Width::Word => Some(Operation::LoadWordAbsolute {
                rt,
                address: site.aligned_pc().wrapping_add_signed(offset),
            }),
            _ => None,
        },
        _ if base == 15 => None,
        (Offset::Immediate(offset), Index::Offset) => {
            let offset = offset as u32;
            match width {
                Width::Word => Some(Operation::LoadWord { rt, base, offset }),
                Width::Half => Some(Operation::LoadHalf { rt, base, offset }),
                Width::Byte => Some(Operation::LoadByte { rt, base, offset }),
                Width::SignedByte | Width::SignedHalf => None,
            }
        }
        (Offset::Immediate(offset), Index::Post) if width == Width::Word => {
            Some(Operation::LoadWordPost { rt, base, offset: offset as u32 })
        }
        (Offset::Immediate(offset), index) if width == Width::Byte => {
            let offset = i16::try_from(offset).ok()?;
            Some(Operation::LoadByteWriteback { rt, base, offset, post: index == Index::Post })
        }
        (Offset::Register { rm, shift, subtract: false }, Index::Offset)
            if rm != 15 && shift.kind == ShiftKind::Lsl =>
        {
            let left = shift.amount;
            match width {
                Width::Word => Some(Operation::LoadWordRegister { rt, base, rm, left }),
                Width::Half => Some(Operation::LoadHalfRegister { rt, base, rm, left }),
                Width::Byte => Some(Operation::LoadByteRegister { rt, base, rm, left }),
                Width::SignedByte | Width::SignedHalf => None,
            }
        }
        _ => None,
    }
}

fn store(width: Width, rt: Register, address: Address) -> Option<Operation> {
    let base = address.base;
    match (address.offset, address.index) {
        _ if base == 15 => None,
        (Offset::Immediate(offset), Index::Offset) => {
            let offset = offset as u32;
            match width {
                Width::Word => Some(Operation::StoreWord { rt, base, offset }),
                Width::Half | Width::SignedHalf => Some(Operation::StoreHalf { rt, base, offset }),
                Width::Byte | Width::SignedByte => Some(Operation::StoreByte { rt, base, offset }),
            }
        }
        (Offset::Immediate(offset), index) => {
            let post = index == Index::Post;
            match width {
                Width::Word if post => Some(Operation::StoreWordPost { rt, base, offset: offset as u32 }),
                Width::Word => Some(Operation::StoreWordPre { rt, base, offset: offset as u32 }),
                Width::Byte => {
                    let offset = i16::try_from(offset).ok()?;
                    Some(Operation::StoreByteWriteback { rt, base, offset, post })
                }
                _ => None,
            }
        }
        (Offset::Register { rm, shift, subtract: false }, Index::Offset)
            if rm != 15 && shift.kind == ShiftKind::Lsl =>
        {
            let left = shift.amount;
            match width {
                Width::Word => Some(Operation::StoreWordRegister { rt, base, rm, left }),
                Width::Byte => Some(Operation::StoreByteRegister { rt, base, rm, left }),
                _ => None,
            }
        }
        _ => None,
    }
}
