//! Executes one segment and tells what is found on the way.

use std::ops::ControlFlow;

use super::Moment;
use super::quarry::Quarry;
use super::trap::{Sighting, Who};
use crate::engine::{Divergence, Engine};
use crate::journal::Journal;
use crate::past::Past;

/// Instructions that are executed between two looks at whether the search was cancelled: well below a millisecond. It also
/// bounds what is seen and not told yet.
const SLICE: u64 = 1 << 14;

/// Something that is looked for. Offsets are instructions since the segment's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// An instruction that is about to execute.
    Instruction { offset: u64, address: u32 },
    /// An access of watched memory.
    Access(Sighting),
}

impl Found {
    /// How much of the segment must be proved for it to be true.
    pub(crate) fn needs(&self) -> u64 {
        match self {
            Found::Instruction { offset, .. } => *offset,
            Found::Access(Sighting { who: Who::Device, executed, .. }) => *executed,
            Found::Access(Sighting { executed, .. }) => executed + 1,
        }
    }
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything was seen.
    Finished,
    /// Who was told wanted no more.
    Enough,
    /// It was cancelled.
    Cancelled,
}

/// A place where an engine stands.
pub(crate) struct Here<'a, J> {
    pub(crate) engine: &'a Engine<J>,
    pub(crate) past: &'a Past,
}

impl<J: Journal> Moment for Here<'_, J> {
    fn position(&self) -> u64 {
        self.engine.head().first + self.engine.executed
    }

    fn register(&self, number: usize) -> Option<u32> {
        self.engine.register(number)
    }

    fn read_memory(&self, address: u32, into: &mut [Option<u8>]) {
        self.engine.view(self.past).read_virtual(address, into);
    }
}

/// Executes up to the offset `until` and tells `found` what there is on the way, in order, with where the engine stands; an
/// instruction at `until` is told, too, and devices' writes before it. The engine has begun the segment, with a trap for what
/// is watched.
pub(crate) fn scan<J: Journal>(
    engine: &mut Engine<J>,
    quarry: &Quarry,
    past: &Past,
    until: u64,
    cancelled: &dyn Fn() -> bool,
    found: &mut dyn FnMut(Found, &Here<'_, J>) -> ControlFlow<()>,
) -> Result<Ended, Divergence> {
    let until = until.min(engine.length());
    while engine.executed < until {
        if cancelled() {
            return Ok(Ended::Cancelled);
        }
        let pause = (engine.executed + SLICE).min(until);
        let marked = engine.run_to_block(pause, |block| quarry.marks(block))?;
        if tell_accesses(engine, past, found).is_break() {
            return Ok(Ended::Enough);
        }
        if marked && block(engine, quarry, past, until, found)?.is_break() {
            return Ok(Ended::Enough);
        }
    }
    engine.settle()?;
    if tell_accesses(engine, past, found).is_break() {
        return Ok(Ended::Enough);
    }
    let ended = instruction(engine, quarry, past, found).is_break();
    Ok(if ended { Ended::Enough } else { Ended::Finished })
}

/// Executes the block under way, which has instructions that are looked for, as far as it lies before `until`.
fn block<J: Journal>(
    engine: &mut Engine<J>,
    quarry: &Quarry,
    past: &Past,
    until: u64,
    found: &mut dyn FnMut(Found, &Here<'_, J>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Divergence> {
    let Some(run) = engine.run else { return Ok(ControlFlow::Continue(())) };
    let start = engine.executed;
    let end = (start + u64::from(run.started - run.index)).min(until);
    for index in quarry.indices(run.id).iter().filter(|index| **index >= run.index) {
        let offset = start + u64::from(index - run.index);
        if offset >= end {
            break;
        }
        if offset > engine.executed {
            engine.run_to(offset)?;
        }
        if tell_accesses(engine, past, found).is_break()
            || instruction(engine, quarry, past, found).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    engine.run_to(end)?;
    Ok(tell_accesses(engine, past, found))
}

/// Tells of the instruction that the engine stands at, if it is looked for.
fn instruction<J: Journal>(
    engine: &Engine<J>,
    quarry: &Quarry,
    past: &Past,
    found: &mut dyn FnMut(Found, &Here<'_, J>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some(run) = engine.run.filter(|run| quarry.marks(run.id) && run.index < run.started) else {
        return ControlFlow::Continue(());
    };
    let here = Here { engine, past };
    if !quarry.indices(run.id).contains(&run.index)
        || quarry.condition.as_ref().is_some_and(|condition| !condition.holds(&here))
    {
        return ControlFlow::Continue(());
    }
    found(Found::Instruction { offset: engine.executed, address: engine.cpu.pc() }, &here)
}

fn tell_accesses<J: Journal>(
    engine: &mut Engine<J>,
    past: &Past,
    found: &mut dyn FnMut(Found, &Here<'_, J>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let sightings = engine.memory.sightings();
    let here = Here { engine, past };
    sightings.into_iter().try_for_each(|sighting| found(Found::Access(sighting), &here))
}
