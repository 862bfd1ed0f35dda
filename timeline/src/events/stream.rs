//! The events of a recording in order.
//!
//! Only segments that can have something of what is wanted are executed. Each is executed once to see how far the digests
//! prove it (see [`crate::verify`]), and once more to tell what happened; nothing behind a divergence is told. What is not
//! told yet takes no memory: the second time stops at every block.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use ktrace_format::TraceError;
use ktrace_format::reader::SegmentEntry;
use ktrace_format::segment::Stream;
use ktrace_format::segment::cursor::Cursor;

use super::{Cause, DeviceAccess, DeviceWrite, Discontinuity, Event, Kind, Kinds};
use crate::engine::{Divergence, Engine, Noted, NotedDiscontinuity};
use crate::journal::NoJournal;
use crate::program::Program;
use crate::segment_memory::Access;
use crate::verify::{self, Unproved};

/// Blocks that are executed between two looks at whether the search was cancelled.
const BLOCKS_UNASKED: u32 = 1 << 12;

/// Stands for a physical address that is not known.
const NO_ADDRESS: u64 = u64::MAX;

/// A bit for each block of a segment: by how many have been entered, when it is the last of them.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn up_to(bits: u32) -> Bits {
        Bits(vec![0; bits as usize / 64 + 1])
    }

    fn set(&mut self, bit: u32) {
        if let Some(word) = self.0.get_mut(bit as usize / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    fn contains(&self, bit: u32) -> bool {
        self.0.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }
}

/// What the engine has come past and nobody has been told yet.
#[derive(Debug)]
enum Pending {
    Noted(Box<Noted>),
    /// A device access of the instruction at a position.
    Access(u64, Access),
    /// A discontinuity behind another one.
    Further {
        position: u64,
        cause: Cause,
        to: Option<u32>,
    },
    /// Device writes that are still in the stream.
    Writes {
        position: u64,
        count: u64,
    },
}

/// The events of a recording in order: see the [module](self).
pub struct Events {
    program: Arc<Program>,
    kinds: Kinds,
    from: u64,
    to: u64,
    engine: Engine<NoJournal>,
    next_segment: usize,
    /// The first segment that is not looked at.
    end_segment: usize,
    /// Up to here everything has been told, once the present segment is done.
    position: u64,
    /// How many instructions of the present segment are proved; `None`: there is none, or it is done.
    proved: Option<u64>,
    /// What comes behind them, unless that is the next segment.
    behind: Option<Unproved>,
    /// Blocks of the present segment that access devices.
    accessing: Bits,
    pending: VecDeque<Pending>,
    /// Reads the present segment's device writes, as they are told.
    writes: Cursor,
    /// Blocks to be executed until it is asked whether the search was cancelled.
    unasked: u32,
}

/// The segments that can have events at positions from `from` to `to`.
pub(super) fn segments_with(program: &Program, from: u64, to: u64) -> Range<usize> {
    let segments = program.trace().segments();
    // What happens at the border between two segments is at the end of the first.
    let start = segments.partition_point(|segment| segment.end() < from);
    // What is missing right before the one behind is told with it.
    let end = segments.partition_point(|segment| segment.first <= to) + 1;
    start..end.min(segments.len()).max(start)
}

impl Events {
    /// The events of some kinds at positions from `from` to `to`, both included.
    pub fn new(program: Arc<Program>, kinds: Kinds, from: u64, to: u64) -> Events {
        let segments = segments_with(&program, from, to);
        let mut events = Events {
            engine: Engine::new(Arc::clone(&program)),
            program,
            kinds,
            from,
            to,
            next_segment: 0,
            end_segment: 0,
            position: from,
            proved: None,
            behind: None,
            accessing: Bits::default(),
            pending: VecDeque::new(),
            writes: Cursor::default(),
            unasked: BLOCKS_UNASKED,
        };
        events.look_through(segments);
        events
    }

    /// Tells from now on what these segments have, and what is missing right before each.
    pub(super) fn look_through(&mut self, segments: Range<usize>) {
        let all = self.program.trace().segments();
        let before = segments.start.checked_sub(1).and_then(|before| all.get(before));
        self.position = before.map_or(0, SegmentEntry::end).max(self.from);
        self.next_segment = segments.start;
        self.end_segment = segments.end;
        self.proved = None;
        self.behind = None;
        self.pending.clear();
    }

    /// Everything before this position has been told.
    pub fn reached(&self) -> u64 {
        if self.proved.is_some() || self.behind.is_some() || !self.pending.is_empty() {
            (self.engine.head().first + self.engine.executed).max(self.from)
        } else {
            self.position
        }
    }

    /// Whether a segment can have anything that is wanted, without executing it.
    fn can_have(&self, entry: &SegmentEntry) -> Result<bool, TraceError> {
        let (trace, set) = (self.program.trace(), self.program.instruction_set());
        let lengths = trace.read_stream_lengths(entry)?;
        let has = |stream: Stream| lengths.get(stream as usize).is_some_and(|length| *length > 0);
        let wants = |kind: Kind| self.kinds.contains(kind);
        if wants(Kind::Dma) && has(Stream::DeviceWrites) || wants(Kind::Io) && has(Stream::Devices) {
            return Ok(true);
        }
        if !has(Stream::Keyframes) || !(wants(Kind::Interrupt) || wants(Kind::Exception) || wants(Kind::Gap))
        {
            return Ok(false);
        }
        let streams = trace.read_stream(entry, Stream::Control)?;
        let mut cursor = Cursor::default();
        // What can't be read is executed, to tell where it can't.
        while let Ok(Some(_)) = cursor.next_control(&streams) {
            let Ok(control) = cursor.control(&streams) else { return Ok(true) };
            let first = control.discontinuity.map(|(cause, _)| cause);
            let mut causes = first.into_iter().chain(control.further.causes(&streams).iter().copied());
            if causes.any(|cause| wants(Kind::of_cause(Cause::new(set, cause)))) {
                return Ok(true);
            }
        }
        Ok(!cursor.at_end(&streams, Stream::Control))
    }

    /// Enters the next segment that can have something. `None`: nothing is left, or it was cancelled.
    fn enter_segment(&mut self, cancelled: &mut dyn FnMut() -> bool) -> Option<Result<(), Unproved>> {
        let program = Arc::clone(&self.program);
        let segments = program.trace().segments();
        loop {
            let entry = segments.get(self.next_segment).filter(|_| self.next_segment < self.end_segment)?;
            if entry.first.min(self.position) > self.to || cancelled() {
                return None;
            }
            if entry.first > self.position {
                return Some(Err(verify::missing_segment(self.position, entry.first)));
            }
            self.next_segment += 1;
            let before = self.position;
            self.position = entry.end().max(before);
            let unproved = |from: u64, reason: String| Unproved { from, to: entry.end(), reason };
            match self.can_have(entry) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => return Some(Err(unproved(entry.first.max(before), error.to_string()))),
            }
            let outcome = self.prove(entry, segments.get(self.next_segment));
            let proved = match &outcome {
                Ok(()) => entry.instructions,
                Err(unproved) => unproved.from - entry.first,
            };
            self.behind = outcome.err();
            if proved == 0 && self.behind.is_some() {
                return self.behind.take().map(Err);
            }
            let offset = self.from.saturating_sub(entry.first);
            if let Err(divergence) = self.begin_again(offset.min(proved)) {
                self.behind = None;
                return Some(Err(unproved(entry.first.max(before), divergence.to_string())));
            }
            self.proved = Some(proved);
            return Some(Ok(()));
        }
    }

    /// Executes a segment to see how far it is proved, and finds the blocks that access devices.
    fn prove(&mut self, entry: &SegmentEntry, next: Option<&SegmentEntry>) -> Result<(), Unproved> {
        self.engine.noted = None;
        let accessing = &mut self.accessing;
        *accessing = Bits::default();
        if !self.kinds.contains(Kind::Io) {
            return verify::segment(&mut self.engine, entry, next);
        }
        verify::segment_with(&mut self.engine, entry, next, |engine| {
            *accessing = Bits::up_to(engine.head().blocks);
            while let Some(run) = engine.next_run()? {
                let (number, before) = (engine.ordinal, engine.memory.device_accesses);
                engine.run_to(engine.executed + u64::from(run.started - run.index))?;
                if engine.memory.device_accesses != before {
                    accessing.set(number);
                }
            }
            engine.run_to(entry.instructions)
        })
    }

    /// Begins the segment at hand once more, and goes to the last place before `offset` at which nothing can have happened
    /// that is at a position from there on.
    fn begin_again(&mut self, offset: u64) -> Result<(), Divergence> {
        let engine = &mut self.engine;
        let (head, streams) = (engine.head().clone(), Arc::clone(&engine.memory.streams));
        engine.begin(head, streams)?;
        if let Some(before) = offset.checked_sub(1).filter(|before| *before > 0) {
            engine.run_to(before)?;
        }
        self.writes = engine.memory.cursor;
        engine.noted = Some(Vec::new());
        Ok(())
    }

    /// Goes on by a block, or by what is left of one. False: the segment has no more.
    fn step(&mut self, proved: u64) -> Result<bool, Divergence> {
        let engine = &self.engine;
        if engine.executed >= proved && (proved < engine.length() || engine.finished)
            || engine.head().first + engine.executed > self.to
        {
            return Ok(false);
        }
        let outcome = self.execute(proved);
        let noted = self.engine.noted.iter_mut().flat_map(|noted| noted.drain(..));
        self.pending.extend(noted.map(|noted| Pending::Noted(Box::new(noted))));
        outcome.map(|()| true)
    }

    fn execute(&mut self, proved: u64) -> Result<(), Divergence> {
        let engine = &mut self.engine;
        if engine.executed == engine.length() {
            return engine.run_to(engine.length());
        }
        let Some(run) = engine.run else { return engine.next_block() };
        let end = (engine.executed + u64::from(run.started - run.index)).min(proved);
        if !self.accessing.contains(engine.ordinal) {
            return engine.run_to(end);
        }
        engine.memory.set_log(Some(Vec::new()));
        let mut outcome = Ok(());
        while engine.executed < end && outcome.is_ok() {
            let position = engine.head().first + engine.executed;
            outcome = engine.run_to(engine.executed + 1);
            let accesses = engine.memory.logged().filter(|access| access.device.is_some());
            self.pending.extend(accesses.map(|access| Pending::Access(position, access)));
        }
        engine.memory.set_log(None);
        outcome
    }

    /// The next event of what is pending; `None`: that is nothing that can be told.
    fn tell(&mut self, pending: Pending) -> Option<Event> {
        let first = self.engine.head().first;
        match pending {
            Pending::Noted(noted) => match *noted {
                Noted::Discontinuity(noted) => Some(self.discontinuity(first, &noted)),
                Noted::DeviceWrites { executed, count } => {
                    self.pending.push_front(Pending::Writes { position: first + executed, count });
                    None
                }
            },
            Pending::Writes { position, count } => {
                let left = count.checked_sub(1)?;
                self.pending.push_front(Pending::Writes { position, count: left });
                // The engine has read it, so it can be read.
                let write = self.writes.device_write(&self.engine.memory.streams).ok()?;
                let (physical, bytes) = (write.physical, write.bytes.len() as u64);
                Some(Event::DeviceWrite(DeviceWrite { position, physical, bytes }))
            }
            Pending::Further { position, cause, to } => {
                Some(Event::Discontinuity(Discontinuity { position, cause, raised_by: None, pc: None, to }))
            }
            Pending::Access(position, access) => {
                let (name, physical) = access.device?;
                Some(Event::DeviceAccess(DeviceAccess {
                    position,
                    device: self.program.trace().name(name).to_owned(),
                    physical: Some(physical).filter(|physical| *physical != NO_ADDRESS),
                    address: access.address,
                    bytes: access.bytes,
                    store: access.store,
                    value: access.value,
                }))
            }
        }
    }

    /// The first of several discontinuities; the others are pending then.
    fn discontinuity(&mut self, first: u64, noted: &NotedDiscontinuity) -> Event {
        let position = first + noted.executed;
        let further = noted.further.causes(&self.engine.memory.streams);
        let set = self.program.instruction_set();
        for (at, &cause) in further.iter().enumerate().rev() {
            let cause = Cause::new(set, cause);
            let to = (at + 1 == further.len()).then_some(noted.to);
            self.pending.push_front(Pending::Further { position, cause, to });
        }
        let raised = noted.raised;
        Event::Discontinuity(Discontinuity {
            position,
            cause: noted.cause,
            raised_by: position.checked_sub(1).filter(|_| raised),
            pc: if raised { noted.last } else { noted.next },
            to: further.is_empty().then_some(noted.to),
        })
    }

    /// What was proved a moment ago can't be executed again: this is a mistake in ktracer, and what it would show is not to be
    /// trusted.
    fn unrepeatable(&mut self, divergence: &Divergence) -> Unproved {
        self.pending.clear();
        self.proved = None;
        self.behind = None;
        let head = self.engine.head();
        let (from, to) = (head.first + self.engine.executed, head.first + head.instructions);
        Unproved { from, to, reason: divergence.to_string() }
    }

    /// A stretch about which nothing is known, in as far as it is wanted.
    fn unknown(&mut self, mut unproved: Unproved) -> Option<Event> {
        unproved.from = unproved.from.max(self.from);
        self.position = self.position.max(unproved.to);
        (unproved.from <= self.to.min(unproved.to)).then_some(Event::Unknown(unproved))
    }
}

impl Events {
    /// The next event. `None`: there is none, or `cancelled` said so; it is asked every 10 ms or so.
    pub fn next_unless(&mut self, cancelled: &mut dyn FnMut() -> bool) -> Option<Event> {
        loop {
            if self.unasked == 0 {
                self.unasked = BLOCKS_UNASKED;
                if cancelled() {
                    return None;
                }
            }
            if let Some(pending) = self.pending.pop_front() {
                let event = self.tell(pending);
                let wanted = |event: &Event| {
                    (self.from..=self.to).contains(&event.position())
                        && event.kind().is_some_and(|kind| self.kinds.contains(kind))
                };
                match event.filter(wanted) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let unknown = match (self.proved, self.behind.is_some()) {
                (Some(proved), ends_badly) => match self.step(proved) {
                    Ok(true) => {
                        self.unasked -= 1;
                        continue;
                    }
                    // Or everything has been executed, and it is the end that is wrong, which is known.
                    Err(divergence) if !(ends_badly && self.engine.executed >= proved) => {
                        Some(self.unrepeatable(&divergence))
                    }
                    _ => {
                        self.proved = None;
                        continue;
                    }
                },
                (None, true) => self.behind.take(),
                (None, false) => self.enter_segment(cancelled)?.err(),
            };
            if let Some(event) = unknown.and_then(|unproved| self.unknown(unproved)) {
                return Some(event);
            }
        }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.next_unless(&mut || false)
    }
}
