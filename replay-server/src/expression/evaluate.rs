//! Executes decoded expressions.
//!
//! All values have 64 bits and arithmetic wraps around, as in gdbserver.

use super::decode::{Binary, Instruction};
use super::{DEEPEST_STACK, MOST_STEPS, State, Undecided};

/// The values. Decoding has checked that it never has less than are taken, nor more than fit.
struct Stack {
    values: [u64; DEEPEST_STACK],
    height: usize,
}

impl Stack {
    fn push(&mut self, value: u64) {
        if let Some(place) = self.values.get_mut(self.height) {
            *place = value;
            self.height += 1;
        }
    }

    fn pop(&mut self) -> u64 {
        self.height = self.height.saturating_sub(1);
        self.peek(0, self.height)
    }

    /// The value `depth` below the uppermost one of the lowest `height`, counted from 0 just above them.
    fn peek(&self, depth: usize, height: usize) -> u64 {
        height.checked_sub(depth).and_then(|place| self.values.get(place)).copied().unwrap_or(0)
    }
}

/// See [`Expression::evaluate`](super::Expression::evaluate).
pub(super) fn evaluate(instructions: &[Instruction], state: &mut dyn State) -> Result<u64, Undecided> {
    let mut stack = Stack { values: [0; DEEPEST_STACK], height: 0 };
    let mut next = 0;
    for _ in 0..MOST_STEPS {
        // Decoding has checked that no path leads out of the instructions.
        let Some(instruction) = instructions.get(next) else { return Err(Undecided::NotImplemented) };
        next += 1;
        match *instruction {
            Instruction::Binary(operation) => {
                let right = stack.pop();
                let left = stack.pop();
                stack.push(binary(operation, left, right).ok_or(Undecided::Undefined)?);
            }
            Instruction::LogicalNot => {
                let value = stack.pop();
                stack.push(u64::from(value == 0));
            }
            Instruction::BitwiseNot => {
                let value = stack.pop();
                stack.push(!value);
            }
            Instruction::SignExtend(bits) => {
                let unused = u64::BITS - u32::from(bits);
                let value = stack.pop();
                stack.push(((value << unused) as i64 >> unused) as u64);
            }
            Instruction::ZeroExtend(bits) => {
                let unused = u64::BITS - u32::from(bits);
                let value = stack.pop();
                stack.push(value << unused >> unused);
            }
            Instruction::Load(size) => {
                let address = stack.pop();
                stack.push(state.memory(address, size.into()).ok_or(Undecided::Unavailable)?);
            }
            Instruction::Constant(value) => stack.push(value),
            Instruction::Register(number) => {
                stack.push(state.register(number).ok_or(Undecided::Unavailable)?);
            }
            Instruction::Duplicate => pick(&mut stack, 0),
            Instruction::Pick(depth) => pick(&mut stack, depth.into()),
            Instruction::Pop => {
                stack.pop();
            }
            Instruction::Swap => {
                let (upper, lower) = (stack.pop(), stack.pop());
                stack.push(upper);
                stack.push(lower);
            }
            Instruction::Rotate => {
                let (upper, middle, lower) = (stack.pop(), stack.pop(), stack.pop());
                stack.push(upper);
                stack.push(lower);
                stack.push(middle);
            }
            Instruction::Keep => {}
            Instruction::Goto(target) => next = target.into(),
            Instruction::GotoIf(target) => {
                if stack.pop() != 0 {
                    next = target.into();
                }
            }
            Instruction::End => return Ok(stack.pop()),
            Instruction::NotImplemented => return Err(Undecided::NotImplemented),
        }
    }
    Err(Undecided::TooLong)
}

fn pick(stack: &mut Stack, depth: usize) {
    let value = stack.peek(depth + 1, stack.height);
    stack.push(value);
}

/// The result of an operation; `None` where it has none.
fn binary(operation: Binary, left: u64, right: u64) -> Option<u64> {
    let (left_signed, right_signed) = (left as i64, right as i64);
    let defined = right_signed != 0;
    let shift = u32::try_from(right).ok();
    match operation {
        Binary::Add => Some(left.wrapping_add(right)),
        Binary::Subtract => Some(left.wrapping_sub(right)),
        Binary::Multiply => Some(left.wrapping_mul(right)),
        Binary::DivideSigned => defined.then(|| left_signed.wrapping_div(right_signed) as u64),
        Binary::DivideUnsigned => left.checked_div(right),
        Binary::RemainderSigned => defined.then(|| left_signed.wrapping_rem(right_signed) as u64),
        Binary::RemainderUnsigned => left.checked_rem(right),
        Binary::ShiftLeft => left.checked_shl(shift?),
        Binary::ShiftRightSigned => left_signed.checked_shr(shift?).map(|value| value as u64),
        Binary::ShiftRightUnsigned => left.checked_shr(shift?),
        Binary::And => Some(left & right),
        Binary::Or => Some(left | right),
        Binary::ExclusiveOr => Some(left ^ right),
        Binary::Equal => Some(u64::from(left == right)),
        Binary::LessSigned => Some(u64::from(left_signed < right_signed)),
        Binary::LessUnsigned => Some(u64::from(left < right)),
    }
}
