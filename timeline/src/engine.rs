//! Executes one segment again, block by block, checking all that the trace lets it check.

use std::sync::Arc;

use ktrace_format::segment::cursor::Further;
use ktrace_format::segment::encoder::entry_key;
use ktrace_format::segment::{CHECKPOINT_BLOCKS, FLAG_OPEN_END, Head, SegmentError, Stream, Streams};
use ktrace_machine::bus::Bus;
use ktrace_machine::{
    Block, Cause, Cpu, Exit, InstructionSet, KnownRegisters, LastInstruction, Opaque, RegisterSet, Registers,
    Results,
};

use crate::blocks::DecodedBlocks;
use crate::journal::{FullJournal, Journal, Slot, Undo};
use crate::past::Past;
use crate::program::Program;
use crate::segment_memory::SegmentMemory;
use crate::view::{Stand, View};

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

/// Everything of an engine that is cheap to copy, and how much its journal holds.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) executed: u64,
    cpu: Cpu,
    unproven: RegisterSet,
    volatile_at: u64,
    remapped: bool,
    run: Option<Run>,
    ordinal: u32,
    next_control: u64,
    checked: u64,
    cursor: ktrace_format::segment::cursor::Cursor,
    digest: ktrace_format::digest::Digest,
    accesses: u64,
    next_surprise: u64,
    surprise_kind: u64,
    limit: u64,
    finished: bool,
    further: Further,
    journal: usize,
}

const ENTRY_CACHE: usize = 1 << 14;

/// What is expected at an entry point, all in one place: blocks are entered so often that each other place that has to be
/// looked at counts.
#[derive(Clone, Copy, Debug)]
struct Expected {
    key: u64,
    /// The entry point's number. It and the key are good in every segment, the rest only if `epoch` is the engine's.
    entry: u32,
    epoch: u32,
    /// As in `Run`.
    id: u32,
    started: u32,
}

impl Expected {
    const NOTHING: Expected = Expected { key: u64::MAX, entry: 0, epoch: 0, id: 0, started: 0 };

    /// Where an entry point's is.
    #[inline]
    fn place(key: u64) -> usize {
        (key ^ key >> 29) as usize >> 1 & (ENTRY_CACHE - 1)
    }
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

    #[inline]
    fn entry_at(&mut self, key: u64) -> Option<u32> {
        match self.expected.get(Expected::place(key)) {
            Some(expected) if expected.key == key => Some(expected.entry),
            _ => self.find_entry(key),
        }
    }

    #[cold]
    fn find_entry(&mut self, key: u64) -> Option<u32> {
        let entry = self.program.entry_with(key)?;
        if let Some(place) = self.expected.get_mut(Expected::place(key)) {
            *place = Expected { key, entry, ..Expected::NOTHING };
        }
        Some(entry)
    }

    /// What is expected at an entry point is no longer what it was.
    fn expect_anew(&mut self, entry: u32) {
        let Some(key) = self.program.entry_key(entry) else { return };
        if let Some(place) = self.expected.get_mut(Expected::place(key)).filter(|place| place.key == key) {
            place.epoch = 0;
        }
    }

    /// Enters the next block if it is just the expected one.
    #[inline(always)]
    fn enter_expected(&mut self) -> Option<Run> {
        let key = entry_key(self.cpu.pc(), self.cpu.mode().bits());
        let expected = self.expected.get(Expected::place(key))?;
        if expected.key != key || expected.epoch != self.epoch || self.ordinal >= self.special {
            return None;
        }
        self.ordinal += 1;
        Some(Run { id: expected.id, started: expected.started, index: 0, discontinuity: None })
    }

    /// Enters the next block.
    #[inline(never)]
    fn enter(&mut self) -> Result<Run, Divergence> {
        if self.ordinal.is_multiple_of(CHECKPOINT_BLOCKS) && self.ordinal > 0 {
            self.check_digest()?;
        }
        let (address, mode) = (self.cpu.pc(), self.cpu.mode().bits());
        let run = if u64::from(self.ordinal) == self.next_control {
            self.enter_slowly(address, mode)?
        } else {
            self.enter_first(address, mode)?
        };
        self.ordinal += 1;
        // The first block has no checkpoint.
        let checkpoint = self.ordinal.max(1).next_multiple_of(CHECKPOINT_BLOCKS);
        let special = checkpoint.min(self.head.blocks);
        self.special = u32::try_from(self.next_control).map_or(special, |control| special.min(control));
        Ok(run)
    }

    /// Enters the expected block, and notes it where the next visit looks first.
    fn enter_first(&mut self, address: u32, mode: u16) -> Result<Run, Divergence> {
        let key = entry_key(address, mode);
        let expected = self.entry_at(key).and_then(|entry| {
            let slot = self.entries.get(entry as usize)?;
            let id = if slot.generation == self.generation { slot.value } else { self.first_entry(entry)? };
            Some((entry, id))
        });
        let Some((entry, id)) = expected else { return Err(self.no_block(address)) };
        let started = self.expected_started(id);
        if let Some(place) = self.expected.get_mut(Expected::place(key)) {
            *place = Expected { key, entry, epoch: self.epoch, id, started };
        }
        Ok(Run { id, started, index: 0, discontinuity: None })
    }

    #[cold]
    fn no_block(&self, address: u32) -> Divergence {
        let lost =
            if self.newest_lost.is_some() { ": a part of its dictionary of blocks is lost" } else { "" };
        self.divergence(format!("the model arrives at {address:#010x}, where the trace has no block{lost}"))
    }

    /// The first visit of an entry point in this segment.
    fn first_entry(&mut self, entry: u32) -> Option<u32> {
        let id = self.program.first_expected(entry, self.head.dictionary)?;
        if self.newest_lost.is_some_and(|lost| lost > id) {
            return None;
        }
        self.set_entry(entry, id);
        Some(id)
    }

    fn set_entry(&mut self, entry: u32, value: u32) {
        if let Some(slot) = self.entries.get_mut(entry as usize) {
            let old = *slot;
            self.memory.journal.note(|| Undo::Entry { entry, slot: old });
            *slot = Slot { generation: self.generation, value };
            self.expect_anew(entry);
        }
    }

    #[inline]
    fn expected_started(&mut self, id: u32) -> u32 {
        match self.started.get(id as usize) {
            Some(slot) if slot.generation == self.generation => slot.value,
            _ => {
                let value = self.block(id).map_or(0, |block| block.len() as u32);
                self.set_started(id, value);
                value
            }
        }
    }

    fn set_started(&mut self, block: u32, value: u32) {
        if let Some(slot) = self.started.get_mut(block as usize) {
            let old = *slot;
            self.memory.journal.note(|| Undo::Started { block, slot: old });
            *slot = Slot { generation: self.generation, value };
            if let Some(entry) = self.program.entry_of(block) {
                self.expect_anew(entry);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn enter_slowly(&mut self, address: u32, mode: u16) -> Result<Run, Divergence> {
        let memory = &mut self.memory;
        let control = memory.cursor.control(&memory.streams).map_err(|error| self.stream_error(&error))?;
        self.next_control += 1;
        self.advance_control()?;
        self.device_writes(control.device_writes)?;
        self.further = control.further;
        let entry = self.entry_at(entry_key(address, mode));
        let id = match control.block {
            Some(id) => {
                let entry = self.program.entry_of(id);
                let entry = entry.ok_or_else(|| self.divergence(format!("the trace has no block {id}")))?;
                if self.program.entry_key(entry) != Some(entry_key(address, mode)) {
                    let key = self.program.entry_key(entry).unwrap_or_default();
                    return Err(self.divergence(format!(
                        "the model arrives at {address:#010x} in mode {mode:#06x}, the trace at {:#010x} in mode {:#06x}",
                        key as u32,
                        key >> 32
                    )));
                }
                self.set_entry(entry, id);
                id
            }
            None => {
                let slot = entry.and_then(|entry| self.entries.get(entry as usize).copied());
                match (slot, entry) {
                    (Some(slot), _) if slot.generation == self.generation => slot.value,
                    (_, Some(entry)) => self.first_entry(entry).ok_or_else(|| self.no_block(address))?,
                    _ => return Err(self.no_block(address)),
                }
            }
        };
        let length = self.block(id).map(|block| block.len() as u32);
        let length =
            length.ok_or_else(|| self.divergence(format!("block {id} of the trace can't be decoded")))?;
        let started = match control.started {
            Some(started) if started <= length => {
                self.set_started(id, started);
                started
            }
            Some(started) => {
                return Err(
                    self.divergence(format!("{started} of {length} instructions started, says the trace"))
                );
            }
            None => self.expected_started(id),
        };
        if let Some((_, accesses)) = control.discontinuity {
            let limit = self.memory.accesses.saturating_add(accesses);
            self.memory.set_limit(limit);
        }
        Ok(Run { id, started, index: 0, discontinuity: control.discontinuity.map(|(cause, _)| cause) })
    }

    /// Devices write to memory so many times.
    fn device_writes(&mut self, count: u64) -> Result<(), Divergence> {
        if count == 0 {
            return Ok(());
        }
        let stand = self.stand();
        for _ in 0..count {
            self.memory.device_write(stand).map_err(|error| self.stream_error(&error))?;
            if self.memory.journal.is_full() {
                return Err(self.too_much());
            }
        }
        if let Some(noted) = &mut self.noted {
            noted.push(Noted::DeviceWrites { executed: self.executed, count });
        }
        Ok(())
    }

    /// The segment can't be shown, only verified.
    #[cold]
    pub(crate) fn too_much(&self) -> Divergence {
        self.divergence("the segment changes more memory than can be kept")
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

    /// Executes what of a block lies before `until`.
    #[inline]
    fn run_block(&mut self, block: &Block, run: &mut Run, until: u64) -> Result<(), Divergence> {
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
        self.complete(block, index, &results)
    }

    pub(crate) fn complete(
        &mut self,
        block: &Block,
        index: usize,
        results: &Results,
    ) -> Result<(), Divergence> {
        self.cpu.complete_opaque(block, index, results).map_err(|error| self.divergence(error.to_string()))
    }

    /// The block has ended.
    #[inline]
    fn leave(&mut self, block: &Block, run: &Run) -> Result<(), Divergence> {
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
    fn check_digest(&mut self) -> Result<(), Divergence> {
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
    fn finish(&mut self) -> Result<(), Divergence> {
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

impl Engine<FullJournal> {
    /// A copy of the state here, good until the segment is left.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            executed: self.executed,
            cpu: self.cpu.clone(),
            unproven: self.unproven,
            volatile_at: self.volatile_at,
            remapped: self.remapped,
            run: self.run,
            ordinal: self.ordinal,
            next_control: self.next_control,
            checked: self.checked,
            cursor: self.memory.cursor,
            digest: self.memory.digest,
            accesses: self.memory.accesses,
            next_surprise: self.memory.next_surprise,
            surprise_kind: self.memory.surprise_kind,
            limit: self.memory.limit,
            finished: self.finished,
            further: self.further,
            journal: self.memory.journal.len(),
        }
    }

    /// Goes back to an earlier state of the same segment.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) {
        self.executed = snapshot.executed;
        self.cpu = snapshot.cpu.clone();
        self.unproven = snapshot.unproven;
        self.volatile_at = snapshot.volatile_at;
        self.remapped = snapshot.remapped;
        self.run = snapshot.run;
        self.ordinal = snapshot.ordinal;
        self.next_control = snapshot.next_control;
        self.checked = snapshot.checked;
        self.finished = snapshot.finished;
        self.further = snapshot.further;
        self.halted = false;
        self.forget_expected();
        let memory = &mut self.memory;
        memory.journal.undo_to(snapshot.journal, &mut memory.shadow, &mut self.entries, &mut self.started);
        memory.cursor = snapshot.cursor;
        memory.digest = snapshot.digest;
        memory.accesses = snapshot.accesses;
        memory.next_surprise = snapshot.next_surprise;
        memory.surprise_kind = snapshot.surprise_kind;
        memory.limit = snapshot.limit;
        memory.resume();
    }
}
