//! The segment that a cursor stands in, executed once from end to end with a journal, so that every position of it is
//! near a snapshot in both directions.

use std::sync::Arc;

use ktrace_format::TraceError;
use ktrace_format::reader::SegmentEntry;
use ktrace_format::segment::FLAG_OPEN_END;
use ktrace_format::segment::cursor::{Translation, translations};
use ktrace_format::shadow::{Behaviour, PAGE_BYTES, Target};

use crate::engine::{Divergence, Engine, Snapshot};
use crate::journal::{FullJournal, Journal};
use crate::program::Program;
use crate::verify::keyframe_mismatch;

/// Instructions between snapshots made when a segment is entered.
const COARSE: u64 = 4096;
/// Instructions between snapshots made on the way to a position, so that the next step back is cheap.
const FINE: u64 = 64;
/// Fine snapshots are thinned out beyond this many snapshots.
const SNAPSHOT_LIMIT: usize = 2048;

/// See the [module](self).
pub(crate) struct Window {
    engine: Engine<FullJournal>,
    entry: SegmentEntry,
    number: usize,
    /// Rising by `executed`; the first is the segment's start. Those behind the present position stay valid only as
    /// long as the journal does, so they are dropped when the window goes back.
    snapshots: Vec<Snapshot>,
    /// Instructions of the segment that are proved; later positions are not known.
    proved: u64,
    /// Why not all are.
    divergence: Option<String>,
    /// The registers that govern translation, from which instruction on.
    translations: Vec<Translation>,
}

impl Window {
    pub(crate) fn new(program: Arc<Program>) -> Self {
        let entry = SegmentEntry { offset: 0, index: None, first: 0, instructions: 0, blocks: 0, flags: 0 };
        Window {
            engine: Engine::new(program),
            entry,
            number: usize::MAX,
            snapshots: Vec::new(),
            proved: 0,
            divergence: None,
            translations: Vec::new(),
        }
    }

    /// The number of the segment.
    pub(crate) fn segment(&self) -> usize {
        self.number
    }

    /// Loads a segment, executes all of it to see how far it is proved, and stands at its start.
    pub(crate) fn load(&mut self, number: usize, entry: SegmentEntry) -> Result<(), TraceError> {
        self.number = usize::MAX;
        let program = Arc::clone(self.engine.program());
        let (head, streams) = program.trace().read_segment(&entry)?;
        self.entry = entry;
        self.snapshots.clear();
        self.proved = 0;
        self.divergence = None;
        self.translations = translations(&streams).unwrap_or_default();
        let mut outcome = self.engine.begin(head, Arc::new(streams));
        if outcome.is_ok() {
            self.snapshots.push(self.engine.snapshot());
            outcome = self.execute(entry.instructions);
        }
        let next = program.trace().segments().get(number + 1);
        let next = next.filter(|next| next.first == entry.end() && entry.flags & FLAG_OPEN_END == 0);
        match outcome {
            Ok(()) => {
                // Registers that never met memory are proved by the next keyframe alone.
                let registers = self.engine.registers();
                self.divergence = next.and_then(|next| keyframe_mismatch(&program, next, &registers));
                self.proved = if self.divergence.is_none() { entry.instructions } else { 0 };
            }
            Err(divergence) => {
                self.proved = self.engine.checked;
                self.divergence = Some(divergence.to_string());
            }
        }
        self.number = number;
        if let Some(first) = self.snapshots.first().cloned() {
            self.engine.restore(&first);
        }
        Ok(())
    }

    fn execute(&mut self, instructions: u64) -> Result<(), Divergence> {
        let mut until = 0;
        loop {
            until = (until + COARSE).min(instructions);
            self.engine.run_to(until)?;
            if self.engine.memory.journal.is_full() {
                return Err(self.engine.too_much());
            }
            if until == instructions {
                return Ok(());
            }
        }
    }

    /// Instructions of the segment that are proved.
    pub(crate) fn proved(&self) -> u64 {
        self.proved
    }

    /// Why not all of the segment is proved.
    pub(crate) fn divergence(&self) -> Option<&str> {
        self.divergence.as_deref()
    }

    /// Position of the segment's first instruction.
    pub(crate) fn first(&self) -> u64 {
        self.entry.first
    }

    /// Goes to `offset` instructions after the segment's start, which must be proved. False: nothing is known there.
    pub(crate) fn go(&mut self, offset: u64) -> bool {
        let Some(first) = self.snapshots.first().cloned() else { return false };
        let shown = self.try_go(offset.min(self.proved)).is_ok();
        if !shown {
            // The engine stopped somewhere between two consistent states.
            self.snapshots.truncate(1);
            self.engine.restore(&first);
        }
        shown
    }

    fn try_go(&mut self, offset: u64) -> Result<(), Divergence> {
        if self.engine.executed > offset {
            self.snapshots.retain(|snapshot| snapshot.executed <= offset);
            if let Some(nearest) = self.snapshots.last().cloned() {
                self.engine.restore(&nearest);
            }
        }
        // Far away coarse steps leave a trail; near the goal fine ones.
        while self.engine.executed < offset {
            let remaining = offset - self.engine.executed;
            let step = if remaining > 2 * COARSE { COARSE } else { FINE };
            let until = self.engine.executed + step.min(remaining);
            self.engine.run_to(until)?;
            let last = self.snapshots.last().map_or(0, |snapshot| snapshot.executed);
            if self.engine.executed >= last + FINE {
                self.snapshots.push(self.engine.snapshot());
            }
        }
        if self.snapshots.len() > SNAPSHOT_LIMIT {
            let mut number = 0;
            self.snapshots.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        self.engine.settle()
    }

    /// The engine, standing where [`go`](Self::go) went.
    pub(crate) fn engine(&self) -> &Engine<FullJournal> {
        &self.engine
    }

    /// The engine, for searches that run forward.
    pub(crate) fn engine_mut(&mut self) -> &mut Engine<FullJournal> {
        &mut self.engine
    }

    /// What is behind the virtual page of `address`, as far as this segment has seen up to here.
    pub(crate) fn target(&self, address: u32) -> Option<Target> {
        let shadow = &self.engine.memory.shadow;
        let mapping = shadow.mapping(address)?;
        Some(match mapping.behaviour {
            Behaviour::Device => Target::Device,
            Behaviour::Ram => Target::Ram(shadow.page(mapping).number),
            Behaviour::Rom => Target::Rom(shadow.page(mapping).number),
        })
    }

    /// The registers that govern translation here, if they are known.
    pub(crate) fn translation(&self) -> Option<&[u64]> {
        let after = self.translations.partition_point(|entry| entry.from <= self.engine.executed);
        Some(&self.translations.get(after.checked_sub(1)?)?.registers)
    }

    /// A byte of physical memory, if this segment has seen it up to here.
    pub(crate) fn byte(&self, page: u64, offset: usize) -> Option<u8> {
        let page = self.engine.memory.shadow.touched_page(page)?;
        let known = page.known.get(offset / 64)? >> (offset % 64) & 1 != 0;
        page.data.get(offset % PAGE_BYTES).copied().filter(|_| known)
    }
}
