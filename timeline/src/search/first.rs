//! The nearest hit in one direction.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::candidates::{Candidates, Direction};
use super::hunt::{Cancelled, GiveUp, Scouts, hunt};
use super::quarry::Quarry;
use super::scan::{Ended, Found, scan};
use super::trap::{Sighting, Trap, Who};
use crate::engine::Engine;
use crate::journal::NoJournal;
use crate::past::Past;
use crate::program::Program;

/// Where a search begins, which way it goes, and how far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) direction: Direction,
    /// Where the search stands.
    pub(crate) from: u64,
    /// The last position that counts.
    pub(crate) limit: u64,
    /// Nothing is in segments before this one.
    pub(crate) first_segment: usize,
}

/// Where a search stops, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StopHere {
    pub(crate) position: u64,
    /// What happens there: an instruction, or else accesses.
    pub(crate) found: Vec<Found>,
    pub(crate) segment: usize,
}

impl Course {
    /// The position to stop at for something that is found in a segment that begins at `first`; `None`: it does not count. One
    /// stops before the access, in the direction of the search; at an instruction, only if one has moved.
    fn stop(&self, first: u64, found: &Found) -> Option<u64> {
        let (position, moved) = match (found, self.direction) {
            (Found::Instruction { offset, .. }, _) => (first + offset, true),
            (Found::Access(Sighting { who: Who::Device, executed, .. }), Direction::Forward) => {
                ((first + executed).checked_sub(1)?, false)
            }
            (Found::Access(Sighting { who: Who::Device, executed, .. }), Direction::Backward) => {
                let position = first + executed;
                // Nothing is before the start.
                (Some(position).filter(|position| *position > 0)?, false)
            }
            (Found::Access(Sighting { executed, .. }), Direction::Forward) => (first + executed, false),
            (Found::Access(Sighting { executed, .. }), Direction::Backward) => (first + executed + 1, false),
        };
        let within = match self.direction {
            Direction::Forward => {
                position >= self.from
                    && (!moved || position > self.from)
                    && (position < self.limit || moved && position == self.limit)
            }
            Direction::Backward => {
                position <= self.from
                    && (!moved || position < self.from)
                    && (position > self.limit || moved && position == self.limit)
            }
        };
        within.then_some(position)
    }

    /// How much of a segment that begins at `first` must be executed.
    fn until(&self, first: u64) -> u64 {
        match self.direction {
            Direction::Forward => self.limit.saturating_sub(first),
            Direction::Backward => self.from.saturating_sub(first),
        }
    }

    /// The segments that may matter.
    fn segments(&self, program: &Program) -> std::ops::Range<usize> {
        let segments = program.trace().segments();
        let (low, high) = match self.direction {
            Direction::Forward => (self.from, self.limit),
            Direction::Backward => (self.limit, self.from),
        };
        let start = segments.partition_point(|segment| segment.end() <= low);
        // What devices wrote just before a segment's first instruction can be in either segment.
        let end = segments.partition_point(|segment| segment.first <= high);
        start..end.max(start)
    }
}

/// What one segment had.
enum Had {
    Nothing,
    Stop(StopHere),
    Cancelled,
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Something was found; whoever looks at it next must see whether it is proved.
    Stop(StopHere),
    Nothing,
    /// Nothing is between the start of the search and this position.
    Cancelled {
        position: u64,
    },
}

/// Prepares an engine to look through a segment. `None`: it can't be executed, so nothing can be found.
fn begin(
    engine: &mut Engine<NoJournal>,
    quarry: &Quarry,
    segment: usize,
    give_up: &GiveUp,
) -> Option<Arc<Past>> {
    let program = Arc::clone(engine.program());
    let unpacked = program.segment(segment).ok()?;
    let past = Arc::new(Past::until(program, segment, give_up.clone()));
    let trap =
        (!quarry.watches.is_empty()).then(|| Trap::new(Arc::clone(&quarry.watches), Arc::clone(&past)));
    engine.memory.set_trap(trap);
    engine.begin(unpacked.0.clone(), Arc::clone(&unpacked.1)).ok()?;
    Some(past)
}

/// Looks for the nearest stop in one segment, in its first `proved` instructions.
pub(crate) fn in_segment(
    engine: &mut Engine<NoJournal>,
    quarry: &Quarry,
    course: &Course,
    segment: usize,
    proved: u64,
    give_up: &GiveUp,
) -> Option<StopHere> {
    match look(engine, quarry, course, segment, proved, give_up) {
        Had::Stop(stop) => Some(stop),
        Had::Nothing | Had::Cancelled => None,
    }
}

fn look(
    engine: &mut Engine<NoJournal>,
    quarry: &Quarry,
    course: &Course,
    segment: usize,
    proved: u64,
    give_up: &GiveUp,
) -> Had {
    let Some(past) = begin(engine, quarry, segment, give_up) else { return Had::Nothing };
    let first = engine.head().first;
    let mut best: Option<StopHere> = None;
    let until = course.until(first).min(proved);
    // Going forward, what comes later is no better; but more may happen at the same place.
    let enough = Cell::new(false);
    let stopped = || enough.get() || give_up.now();
    let ended = scan(engine, quarry, &past, until, &stopped, &mut |found, _| {
        let Some(position) = course.stop(first, &found).filter(|_| found.needs() <= proved) else {
            return ControlFlow::Continue(());
        };
        enough.set(course.direction == Direction::Forward);
        match &mut best {
            Some(best) if best.position == position => {
                let instruction = matches!(best.found.first(), Some(Found::Instruction { .. }));
                match (instruction, &found) {
                    // An instruction is where one stops first, whatever happens there.
                    (true, _) => {}
                    (false, Found::Instruction { .. }) => best.found = vec![found],
                    (false, Found::Access(_)) => best.found.push(found),
                }
            }
            Some(_) if course.direction == Direction::Forward => return ControlFlow::Break(()),
            _ => best = Some(StopHere { position, found: vec![found], segment }),
        }
        ControlFlow::Continue(())
    });
    engine.memory.set_trap(None);
    match (ended, best) {
        (Ok(Ended::Cancelled), _) if !enough.get() => Had::Cancelled,
        (_, Some(best)) => Had::Stop(best),
        // Behind a divergence nothing is proved, so nothing is found.
        (_, None) => Had::Nothing,
    }
}

/// Looks for the nearest stop. `proved` says how many instructions of a segment are proved; what is found behind them does not
/// count.
pub(crate) fn first(
    scouts: &Scouts,
    program: &Arc<Program>,
    quarry: &Quarry,
    course: Course,
    cancelled: &mut dyn FnMut() -> bool,
    proved: &mut dyn FnMut(usize) -> u64,
) -> Outcome {
    let mut segments = course.segments(program);
    segments.start = segments.start.max(course.first_segment);
    loop {
        let mut outcome = Outcome::Nothing;
        let candidates = Candidates::new(program, quarry, course.direction, segments.clone());
        let work = |segment: usize, give_up: &GiveUp| {
            scouts.with(|engine| look(engine, quarry, &course, segment, u64::MAX, give_up))
        };
        let hunted = hunt(candidates, &work, cancelled, &mut |_, had| match had {
            Had::Stop(stop) => {
                outcome = Outcome::Stop(stop);
                ControlFlow::Break(())
            }
            Had::Nothing | Had::Cancelled => ControlFlow::Continue(()),
        });
        if let Err(Cancelled { at }) = hunted {
            return Outcome::Cancelled { position: reached(program, &course, at) };
        }
        let Outcome::Stop(stop) = outcome else { return outcome };
        let (number, known) = (stop.segment, proved(stop.segment));
        if stop.found.iter().all(|found| found.needs() <= known) {
            return Outcome::Stop(stop);
        }
        // In what is proved of the segment there may be another one.
        let again =
            scouts.with(|engine| in_segment(engine, quarry, &course, number, known, &GiveUp::default()));
        if let Some(stop) = again {
            return Outcome::Stop(stop);
        }
        match course.direction {
            Direction::Forward => segments.start = number + 1,
            Direction::Backward => segments.end = number,
        }
    }
}

/// Up to where a search has seen everything, if `at` is the first candidate that was not done.
fn reached(program: &Program, course: &Course, at: Option<usize>) -> u64 {
    let Some(segment) = at.and_then(|at| program.trace().segments().get(at)) else { return course.from };
    match course.direction {
        Direction::Forward => segment.first.max(course.from),
        Direction::Backward => segment.end().min(course.from),
    }
}
