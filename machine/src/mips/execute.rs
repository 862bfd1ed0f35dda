//! Execution of instructions in their neutral form: everything that has no compact operation, and in tests all.
//!
//! The results are those of the manual. Where it leaves them UNPREDICTABLE (division by zero), and in which order what
//! memory is accessed, is as in QEMU's `translate.c` and `ldst_helper.c`.

use super::cpu::Cpu;
use super::effects::{branch_target, jump_target};
use super::instruction::{
    Accumulate, Condition, HI, ImmediateOperation, Instruction, LO, Register, RegisterOperation, ShiftKind,
    Unary, Width,
};
use crate::bus::{AccessSize, Bus, Halt};

/// What the executor does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next instruction.
    Instruction,
    /// The next instruction is in the slot of a branch-likely that is not taken.
    Nullified,
}

/// Executes one instruction, which is at `address`.
#[inline(never)]
pub(super) fn execute<const BIG_ENDIAN: bool, B: Bus>(
    cpu: &mut Cpu,
    instruction: &Instruction,
    address: u32,
    bus: &mut B,
) -> Result<Next, Halt> {
    let behind_slot = address.wrapping_add(8);
    match *instruction {
        // An opaque instruction stops the executor, and an opaque branch is one.
        Instruction::Nop | Instruction::Trap | Instruction::Opaque(_) | Instruction::OpaqueBranch(_) => {}

        Instruction::Register { operation, rd, rs, rt } => {
            if let Some(value) = register(operation, cpu.get(rs), cpu.get(rt)) {
                cpu.set(rd, value);
            }
        }
        Instruction::Immediate { operation, rt, rs, value } => {
            cpu.set(rt, immediate(operation, cpu.get(rs), value));
        }
        Instruction::LoadUpper { rt, value } => cpu.set(rt, value),
        Instruction::Shift { kind, rd, rt, amount } => {
            cpu.set(rd, shift(kind, cpu.get(rt), amount.into()));
        }
        Instruction::ShiftVariable { kind, rd, rt, rs } => {
            cpu.set(rd, shift(kind, cpu.get(rt), cpu.get(rs)));
        }
        Instruction::Unary { operation, rd, rs } => cpu.set(rd, unary(operation, cpu.get(rs))),
        Instruction::ExtractField { rt, rs, lsb, width } => {
            cpu.set(rt, extract_field(cpu.get(rs), lsb, width));
        }
        Instruction::InsertField { rt, rs, lsb, width } => {
            let mask = field(width) << lsb;
            cpu.set(rt, cpu.get(rt) & !mask | cpu.get(rs) << lsb & mask);
        }
        Instruction::Multiply { signed, accumulate, rs, rt } => multiply(cpu, signed, accumulate, rs, rt),
        Instruction::Divide { signed, rs, rt } => divide(cpu, signed, rs, rt),
        Instruction::Move { rd, rs } => cpu.set(rd, cpu.get(rs)),
        Instruction::MovePair { rd, rs } => {
            cpu.set(rd, cpu.get(rs));
            cpu.set(rd + 1, cpu.get(rs + 1));
        }
        Instruction::MoveOnFlag { rd, rs, bit, set } => {
            if cpu.flag(bit) == set {
                cpu.set(rd, cpu.get(rs));
            }
        }

        Instruction::Load { width, rt, base, offset } => {
            let value = load::<BIG_ENDIAN, B>(bus, width, cpu.address(base, offset))?;
            cpu.set(rt, value);
        }
        Instruction::Store { width, rt, base, offset } => {
            store::<BIG_ENDIAN, B>(bus, width, cpu.address(base, offset), cpu.get(rt))?;
        }
        Instruction::LoadPair { rt, base, offset } => {
            let value = bus.load(cpu.address(base, offset), AccessSize::Double)?;
            let value = if BIG_ENDIAN { value.swap_bytes() } else { value };
            cpu.set(rt, value as u32);
            cpu.set(rt + 1, (value >> 32) as u32);
        }
        Instruction::StorePair { rt, base, offset } => {
            let value = u64::from(cpu.get(rt)) | u64::from(cpu.get(rt + 1)) << 32;
            let value = if BIG_ENDIAN { value.swap_bytes() } else { value };
            bus.store(cpu.address(base, offset), AccessSize::Double, value)?;
        }
        Instruction::LoadPart { left, rt, base, offset } => {
            let value = load_part::<BIG_ENDIAN, B>(bus, left, cpu.address(base, offset), cpu.get(rt))?;
            cpu.set(rt, value);
        }
        Instruction::StorePart { left, rt, base, offset } => {
            store_part::<BIG_ENDIAN, B>(bus, left, cpu.address(base, offset), cpu.get(rt))?;
        }

        Instruction::Branch { condition, offset, link, likely } => {
            let taken = holds(cpu, condition);
            cpu.target = if taken { branch_target(address, offset) } else { behind_slot };
            if link {
                cpu.set(31, behind_slot);
            }
            if likely && !taken {
                cpu.nullified = true;
                return Ok(Next::Nullified);
            }
        }
        Instruction::BranchNever { link, .. } => {
            if link {
                cpu.set(31, behind_slot);
            }
        }
        Instruction::Jump { index, link, exchange } => {
            cpu.target = jump_target(address, index, exchange);
            if link {
                cpu.set(31, behind_slot);
            }
        }
        Instruction::JumpRegister { rs, rd } => {
            cpu.target = cpu.get(rs);
            cpu.set(rd, behind_slot);
        }
    }
    Ok(Next::Instruction)
}

fn holds(cpu: &Cpu, condition: Condition) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Equal { rs, rt } => cpu.get(rs) == cpu.get(rt),
        Condition::NotEqual { rs, rt } => cpu.get(rs) != cpu.get(rt),
        Condition::Negative(rs) => (cpu.get(rs) as i32) < 0,
        Condition::NotNegative(rs) => cpu.get(rs) as i32 >= 0,
        Condition::Positive(rs) => cpu.get(rs) as i32 > 0,
        Condition::NotPositive(rs) => cpu.get(rs) as i32 <= 0,
        Condition::Flag { bit, set } => cpu.flag(bit) == set,
    }
}

/// The result, if there is one.
fn register(operation: RegisterOperation, rs: u32, rt: u32) -> Option<u32> {
    Some(match operation {
        RegisterOperation::Add | RegisterOperation::Addu => rs.wrapping_add(rt),
        RegisterOperation::Sub | RegisterOperation::Subu => rs.wrapping_sub(rt),
        RegisterOperation::And => rs & rt,
        RegisterOperation::Or => rs | rt,
        RegisterOperation::Xor => rs ^ rt,
        RegisterOperation::Nor => !(rs | rt),
        RegisterOperation::Slt => u32::from((rs as i32) < rt as i32),
        RegisterOperation::Sltu => u32::from(rs < rt),
        RegisterOperation::Mul => rs.wrapping_mul(rt),
        RegisterOperation::Movz => return (rt == 0).then_some(rs),
        RegisterOperation::Movn => return (rt != 0).then_some(rs),
    })
}

fn immediate(operation: ImmediateOperation, rs: u32, value: u32) -> u32 {
    match operation {
        ImmediateOperation::Addi | ImmediateOperation::Addiu => rs.wrapping_add(value),
        ImmediateOperation::Slti => u32::from((rs as i32) < value as i32),
        ImmediateOperation::Sltiu => u32::from(rs < value),
        ImmediateOperation::Andi => rs & value,
        ImmediateOperation::Ori => rs | value,
        ImmediateOperation::Xori => rs ^ value,
    }
}

/// The low five bits of `amount` count.
fn shift(kind: ShiftKind, value: u32, amount: u32) -> u32 {
    match kind {
        ShiftKind::Left => value.wrapping_shl(amount),
        ShiftKind::Right => value.wrapping_shr(amount),
        ShiftKind::RightArithmetic => (value as i32).wrapping_shr(amount) as u32,
        ShiftKind::Rotate => value.rotate_right(amount & 31),
    }
}

fn unary(operation: Unary, value: u32) -> u32 {
    match operation {
        Unary::SignExtendByte => value as i8 as u32,
        Unary::SignExtendHalf => value as i16 as u32,
        Unary::SwapBytesInHalves => value.swap_bytes().rotate_left(16),
        Unary::CountLeadingZeros => value.leading_zeros(),
        Unary::CountLeadingOnes => value.leading_ones(),
    }
}

/// The low `width` bits, 1 to 32 of them.
#[inline(always)]
fn field(width: u8) -> u32 {
    u32::MAX >> (32u32.wrapping_sub(width.into()) & 31)
}

/// `width` bits of a value from bit `lsb`.
#[inline(always)]
pub(super) fn extract_field(value: u32, lsb: u8, width: u8) -> u32 {
    value >> (lsb & 31) & field(width)
}

#[inline(never)]
fn multiply(cpu: &mut Cpu, signed: bool, accumulate: Accumulate, rs: Register, rt: Register) {
    let (rs, rt) = (cpu.get(rs), cpu.get(rt));
    let product = if signed {
        (i64::from(rs as i32) * i64::from(rt as i32)) as u64
    } else {
        u64::from(rs) * u64::from(rt)
    };
    let before = u64::from(cpu.get(HI)) << 32 | u64::from(cpu.get(LO));
    let result = match accumulate {
        Accumulate::No => product,
        Accumulate::Add => before.wrapping_add(product),
        Accumulate::Subtract => before.wrapping_sub(product),
    };
    cpu.set(LO, result as u32);
    cpu.set(HI, (result >> 32) as u32);
}

/// QEMU divides by one where the divisor is zero, and where the quotient would overflow (`gen_muldiv`).
fn divide(cpu: &mut Cpu, signed: bool, rs: Register, rt: Register) {
    let (rs, rt) = (cpu.get(rs), cpu.get(rt));
    let (quotient, remainder) = match (rs as i32, rt as i32) {
        (_, 0) => (rs, 0),
        (i32::MIN, -1) if signed => (rs, 0),
        (dividend, divisor) if signed => ((dividend / divisor) as u32, (dividend % divisor) as u32),
        _ => (rs / rt, rs % rt),
    };
    cpu.set(LO, quotient);
    cpu.set(HI, remainder);
}

/// A load, extended to a register.
#[inline(always)]
pub(super) fn load<const BIG_ENDIAN: bool, B: Bus>(
    bus: &mut B,
    width: Width,
    address: u32,
) -> Result<u32, Halt> {
    let half = |value: u64| if BIG_ENDIAN { (value as u16).swap_bytes() } else { value as u16 };
    Ok(match width {
        Width::Byte => bus.load(address, AccessSize::Byte)? as u8 as u32,
        Width::SignedByte => bus.load(address, AccessSize::Byte)? as i8 as u32,
        Width::Half => half(bus.load(address, AccessSize::Half)?).into(),
        Width::SignedHalf => half(bus.load(address, AccessSize::Half)?) as i16 as u32,
        Width::Word => {
            let value = bus.load(address, AccessSize::Word)? as u32;
            if BIG_ENDIAN { value.swap_bytes() } else { value }
        }
    })
}

/// A store of a register's low bits.
#[inline(always)]
pub(super) fn store<const BIG_ENDIAN: bool, B: Bus>(
    bus: &mut B,
    width: Width,
    address: u32,
    value: u32,
) -> Result<(), Halt> {
    match width {
        Width::Byte | Width::SignedByte => bus.store(address, AccessSize::Byte, u64::from(value as u8)),
        Width::Half | Width::SignedHalf => {
            let value = value as u16;
            let value = if BIG_ENDIAN { value.swap_bytes() } else { value };
            bus.store(address, AccessSize::Half, value.into())
        }
        Width::Word => {
            let value = if BIG_ENDIAN { value.swap_bytes() } else { value };
            bus.store(address, AccessSize::Word, value.into())
        }
    }
}

/// LWL and LWR (`gen_lxl`, `gen_lxr`): QEMU loads the byte at the address, for its page fault alone, and then the aligned
/// word around it. Returns the register's new value.
fn load_part<const BIG_ENDIAN: bool, B: Bus>(
    bus: &mut B,
    left: bool,
    address: u32,
    before: u32,
) -> Result<u32, Halt> {
    bus.load(address, AccessSize::Byte)?;
    let word = load::<BIG_ENDIAN, B>(bus, Width::Word, address & !3)?;
    // How many bytes of the word are between its near end and the addressed byte.
    let bytes = if BIG_ENDIAN == left { address & 3 } else { !address & 3 };
    let bits = 8 * bytes;
    Ok(if left {
        word << bits | before & !(u32::MAX << bits)
    } else {
        word >> bits | before & !(u32::MAX >> bits)
    })
}

/// SWL and SWR (`helper_swl`, `helper_swr`): byte by byte, beginning with the addressed one.
fn store_part<const BIG_ENDIAN: bool, B: Bus>(
    bus: &mut B,
    left: bool,
    address: u32,
    value: u32,
) -> Result<(), Halt> {
    let last = if BIG_ENDIAN == left { !address & 3 } else { address & 3 };
    for index in 0..=last {
        let byte = if left { value >> (24 - 8 * index) } else { value >> (8 * index) } as u8;
        let at = if BIG_ENDIAN == left { address.wrapping_add(index) } else { address.wrapping_sub(index) };
        bus.store(at, AccessSize::Byte, byte.into())?;
    }
    Ok(())
}
