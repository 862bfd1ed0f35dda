//! Executes one segment again, block by block, checking all that the trace lets it check.

mod ending;
mod execute;
mod expected;
mod snapshot;

use std::sync::Arc;

use ktrace_format::segment::cursor::Further;
use ktrace_format::segment::{FLAG_OPEN_END, Head, SegmentError, Streams};
use ktrace_machine::{Block, Cpu, InstructionSet, KnownRegisters, RegisterSet, Registers};

use crate::blocks::DecodedBlocks;
use crate::journal::{Journal, Slot};
use crate::past::Past;
use crate::program::Program;
use crate::segment_memory::SegmentMemory;
use crate::view::{Stand, View};

pub(crate) use ending::{Noted, NotedDiscontinuity};
use expected::{ENTRY_CACHE, Expected};
pub(crate) use snapshot::Snapshot;

/// The replay and the trace disagree, or the trace can't be understood: nothing after this is proved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (in the segment that starts at position {segment}, after {executed} of its instructions)")]
pub struct Divergence {
    /// Position of the segment's first instruction.
    pub segment: u64,
    /// Instructions of it that were executed before it was noticed.
    pub executed: u64,
    /// What is wrong.
    pub reason: String,
}

/// The block under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) id: u32,
    /// Its instructions that start.
    pub(crate) started: u32,
    /// The next one.
    pub(crate) index: u32,
    /// Cause of the discontinuity after it.
    discontinuity: Option<u8>,
}

/// See the [module](self).
pub struct Engine<J> {
    program: Arc<Program>,
    blocks: Arc<DecodedBlocks>,
    /// The same once more, for `run_to`.
    lent: Option<Arc<DecodedBlocks>>,
    pub(crate) set: InstructionSet,
    /// See [`Program::is_imported`].
    pub(crate) imported: bool,
    pub(crate) cpu: Cpu,
    pub(crate) memory: SegmentMemory<J>,
    head: Head,
    /// Instructions of the segment executed so far.
    pub(crate) executed: u64,
    pub(crate) run: Option<Run>,
    /// Blocks entered so far.
    pub(crate) ordinal: u32,
    /// Ordinal of the next block with a control entry.
    next_control: u64,
    /// Instructions proved by the digests so far.
    pub(crate) checked: u64,
    generation: u32,
    entries: Vec<Slot>,
    started: Vec<Slot>,
    /// By entry point, direct-mapped.
    expected: Box<[Expected]>,
    /// Changes whenever all that is expected may be another.
    epoch: u32,
    /// A block with at least this ordinal is not simply the expected one: a control entry or a checkpoint comes first, or it
    /// is beyond the segment's end.
    special: u32,
    /// Registers that the trace does not prove after the segment's last instruction.
    pub(crate) unproven: RegisterSet,
    /// How many instructions had been executed when the trace last proved the registers that change by themselves.
    volatile_at: u64,
    /// See [`Stand::remapped`].
    remapped: bool,
    /// What happened between instructions since somebody last took it, kept only if somebody wants it.
    pub(crate) noted: Option<Vec<Noted>>,
    /// What follows the discontinuity after the block under way.
    further: Further,
    /// The last instruction of the block under way made no more accesses than the trace has: it may not have completed.
    halted: bool,
    /// Everything was executed and compared.
    pub(crate) finished: bool,
    /// See [`Program::newest_lost`].
    newest_lost: Option<u32>,
}

impl<J: Journal> Engine<J> {
    /// An engine that has no segment yet.
    pub fn new(program: Arc<Program>) -> Self {
        let set = program.instruction_set();
        Engine {
            set,
            imported: program.is_imported(),
            cpu: Cpu::new(set, &Registers::zero(set.register_count())),
            memory: SegmentMemory::new(),
            head: Head::default(),
            executed: 0,
            run: None,
            ordinal: 0,
            next_control: u64::MAX,
            checked: 0,
            generation: 0,
            entries: vec![Slot::default(); program.entry_count()],
            started: vec![Slot::default(); program.trace().block_count()],
            expected: vec![Expected::NOTHING; ENTRY_CACHE].into_boxed_slice(),
            epoch: 0,
            special: 0,
            unproven: RegisterSet::EMPTY,
            volatile_at: 0,
            remapped: false,
            noted: None,
            further: Further::default(),
            halted: false,
            finished: false,
            newest_lost: None,
            blocks: program.blocks(),
            lent: None,
            program,
        }
    }

    /// What it replays.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// The segment's head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Starts a segment.
    pub fn begin(&mut self, head: Head, streams: Arc<Streams>) -> Result<(), Divergence> {
        self.generation += 1;
        self.blocks = self.program.blocks();
        self.lent = None;
        self.executed = 0;
        self.run = None;
        self.ordinal = 0;
        self.checked = 0;
        self.unproven = self.missing_in_keyframe();
        self.volatile_at = 0;
        self.remapped = false;
        self.finished = false;
        self.further = Further::default();
        self.halted = false;
        self.newest_lost = self.program.newest_lost(&head);
        self.head = head;
        if self.head.vcpu != 0 {
            return Err(self.divergence("it begins on another vCPU than the first, which is not supported"));
        }
        let count = self.set.register_count();
        let registers =
            Registers::from_slice(&self.head.registers).filter(|registers| registers.len() == count);
        let registers = registers
            .ok_or_else(|| self.divergence(format!("the keyframe does not have {count} registers")))?;
        self.cpu = Cpu::new(self.set, &registers);
        self.memory.begin(streams).map_err(|error| self.stream_error(&error))?;
        self.memory.set_limit(self.base_limit());
        self.next_control = 0;
        self.forget_expected();
        self.advance_control()
    }

    /// Nothing is expected any more but what `entries` and `started` say.
    fn forget_expected(&mut self) {
        self.special = 0;
        self.epoch = self.epoch.checked_add(1).unwrap_or_else(|| {
            // After four thousand million times the old ones would look fresh again.
            self.expected.fill(Expected::NOTHING);
            1
        });
    }

    #[cold]
    pub(crate) fn divergence(&self, reason: impl Into<String>) -> Divergence {
        Divergence { segment: self.head.first, executed: self.executed, reason: reason.into() }
    }

    #[cold]
    fn stream_error(&self, error: &SegmentError) -> Divergence {
        self.divergence(error.to_string())
    }

    /// The number of accesses after which no instruction makes another, unless a discontinuity comes first: where the
    /// recording ended in the middle of an instruction.
    fn base_limit(&self) -> u64 {
        if self.head.flags & FLAG_OPEN_END != 0 { self.head.accesses } else { u64::MAX }
    }

    fn advance_control(&mut self) -> Result<(), Divergence> {
        let memory = &mut self.memory;
        let gap = memory.cursor.next_control(&memory.streams).map_err(|error| self.stream_error(&error))?;
        self.next_control = gap.map_or(u64::MAX, |gap| self.next_control.saturating_add(gap));
        Ok(())
    }

    /// A block, decoded.
    pub(crate) fn block(&self, id: u32) -> Option<&Block> {
        self.blocks.get(self.program.trace(), id)
    }

    /// The blocks that were entered in the segment so far, rising.
    pub(crate) fn entered_blocks(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.started).filter(|(_, slot)| slot.generation == self.generation).map(|(id, _)| id)
    }

    /// Memory here, with what there was before the segment.
    pub(crate) fn view<'a>(&'a self, past: &'a Past) -> View<'a> {
        View { shadow: &self.memory.shadow, past, stand: self.stand() }
    }

    fn stand(&self) -> Stand {
        Stand { executed: self.executed, status: self.cpu.status(), remapped: self.remapped }
    }

    /// Instructions of the segment.
    pub fn length(&self) -> u64 {
        self.head.instructions
    }

    /// Executes until `executed` is `until`, at most to the segment's end.
    pub fn run_to(&mut self, until: u64) -> Result<(), Divergence> {
        self.run_to_block(until, |_| false).map(drop)
    }

    /// The same, but stops before the next instruction if that is of a block that is `wanted`: returns whether it is. Blocks of
    /// which nothing starts are passed.
    pub(crate) fn run_to_block(
        &mut self,
        until: u64,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<bool, Divergence> {
        // They are borrowed while everything else changes. To count one more owner here would cost as much as a block does.
        let blocks = self.lent.take().unwrap_or_else(|| Arc::clone(&self.blocks));
        let outcome = self.run_blocks(until, &blocks, wanted);
        self.lent = Some(blocks);
        outcome
    }

    #[inline]
    fn run_blocks(
        &mut self,
        until: u64,
        blocks: &DecodedBlocks,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<bool, Divergence> {
        let until = until.min(self.head.instructions);
        while self.executed < until {
            let mut run = match self.run {
                Some(run) => run,
                None => match self.enter_expected() {
                    Some(run) => run,
                    None => self.enter_next()?,
                },
            };
            if run.started > run.index && wanted(run.id) {
                self.run = Some(run);
                return Ok(true);
            }
            let Some(block) = blocks.get(self.program.trace(), run.id) else {
                return Err(self.divergence(format!("block {} of the trace can't be decoded", run.id)));
            };
            if self.imported {
                self.run_imported(block, &mut run, until)?;
            } else {
                self.run_block(block, &mut run, until)?;
            }
            if run.index == run.started {
                self.leave(block, &run)?;
                self.run = None;
            } else {
                self.run = Some(run);
            }
        }
        if self.executed == self.head.instructions && !self.finished {
            self.finish()?;
            self.finished = true;
        }
        Ok(false)
    }

    /// Passes the blocks of which nothing starts that come next. Each may end in a discontinuity, so the registers at a
    /// position are those after them.
    pub(crate) fn settle(&mut self) -> Result<(), Divergence> {
        if self.executed < self.head.instructions {
            self.next_run().map(drop)
        } else {
            self.run_to(self.head.instructions)
        }
    }

    /// The block that the next instruction belongs to, entering it if necessary; `None` at the segment's end.
    pub(crate) fn next_run(&mut self) -> Result<Option<Run>, Divergence> {
        while self.executed < self.head.instructions {
            if let Some(run) = self.run {
                return Ok(Some(run));
            }
            self.next_block()?;
        }
        Ok(None)
    }

    /// Enters the next block of those that the segment's instructions need.
    #[inline(never)]
    fn enter_next(&mut self) -> Result<Run, Divergence> {
        if self.ordinal >= self.head.blocks {
            return Err(self.divergence("the segment has fewer blocks than its instructions need"));
        }
        self.enter()
    }

    /// Enters the next block, and leaves it again if none of its instructions start. The segment has instructions left.
    pub(crate) fn next_block(&mut self) -> Result<(), Divergence> {
        let run = self.enter_next()?;
        if run.started > 0 {
            self.run = Some(run);
            return Ok(());
        }
        self.leave_empty(&run)
    }

    fn leave_empty(&mut self, run: &Run) -> Result<(), Divergence> {
        let blocks = Arc::clone(&self.blocks);
        let Some(block) = blocks.get(self.program.trace(), run.id) else {
            return Err(self.divergence(format!("block {} of the trace can't be decoded", run.id)));
        };
        self.leave(block, run)
    }

    /// The registers here, in as far as the trace proves them.
    pub fn registers(&self) -> KnownRegisters {
        KnownRegisters::new(self.cpu.registers(), self.unproven())
    }

    /// One of them; `None` if it is not proved or there is none.
    pub(crate) fn register(&self, number: usize) -> Option<u32> {
        if self.unproven().contains(number) { None } else { self.cpu.register(number) }
    }

    /// Those that it does not prove.
    pub fn unproven(&self) -> RegisterSet {
        if self.executed == self.volatile_at {
            self.unproven
        } else {
            self.unproven | self.set.volatile_registers()
        }
    }
}
