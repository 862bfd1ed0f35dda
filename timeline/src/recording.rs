//! A cursor over a recording: the implementation of [`Replay`] for traces.

use std::path::Path;
use std::sync::Arc;

use ktrace_format::{Position, TraceError};
use ktrace_machine::{ByteOrder, InstructionSet};

use crate::cache::Limits;
use crate::events::nearest::{FoundEvents, first_events, last_events};
use crate::events::{Event, Events, Kinds};
use crate::program::Program;
use crate::provenance::Provenance;
use crate::replay::{MachineDescription, Replay, ReplayError, Stop, StopAt};
use crate::search::Who;
use crate::search::candidates::Direction;
use crate::search::first::{Course, Outcome, StopHere, first};
use crate::search::hunt::Scouts;
use crate::search::quarry::Quarry;
use crate::search::scan::Found;
use crate::window::Window;

/// One view of a recording.
pub struct Recording {
    program: Arc<Program>,
    description: MachineDescription,
    pub(crate) window: Window,
    /// Look through segments.
    pub(crate) scouts: Arc<Scouts>,
    pub(crate) position: u64,
}

fn trace_error(error: &TraceError) -> ReplayError {
    ReplayError::Trace(error.to_string())
}

fn description(set: InstructionSet) -> MachineDescription {
    MachineDescription {
        architecture: set.name(),
        big_endian: set.byte_order() == ByteOrder::Big,
        gdb_architecture: set.gdb_architecture(),
        registers: set.registers(),
        program_counter: set.program_counter(),
    }
}

impl Recording {
    /// Opens the trace in a directory, standing at its start.
    pub fn open(directory: &Path) -> Result<Recording, TraceError> {
        Ok(Recording::new(Arc::new(Program::open(directory)?)))
    }

    /// The same, using so much memory.
    pub fn open_within(directory: &Path, limits: Limits) -> Result<Recording, TraceError> {
        Ok(Recording::new(Arc::new(Program::open_within(directory, limits)?)))
    }

    /// A view of an opened trace, standing at its start.
    pub fn new(program: Arc<Program>) -> Recording {
        Recording {
            description: description(program.instruction_set()),
            window: Window::new(Arc::clone(&program)),
            scouts: Arc::new(Scouts::new(Arc::clone(&program))),
            position: 0,
            program,
        }
    }

    /// The trace.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// What happens from the present position on, in order, up to the end of the recording, or until `cancelled` returns true;
    /// it is asked every 10 ms or so.
    pub fn events<'a>(
        &self,
        kinds: Kinds,
        cancelled: &'a mut dyn FnMut() -> bool,
    ) -> impl Iterator<Item = Event> + use<'a> {
        let mut events = Events::new(Arc::clone(&self.program), kinds, self.position, self.end().0);
        std::iter::from_fn(move || events.next_unless(cancelled))
    }

    /// The number of the segment that position `position` is shown from: the one that begins there or holds it; the
    /// end belongs to the last.
    fn segment_of(&self, position: u64) -> Option<usize> {
        let segments = self.program.trace().segments();
        let after = segments.partition_point(|segment| segment.first <= position);
        let number = after.checked_sub(1)?;
        segments.get(number).filter(|segment| position <= segment.end()).map(|_| number)
    }

    fn enter_window(&mut self, number: usize) -> Result<(), ReplayError> {
        if self.window.segment() != number {
            let segments = self.program.trace().segments();
            let entry = segments.get(number).copied();
            let entry =
                entry.ok_or_else(|| ReplayError::Trace("the trace has no such segment".to_owned()))?;
            self.window.load(number, entry).map_err(|error| trace_error(&error))?;
        }
        Ok(())
    }

    /// Brings the window to the present position. False: nothing is proved there.
    pub(crate) fn show(&mut self) -> Result<bool, ReplayError> {
        let Some(number) = self.segment_of(self.position) else { return Ok(false) };
        if let Err(error) = self.enter_window(number) {
            // A damaged segment is like one that is not there.
            return if matches!(error, ReplayError::Trace(_)) { Ok(false) } else { Err(error) };
        }
        let offset = self.position - self.window.first();
        Ok(offset <= self.window.proved() && self.window.go(offset))
    }

    /// Why nothing is known at the present position, for people.
    pub fn why_unknown(&mut self) -> Option<String> {
        match self.show() {
            Ok(true) => None,
            Ok(false) => Some(self.window.divergence().map_or_else(
                || "the trace has no readable segment here: it is damaged, or was torn".to_owned(),
                str::to_owned,
            )),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Bytes of the block that the next instruction belongs to, for addresses that no access and no table has shown. It
    /// executes right now, so its code is there; other code of the segment may have come or gone.
    pub(crate) fn read_code(&mut self, address: u32, into: &mut [Option<u8>]) {
        let Some(id) = self.window.block_here() else { return };
        let trace = self.program.trace();
        let Some(block) = trace.block(id) else { return };
        let start = i64::from(block.address) - i64::from(address);
        for (at, byte) in (start..).zip(trace.code(block)) {
            if let Some(place) = usize::try_from(at).ok().and_then(|at| into.get_mut(at)) {
                place.get_or_insert(*byte);
            }
        }
    }

    /// How many instructions of a segment are proved.
    fn proved(&mut self, segment: usize) -> u64 {
        if self.enter_window(segment).is_ok() { self.window.proved() } else { 0 }
    }

    /// Runs to the nearest stop in one direction. `None`: there is none.
    fn run(
        &mut self,
        stop: &StopAt,
        direction: Direction,
        limit: u64,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Stop>, ReplayError> {
        let program = Arc::clone(&self.program);
        program.must_have_accesses(&stop.watchpoints)?;
        let quarry = Quarry::new(&program, &stop.addresses, &stop.watchpoints, stop.condition.clone());
        if quarry.is_empty() {
            return Ok(None);
        }
        let mut course = Course { direction, from: self.position, limit, first_segment: 0 };
        let inside = self.segment_of(self.position) == Some(self.window.segment());
        if direction == Direction::Forward && stop.watchpoints.is_empty() && inside && self.show()? {
            // Short runs stay near: no need to start the segment again.
            let first = self.window.first();
            let until = limit.saturating_sub(first).min(self.window.proved());
            match self.window.next_instruction(&quarry, until, cancelled) {
                Ok(Some(offset)) => {
                    self.position = first + offset;
                    return Ok(Some(Stop::Address));
                }
                Ok(None) => course.first_segment = self.window.segment() + 1,
                Err(_) => return Ok(Some(Stop::Cancelled)),
            }
        }
        let scouts = Arc::clone(&self.scouts);
        let outcome =
            first(&scouts, &program, &quarry, course, cancelled, &mut |segment| self.proved(segment));
        Ok(match outcome {
            Outcome::Nothing => None,
            Outcome::Cancelled { position } => {
                self.position = position;
                Some(Stop::Cancelled)
            }
            Outcome::Stop(here) => {
                self.position = here.position;
                Some(stop_of(&here))
            }
        })
    }
}

/// Why to stop where several things may happen at once: what writes is told rather than what reads.
fn stop_of(here: &StopHere) -> Stop {
    let accesses = here.found.iter().filter_map(|found| match found {
        Found::Access(sighting) => Some(sighting),
        Found::Instruction { .. } => None,
    });
    let best = accesses.min_by_key(|sighting| sighting.who == Who::Load);
    best.map_or(Stop::Address, |sighting| Stop::Watchpoint {
        number: sighting.watchpoint,
        address: sighting.within,
        who: sighting.who,
    })
}

impl Replay for Recording {
    fn description(&self) -> &MachineDescription {
        &self.description
    }

    fn position(&self) -> Position {
        Position(self.position)
    }

    fn end(&self) -> Position {
        Position(self.program.trace().instructions())
    }

    fn seek(&mut self, to: Position) -> Result<(), ReplayError> {
        if to > self.end() {
            return Err(ReplayError::OutOfRange { position: to, end: self.end() });
        }
        self.position = to.0;
        Ok(())
    }

    fn registers(&mut self) -> Result<Vec<Option<u32>>, ReplayError> {
        let count = self.description.registers.len();
        if !self.show()? {
            return Ok(vec![None; count]);
        }
        Ok(self.window.engine().registers().iter().collect())
    }

    fn read_memory(&mut self, address: u32, into: &mut [Option<u8>]) -> Result<(), ReplayError> {
        into.fill(None);
        if !self.show()? {
            return Ok(());
        }
        self.window.view().read_virtual(address, into);
        if into.contains(&None) {
            self.read_code(address, into);
        }
        Ok(())
    }

    fn read_physical_memory(&mut self, address: u64, into: &mut [Option<u8>]) -> Result<(), ReplayError> {
        into.fill(None);
        if self.show()? {
            self.window.view().read_physical(address, into);
        }
        Ok(())
    }

    fn provenance(&mut self, address: u32, into: &mut [Provenance]) -> Result<(), ReplayError> {
        self.find_provenance(address, into)
    }

    fn first_events(
        &self,
        kinds: Kinds,
        from: Position,
        count: usize,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> FoundEvents {
        first_events(&self.program, kinds, from, count, cancelled)
    }

    fn last_events(
        &self,
        kinds: Kinds,
        to: Position,
        count: usize,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> FoundEvents {
        last_events(&self.program, kinds, Position::START, to, count, cancelled)
    }

    fn run_forward(
        &mut self,
        stop: &StopAt,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, ReplayError> {
        let end = self.end().0;
        let limit = stop.position.map_or(end, |position| position.0.min(end));
        if let Some(stop) = self.run(stop, Direction::Forward, limit, cancelled)? {
            return Ok(stop);
        }
        if let Some(position) =
            stop.position.filter(|position| position.0 > self.position && position.0 <= end)
        {
            self.position = position.0;
            return Ok(Stop::Position);
        }
        self.position = end;
        Ok(Stop::End)
    }

    fn run_backward(
        &mut self,
        stop: &StopAt,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, ReplayError> {
        let limit = stop.position.map_or(0, |position| position.0);
        if let Some(stop) = self.run(stop, Direction::Backward, limit, cancelled)? {
            return Ok(stop);
        }
        if let Some(position) = stop.position.filter(|position| position.0 < self.position) {
            self.position = position.0;
            return Ok(Stop::Position);
        }
        self.position = 0;
        Ok(Stop::Start)
    }

    fn summary(&self) -> String {
        let trace = self.program.trace();
        let header = trace.header();
        let mut text = format!(
            "{} instructions in {} segments, {} bytes\n",
            trace.instructions(),
            trace.segments().len(),
            trace.bytes()
        );
        if !header.qemu_version.is_empty() {
            text += &format!("recorded with {}\n", header.qemu_version);
        }
        if !header.command_line.is_empty() {
            text += &format!("command line: {}\n", header.command_line.join(" "));
        }
        match trace.totals() {
            Some(totals) => text += &format!("closed properly ({})\n", totals.reason),
            None => text += "not closed properly: what came after the last whole segment is missing\n",
        }
        for fault in trace.faults() {
            text += &format!("{fault}\n");
        }
        if self.program.is_imported() {
            text += "imported: registers are known where blocks begin, and what ran between two blocks is not; memory is not known\n";
        } else if self.program.image().is_none() {
            text += "the initial memory was not captured: memory is known from its first access on\n";
        }
        text
    }
}
