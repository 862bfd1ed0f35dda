//! Points in recorded time.

use std::fmt;

/// A point in recorded time: the state just before instruction number `.0`, counted from the first recorded
/// instruction. Position 0 is the start; the position after the last instruction is the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The first recorded instruction.
    pub const START: Position = Position(0);
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
