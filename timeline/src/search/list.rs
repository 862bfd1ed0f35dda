//! All hits in order, for those who want a list of them.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::Condition;
use super::candidates::{Candidates, Direction};
use super::hunt::{GiveUp, Scouts, hunt};
use super::quarry::{Quarry, Watchpoint};
use super::scan::{Ended as ScanEnded, Found, scan};
use super::trap::{Sighting, Trap, Who};
use crate::engine::{Divergence, Engine};
use crate::journal::NoJournal;
use crate::past::Past;
use crate::program::Program;
use crate::replay::ReplayError;
use crate::verify::{self, Unproved};

/// Hits that are kept until their segment is proved. Where there are more, the segment is executed once more to tell them.
const KEPT: usize = 10_000;

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Virtual addresses of instructions.
    pub addresses: Vec<u32>,
    /// Which executions count; all, if there is no condition.
    pub condition: Option<Condition>,
    /// Accesses of memory.
    pub watchpoints: Vec<Watchpoint>,
}

/// Something that is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hit {
    /// An instruction executes.
    Execution {
        /// Its position.
        position: u64,
        /// Its virtual address.
        address: u32,
    },
    /// Memory is accessed.
    Access {
        /// The instruction's position; of a device's write the first position that shows it.
        position: u64,
        /// By whom, and what.
        sighting: Sighting,
    },
    /// Nothing is known about these positions; the list goes on behind them.
    Unknown(Unproved),
}

impl Hit {
    fn new(first: u64, found: Found) -> Hit {
        match found {
            Found::Instruction { offset, address } => Hit::Execution { position: first + offset, address },
            Found::Access(sighting) => Hit::Access { position: first + sighting.executed, sighting },
        }
    }

    /// Where it is; where nothing is known, the first such position.
    pub fn position(&self) -> u64 {
        match self {
            Hit::Execution { position, .. } | Hit::Access { position, .. } => *position,
            Hit::Unknown(unproved) => unproved.from,
        }
    }
}

/// What a segment has.
enum Had {
    Hits(Vec<Hit>, Option<Unproved>),
    /// Too many to keep: to be found once more, in so many proved instructions.
    Many(u64, Option<Unproved>),
}

/// How a list ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything was told, or there was enough.
    Finished,
    /// It was cancelled.
    Cancelled {
        /// Everything before this position was told, and nothing from here on.
        position: u64,
    },
}

/// Lists hits at positions from `from` to `to`, both included, on rayon's current thread pool (not from a thread of it), until
/// `tell` has enough or `cancelled`, which is asked every 5 ms or so, returns true. It is an error to ask an imported recording
/// for accesses: it has none.
pub fn list(
    program: &Arc<Program>,
    query: &Query,
    from: u64,
    to: u64,
    cancelled: &mut dyn FnMut() -> bool,
    tell: &mut dyn FnMut(Hit) -> ControlFlow<()>,
) -> Result<Ended, ReplayError> {
    program.must_have_accesses(&query.watchpoints)?;
    let quarry = Quarry::new(program, &query.addresses, &query.watchpoints, query.condition.clone());
    let scouts = Scouts::new(Arc::clone(program));
    let segments = program.trace().segments();
    // A device's write at `from` can be at the end of the segment before.
    let start = segments.partition_point(|segment| segment.end() < from);
    let range = start..segments.partition_point(|segment| segment.first <= to).max(start);
    let within = |hit: &Hit| (from..=to).contains(&hit.position());
    let work = |number: usize, give_up: &GiveUp| {
        scouts.with(|engine| look(engine, &quarry, number, &within, give_up))
    };
    // Segments up to here have been told of.
    let mut told = range.start;
    let candidates = Candidates::new(program, &quarry, Direction::Forward, range.clone());
    let outcome = hunt(candidates, &work, cancelled, &mut |number, had| {
        missing(program, told..number + 1, from, to, tell)?;
        told = number + 1;
        let unproved = match had {
            Had::Hits(hits, unproved) => {
                hits.into_iter().try_for_each(&mut *tell)?;
                unproved
            }
            Had::Many(proved, unproved) => {
                scouts.with(|engine| tell_many(engine, &quarry, number, proved, &within, tell))?;
                unproved
            }
        };
        match unproved.and_then(|unproved| clipped(unproved, from, to)) {
            Some(unproved) => tell(Hit::Unknown(unproved)),
            None => ControlFlow::Continue(()),
        }
    });
    if outcome.is_ok() && told < range.end {
        let _ = missing(program, told..range.end, from, to, tell);
    }
    Ok(match outcome {
        Ok(()) => Ended::Finished,
        Err(_) => {
            // Those that were ruled out behind it do not matter.
            let last =
                told.checked_sub(1).filter(|last| *last >= range.start).and_then(|last| segments.get(last));
            Ended::Cancelled { position: last.map_or(from, |last| last.end().clamp(from, to)) }
        }
    })
}

/// Tells of segments that are missing before any of these.
fn missing(
    program: &Program,
    segments: Range<usize>,
    from: u64,
    to: u64,
    tell: &mut dyn FnMut(Hit) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for number in segments {
        let all = program.trace().segments();
        let Some(segment) = all.get(number) else { break };
        let end = number.checked_sub(1).and_then(|before| all.get(before)).map_or(0, |before| before.end());
        if segment.first > end
            && let Some(unproved) = clipped(verify::missing_segment(end, segment.first), from, to)
        {
            tell(Hit::Unknown(unproved))?;
        }
    }
    ControlFlow::Continue(())
}

fn clipped(mut unproved: Unproved, from: u64, to: u64) -> Option<Unproved> {
    unproved.from = unproved.from.max(from);
    unproved.to = unproved.to.min(to.saturating_add(1));
    (unproved.from < unproved.to).then_some(unproved)
}

fn look(
    engine: &mut Engine<NoJournal>,
    quarry: &Quarry,
    number: usize,
    within: &dyn Fn(&Hit) -> bool,
    give_up: &GiveUp,
) -> Had {
    let program = Arc::clone(engine.program());
    let segments = program.trace().segments();
    let Some(entry) = segments.get(number) else { return Had::Hits(Vec::new(), None) };
    let past = Arc::new(Past::until(Arc::clone(&program), number, give_up.clone()));
    set_trap(engine, quarry, &past);
    let mut hits = Vec::new();
    let mut many = false;
    let outcome = verify::segment_with(engine, entry, segments.get(number + 1), |engine| {
        let ended = scan(engine, quarry, &past, entry.instructions, &|| give_up.now(), &mut |found, _| {
            let hit = Hit::new(entry.first, found);
            if within(&hit) {
                many |= hits.len() == KEPT;
                if !many {
                    hits.push((found.needs(), hit));
                }
            }
            ControlFlow::Continue(())
        })?;
        match ended {
            // Nobody uses what is returned.
            ScanEnded::Cancelled | ScanEnded::Enough => Ok(()),
            ScanEnded::Finished => engine.run_to(entry.instructions),
        }
    });
    engine.memory.set_trap(None);
    let proved = match &outcome {
        Ok(()) => entry.instructions,
        Err(unproved) => unproved.from - entry.first,
    };
    if many {
        return Had::Many(proved, outcome.err());
    }
    let hits = hits.into_iter().filter(|(needs, _)| *needs <= proved).map(|(_, hit)| hit);
    Had::Hits(hits.collect(), outcome.err())
}

fn set_trap(engine: &mut Engine<NoJournal>, quarry: &Quarry, past: &Arc<Past>) {
    let watches = Arc::clone(&quarry.watches);
    engine.memory.set_trap((!watches.is_empty()).then(|| Trap::new(watches, Arc::clone(past))));
}

/// Tells what a segment has, as it is found.
fn tell_many(
    engine: &mut Engine<NoJournal>,
    quarry: &Quarry,
    number: usize,
    proved: u64,
    within: &dyn Fn(&Hit) -> bool,
    tell: &mut dyn FnMut(Hit) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let program = Arc::clone(engine.program());
    let Ok(segment) = program.segment(number) else { return ControlFlow::Continue(()) };
    let past = Arc::new(Past::new(program, number));
    set_trap(engine, quarry, &past);
    let first = segment.0.first;
    let mut enough = ControlFlow::Continue(());
    let mut execute = || -> Result<(), Divergence> {
        engine.begin(segment.0.clone(), Arc::clone(&segment.1))?;
        scan(engine, quarry, &past, proved, &|| false, &mut |found, _| {
            let hit = Hit::new(first, found);
            if found.needs() <= proved && within(&hit) {
                enough = tell(hit);
            }
            enough
        })?;
        Ok(())
    };
    // It was proved a moment ago.
    let _ = execute();
    engine.memory.set_trap(None);
    enough
}

impl Sighting {
    /// Whether a device made it.
    pub fn by_device(&self) -> bool {
        self.who == Who::Device
    }
}
