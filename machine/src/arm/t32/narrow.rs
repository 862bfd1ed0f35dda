//! The 16-bit encodings (A6.2).

use super::super::instruction::{
    Address, Condition, DataOperation, Extend, Index, Instruction, Offset, Opaque, Operand, ShiftKind, Unary,
    Width,
};
use super::{
    Conditional, UNSHIFTED, bit, field, immediate_shift, low_register, opaque, opaque_memory, register,
    sign_extend, written,
};

/// Table A6-1.
pub(super) fn decode(word: u32, in_it_block: bool) -> Conditional {
    let set_flags = !in_it_block;
    let instruction = match field(word, 15, 10) {
        0b000000..=0b001111 => shift_add_subtract_move_compare(word, set_flags),
        0b010000 => Some(data_processing(word, set_flags)),
        0b010001 => high_registers(word),
        0b010010 | 0b010011 => {
            let offset = Offset::Immediate((field(word, 7, 0) * 4) as i32);
            let address = Address { base: 15, offset, index: Index::Offset };
            Some(Instruction::Load { width: Width::Word, rt: low_register(word, 8), address })
        }
        0b010100..=0b010111 => Some(load_store_register(word)),
        0b011000..=0b100111 => Some(load_store_immediate(word)),
        0b101000 | 0b101001 => {
            Some(Instruction::AddressOf { rd: low_register(word, 8), offset: (field(word, 7, 0) * 4) as i32 })
        }
        0b101010 | 0b101011 => {
            Some(add_immediate(DataOperation::Add, low_register(word, 8), 13, field(word, 7, 0) * 4, false))
        }
        0b101100..=0b101111 => miscellaneous(word),
        0b110000..=0b110011 => multiple(word),
        0b110100..=0b110111 => return conditional_branch_or_exception(word),
        _ => Some(Instruction::Branch { offset: sign_extend(field(word, 10, 0) << 1, 12), link: false }),
    }?;
    Some((Condition::ALWAYS, instruction))
}

fn add_immediate(operation: DataOperation, rd: u8, rn: u8, value: u32, set_flags: bool) -> Instruction {
    let operand = Operand::Immediate { value, carry: None };
    Instruction::Data { operation, set_flags, rd, rn, operand }
}

fn plain_register(rm: u8) -> Operand {
    Operand::Register { rm, shift: UNSHIFTED }
}

/// Table A6-2.
fn shift_add_subtract_move_compare(word: u32, set_flags: bool) -> Option<Instruction> {
    let rd = low_register(word, 0);
    let rn = low_register(word, 3);
    match field(word, 13, 11) {
        kind @ 0b000..=0b010 => {
            let shift = immediate_shift(kind, field(word, 10, 6));
            if shift == UNSHIFTED && !set_flags {
                // MOVS (register) is UNPREDICTABLE in an IT block.
                return None;
            }
            let operand = Operand::Register { rm: rn, shift };
            Some(Instruction::Data { operation: DataOperation::Mov, set_flags, rd, rn: 0, operand })
        }
        0b011 => {
            let operation = if bit(word, 9) { DataOperation::Sub } else { DataOperation::Add };
            let operand = if bit(word, 10) {
                Operand::Immediate { value: field(word, 8, 6), carry: None }
            } else {
                plain_register(low_register(word, 6))
            };
            Some(Instruction::Data { operation, set_flags, rd, rn, operand })
        }
        code => {
            let rdn = low_register(word, 8);
            let value = field(word, 7, 0);
            Some(match code {
                0b100 => add_immediate(DataOperation::Mov, rdn, 0, value, set_flags),
                0b101 => add_immediate(DataOperation::Cmp, 0, rdn, value, true),
                0b110 => add_immediate(DataOperation::Add, rdn, rdn, value, set_flags),
                _ => add_immediate(DataOperation::Sub, rdn, rdn, value, set_flags),
            })
        }
    }
}

/// Table A6-3.
fn data_processing(word: u32, set_flags: bool) -> Instruction {
    let rdn = low_register(word, 0);
    let rm = low_register(word, 3);
    let two =
        |operation| Instruction::Data { operation, set_flags, rd: rdn, rn: rdn, operand: plain_register(rm) };
    let compare = |operation| Instruction::Data {
        operation,
        set_flags: true,
        rd: 0,
        rn: rdn,
        operand: plain_register(rm),
    };
    let shift = |kind| {
        let operand = Operand::RegisterShifted { rm: rdn, kind, rs: rm };
        Instruction::Data { operation: DataOperation::Mov, set_flags, rd: rdn, rn: 0, operand }
    };
    match field(word, 9, 6) {
        0b0000 => two(DataOperation::And),
        0b0001 => two(DataOperation::Eor),
        0b0010 => shift(ShiftKind::Lsl),
        0b0011 => shift(ShiftKind::Lsr),
        0b0100 => shift(ShiftKind::Asr),
        0b0101 => two(DataOperation::Adc),
        0b0110 => two(DataOperation::Sbc),
        0b0111 => shift(ShiftKind::Ror),
        0b1000 => compare(DataOperation::Tst),
        0b1001 => add_immediate(DataOperation::Rsb, rdn, rm, 0, set_flags),
        0b1010 => compare(DataOperation::Cmp),
        0b1011 => compare(DataOperation::Cmn),
        0b1100 => two(DataOperation::Orr),
        0b1101 => {
            Instruction::Multiply { rd: rdn, rn: rm, rm: rdn, accumulate: None, subtract: false, set_flags }
        }
        0b1110 => two(DataOperation::Bic),
        _ => Instruction::Data {
            operation: DataOperation::Mvn,
            set_flags,
            rd: rdn,
            rn: 0,
            operand: plain_register(rm),
        },
    }
}

/// Table A6-4: special data instructions, branch and exchange.
fn high_registers(word: u32) -> Option<Instruction> {
    let rdn = low_register(word, 0) | (field(word, 7, 7) as u8) << 3;
    let rm = register(word, 3);
    match field(word, 9, 8) {
        0b00 if rdn == 15 && rm == 15 => None,
        0b00 => Some(Instruction::Data {
            operation: DataOperation::Add,
            set_flags: false,
            rd: rdn,
            rn: rdn,
            operand: plain_register(rm),
        }),
        0b01 if (rdn < 8 && rm < 8) || rdn == 15 || rm == 15 => None,
        0b01 => Some(Instruction::Data {
            operation: DataOperation::Cmp,
            set_flags: true,
            rd: 0,
            rn: rdn,
            operand: plain_register(rm),
        }),
        0b10 => Some(Instruction::Data {
            operation: DataOperation::Mov,
            set_flags: false,
            rd: rdn,
            rn: 0,
            operand: plain_register(rm),
        }),
        _ if field(word, 2, 0) != 0 => None,
        _ if bit(word, 7) && rm == 15 => None,
        _ => Some(Instruction::BranchRegister { rm, link: bit(word, 7) }),
    }
}

/// The register offsets of table A6-5.
fn load_store_register(word: u32) -> Instruction {
    let rt = low_register(word, 0);
    let offset = Offset::Register { rm: low_register(word, 6), shift: UNSHIFTED, subtract: false };
    let address = Address { base: low_register(word, 3), offset, index: Index::Offset };
    let (load, width) = match field(word, 11, 9) {
        0b000 => (false, Width::Word),
        0b001 => (false, Width::Half),
        0b010 => (false, Width::Byte),
        0b011 => (true, Width::SignedByte),
        0b100 => (true, Width::Word),
        0b101 => (true, Width::Half),
        0b110 => (true, Width::Byte),
        _ => (true, Width::SignedHalf),
    };
    load_or_store(load, width, rt, address)
}

/// The immediate offsets of table A6-5.
fn load_store_immediate(word: u32) -> Instruction {
    let (width, scale) = match field(word, 15, 12) {
        0b0110 | 0b1001 => (Width::Word, 4),
        0b0111 => (Width::Byte, 1),
        _ => (Width::Half, 2),
    };
    let (rt, base, immediate) = if field(word, 15, 12) == 0b1001 {
        (low_register(word, 8), 13, field(word, 7, 0))
    } else {
        (low_register(word, 0), low_register(word, 3), field(word, 10, 6))
    };
    let address =
        Address { base, offset: Offset::Immediate((immediate * scale) as i32), index: Index::Offset };
    load_or_store(bit(word, 11), width, rt, address)
}

fn load_or_store(load: bool, width: Width, rt: u8, address: Address) -> Instruction {
    if load { Instruction::Load { width, rt, address } } else { Instruction::Store { width, rt, address } }
}

/// Table A6-6.
fn miscellaneous(word: u32) -> Option<Instruction> {
    let rd = low_register(word, 0);
    let rm = low_register(word, 3);
    match field(word, 11, 8) {
        0b0000 => {
            let operation = if bit(word, 7) { DataOperation::Sub } else { DataOperation::Add };
            Some(add_immediate(operation, 13, 13, field(word, 6, 0) * 4, false))
        }
        0b0001 | 0b0011 | 0b1001 | 0b1011 => {
            let offset = (field(word, 9, 9) << 6 | field(word, 7, 3) << 1) as i32;
            Some(Instruction::CompareBranch { rn: rd, nonzero: bit(word, 11), offset })
        }
        0b0010 => {
            let extend = match field(word, 7, 6) {
                0b00 => Extend::SignedHalf,
                0b01 => Extend::SignedByte,
                0b10 => Extend::UnsignedHalf,
                _ => Extend::UnsignedByte,
            };
            Some(Instruction::Extend { extend, rd, add: None, rm, rotation: 0 })
        }
        0b0100 | 0b0101 => {
            let list = (field(word, 7, 0) | field(word, 8, 8) << 14) as u16;
            (list != 0).then_some(Instruction::StoreMultiple {
                base: 13,
                list,
                increment: false,
                before: true,
                writeback: true,
            })
        }
        0b0110 if field(word, 7, 4) == 0b0101 && field(word, 2, 0) == 0 => {
            Some(opaque("setend", Opaque::CPSR))
        }
        // Changing no mask bit is UNPREDICTABLE.
        0b0110 if field(word, 7, 5) == 0b011 && !bit(word, 3) && field(word, 2, 0) != 0 => {
            Some(opaque("cps", Opaque::CPSR))
        }
        0b1010 => {
            let operation = match field(word, 7, 6) {
                0b00 => Unary::ReverseBytes,
                0b01 => Unary::ReverseBytes16,
                0b11 => Unary::ReverseBytesSignedHalf,
                _ => return None,
            };
            Some(Instruction::Unary { operation, rd, rm })
        }
        0b1100 | 0b1101 => {
            let list = (field(word, 7, 0) | field(word, 8, 8) << 15) as u16;
            (list != 0).then_some(Instruction::LoadMultiple {
                base: 13,
                list,
                increment: true,
                before: false,
                writeback: true,
            })
        }
        0b1110 => Some(opaque("bkpt", 0)),
        0b1111 if field(word, 3, 0) == 0 => Some(Instruction::Nop),
        0b1111 => {
            let condition = field(word, 7, 4);
            let mask = field(word, 3, 0);
            let predictable = condition < 14 || (condition == 14 && mask.count_ones() == 1);
            predictable.then_some(Instruction::IfThen { state: field(word, 7, 0) as u8 })
        }
        _ => None,
    }
}

fn multiple(word: u32) -> Option<Instruction> {
    let base = low_register(word, 8);
    let list = field(word, 7, 0) as u16;
    if list == 0 {
        return None;
    }
    let base_in_list = list >> base & 1 != 0;
    if bit(word, 11) {
        let writeback = !base_in_list;
        return Some(Instruction::LoadMultiple { base, list, increment: true, before: false, writeback });
    }
    if base_in_list && list.trailing_zeros() != u32::from(base) {
        // The value stored for the base is UNKNOWN.
        return Some(opaque_memory("stm", written(base)));
    }
    Some(Instruction::StoreMultiple { base, list, increment: true, before: false, writeback: true })
}

/// Table A6-7.
fn conditional_branch_or_exception(word: u32) -> Conditional {
    match field(word, 11, 8) {
        14 => Some((Condition::ALWAYS, opaque("udf", 0))),
        // 0xab asks a semihosting QEMU for a service: it answers in r0, and may read and fill buffers.
        15 if field(word, 7, 0) == 0xab => Some((Condition::ALWAYS, opaque_memory("svc", written(0)))),
        15 => Some((Condition::ALWAYS, opaque("svc", 0))),
        condition => {
            let offset = sign_extend(field(word, 7, 0) << 1, 9);
            Some((Condition(condition as u8), Instruction::Branch { offset, link: false }))
        }
    }
}
