//! The segment that a cursor stands in, executed once from end to end with a journal, so that every position of it is
//! near a snapshot in both directions. Who comes back to a segment that was proved executes no more of it than is shown.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use ktrace_format::TraceError;
use ktrace_format::reader::SegmentEntry;
use ktrace_format::segment::{FLAG_OPEN_END, Head, Streams};

use crate::engine::{Divergence, Engine, Snapshot};
use crate::journal::FullJournal;
use crate::past::Past;
use crate::program::Program;
use crate::search::hunt::Cancelled;
use crate::search::quarry::Quarry;
use crate::search::scan::{Ended, Found, scan};
use crate::verify::keyframe_mismatch;
use crate::view::View;

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
    past: Past,
    segment: Option<Arc<(Head, Arc<Streams>)>>,
    /// The engine stands between two instructions, rather than where something went wrong.
    consistent: bool,
    /// Bytes that the journal may take.
    journal_limit: usize,
}

impl Window {
    pub(crate) fn new(program: Arc<Program>) -> Self {
        let entry = SegmentEntry { offset: 0, index: None, first: 0, instructions: 0, blocks: 0, flags: 0 };
        Window {
            past: Past::new(Arc::clone(&program), usize::MAX),
            segment: None,
            consistent: false,
            journal_limit: program.limits().journal(),
            engine: Engine::new(program),
            entry,
            number: usize::MAX,
            snapshots: Vec::new(),
            proved: 0,
            divergence: None,
        }
    }

    /// The number of the segment.
    pub(crate) fn segment(&self) -> usize {
        self.number
    }

    /// Loads a segment, executes all of it to see how far it is proved if that is not known, and stands anywhere in it.
    pub(crate) fn load(&mut self, number: usize, entry: SegmentEntry) -> Result<(), TraceError> {
        self.number = usize::MAX;
        let program = Arc::clone(self.engine.program());
        self.segment = None;
        self.segment = Some(program.segment(number)?);
        self.entry = entry;
        self.past = Past::new(Arc::clone(&program), number);
        self.proved = 0;
        self.divergence = None;
        if program.proofs().has(number) {
            self.proved = entry.instructions;
            self.consistent = self.begin().is_ok();
            self.number = number;
            return Ok(());
        }
        let outcome = self.begin().and_then(|()| self.execute(entry.instructions));
        self.consistent = outcome.is_ok();
        let next = program.trace().segments().get(number + 1);
        let next = next.filter(|next| next.first == entry.end() && entry.flags & FLAG_OPEN_END == 0);
        match outcome {
            Ok(()) => {
                // Registers that never met memory are proved by the next keyframe alone.
                let registers = self.engine.registers();
                self.divergence = next.and_then(|next| keyframe_mismatch(&program, next, &registers));
                if self.divergence.is_none() {
                    self.proved = entry.instructions;
                    program.proofs().note(number);
                }
            }
            Err(divergence) => {
                self.proved = self.engine.checked;
                self.divergence = Some(divergence.to_string());
            }
        }
        self.number = number;
        Ok(())
    }

    /// Starts the segment, or starts it again.
    fn begin(&mut self) -> Result<(), Divergence> {
        self.snapshots.clear();
        let (head, streams) =
            &**self.segment.as_ref().ok_or_else(|| self.engine.divergence("there is no segment"))?;
        self.engine.begin(head.clone(), Arc::clone(streams))?;
        self.snapshots.push(self.engine.snapshot());
        Ok(())
    }

    /// Executes up to `until`, leaving a trail.
    fn execute(&mut self, until: u64) -> Result<(), Divergence> {
        while self.engine.executed < until || !self.engine.finished && until == self.engine.length() {
            // Far away coarse steps leave a trail; near the goal fine ones.
            let remaining = until - self.engine.executed;
            let step = if remaining > 2 * COARSE || until == self.engine.length() { COARSE } else { FINE };
            self.engine.run_to(self.engine.executed + step.min(remaining))?;
            if self.engine.memory.journal.bytes() > self.journal_limit {
                // Who goes back beyond this place starts the segment again.
                self.engine.memory.journal.clear();
                self.snapshots.clear();
                self.snapshots.push(self.engine.snapshot());
            }
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
        Ok(())
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
        self.consistent = self.segment.is_some() && self.try_go(offset.min(self.proved)).is_ok();
        self.consistent
    }

    fn try_go(&mut self, offset: u64) -> Result<(), Divergence> {
        if self.engine.executed > offset || !self.consistent {
            self.snapshots.retain(|snapshot| snapshot.executed <= offset);
            match self.snapshots.last() {
                Some(nearest) => self.engine.restore(nearest),
                None => self.begin()?,
            }
        }
        self.execute(offset)?;
        self.engine.settle()
    }

    /// The engine, standing where [`go`](Self::go) went.
    pub(crate) fn engine(&self) -> &Engine<FullJournal> {
        &self.engine
    }

    /// The block that the instruction here belongs to.
    pub(crate) fn block_here(&mut self) -> Option<u32> {
        self.engine.next_run().ok().flatten().map(|run| run.id)
    }

    /// The first instruction that is looked for, behind where [`go`](Self::go) went and up to the offset `until`, which is
    /// proved. Others are not to be looked for. `Err`: it was cancelled.
    pub(crate) fn next_instruction(
        &mut self,
        quarry: &Quarry,
        until: u64,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Option<u64>, Cancelled> {
        let from = self.engine.executed;
        let mut at = None;
        let cancelled = RefCell::new(cancelled);
        let ended = scan(
            &mut self.engine,
            quarry,
            &self.past,
            until,
            &|| cancelled.borrow_mut()(),
            &mut |found, _| match found {
                Found::Instruction { offset, .. } if offset > from => {
                    at = Some(offset);
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            },
        );
        match ended {
            Ok(Ended::Cancelled) => Err(Cancelled { at: Some(self.number) }),
            // Behind a divergence nothing is proved, so nothing is found.
            _ => Ok(at),
        }
    }

    /// Memory where [`go`](Self::go) went.
    pub(crate) fn view(&self) -> View<'_> {
        self.engine.view(&self.past)
    }
}
