//! Executing the instructions of a block: what the model computes, and the recorded results of the others.

use ktrace_format::segment::FLAG_OPEN_END;
use ktrace_machine::bus::Bus;
use ktrace_machine::{Block, Exit, Opaque, Results};

use super::{Divergence, Engine, Run};
use crate::journal::Journal;

impl<J: Journal> Engine<J> {
    /// Executes what of a block lies before `until`.
    #[inline]
    pub(super) fn run_block(&mut self, block: &Block, run: &mut Run, until: u64) -> Result<(), Divergence> {
        while run.index < run.started && self.executed < until {
            let wanted = (until - self.executed).min(u64::from(run.started - run.index)) as u32;
            let to = run.index + wanted;
            self.memory.block_begins_at(self.executed.wrapping_sub(u64::from(run.index)));
            match self.cpu.run(block, run.index as usize, to as usize, &mut self.memory) {
                Exit::Done => {
                    self.executed += u64::from(to - run.index);
                    run.index = to;
                }
                Exit::Opaque(index) => {
                    self.executed += u64::from(index as u32 - run.index);
                    run.index = index as u32;
                    self.run_opaque(block, run)?;
                    run.index += 1;
                    self.executed += 1;
                }
                Exit::Halted(index) => {
                    self.executed += u64::from(index as u32 - run.index);
                    if let Some(error) = self.memory.error.take() {
                        return Err(self.stream_error(&error));
                    }
                    let last_of_block = index as u32 + 1 == run.started;
                    if last_of_block && run.discontinuity.is_none() && self.at_open_end() {
                        // What it did to the registers before the recording ended, if anything, is not known.
                        self.unproven = self.set.all_registers();
                    } else if !last_of_block || run.discontinuity.is_none() {
                        return Err(self.divergence(format!(
                            "the instruction at {:#010x} makes more accesses than the trace has",
                            block.address_of(index)
                        )));
                    }
                    // It faulted in the middle; the keyframe after the discontinuity follows.
                    self.halted = true;
                    self.executed += 1;
                    run.index = run.started;
                }
            }
        }
        Ok(())
    }

    /// The next instruction is the last one, and the trace does not say whether it completed.
    fn at_open_end(&self) -> bool {
        self.executed + 1 == self.head.instructions && self.head.flags & FLAG_OPEN_END != 0
    }

    #[inline(never)]
    fn run_opaque(&mut self, block: &Block, run: &Run) -> Result<(), Divergence> {
        let index = run.index as usize;
        let Some(opaque) = block.opaque(index) else {
            return Err(self.divergence("no opaque instruction is here"));
        };
        self.memory.journal.opaque(opaque.mnemonic);
        self.remapped |= opaque.remaps;
        if opaque.memory {
            self.memory.block_begins_at(self.executed.wrapping_sub(u64::from(run.index)));
            self.memory.at_instruction(index);
            self.memory.opaque_accesses().map_err(|error| self.stream_error(&error))?;
        }
        let last_of_block = run.index + 1 == run.started;
        if last_of_block && (run.discontinuity.is_some() || self.at_open_end()) {
            // Its results were never read: a keyframe follows, or nothing does. It may have ended in an exception.
            if run.discontinuity.is_none() {
                self.unproven |= opaque.may_write() | self.set.exception_registers();
            }
            return self.complete(block, index, &Results::NONE);
        }
        self.complete_with_results(block, index, &opaque)
    }

    fn complete_with_results(
        &mut self,
        block: &Block,
        index: usize,
        opaque: &Opaque,
    ) -> Result<(), Divergence> {
        let memory = &mut self.memory;
        let results = opaque.results(self.cpu.status(), |_| memory.cursor.result(&memory.streams));
        let results = results.map_err(|error| self.stream_error(&error))?;
        if results.written.intersects(self.set.volatile_registers()) {
            // The instruction counts as executed in a moment.
            self.volatile_at = self.executed + 1;
        }
        let before = self.cpu.status();
        self.complete(block, index, &results)?;
        self.remapped |= self.set.translates_otherwise(before, self.cpu.status());
        Ok(())
    }

    pub(crate) fn complete(
        &mut self,
        block: &Block,
        index: usize,
        results: &Results,
    ) -> Result<(), Divergence> {
        self.cpu.complete_opaque(block, index, results).map_err(|error| self.divergence(error.to_string()))
    }
}
