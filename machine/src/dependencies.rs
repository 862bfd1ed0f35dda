//! What an instruction's results depend on: for recordings that have the registers at some places and no values of loads,
//! where a register is known behind an instruction only if all that it was computed from was known before it.
//!
//! The sets may be larger than the architecture makes them, never smaller: then less is known than could be.

use crate::RegisterSet;

/// What of the registers an instruction reads and writes. The program counter is in none of the sets: what reads it reads a
/// constant, and what writes it ends a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// The registers that `computed` depends on.
    pub reads: RegisterSet,
    /// The registers that it may write with what it computes from registers alone.
    pub computed: RegisterSet,
    /// The registers that it may write with what it loads from memory, or in a way that is not modelled.
    pub loaded: RegisterSet,
    /// Of those that it may write, the registers that it may also leave alone although it executes: what only some operands
    /// make it write, and all that an opaque instruction may write.
    pub uncertain: RegisterSet,
}

/// Whether an instruction that completes writes a register, be it with the value that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// It leaves it alone.
    No,
    /// Its value, if it changes, comes from the instruction; if it does not, nothing tells whether it was written.
    Perhaps,
    /// It does.
    Yes,
}

impl Dependencies {
    /// Whether the instruction writes a register if it executes and is not nullified.
    pub(crate) fn writes(self, register: usize) -> Writes {
        if !(self.computed | self.loaded).contains(register) {
            Writes::No
        } else if self.uncertain.contains(register) {
            Writes::Perhaps
        } else {
            Writes::Yes
        }
    }

    /// The registers that are not known behind the instruction, if `unknown` are not known before it.
    pub fn unknown_after(self, unknown: RegisterSet) -> RegisterSet {
        let computed = if self.reads.intersects(unknown) {
            unknown | self.computed
        } else {
            unknown.without(self.computed)
        };
        computed | self.loaded
    }
}
