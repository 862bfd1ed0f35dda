//! Executes blocks of an imported recording (*Imported recordings* in `SPEC.md`): all registers are known where a block
//! begins; values of loads and results of opaque instructions are not known at all.
//!
//! The processor computes with zeros in their place, and which registers depend on them is kept beside: what is shown
//! depends on known registers only.

use ktrace_machine::bus::{AccessSize, Bus, Halt};
use ktrace_machine::{Block, Exit, RegisterSet, Results};

use crate::engine::{Divergence, Engine, Run};
use crate::journal::Journal;

/// Memory of which nothing is known.
struct NoValues;

impl Bus for NoValues {
    fn load(&mut self, _: u32, _: AccessSize) -> Result<u64, Halt> {
        Ok(0)
    }

    fn store(&mut self, _: u32, _: AccessSize, _: u64) -> Result<(), Halt> {
        Ok(())
    }
}

impl<J: Journal> Engine<J> {
    /// The registers that are not known at a keyframe.
    pub(crate) fn missing_in_keyframe(&self) -> RegisterSet {
        if self.imported { self.set.missing_in_original() } else { RegisterSet::EMPTY }
    }

    /// Executes what of a block lies before `until`.
    pub(crate) fn run_imported(
        &mut self,
        block: &Block,
        run: &mut Run,
        until: u64,
    ) -> Result<(), Divergence> {
        while run.index < run.started && self.executed < until {
            let index = run.index as usize;
            match self.cpu.run(block, index, index + 1, &mut NoValues) {
                Exit::Done => {}
                Exit::Opaque(_) => self.complete(block, index, &Results::NONE)?,
                Exit::Halted(_) => return Err(self.divergence("an instruction stopped in its middle")),
            }
            self.unproven = block.unknown_after(index, self.unproven);
            run.index += 1;
            self.executed += 1;
        }
        Ok(())
    }

    /// A block without a gap behind it has ended, as only the recording's last one does. Where the processor went then
    /// is not known, so nothing is.
    pub(crate) fn leave_imported(&mut self) -> Result<(), Divergence> {
        self.unproven = self.set.all_registers();
        let last = self.head().first + self.executed == self.program().trace().instructions()
            && self.ordinal == self.head().blocks;
        if last {
            Ok(())
        } else {
            Err(self.divergence("a block of an imported recording has no gap behind it"))
        }
    }
}
