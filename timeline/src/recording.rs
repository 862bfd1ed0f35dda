//! A cursor over a recording: the implementation of [`Replay`] for traces.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use ktrace_format::shadow::PAGE_BYTES;
use ktrace_format::{Position, TraceError};
use ktrace_machine::{ByteOrder, InstructionSet};

use crate::engine::{Divergence, Engine};
use crate::events::{Event, Events, Kinds};
use crate::history::History;
use crate::journal::{Journal, NoJournal};
use crate::program::Program;
use crate::provenance::Provenance;
use crate::replay::{MachineDescription, Replay, ReplayError, Stop, StopAt};
use crate::stops::Stops;
use crate::window::Window;

/// Instructions that a search executes between two looks at whether it was cancelled: well below a millisecond.
const SLICE: u64 = 1 << 16;

/// One view of a recording.
pub struct Recording {
    program: Arc<Program>,
    history: Arc<OnceLock<History>>,
    description: MachineDescription,
    pub(crate) window: Window,
    /// Looks through segments other than the window's.
    pub(crate) scout: Option<Engine<NoJournal>>,
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

    /// A view of an opened trace, standing at its start.
    pub fn new(program: Arc<Program>) -> Recording {
        Recording {
            history: Arc::default(),
            description: description(program.instruction_set()),
            window: Window::new(Arc::clone(&program)),
            scout: None,
            position: 0,
            program,
        }
    }

    /// The trace.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
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

    pub(crate) fn history(&self) -> &History {
        self.history.get_or_init(|| History::build(&self.program))
    }

    /// The physical page behind a virtual one here: an access of this segment has shown it, or the translation tables
    /// say so. An access of an earlier segment would prove nothing, since the mapping may have changed.
    pub(crate) fn physical_page(&self, address: u32) -> Option<u64> {
        if let Some(target) = self.window.target(address) {
            return target.physical_page();
        }
        let registers = self.window.translation();
        let set = self.program.instruction_set();
        let status = self.window.engine().cpu.status();
        let physical =
            set.translate(address, status, registers, &mut |at, bytes| self.read_number(at, bytes))?;
        let canonical = self.program.image().map_or(physical, |image| image.canonical(physical));
        Some(canonical / PAGE_BYTES as u64)
    }

    /// A little-endian number in physical memory, if all its bytes are known.
    fn read_number(&self, physical: u64, bytes: usize) -> Option<u64> {
        let canonical = self.program.image().map_or(physical, |image| image.canonical(physical));
        let mut read = [None; 8];
        let part = read.get_mut(..bytes)?;
        self.read_physical(canonical / PAGE_BYTES as u64, canonical as usize % PAGE_BYTES, part);
        part.iter().rev().try_fold(0, |number, byte| Some(number << 8 | u64::from((*byte)?)))
    }

    /// Bytes of one physical page from `offset` on; the window stands at the present position.
    fn read_physical(&self, page: u64, offset: usize, into: &mut [Option<u8>]) {
        for (at, byte) in into.iter_mut().enumerate() {
            *byte = self.window.byte(page, offset + at);
        }
        let mut wanted: Vec<bool> = into.iter().map(Option::is_none).collect();
        self.older(page, offset, &mut wanted, &mut |at, value, _| {
            if let Some(byte) = into.get_mut(at) {
                *byte = Some(value);
            }
        });
    }

    /// Bytes of the block that the next instruction belongs to, for addresses that no access and no table has shown. It
    /// executes right now, so its code is there; other code of the segment may have come or gone.
    pub(crate) fn read_code(&mut self, address: u32, into: &mut [Option<u8>]) {
        let Ok(Some(run)) = self.window.engine_mut().next_run() else { return };
        let trace = self.program.trace();
        let Some(block) = trace.block(run.id) else { return };
        let start = i64::from(block.address) - i64::from(address);
        for (at, byte) in (start..).zip(trace.code(block)) {
            if let Some(place) = usize::try_from(at).ok().and_then(|at| into.get_mut(at)) {
                place.get_or_insert(*byte);
            }
        }
    }

    /// Whether a segment may contain an instruction at one of the addresses.
    fn may_contain(&self, number: usize, stops: &mut Stops<'_>) -> bool {
        let trace = self.program.trace();
        let index = trace.segments().get(number).and_then(|segment| trace.read_index(segment).ok().flatten());
        match index.and_then(|packed| packed.index().ok()) {
            Some(index) => index.blocks.iter().any(|id| !stops.of(&self.program, *id).is_empty()),
            None => true,
        }
    }

    /// The first hit in a segment behind the present position and at or before `to`, an offset in the segment.
    fn first_hit(
        &mut self,
        number: usize,
        first: u64,
        to: u64,
        stops: &mut Stops<'_>,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Found, ReplayError> {
        let from = (self.position + 1).saturating_sub(first);
        if self.window.segment() == number && self.show()? {
            // Short runs stay near: no need to start the segment again.
            let program = Arc::clone(&self.program);
            let to = to.min(self.window.proved());
            return search(self.window.engine_mut(), &program, stops, from..=to, false, cancelled);
        }
        self.search_segment(number, from..=to, stops, false, cancelled)
    }

    /// The last hit in a segment at or before `to`, an offset in the segment.
    fn last_hit(
        &mut self,
        number: usize,
        to: u64,
        stops: &mut Stops<'_>,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Found, ReplayError> {
        self.search_segment(number, 0..=to, stops, true, cancelled)
    }

    fn search_segment(
        &mut self,
        number: usize,
        range: RangeInclusive<u64>,
        stops: &mut Stops<'_>,
        want_last: bool,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Found, ReplayError> {
        let program = Arc::clone(&self.program);
        let scout = self.scout.get_or_insert_with(|| Engine::new(Arc::clone(&program)));
        let Some(entry) = program.trace().segments().get(number) else { return Ok(Found::Nothing) };
        // A damaged segment holds nothing that could be shown.
        let Ok((head, streams)) = program.trace().read_segment(entry) else { return Ok(Found::Nothing) };
        if scout.begin(head, Arc::new(streams)).is_err() {
            return Ok(Found::Nothing);
        }
        let (from, to) = range.into_inner();
        let found = search(scout, &program, stops, from..=to, want_last, cancelled)?;
        let Found::At(offset) = found else { return Ok(found) };
        // The scout does not know yet whether what it found is proved. Whoever finds it looks at it next anyway.
        self.enter_window(number)?;
        let proved = self.window.proved();
        if offset <= proved {
            Ok(found)
        } else if want_last && to > proved {
            self.search_segment(number, from..=proved, stops, want_last, cancelled)
        } else {
            Ok(Found::Nothing)
        }
    }
}

/// Runs `engine` forward to the first or the last position in `range` (offsets in the segment) whose instruction is
/// one of the stops.
fn search<J: Journal>(
    engine: &mut Engine<J>,
    program: &Program,
    stops: &mut Stops<'_>,
    range: RangeInclusive<u64>,
    want_last: bool,
    cancelled: &mut dyn FnMut() -> bool,
) -> Result<Found, ReplayError> {
    let mut last = Found::Nothing;
    loop {
        if cancelled() {
            return Ok(Found::Cancelled);
        }
        match next_hit(engine, program, stops, *range.start(), *range.end(), SLICE) {
            Ok(Next::Hit(offset)) if want_last => last = Found::At(offset),
            Ok(Next::Hit(offset)) => return Ok(Found::At(offset)),
            Ok(Next::Slice) => {}
            // Behind a divergence nothing is proved, so nothing is found.
            Ok(Next::End) | Err(_) => return Ok(last),
        }
    }
}

enum Found {
    Nothing,
    /// At this offset in the segment.
    At(u64),
    Cancelled,
}

enum Next {
    Hit(u64),
    /// Nothing found so far, go on.
    Slice,
    End,
}

/// Runs `engine` to the next position in `from..=to` whose instruction is one of the stops. It returns after some
/// `slice` instructions at the latest.
fn next_hit<J: Journal>(
    engine: &mut Engine<J>,
    program: &Program,
    stops: &mut Stops<'_>,
    from: u64,
    to: u64,
    slice: u64,
) -> Result<Next, Divergence> {
    let pause = engine.executed.saturating_add(slice);
    while engine.executed < pause {
        if engine.executed > to {
            return Ok(Next::End);
        }
        let Some(run) = engine.next_run()? else { return Ok(Next::End) };
        let start = engine.executed;
        let position_of = |index: &u32| start + u64::from(index - run.index);
        let inside =
            stops.of(program, run.id).iter().filter(|index| (run.index..run.started).contains(index));
        if let Some(offset) = inside.map(position_of).find(|offset| *offset >= from) {
            if offset > to {
                return Ok(Next::End);
            }
            // Past it, so that the next call does not find it again.
            engine.run_to(offset + 1)?;
            return Ok(Next::Hit(offset));
        }
        engine.run_to(start + u64::from(run.started - run.index))?;
    }
    Ok(Next::Slice)
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
        let mut done = 0;
        while done < into.len() {
            let here = address.wrapping_add(done as u32);
            let offset = here as usize % PAGE_BYTES;
            let length = (PAGE_BYTES - offset).min(into.len() - done);
            let Some(part) = into.get_mut(done..done + length) else { break };
            if let Some(page) = self.physical_page(here) {
                self.read_physical(page, offset, part);
            }
            if part.contains(&None) {
                self.read_code(here, part);
            }
            done += length;
        }
        Ok(())
    }

    fn provenance(&mut self, address: u32, into: &mut [Provenance]) -> Result<(), ReplayError> {
        self.find_provenance(address, into)
    }

    fn events<'a>(
        &'a self,
        kinds: Kinds,
        cancelled: &'a mut dyn FnMut() -> bool,
    ) -> Box<dyn Iterator<Item = Event> + 'a> {
        let mut events = Events::new(Arc::clone(&self.program), kinds, self.position, self.end().0);
        Box::new(std::iter::from_fn(move || events.next_unless(cancelled)))
    }

    fn run_forward(
        &mut self,
        stop: &StopAt,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, ReplayError> {
        let end = self.end().0;
        let limit = stop.position.map_or(end, |position| position.0.min(end));
        let mut stops = Stops::new(&stop.addresses);
        let segments = self.program.trace().segments().len();
        let mut number =
            self.program.trace().segments().partition_point(|segment| segment.end() <= self.position);
        while !stop.addresses.is_empty() && number < segments {
            let Some(entry) = self.program.trace().segments().get(number).copied() else { break };
            if entry.first > limit {
                break;
            }
            if cancelled() {
                return Ok(Stop::Cancelled);
            }
            if self.may_contain(number, &mut stops) {
                // The first instruction of a segment counts unless this view stands on it; offsets start below it then.
                let to = limit.saturating_sub(entry.first);
                let found = self.first_hit(number, entry.first, to, &mut stops, cancelled)?;
                match found {
                    Found::At(offset) => {
                        self.position = entry.first + offset;
                        return Ok(Stop::Address);
                    }
                    Found::Cancelled => return Ok(Stop::Cancelled),
                    Found::Nothing => {}
                }
            }
            number += 1;
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
        let mut stops = Stops::new(&stop.addresses);
        let mut number =
            self.program.trace().segments().partition_point(|segment| segment.first < self.position);
        while let Some(before) = number.checked_sub(1).filter(|_| !stop.addresses.is_empty()) {
            number = before;
            let Some(entry) = self.program.trace().segments().get(number).copied() else { break };
            if entry.end() < limit {
                break;
            }
            if cancelled() {
                return Ok(Stop::Cancelled);
            }
            if !self.may_contain(number, &mut stops) {
                continue;
            }
            let to = (self.position - entry.first).min(entry.instructions).saturating_sub(1);
            match self.last_hit(number, to, &mut stops, cancelled)? {
                Found::At(offset) if entry.first + offset >= limit => {
                    self.position = entry.first + offset;
                    return Ok(Stop::Address);
                }
                Found::Cancelled => return Ok(Stop::Cancelled),
                Found::At(_) | Found::Nothing => {}
            }
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
