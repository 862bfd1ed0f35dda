//! Conditions of breakpoints, in the bytecode that gdb compiles them to (gdb manual, appendix "The GDB Agent Expression
//! Mechanism").
//!
//! An expression is decoded and checked once, when it arrives: [`Expression::decode`]. Evaluating it needs only registers
//! and memory, each of which may be unavailable: [`State`]. Whatever can't be decided counts as a hit ([`Condition`]),
//! since gdb evaluates the condition of every hit that it is told of once more.

mod decode;
mod evaluate;

use decode::Instruction;
pub use decode::Malformed;

/// The most values that an expression may have on its stack at once; gdb's own take less than ten.
const DEEPEST_STACK: usize = 64;
/// The most instructions that one evaluation executes; gdb's own have no loops.
const MOST_STEPS: u32 = 10_000;

/// Where an expression's values come from.
pub trait State {
    /// The register with this number in the target description, zero-extended; `None` if its value is not known, or if
    /// there is no such register.
    fn register(&mut self, number: u16) -> Option<u64>;
    /// `size` bytes (1, 2, 4 or 8) of memory as a number in the guest's byte order, zero-extended; `None` if one of
    /// them is not known. The guest's addresses may be narrower than `address`: the lower bits count.
    fn memory(&mut self, address: u64, size: usize) -> Option<u64>;
}

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// It does what is not implemented: floating point, tracing, trace state variables, printing.
    #[error("the expression needs what is not implemented")]
    NotImplemented,
    /// It needs a register or a byte of memory that is not known.
    #[error("the expression needs a value that is not known")]
    Unavailable,
    /// A division by zero, or a shift by more bits than there are.
    #[error("the expression's arithmetic is undefined")]
    Undefined,
    /// It did not end within [`MOST_STEPS`] instructions.
    #[error("the expression takes too long")]
    TooLong,
}

/// An expression, ready to be evaluated any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression(Box<[Instruction]>);

impl Expression {
    /// Decodes bytecode and checks that it can't leave itself or its stack.
    pub fn decode(bytecode: &[u8]) -> Result<Self, Malformed> {
        decode::decode(bytecode).map(Self)
    }

    /// The expression's value.
    pub fn evaluate(&self, state: &mut dyn State) -> Result<u64, Undecided> {
        evaluate::evaluate(&self.0, state)
    }

    /// How much it takes to keep: its number of instructions.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

/// When a breakpoint counts: always, or if one of several expressions is true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition(Vec<Expression>);

impl Condition {
    /// Holds if one of the expressions is not zero; always, if there are none.
    pub fn any_of(expressions: Vec<Expression>) -> Self {
        Self(expressions)
    }

    /// Whether it holds, or can't be decided.
    pub fn holds(&self, state: &mut dyn State) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|expression| match expression.evaluate(state) {
                Ok(value) => value != 0,
                Err(reason) => {
                    log::debug!("a breakpoint's condition: {reason}");
                    true
                }
            })
    }

    /// How much it takes to keep: its number of instructions.
    pub fn size(&self) -> usize {
        self.0.iter().map(Expression::size).sum()
    }
}

#[cfg(test)]
mod tests;
