//! Branches and jumps with a constant target, and the opcode REGIMM.
//!
//! As in QEMU (`gen_compute_branch`), the operands can make a condition a constant: BEQ of a register with itself is
//! taken, BNE is no branch at all.

use super::Word;
use crate::mips::instruction::{Condition, Instruction};

/// From the branch's slot.
fn offset(word: Word) -> i32 {
    i32::from(word.immediate()) << 2
}

/// The opcodes of jumps and branches.
pub(super) fn decode(word: Word) -> Option<Instruction> {
    let (rs, rt) = (word.rs(), word.rt());
    let opcode = word.bits(26, 6);
    let likely = opcode & 0o20 != 0;
    let branch =
        |condition| Some(Instruction::Branch { condition, offset: offset(word), link: false, likely });
    let never = Some(Instruction::BranchNever { skip: likely, link: false });
    match opcode {
        0o02 | 0o03 | 0o35 => Some(Instruction::Jump {
            index: word.bits(0, 26) << 2,
            link: opcode != 0o02,
            exchange: opcode == 0o35,
        }),
        0o04 | 0o24 if rs == rt => branch(Condition::Always),
        0o04 | 0o24 => branch(Condition::Equal { rs, rt }),
        0o05 | 0o25 if rs == rt => never,
        0o05 | 0o25 => branch(Condition::NotEqual { rs, rt }),
        // With rt they are compact branches of release 6; QEMU does not look at it in the likely forms.
        0o06 | 0o07 if rt != 0 => None,
        0o06 | 0o26 if rs == 0 => branch(Condition::Always),
        0o06 | 0o26 => branch(Condition::NotPositive(rs)),
        _ if rs == 0 => never,
        _ => branch(Condition::Positive(rs)),
    }
}

/// The opcode REGIMM.
pub(super) fn decode_register_immediate(word: Word) -> Option<Instruction> {
    let operation = word.rt();
    let rs = word.rs();
    match operation {
        0o00..=0o03 | 0o20..=0o23 => {
            let (likely, link) = (operation & 2 != 0, operation & 0o20 != 0);
            let less = operation & 1 == 0;
            let (condition, offset) = match (less, rs) {
                (false, 0) => (Condition::Always, offset(word)),
                // QEMU makes the one that is never taken a branch to where it leads anyway.
                (true, 0) if link && !likely => (Condition::Always, 4),
                (true, 0) => return Some(Instruction::BranchNever { skip: likely, link }),
                (true, _) => (Condition::Negative(rs), offset(word)),
                (false, _) => (Condition::NotNegative(rs), offset(word)),
            };
            Some(Instruction::Branch { condition, offset, link, likely })
        }
        0o10..=0o14 | 0o16 => Some(Instruction::Trap),
        // Its condition is in DSPControl.
        0o34 => Some(Instruction::OpaqueBranch("bposge32")),
        // SYNCI.
        0o37 => Some(Instruction::Nop),
        _ => None,
    }
}
