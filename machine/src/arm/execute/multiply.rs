//! Multiplication and division (DDI 0406C, A4.4.3 and A4.4.8).

use crate::arm::cpu::Cpu;
use crate::arm::instruction::{Half, Instruction, Register};

/// A halfword of a register, sign-extended.
fn half(value: u32, half: Half) -> i64 {
    match half {
        Half::Bottom => i64::from(value as i16),
        Half::Top => i64::from(value as i32 >> 16),
    }
}

/// The products of the bottom halves and of the top halves; `exchange` swaps the second operand's halves.
fn dual_products(cpu: &Cpu, rn: Register, rm: Register, exchange: bool) -> (i64, i64) {
    let first = cpu.get(rn);
    let second = cpu.get(rm).rotate_right(if exchange { 16 } else { 0 });
    (half(first, Half::Bottom) * half(second, Half::Bottom), half(first, Half::Top) * half(second, Half::Top))
}

/// The 64 bits in a pair of registers.
fn pair(cpu: &Cpu, low: Register, high: Register) -> u64 {
    u64::from(cpu.get(low)) | u64::from(cpu.get(high)) << 32
}

fn set_pair(cpu: &mut Cpu, low: Register, high: Register, value: u64) {
    cpu.set(low, value as u32);
    cpu.set(high, (value >> 32) as u32);
}

/// Sets a register to a result that wraps, and Q if it did.
fn set_overflowing(cpu: &mut Cpu, rd: Register, value: i64) {
    cpu.q |= i32::try_from(value).is_err();
    cpu.set(rd, value as u32);
}

/// Executes one of the instructions of this module; others are without effect.
pub(super) fn execute(cpu: &mut Cpu, instruction: &Instruction) {
    let signed = |cpu: &Cpu, register: Register| i64::from(cpu.get(register) as i32);
    let accumulator =
        |cpu: &Cpu, register: Option<Register>| register.map_or(0, |register| signed(cpu, register));
    match *instruction {
        Instruction::Multiply { rd, rn, rm, accumulate, subtract, set_flags } => {
            let product = cpu.get(rn).wrapping_mul(cpu.get(rm));
            let product = if subtract { product.wrapping_neg() } else { product };
            let result = product.wrapping_add(accumulate.map_or(0, |ra| cpu.get(ra)));
            if set_flags {
                cpu.set_result_flags(result);
            }
            cpu.set(rd, result);
        }
        Instruction::MultiplyLong { signed: is_signed, accumulate, low, high, rn, rm, set_flags } => {
            let product = if is_signed {
                (signed(cpu, rn) * signed(cpu, rm)) as u64
            } else {
                u64::from(cpu.get(rn)) * u64::from(cpu.get(rm))
            };
            let result = if accumulate { product.wrapping_add(pair(cpu, low, high)) } else { product };
            if set_flags {
                cpu.n = (result >> 32) as u32;
                cpu.z = u32::from(result != 0);
            }
            set_pair(cpu, low, high, result);
        }
        Instruction::MultiplyAccumulateAccumulate { low, high, rn, rm } => {
            let product = u64::from(cpu.get(rn)) * u64::from(cpu.get(rm));
            let result = product + u64::from(cpu.get(low)) + u64::from(cpu.get(high));
            set_pair(cpu, low, high, result);
        }
        Instruction::MultiplyHalves { rd, rn, n, rm, m, accumulate } => {
            let product = half(cpu.get(rn), n) * half(cpu.get(rm), m);
            set_overflowing(cpu, rd, product + accumulator(cpu, accumulate));
        }
        Instruction::MultiplyWordHalf { rd, rn, rm, m, accumulate } => {
            let product = (signed(cpu, rn) * half(cpu.get(rm), m)) >> 16;
            set_overflowing(cpu, rd, product + accumulator(cpu, accumulate));
        }
        Instruction::MultiplyHalvesLong { low, high, rn, n, rm, m } => {
            let product = half(cpu.get(rn), n) * half(cpu.get(rm), m);
            set_pair(cpu, low, high, pair(cpu, low, high).wrapping_add_signed(product));
        }
        Instruction::MultiplyDual { rd, rn, rm, exchange, subtract, accumulate } => {
            let (bottom, top) = dual_products(cpu, rn, rm, exchange);
            let sum = if subtract { bottom - top } else { bottom + top };
            set_overflowing(cpu, rd, sum + accumulator(cpu, accumulate));
        }
        Instruction::MultiplyDualLong { low, high, rn, rm, exchange, subtract } => {
            let (bottom, top) = dual_products(cpu, rn, rm, exchange);
            let sum = if subtract { bottom - top } else { bottom + top };
            set_pair(cpu, low, high, pair(cpu, low, high).wrapping_add_signed(sum));
        }
        Instruction::MultiplyMostSignificant { rd, rn, rm, accumulate, subtract, round } => {
            let product = signed(cpu, rn) * signed(cpu, rm);
            let accumulator = accumulator(cpu, accumulate) << 32;
            let sum =
                if subtract { accumulator.wrapping_sub(product) } else { accumulator.wrapping_add(product) };
            let rounded = sum.wrapping_add(if round { 1 << 31 } else { 0 });
            cpu.set(rd, (rounded >> 32) as u32);
        }
        Instruction::Divide { signed: is_signed, rd, rn, rm } => {
            let result = if is_signed {
                let divisor = cpu.get(rm) as i32;
                if divisor == 0 { 0 } else { (cpu.get(rn) as i32).wrapping_div(divisor) as u32 }
            } else {
                cpu.get(rn).checked_div(cpu.get(rm)).unwrap_or(0)
            };
            cpu.set(rd, result);
        }
        _ => {}
    }
}
