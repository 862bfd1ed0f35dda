//! Saturating and parallel arithmetic, packing, extension, bit-fields and reversals (DDI 0406C, A4.4.4 to A4.4.7).

use crate::arm::arithmetic::{extract_field, shift};
use crate::arm::cpu::Cpu;
use crate::arm::instruction::{
    Extend, Instruction, ParallelKind, ParallelOperation, SaturatingOperation, Unary,
};

/// Executes one of the instructions of this module; others are without effect.
pub(super) fn execute(cpu: &mut Cpu, instruction: &Instruction) {
    match *instruction {
        Instruction::SaturatingArithmetic { operation, rd, rm, rn } => {
            let first = cpu.get(rm) as i32;
            let mut second = cpu.get(rn) as i32;
            if matches!(operation, SaturatingOperation::DoubleAdd | SaturatingOperation::DoubleSub) {
                second = saturating_q(cpu, i64::from(second) * 2);
            }
            let (first, second) = (i64::from(first), i64::from(second));
            let wide = match operation {
                SaturatingOperation::Add | SaturatingOperation::DoubleAdd => first + second,
                SaturatingOperation::Sub | SaturatingOperation::DoubleSub => first - second,
            };
            let result = saturating_q(cpu, wide);
            cpu.set(rd, result as u32);
        }
        Instruction::Saturate { signed, rd, bits, rn, shift: by } => {
            let value = shift(cpu.get(rn), by, cpu.c) as i32;
            let result = saturate(cpu, value, signed, bits);
            cpu.set(rd, result as u32);
        }
        Instruction::Saturate16 { signed, rd, bits, rn } => {
            let value = cpu.get(rn) as i32;
            let bottom = saturate(cpu, value << 16 >> 16, signed, bits);
            let top = saturate(cpu, value >> 16, signed, bits);
            cpu.set(rd, bottom as u32 & 0xffff | (top as u32) << 16);
        }
        Instruction::Parallel { kind, operation, rd, rn, rm } => {
            let (result, ge) = parallel(kind, operation, cpu.get(rn), cpu.get(rm));
            if matches!(kind, ParallelKind::Signed | ParallelKind::Unsigned) {
                cpu.ge = ge;
            }
            cpu.set(rd, result);
        }
        Instruction::Select { rd, rn, rm } => {
            let mask =
                (0..4).filter(|lane| cpu.ge >> lane & 1 != 0).map(|lane| 0xff << (8 * lane)).sum::<u32>();
            cpu.set(rd, cpu.get(rn) & mask | cpu.get(rm) & !mask);
        }
        Instruction::SumAbsoluteDifferences { rd, rn, rm, accumulate } => {
            let (first, second) = (cpu.get(rn).to_le_bytes(), cpu.get(rm).to_le_bytes());
            let sum: u32 = first.iter().zip(second).map(|(&a, b)| u32::from(a.abs_diff(b))).sum();
            cpu.set(rd, sum.wrapping_add(accumulate.map_or(0, |ra| cpu.get(ra))));
        }
        Instruction::Pack { top_bottom, rd, rn, rm, shift: by } => {
            let first = cpu.get(rn);
            let second = shift(cpu.get(rm), by, cpu.c);
            let (top, bottom) = if top_bottom { (first, second) } else { (second, first) };
            cpu.set(rd, top & 0xffff_0000 | bottom & 0xffff);
        }
        Instruction::Extend { extend, rd, add, rm, rotation } => {
            let value = cpu.get(rm).rotate_right(rotation.into());
            let addend = add.map_or(0, |rn| cpu.get(rn));
            let halves = |low: u32, high: u32| {
                let low = (addend & 0xffff).wrapping_add(low) & 0xffff;
                let high = (addend >> 16).wrapping_add(high) << 16;
                high | low
            };
            let result = match extend {
                Extend::SignedByte => addend.wrapping_add(value as i8 as u32),
                Extend::SignedHalf => addend.wrapping_add(value as i16 as u32),
                Extend::SignedByte16 => halves(value as i8 as u32, (value >> 16) as i8 as u32),
                Extend::UnsignedByte => addend.wrapping_add(value & 0xff),
                Extend::UnsignedHalf => addend.wrapping_add(value & 0xffff),
                Extend::UnsignedByte16 => halves(value & 0xff, value >> 16 & 0xff),
            };
            cpu.set(rd, result);
        }
        Instruction::BitFieldInsert { rd, rn, lsb, width } => {
            let mask = extract_field(u32::MAX, 0, width) << lsb;
            let field = rn.map_or(0, |rn| cpu.get(rn)) << lsb;
            cpu.set(rd, cpu.get(rd) & !mask | field & mask);
        }
        Instruction::BitFieldExtract { signed, rd, rn, lsb, width } => {
            let field = extract_field(cpu.get(rn), lsb, width);
            let unused = (32 - u32::from(width)) & 31;
            cpu.set(rd, if signed { ((field << unused) as i32 >> unused) as u32 } else { field });
        }
        Instruction::Unary { operation, rd, rm } => {
            let value = cpu.get(rm);
            let result = match operation {
                Unary::ReverseBytes => value.swap_bytes(),
                Unary::ReverseBytes16 => value.swap_bytes().rotate_left(16),
                Unary::ReverseBytesSignedHalf => (value as u16).swap_bytes() as i16 as u32,
                Unary::ReverseBits => value.reverse_bits(),
                Unary::CountLeadingZeros => value.leading_zeros(),
            };
            cpu.set(rd, result);
        }
        _ => {}
    }
}

/// Saturates to a signed word; sets Q if that changed the value.
fn saturating_q(cpu: &mut Cpu, value: i64) -> i32 {
    let result = value.clamp(i32::MIN.into(), i32::MAX.into());
    cpu.q |= result != value;
    result as i32
}

/// Saturates to a number of bits; sets Q if that changed the value.
fn saturate(cpu: &mut Cpu, value: i32, signed: bool, bits: u8) -> i32 {
    let (minimum, maximum) = if signed {
        let half = 1i64 << (u32::from(bits).saturating_sub(1) & 31);
        (-half, half - 1)
    } else {
        (0, (1i64 << (bits & 31)) - 1)
    };
    let value = i64::from(value);
    let result = value.clamp(minimum, maximum);
    cpu.q |= result != value;
    result as i32
}

/// One lane of a parallel addition or subtraction of two `bits` wide values: the result's bits, and whether GE is set.
fn lane(kind: ParallelKind, subtract: bool, bits: u32, a: u32, b: u32) -> (u32, bool) {
    let mask = u32::MAX >> (32 - bits);
    let signed =
        matches!(kind, ParallelKind::Signed | ParallelKind::SignedSaturating | ParallelKind::SignedHalving);
    let extend = |value: u32| {
        let value = value & mask;
        if signed { (value << (32 - bits)) as i32 >> (32 - bits) } else { value as i32 }
    };
    let (a, b) = (extend(a), extend(b));
    let exact = if subtract { a - b } else { a + b };
    let result = match kind {
        ParallelKind::Signed | ParallelKind::Unsigned => exact,
        ParallelKind::SignedHalving | ParallelKind::UnsignedHalving => exact >> 1,
        ParallelKind::SignedSaturating => exact.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        ParallelKind::UnsignedSaturating => exact.clamp(0, mask as i32),
    };
    // GE of an unsigned addition is its carry-out, otherwise that the exact result is not negative.
    let ge = if signed || subtract { exact >= 0 } else { exact > mask as i32 };
    (result as u32 & mask, ge)
}

fn parallel(kind: ParallelKind, operation: ParallelOperation, a: u32, b: u32) -> (u32, u32) {
    let (mut result, mut ge) = (0, 0);
    let mut put = |bits: u32, index: u32, subtract: bool, second: u32| {
        let (value, set) = lane(kind, subtract, bits, a >> (bits * index), second);
        result |= value << (bits * index);
        if set {
            ge |= if bits == 8 { 1 << index } else { 3 << (2 * index) };
        }
    };
    match operation {
        ParallelOperation::Add16 | ParallelOperation::Sub16 => {
            let subtract = operation == ParallelOperation::Sub16;
            (0..2).for_each(|index| put(16, index, subtract, b >> (16 * index)));
        }
        ParallelOperation::Add8 | ParallelOperation::Sub8 => {
            let subtract = operation == ParallelOperation::Sub8;
            (0..4).for_each(|index| put(8, index, subtract, b >> (8 * index)));
        }
        ParallelOperation::Asx => {
            put(16, 0, true, b >> 16);
            put(16, 1, false, b);
        }
        ParallelOperation::Sax => {
            put(16, 0, false, b >> 16);
            put(16, 1, true, b);
        }
    }
    (result, ge)
}
