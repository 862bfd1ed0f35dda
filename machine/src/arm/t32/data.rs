//! 32-bit data processing: immediate, shifted register and register forms (A6.3.1, A6.3.3, A6.3.11 to A6.3.15).

use super::super::instruction::{
    DataOperation, Extend, Instruction, Operand, ParallelKind, ParallelOperation, Register,
    SaturatingOperation, Shift, ShiftKind, Unary,
};
use super::{UNSHIFTED, any_bad, bit, field, immediate_shift, is_bad, register};

/// The operation, and what it becomes with `rd` 15 and S set, or with `rn` 15.
fn operation(word: u32) -> Option<DataOperation> {
    let compares = register(word, 8) == 15 && bit(word, 20);
    let moves = register(word, 16) == 15;
    Some(match field(word, 24, 21) {
        0b0000 if compares => DataOperation::Tst,
        0b0000 => DataOperation::And,
        0b0001 => DataOperation::Bic,
        0b0010 if moves => DataOperation::Mov,
        0b0010 => DataOperation::Orr,
        0b0011 if moves => DataOperation::Mvn,
        0b0011 => DataOperation::Orn,
        0b0100 if compares => DataOperation::Teq,
        0b0100 => DataOperation::Eor,
        0b1000 if compares => DataOperation::Cmn,
        0b1000 => DataOperation::Add,
        0b1010 => DataOperation::Adc,
        0b1011 => DataOperation::Sbc,
        0b1101 if compares => DataOperation::Cmp,
        0b1101 => DataOperation::Sub,
        0b1110 => DataOperation::Rsb,
        _ => return None,
    })
}

/// Which registers an operation may name. The stack pointer is special in additions, subtractions, comparisons and
/// unshifted moves; everything else refuses it.
fn registers_allowed(
    operation: DataOperation,
    set_flags: bool,
    rd: Register,
    rn: Register,
    operand: Operand,
) -> bool {
    let (rm, shift) = match operand {
        Operand::Register { rm, shift } => (Some(rm), shift),
        _ => (None, UNSHIFTED),
    };
    let rm_is_bad = rm.is_some_and(is_bad);
    match operation {
        DataOperation::Tst | DataOperation::Teq => !is_bad(rn) && !rm_is_bad,
        DataOperation::Cmp | DataOperation::Cmn => rn != 15 && !rm_is_bad,
        DataOperation::Mov if rm.is_some() && shift == UNSHIFTED && !set_flags => {
            rd != 15 && rm != Some(15) && !(rd == 13 && rm == Some(13))
        }
        DataOperation::Mov | DataOperation::Mvn => !is_bad(rd) && !rm_is_bad,
        DataOperation::Add | DataOperation::Sub if rn == 13 => {
            let small_shift = shift.kind == ShiftKind::Lsl && shift.amount <= 3;
            rd != 15 && !rm_is_bad && (rd != 13 || small_shift)
        }
        _ => !any_bad([rd, rn]) && !rm_is_bad,
    }
}

fn data(word: u32, operand: Operand) -> Option<Instruction> {
    let operation = operation(word)?;
    let set_flags = bit(word, 20);
    let (rd, rn) = (register(word, 8), register(word, 16));
    if !registers_allowed(operation, set_flags, rd, rn, operand) {
        return None;
    }
    let (rd, rn) = match operation {
        DataOperation::Tst | DataOperation::Teq | DataOperation::Cmp | DataOperation::Cmn => (0, rn),
        DataOperation::Mov | DataOperation::Mvn => (rd, 0),
        _ => (rd, rn),
    };
    Some(Instruction::Data { operation, set_flags, rd, rn, operand })
}

/// The five-bit constant of shifts and bit fields, imm3:imm2.
fn split_immediate(word: u32) -> u32 {
    field(word, 14, 12) << 2 | field(word, 7, 6)
}

/// A6.3.11, data-processing (shifted register).
pub(super) fn shifted_register(word: u32) -> Option<Instruction> {
    if bit(word, 15) {
        return None;
    }
    let rm = register(word, 0);
    let shift = immediate_shift(field(word, 5, 4), split_immediate(word));
    if field(word, 24, 21) == 0b0110 {
        let (rd, rn) = (register(word, 8), register(word, 16));
        let valid = !bit(word, 20) && !bit(word, 4) && !any_bad([rd, rn, rm]);
        return valid.then_some(Instruction::Pack { top_bottom: bit(word, 5), rd, rn, rm, shift });
    }
    data(word, Operand::Register { rm, shift })
}

/// A6.3.1, data-processing (modified immediate).
pub(super) fn modified_immediate(word: u32) -> Option<Instruction> {
    let (value, carry) = expand_immediate(word)?;
    data(word, Operand::Immediate { value, carry })
}

/// i:imm3:imm8.
fn immediate12(word: u32) -> u32 {
    field(word, 26, 26) << 11 | field(word, 14, 12) << 8 | field(word, 7, 0)
}

/// ThumbExpandImm_C (A6.3.2).
fn expand_immediate(word: u32) -> Option<(u32, Option<bool>)> {
    let immediate = immediate12(word);
    let byte = immediate & 0xff;
    let repeated = match immediate >> 8 {
        0 => Some(byte),
        1 => Some(byte * 0x0001_0001),
        2 => Some(byte * 0x0100_0100),
        3 => Some(byte * 0x0101_0101),
        _ => None,
    };
    match repeated {
        Some(0) if immediate >> 8 != 0 => None,
        Some(value) => Some((value, None)),
        None => {
            let value = (0x80 | byte & 0x7f).rotate_right(immediate >> 7);
            Some((value, Some(bit(value, 31))))
        }
    }
}

/// A6.3.3, data-processing (plain binary immediate).
pub(super) fn plain_immediate(word: u32) -> Option<Instruction> {
    let (rd, rn) = (register(word, 8), register(word, 16));
    let unsigned = bit(word, 23);
    match field(word, 24, 20) {
        code @ (0b00000 | 0b01010) => {
            let subtract = code != 0;
            let value = immediate12(word);
            if rn == 15 {
                let offset = if subtract { -(value as i32) } else { value as i32 };
                return (!is_bad(rd)).then_some(Instruction::AddressOf { rd, offset });
            }
            let operation = if subtract { DataOperation::Sub } else { DataOperation::Add };
            let valid = rd != 15 && (rd != 13 || rn == 13);
            let operand = Operand::Immediate { value, carry: None };
            valid.then_some(Instruction::Data { operation, set_flags: false, rd, rn, operand })
        }
        0b00100 | 0b01100 if is_bad(rd) => None,
        code @ (0b00100 | 0b01100) => {
            let value = field(word, 19, 16) << 12 | immediate12(word);
            if code == 0b01100 {
                return Some(Instruction::MoveTop { rd, value: value as u16 });
            }
            let operand = Operand::Immediate { value, carry: None };
            Some(Instruction::Data { operation: DataOperation::Mov, set_flags: false, rd, rn: 0, operand })
        }
        // Bits that should be zero; the manual leaves other values UNPREDICTABLE.
        0b10000..=0b11111 if bit(word, 26) || bit(word, 5) => None,
        0b10000 | 0b10010 | 0b11000 | 0b11010 => saturate(word, !unsigned, rd, rn),
        0b10100 | 0b11100 => {
            let (lsb, width) = (split_immediate(word), field(word, 4, 0) + 1);
            let valid = !any_bad([rd, rn]) && lsb + width <= 32;
            valid.then_some(Instruction::BitFieldExtract {
                signed: !unsigned,
                rd,
                rn,
                lsb: lsb as u8,
                width: width as u8,
            })
        }
        0b10110 => {
            let (lsb, msb) = (split_immediate(word), field(word, 4, 0));
            let valid = !is_bad(rd) && rn != 13 && msb >= lsb;
            let width = (msb + 1).saturating_sub(lsb) as u8;
            let rn = (rn != 15).then_some(rn);
            valid.then_some(Instruction::BitFieldInsert { rd, rn, lsb: lsb as u8, width })
        }
        _ => None,
    }
}

fn saturate(word: u32, signed: bool, rd: Register, rn: Register) -> Option<Instruction> {
    if any_bad([rd, rn]) {
        return None;
    }
    let amount = split_immediate(word);
    let arithmetic_right = bit(word, 21);
    let bits = field(word, 4, 0) as u8 + u8::from(signed);
    if arithmetic_right && amount == 0 {
        return (!bit(word, 4)).then_some(Instruction::Saturate16 { signed, rd, bits, rn });
    }
    let kind = if arithmetic_right { ShiftKind::Asr } else { ShiftKind::Lsl };
    Some(Instruction::Saturate { signed, rd, bits, rn, shift: Shift { kind, amount: amount as u8 } })
}

fn register_shift_kind(word: u32) -> ShiftKind {
    match field(word, 22, 21) {
        0b00 => ShiftKind::Lsl,
        0b01 => ShiftKind::Lsr,
        0b10 => ShiftKind::Asr,
        _ => ShiftKind::Ror,
    }
}

/// A6.3.12, data-processing (register).
pub(super) fn from_registers(word: u32) -> Option<Instruction> {
    if field(word, 15, 12) != 0b1111 {
        return None;
    }
    let (rd, rn, rm) = (register(word, 8), register(word, 16), register(word, 0));
    match (bit(word, 23), field(word, 7, 4)) {
        (false, 0b0000) => {
            let operand = Operand::RegisterShifted { rm: rn, kind: register_shift_kind(word), rs: rm };
            (!any_bad([rd, rn, rm])).then_some(Instruction::Data {
                operation: DataOperation::Mov,
                set_flags: bit(word, 20),
                rd,
                rn: 0,
                operand,
            })
        }
        (false, 0b1000..=0b1011) => {
            let extend = match field(word, 22, 20) {
                0b000 => Extend::SignedHalf,
                0b001 => Extend::UnsignedHalf,
                0b010 => Extend::SignedByte16,
                0b011 => Extend::UnsignedByte16,
                0b100 => Extend::SignedByte,
                0b101 => Extend::UnsignedByte,
                _ => return None,
            };
            let add = (rn != 15).then_some(rn);
            let rotation = field(word, 5, 4) as u8 * 8;
            (!any_bad([rd, rm]) && rn != 13).then_some(Instruction::Extend { extend, rd, add, rm, rotation })
        }
        (true, _) if any_bad([rd, rn, rm]) => None,
        (true, 0b0000..=0b0111) => parallel(word, rd, rn, rm),
        (true, 0b1000..=0b1011) => two_or_one_source(word, rd, rn, rm),
        _ => None,
    }
}

/// A6.3.13 and A6.3.14, parallel addition and subtraction.
fn parallel(word: u32, rd: Register, rn: Register, rm: Register) -> Option<Instruction> {
    let operation = match field(word, 22, 20) {
        0b000 => ParallelOperation::Add8,
        0b001 => ParallelOperation::Add16,
        0b010 => ParallelOperation::Asx,
        0b100 => ParallelOperation::Sub8,
        0b101 => ParallelOperation::Sub16,
        0b110 => ParallelOperation::Sax,
        _ => return None,
    };
    let kind = match field(word, 6, 4) {
        0b000 => ParallelKind::Signed,
        0b001 => ParallelKind::SignedSaturating,
        0b010 => ParallelKind::SignedHalving,
        0b100 => ParallelKind::Unsigned,
        0b101 => ParallelKind::UnsignedSaturating,
        0b110 => ParallelKind::UnsignedHalving,
        _ => return None,
    };
    Some(Instruction::Parallel { kind, operation, rd, rn, rm })
}

/// A6.3.15, miscellaneous operations.
fn two_or_one_source(word: u32, rd: Register, rn: Register, rm: Register) -> Option<Instruction> {
    // These name their one operand in both places, and are UNPREDICTABLE if the two differ.
    let unary = |operation| (rn == rm).then_some(Instruction::Unary { operation, rd, rm });
    let saturating = |operation| Some(Instruction::SaturatingArithmetic { operation, rd, rm, rn });
    match (field(word, 22, 20), field(word, 5, 4)) {
        (0b000, 0b00) => saturating(SaturatingOperation::Add),
        (0b000, 0b01) => saturating(SaturatingOperation::DoubleAdd),
        (0b000, 0b10) => saturating(SaturatingOperation::Sub),
        (0b000, _) => saturating(SaturatingOperation::DoubleSub),
        (0b001, 0b00) => unary(Unary::ReverseBytes),
        (0b001, 0b01) => unary(Unary::ReverseBytes16),
        (0b001, 0b10) => unary(Unary::ReverseBits),
        (0b001, _) => unary(Unary::ReverseBytesSignedHalf),
        (0b010, 0b00) => Some(Instruction::Select { rd, rn, rm }),
        (0b011, 0b00) => unary(Unary::CountLeadingZeros),
        _ => None,
    }
}
