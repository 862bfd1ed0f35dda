//! Data processing: register, register-shifted register and immediate (A5.2.1 to A5.2.4).

use super::{Word, require};
use crate::arm::instruction::{DataOperation, Instruction, Opaque, Operand, Shift, ShiftKind};

/// By bits 24:21.
const OPERATIONS: [DataOperation; 16] = [
    DataOperation::And,
    DataOperation::Eor,
    DataOperation::Sub,
    DataOperation::Rsb,
    DataOperation::Add,
    DataOperation::Adc,
    DataOperation::Sbc,
    DataOperation::Rsc,
    DataOperation::Tst,
    DataOperation::Teq,
    DataOperation::Cmp,
    DataOperation::Cmn,
    DataOperation::Orr,
    DataOperation::Mov,
    DataOperation::Bic,
    DataOperation::Mvn,
];

/// The shift of a register by a constant, bits 11:7 and 6:5 (A8.4.3).
pub(super) fn immediate_shift(word: Word) -> Shift {
    let amount = word.bits(7, 5) as u8;
    match (word.bits(5, 2), amount) {
        (0, _) => Shift { kind: ShiftKind::Lsl, amount },
        (1, 0) => Shift { kind: ShiftKind::Lsr, amount: 32 },
        (1, _) => Shift { kind: ShiftKind::Lsr, amount },
        (2, 0) => Shift { kind: ShiftKind::Asr, amount: 32 },
        (2, _) => Shift { kind: ShiftKind::Asr, amount },
        (_, 0) => Shift { kind: ShiftKind::Rrx, amount: 1 },
        (_, _) => Shift { kind: ShiftKind::Ror, amount },
    }
}

fn operand(word: Word) -> Option<Operand> {
    if word.bit(25) {
        let rotation = 2 * word.bits(8, 4);
        let value = word.bits(0, 8).rotate_right(rotation);
        let carry = (rotation != 0).then_some(value >> 31 != 0);
        return Some(Operand::Immediate { value, carry });
    }
    if !word.bit(4) {
        return Some(Operand::Register { rm: word.register(0), shift: immediate_shift(word) });
    }
    let kind = match word.bits(5, 2) {
        0 => ShiftKind::Lsl,
        1 => ShiftKind::Lsr,
        2 => ShiftKind::Asr,
        _ => ShiftKind::Ror,
    };
    Some(Operand::RegisterShifted { rm: word.general(0)?, kind, rs: word.general(8)? })
}

/// The sixteen operations; the caller has taken out the miscellaneous instructions in the compares without S.
pub(super) fn decode(word: Word) -> Option<Instruction> {
    use DataOperation::{Cmn, Cmp, Mov, Mvn, Sub, Teq, Tst};
    let operation = OPERATIONS[word.bits(21, 4) as usize];
    let operand = operand(word)?;
    let set_flags = word.bit(20);
    let (rd, rn) = (word.register(12), word.register(16));
    let compares = matches!(operation, Tst | Teq | Cmp | Cmn);
    require(!compares || rd == 0)?;
    require(!matches!(operation, Mov | Mvn) || rn == 0)?;
    if matches!(operand, Operand::RegisterShifted { .. }) {
        require(rd != 15 && rn != 15)?;
    }
    if set_flags && rd == 15 {
        // The exception returns that QEMU has as such; the other operations it treats in its own way.
        return match operation {
            Sub => Some(Instruction::Opaque(exception_return("subs pc"))),
            Mov => Some(Instruction::Opaque(exception_return("movs pc"))),
            _ => None,
        };
    }
    Some(Instruction::Data { operation, set_flags, rd, rn, operand })
}

fn exception_return(mnemonic: &'static str) -> Opaque {
    Opaque {
        mnemonic,
        writes: Opaque::CPSR | 1 << 15,
        changes_mode: true,
        memory: false,
        changes_mapping: true,
    }
}

/// MOVW and MOVT.
pub(super) fn decode_move_wide(word: Word) -> Option<Instruction> {
    let rd = word.general(12)?;
    let value = (word.bits(16, 4) << 12 | word.bits(0, 12)) as u16;
    Some(if word.bit(22) {
        Instruction::MoveTop { rd, value }
    } else {
        Instruction::Data {
            operation: DataOperation::Mov,
            set_flags: false,
            rd,
            rn: 0,
            operand: Operand::Immediate { value: value.into(), carry: None },
        }
    })
}
