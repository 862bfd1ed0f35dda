//! Leaving blocks, through discontinuities too, and what must be right at a checkpoint and at a segment's end.

use ktrace_format::segment::Stream;
use ktrace_format::segment::cursor::Further;
use ktrace_machine::{Block, Cause, Cpu, KnownRegisters, LastInstruction};

use super::{Divergence, Engine, Run};
use crate::journal::Journal;

/// Something that happened between two instructions, for those who watch.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "few are kept, and not for long")]
pub(crate) enum Noted {
    /// A discontinuity, and perhaps more of them.
    Discontinuity(NotedDiscontinuity),
    /// Devices wrote to memory so many times.
    DeviceWrites { executed: u64, count: u64 },
}

/// A discontinuity and where it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotedDiscontinuity {
    /// Instructions of the segment before it.
    pub(crate) executed: u64,
    pub(crate) cause: Cause,
    pub(crate) further: Further,
    /// Virtual address of the last instruction of the block before it; `None` if none of that block had started.
    pub(crate) last: Option<u32>,
    /// That instruction is at fault.
    pub(crate) raised: bool,
    /// That instruction completed, and what it did is known.
    pub(crate) completed: bool,
    /// The registers as that instruction left them, if it completed; else what they were before it, or worse.
    pub(crate) before: KnownRegisters,
    /// The registers after the discontinuity.
    pub(crate) after: KnownRegisters,
    /// Virtual address of the instruction that would have been next; `None` if that is not known.
    pub(crate) next: Option<u32>,
    /// Virtual address of the one that was.
    pub(crate) to: u32,
}

impl<J: Journal> Engine<J> {
    /// The block has ended.
    #[inline]
    pub(super) fn leave(&mut self, block: &Block, run: &Run) -> Result<(), Divergence> {
        self.memory.digest.block(block.address(), run.started);
        if self.imported && run.discontinuity.is_none() {
            self.leave_imported()?;
        }
        if let Some(cause) = run.discontinuity {
            self.discontinuity(block, run, cause)?;
        }
        Ok(())
    }

    #[cold]
    fn discontinuity(&mut self, block: &Block, run: &Run, cause: u8) -> Result<(), Divergence> {
        if self.memory.accesses != self.memory.limit {
            return Err(self.divergence(format!(
                "the block before a discontinuity makes fewer accesses ({} fewer) than the trace has",
                self.memory.limit.saturating_sub(self.memory.accesses)
            )));
        }
        self.memory.set_limit(self.base_limit());
        let last = run.started.checked_sub(1).map(|last| last as usize);
        let opaque = last.and_then(|last| block.opaque(last));
        let cause = Cause::new(self.set, cause);
        let mut registers = self.cpu.registers();
        let keyframe = if cause.is_gap() {
            self.set.all_registers()
        } else {
            block.keyframe_after(run.started as usize)
        };
        for number in keyframe.iter() {
            let memory = &mut self.memory;
            let value = memory.cursor.keyframe(&memory.streams).map_err(|error| self.stream_error(&error))?;
            if let Some(register) = registers.get_mut(number) {
                *register = value;
            }
        }
        let further = std::mem::take(&mut self.further);
        let others = further.causes(&self.memory.streams).iter().map(|cause| Cause::new(self.set, *cause));
        let status = registers.get(self.set.status_register()).copied().unwrap_or_default();
        self.remapped |= std::iter::once(cause).chain(others).any(Cause::remaps)
            || self.set.translates_otherwise(self.cpu.status(), status);
        let stopped = std::mem::take(&mut self.halted);
        if self.noted.is_some() {
            let before = self.registers();
            let after = KnownRegisters::new(registers, self.missing_in_keyframe());
            let pc = self.set.program_counter();
            let last_instruction =
                LastInstruction { stopped, opaque: opaque.map(|opaque| (opaque.mnemonic, opaque.memory)) };
            // Where it leads is among the results, which nobody read.
            let leads_anywhere = opaque.is_some_and(|opaque| opaque.writes.contains(pc));
            let raised = last.is_some() && cause.is_raised_by(last_instruction);
            let noted = Noted::Discontinuity(NotedDiscontinuity {
                executed: self.executed,
                cause,
                further,
                last: last.map(|last| block.address_of(last)),
                raised,
                completed: last.is_some() && !raised && !stopped && opaque.is_none(),
                before,
                after,
                next: (!stopped && !leads_anywhere && !cause.is_gap()).then(|| self.cpu.pc()),
                to: registers.get(pc).copied().unwrap_or_default(),
            });
            self.noted.iter_mut().for_each(|all| all.push(noted));
        }
        self.cpu = Cpu::new(self.set, &registers);
        self.unproven = self.missing_in_keyframe();
        self.volatile_at = self.executed;
        Ok(())
    }

    #[cold]
    pub(super) fn check_digest(&mut self) -> Result<(), Divergence> {
        let memory = &mut self.memory;
        let expected =
            memory.cursor.checkpoint(&memory.streams).map_err(|error| self.stream_error(&error))?;
        if expected != self.memory.digest.0 {
            return Err(
                self.divergence("the digest of the replayed accesses and blocks is not the recorded one")
            );
        }
        self.checked = self.executed;
        Ok(())
    }

    /// The last instruction was executed.
    #[cold]
    pub(super) fn finish(&mut self) -> Result<(), Divergence> {
        // Blocks of which nothing started can follow the last instruction.
        while self.ordinal < self.head.blocks {
            let run = self.enter()?;
            if run.started != 0 {
                return Err(self.divergence("the segment has more instructions than its head says"));
            }
            self.leave_empty(&run)?;
        }
        if self.next_control == u64::from(self.ordinal) {
            let memory = &mut self.memory;
            let count = memory.cursor.control_at_end(&memory.streams);
            let count = count.map_err(|error| self.stream_error(&error))?;
            self.next_control = u64::MAX;
            self.device_writes(count)?;
        } else if self.next_control != u64::MAX {
            return Err(self.divergence("the segment has control entries for more blocks than its head says"));
        }
        self.check_digest()?;
        if self.memory.accesses != self.head.accesses {
            return Err(self.divergence("the segment's number of accesses is not the recorded one"));
        }
        for stream in [Stream::Control, Stream::Values, Stream::Surprises, Stream::Mappings, Stream::Devices]
        {
            self.expect_end(stream)?;
        }
        for stream in [Stream::OpaqueAccesses, Stream::Results, Stream::Keyframes, Stream::Checkpoints] {
            self.expect_end(stream)?;
        }
        self.expect_end(Stream::DeviceWrites)?;
        Ok(())
    }

    fn expect_end(&self, stream: Stream) -> Result<(), Divergence> {
        if self.memory.cursor.at_end(&self.memory.streams, stream) {
            Ok(())
        } else {
            Err(self.divergence(format!("the segment's {stream:?} stream has more than the replay used")))
        }
    }
}
