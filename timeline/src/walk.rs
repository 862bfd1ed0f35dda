//! Goes through the executed instructions from a position on, one by one, with all that each did.
//!
//! A walk shows proved instructions only: before it enters a segment it executes the segment once without looking, to see
//! how far the digests prove it (see [`crate::verify`]).

use std::collections::VecDeque;
use std::sync::Arc;

use ktrace_format::reader::SegmentEntry;
use ktrace_machine::{Cause, Encoding, KnownRegisters};

use crate::engine::{Engine, Noted};
use crate::journal::NoJournal;
use crate::program::Program;
use crate::segment_memory::Access;
use crate::verify::{self, Unproved};

/// What happens next in a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An instruction was executed.
    Instruction(Instruction),
    /// Before the next instruction the processor went elsewhere.
    Discontinuity(Discontinuity),
    /// Nothing is known about these positions; the walk goes on behind them.
    Unknown(Unproved),
}

/// One executed instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its position.
    pub position: u64,
    /// Its virtual address.
    pub address: u32,
    /// How it is encoded.
    pub encoding: Encoding,
    code: [u8; 4],
    length: u8,
    /// It is the first one of a block.
    pub starts_block: bool,
    /// Its mnemonic, if the machine model does not compute it and its results come from the recording.
    pub opaque: Option<&'static str>,
    /// Registers before it.
    pub before: KnownRegisters,
    /// Registers after it; `None` if a discontinuity follows: what the instruction itself did, if it completed at all, is not
    /// told apart from what the discontinuity did.
    pub after: Option<KnownRegisters>,
    /// Memory accesses in the order in which they were made.
    pub accesses: Vec<Access>,
}

impl Instruction {
    /// Its code, as it lies in memory: 2 or 4 bytes.
    pub fn code(&self) -> &[u8] {
        self.code.get(..usize::from(self.length)).unwrap_or(&self.code)
    }
}

/// An exception, an interrupt, a reset, or whatever else makes the processor go on elsewhere than the instruction before
/// says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discontinuity {
    /// Position of the first instruction after it.
    pub position: u64,
    /// Why.
    pub cause: Cause,
    /// Causes of those that followed it at once, with no instruction between.
    pub further: Vec<Cause>,
    /// Registers before the instruction that it followed or interrupted, if there is one.
    pub before: Option<KnownRegisters>,
    /// Registers after it. Of several discontinuities between two instructions the last one's.
    pub after: KnownRegisters,
}

/// See the [module](self).
pub struct Walk {
    program: Arc<Program>,
    engine: Engine<NoJournal>,
    /// The next segment to enter.
    next_segment: usize,
    position: u64,
    /// How many instructions of the present segment are proved; 0 without a segment.
    proved: u64,
    /// What comes behind them, unless that is the next segment.
    behind: Option<Unproved>,
    pending: VecDeque<Event>,
    /// Registers before the last instruction that was executed.
    last: Option<KnownRegisters>,
}

impl Walk {
    /// A walk that begins at `position`.
    pub fn new(program: Arc<Program>, position: u64) -> Walk {
        let next_segment = program.trace().segments().partition_point(|segment| segment.end() <= position);
        Walk {
            engine: Engine::new(Arc::clone(&program)),
            program,
            next_segment,
            position,
            proved: 0,
            behind: None,
            pending: VecDeque::new(),
            last: None,
        }
    }

    /// Where the walk stands: the position of the next instruction.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Enters the next segment. `None`: the recording has ended.
    fn enter_segment(&mut self) -> Option<Result<(), Unproved>> {
        let program = Arc::clone(&self.program);
        let segments = program.trace().segments();
        let entry = segments.get(self.next_segment)?;
        self.proved = 0;
        if entry.first > self.position {
            return Some(Err(verify::missing_segment(self.position, entry.first)));
        }
        self.next_segment += 1;
        self.engine.memory.set_log(None);
        self.engine.noted = None;
        let outcome = verify::segment(&mut self.engine, entry, segments.get(self.next_segment));
        let proved = match &outcome {
            Ok(()) => entry.instructions,
            Err(unproved) => unproved.from - entry.first,
        };
        self.behind = outcome.err();
        let offset = self.position.saturating_sub(entry.first);
        if entry.instructions == 0 && self.behind.is_none() {
            return Some(self.pass_nothing(entry));
        }
        if offset >= proved {
            return Some(self.behind.take().map_or(Ok(()), Err));
        }
        let unproved = |reason: String| Unproved { from: self.position, to: entry.end(), reason };
        let begun =
            program.trace().read_segment(entry).map_err(|error| unproved(error.to_string())).and_then(
                |(head, streams)| {
                    let begun = self.engine.begin(head, Arc::new(streams));
                    begun
                        .and_then(|()| self.engine.run_to(offset))
                        .map_err(|divergence| unproved(divergence.to_string()))
                },
            );
        if let Err(unproved) = begun {
            self.behind = None;
            return Some(Err(unproved));
        }
        self.engine.memory.set_log(Some(Vec::new()));
        self.engine.noted = Some(Vec::new());
        self.proved = proved;
        Some(Ok(()))
    }

    /// Passes a proved segment in which no instruction completed, or even started. There can be discontinuities in it.
    fn pass_nothing(&mut self, entry: &SegmentEntry) -> Result<(), Unproved> {
        let unproved = |reason: String| Unproved { from: entry.first, to: entry.end(), reason };
        let (head, streams) =
            self.program.trace().read_segment(entry).map_err(|error| unproved(error.to_string()))?;
        self.engine.noted = Some(Vec::new());
        let passed = self.engine.begin(head, Arc::new(streams)).and_then(|()| self.engine.settle());
        passed.map_err(|divergence| unproved(divergence.to_string()))?;
        self.take_discontinuities();
        Ok(())
    }

    /// Discontinuities that the engine has met since it was last asked.
    fn take_discontinuities(&mut self) -> bool {
        let noted = self.engine.noted.as_mut().map(std::mem::take).unwrap_or_default();
        let (position, before, after) = (self.position, self.last, self.engine.registers());
        let streams = &self.engine.memory.streams;
        let set = self.program.instruction_set();
        let before_these = self.pending.len();
        self.pending.extend(noted.iter().filter_map(|noted| {
            let Noted::Discontinuity(noted) = noted else { return None };
            let further = noted.further.causes(streams).iter().map(|cause| Cause::new(set, *cause)).collect();
            Some(Event::Discontinuity(Discontinuity { position, cause: noted.cause, further, before, after }))
        }));
        self.pending.len() > before_these
    }

    /// Executes the next instruction of the segment, which has one that is proved.
    fn step(&mut self) -> Result<(), String> {
        let run = self.engine.next_run().map_err(|divergence| divergence.to_string())?;
        // A block of which nothing started was followed by a discontinuity: it comes before this instruction.
        self.take_discontinuities();
        let program = Arc::clone(&self.program);
        let run = run.ok_or("the segment ends before its last instruction")?;
        let block = program.block(run.id).ok_or("the block can't be decoded")?;
        let index = run.index as usize;
        let (address, length) = (block.address_of(index), block.length_of(index) as usize);
        let entry = program.trace().block(run.id).ok_or("the trace has no such block")?;
        let start = address.wrapping_sub(block.address()) as usize;
        // An instruction can be longer than what of it was fetched.
        let code = program.trace().code(entry).get(start..).unwrap_or_default();
        let bytes = code.get(..length).unwrap_or(code);
        let mut code = [0; 4];
        for (into, from) in code.iter_mut().zip(bytes) {
            *into = *from;
        }
        let before = self.engine.registers();
        let executed = self.engine.executed + 1;
        self.engine.run_to(executed).map_err(|divergence| divergence.to_string())?;
        let accesses = self.engine.memory.set_log(Some(Vec::new())).unwrap_or_default();
        self.pending.push_back(Event::Instruction(Instruction {
            position: self.position,
            address,
            encoding: program.instruction_set().encoding(block.mode_before(index)),
            code,
            length: bytes.len().min(4) as u8,
            starts_block: run.index == 0,
            opaque: block.opaque(index).filter(|_| !program.is_imported()).map(|opaque| opaque.mnemonic),
            before,
            after: Some(self.engine.registers()),
            accesses,
        }));
        self.position += 1;
        self.last = Some(before);
        let at = self.pending.len() - 1;
        if self.take_discontinuities()
            && let Some(Event::Instruction(instruction)) = self.pending.get_mut(at)
        {
            instruction.after = None;
        }
        Ok(())
    }

    fn unknown(&mut self, mut unproved: Unproved) -> Event {
        unproved.from = unproved.from.max(self.position);
        self.position = unproved.to.max(self.position);
        self.last = None;
        Event::Unknown(unproved)
    }
}

impl Iterator for Walk {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.engine.executed < self.proved {
                if let Err(reason) = self.step() {
                    // What was proved a moment ago can't be executed again: this is a mistake in ktracer, and what it
                    // would show is not to be trusted.
                    self.pending.clear();
                    let to = self.engine.head().first + self.engine.length();
                    self.proved = 0;
                    self.behind = None;
                    return Some(self.unknown(Unproved { from: self.position, to, reason }));
                }
                continue;
            }
            if let Some(unproved) = self.behind.take() {
                self.proved = 0;
                return Some(self.unknown(unproved));
            }
            if let Err(unproved) = self.enter_segment()? {
                return Some(self.unknown(unproved));
            }
        }
    }
}
