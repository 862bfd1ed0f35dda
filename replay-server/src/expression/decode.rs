//! From bytecode to instructions that an evaluator can trust: every jump leads to an instruction, every path ends, and the
//! stack's height at each instruction is known and within bounds.
//!
//! Only what can be reached is decoded, so what gdb adds in a later version matters only where an expression uses it.

use std::collections::BTreeMap;

use super::DEEPEST_STACK;

/// The most bytes that an expression may have; gdb's own have less than a hundred.
const LONGEST: usize = 0x4000;

/// Why bytecode is no expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends in the middle of an instruction, or without `end`.
    #[error("the expression has no end")]
    NoEnd,
    /// It has more than [`LONGEST`] bytes.
    #[error("the expression is too long")]
    TooLong,
    /// A jump leads out of it.
    #[error("the expression jumps out of itself")]
    Jump,
    /// An instruction takes more values than there are, or there would be more than [`DEEPEST_STACK`].
    #[error("the expression's stack is too low or too high")]
    Stack,
    /// The stack's height at an instruction depends on the way there.
    #[error("the expression's stack has no definite height")]
    UnevenStack,
}

/// Operations on the two uppermost values, the upper one on the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    DivideSigned,
    DivideUnsigned,
    RemainderSigned,
    RemainderUnsigned,
    ShiftLeft,
    ShiftRightSigned,
    ShiftRightUnsigned,
    And,
    Or,
    ExclusiveOr,
    Equal,
    LessSigned,
    LessUnsigned,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    Binary(Binary),
    /// 1 for zero, else 0.
    LogicalNot,
    BitwiseNot,
    /// Keeps this many lower bits (1 to 63) and repeats the highest of them.
    SignExtend(u8),
    /// Keeps this many lower bits (1 to 63).
    ZeroExtend(u8),
    /// Replaces an address by this many bytes of memory there.
    Load(u8),
    Constant(u64),
    Register(u16),
    Duplicate,
    Pop,
    Swap,
    /// Pushes the value at this depth once more; 0 is the uppermost.
    Pick(u8),
    /// Moves the uppermost value below the next two.
    Rotate,
    /// Nothing: an extension from all 64 bits.
    Keep,
    /// To the instruction with this number.
    Goto(u16),
    /// Pops a value; to the instruction with this number unless it is zero.
    GotoIf(u16),
    End,
    NotImplemented,
}

impl Instruction {
    /// How many values it takes from the stack, and how many it puts there.
    fn stack_effect(self) -> (usize, usize) {
        match self {
            Instruction::Binary(_) => (2, 1),
            Instruction::LogicalNot
            | Instruction::BitwiseNot
            | Instruction::SignExtend(_)
            | Instruction::ZeroExtend(_)
            | Instruction::Load(_)
            | Instruction::Keep => (1, 1),
            Instruction::Constant(_) | Instruction::Register(_) => (0, 1),
            Instruction::Duplicate => (1, 2),
            Instruction::Pop | Instruction::GotoIf(_) => (1, 0),
            Instruction::Swap => (2, 2),
            Instruction::Pick(depth) => (usize::from(depth) + 1, usize::from(depth) + 2),
            Instruction::Rotate => (3, 3),
            Instruction::Goto(_) | Instruction::NotImplemented => (0, 0),
            Instruction::End => (1, 1),
        }
    }

    /// Nothing is executed behind it.
    fn is_last(self) -> bool {
        matches!(self, Instruction::Goto(_) | Instruction::End | Instruction::NotImplemented)
    }
}

/// The instruction at the start of `code`, with jumps still to offsets in the bytecode, and its length. The numbers are
/// those of the manual's section "Bytecode Descriptions".
fn instruction(code: &[u8]) -> Result<(Instruction, u16), Malformed> {
    fn operand<const BYTES: usize>(code: &[u8]) -> Result<[u8; BYTES], Malformed> {
        code.get(1..).and_then(<[u8]>::first_chunk).copied().ok_or(Malformed::NoEnd)
    }
    let opcode = *code.first().ok_or(Malformed::NoEnd)?;
    let byte = || operand::<1>(code).map(|[byte]| byte);
    let half = || operand(code).map(u16::from_be_bytes);
    let binary = |operation| Ok((Instruction::Binary(operation), 1));
    match opcode {
        0x02 => binary(Binary::Add),
        0x03 => binary(Binary::Subtract),
        0x04 => binary(Binary::Multiply),
        0x05 => binary(Binary::DivideSigned),
        0x06 => binary(Binary::DivideUnsigned),
        0x07 => binary(Binary::RemainderSigned),
        0x08 => binary(Binary::RemainderUnsigned),
        0x09 => binary(Binary::ShiftLeft),
        0x0a => binary(Binary::ShiftRightSigned),
        0x0b => binary(Binary::ShiftRightUnsigned),
        0x0e => Ok((Instruction::LogicalNot, 1)),
        0x0f => binary(Binary::And),
        0x10 => binary(Binary::Or),
        0x11 => binary(Binary::ExclusiveOr),
        0x12 => Ok((Instruction::BitwiseNot, 1)),
        0x13 => binary(Binary::Equal),
        0x14 => binary(Binary::LessSigned),
        0x15 => binary(Binary::LessUnsigned),
        0x16 => Ok((
            match byte()? {
                0 => Instruction::NotImplemented,
                bits @ 1..64 => Instruction::SignExtend(bits),
                _ => Instruction::Keep,
            },
            2,
        )),
        0x17 => Ok((Instruction::Load(1), 1)),
        0x18 => Ok((Instruction::Load(2), 1)),
        0x19 => Ok((Instruction::Load(4), 1)),
        0x1a => Ok((Instruction::Load(8), 1)),
        0x20 => Ok((Instruction::GotoIf(half()?), 3)),
        0x21 => Ok((Instruction::Goto(half()?), 3)),
        0x22 => Ok((Instruction::Constant(byte()?.into()), 2)),
        0x23 => Ok((Instruction::Constant(half()?.into()), 3)),
        0x24 => Ok((Instruction::Constant(u32::from_be_bytes(operand(code)?).into()), 5)),
        0x25 => Ok((Instruction::Constant(u64::from_be_bytes(operand(code)?)), 9)),
        0x26 => Ok((Instruction::Register(half()?), 3)),
        0x27 => Ok((Instruction::End, 1)),
        0x28 => Ok((Instruction::Duplicate, 1)),
        0x29 => Ok((Instruction::Pop, 1)),
        0x2a => Ok((
            match byte()? {
                0 => Instruction::NotImplemented,
                bits @ 1..64 => Instruction::ZeroExtend(bits),
                _ => Instruction::Keep,
            },
            2,
        )),
        0x2b => Ok((Instruction::Swap, 1)),
        0x32 => Ok((Instruction::Pick(byte()?), 2)),
        0x33 => Ok((Instruction::Rotate, 1)),
        _ => Ok((Instruction::NotImplemented, 1)),
    }
}

/// What of the bytecode has been decoded.
#[derive(Default)]
struct Decoded {
    instructions: Vec<Instruction>,
    /// For each offset in the bytecode that has been decoded: the instruction's number and the stack's height before it.
    places: BTreeMap<u16, (u16, usize)>,
    /// Where paths go on that have not been followed yet, and the stack's height there.
    open: Vec<(u16, usize)>,
}

/// See [`Expression::decode`](super::Expression::decode).
pub(super) fn decode(bytecode: &[u8]) -> Result<Box<[Instruction]>, Malformed> {
    if bytecode.len() > LONGEST {
        return Err(Malformed::TooLong);
    }
    let mut decoded = Decoded { open: vec![(0, 0)], ..Decoded::default() };
    while let Some((offset, height)) = decoded.open.pop() {
        decoded.follow(bytecode, offset, height)?;
    }
    let Decoded { mut instructions, places, .. } = decoded;
    for instruction in &mut instructions {
        if let Instruction::Goto(target) | Instruction::GotoIf(target) = instruction {
            *target = places.get(target).ok_or(Malformed::Jump)?.0;
        }
    }
    Ok(instructions.into())
}

impl Decoded {
    /// Decodes one path up to its end or to where another one has been.
    fn follow(&mut self, bytecode: &[u8], mut offset: u16, mut height: usize) -> Result<(), Malformed> {
        let mut behind_another = false;
        loop {
            if let Some((_, known)) = self.places.get(&offset) {
                if *known != height {
                    return Err(Malformed::UnevenStack);
                }
                if behind_another {
                    self.instructions.push(Instruction::Goto(offset));
                }
                return Ok(());
            }
            // There are at most two instructions for each byte: itself, and a jump behind it.
            let number = u16::try_from(self.instructions.len()).map_err(|_| Malformed::TooLong)?;
            self.places.insert(offset, (number, height));
            let (decoded, length) = instruction(bytecode.get(usize::from(offset)..).unwrap_or_default())?;
            let (taken, put) = decoded.stack_effect();
            height = height.checked_sub(taken).ok_or(Malformed::Stack)? + put;
            if height > DEEPEST_STACK {
                return Err(Malformed::Stack);
            }
            if let Instruction::Goto(target) | Instruction::GotoIf(target) = decoded {
                if usize::from(target) >= bytecode.len() {
                    return Err(Malformed::Jump);
                }
                self.open.push((target, height));
            }
            self.instructions.push(decoded);
            if decoded.is_last() {
                return Ok(());
            }
            offset = offset.saturating_add(length);
            behind_another = true;
        }
    }
}
