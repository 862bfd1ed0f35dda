//! Executes a whole trace again and says which instructions are proved.
//!
//! An instruction is proved if it was executed again and the digest after it equals the recorded one. A segment is
//! fully proved if, besides, the registers at its end are those of the next segment's keyframe.

use std::sync::Arc;

use ktrace_format::TraceError;
use ktrace_format::reader::SegmentEntry;
use ktrace_format::segment::FLAG_OPEN_END;
use ktrace_machine::KnownRegisters;
use rayon::prelude::*;
use serde::Serialize;

use crate::engine::{Divergence, Engine};
use crate::journal::{Journal, NoJournal};
use crate::program::Program;

/// Instructions that are executed between two looks at whether the search was cancelled.
const SLICE: u64 = 1 << 16;

/// A stretch of positions that is not proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unproved {
    /// The first position that is not proved.
    pub from: u64,
    /// The position after the last one.
    pub to: u64,
    /// Why.
    pub reason: String,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Instructions in the trace.
    pub instructions: u64,
    /// Those that are proved.
    pub proved: u64,
    /// The others.
    pub divergences: Vec<Unproved>,
}

impl Report {
    /// Every instruction is proved, and there is at least one.
    pub fn is_complete(&self) -> bool {
        self.divergences.is_empty() && self.proved == self.instructions && self.instructions > 0
    }
}

/// Positions that no segment holds.
pub(crate) fn missing_segment(from: u64, to: u64) -> Unproved {
    let reason = "the trace has no segment for these positions: it is damaged or lost".to_owned();
    Unproved { from, to, reason }
}

/// Verifies one segment; `from` of the error is the first instruction that is not proved. The engine has executed what it
/// could.
pub(crate) fn segment<J: Journal>(
    engine: &mut Engine<J>,
    entry: &SegmentEntry,
    next: Option<&SegmentEntry>,
) -> Result<(), Unproved> {
    segment_with(engine, entry, next, |engine| engine.run_to(entry.instructions))
}

/// The same, but it gives up when `cancelled` returns true, which is asked all the time. What it returns then means
/// nothing.
pub(crate) fn segment_unless<J: Journal>(
    engine: &mut Engine<J>,
    entry: &SegmentEntry,
    next: Option<&SegmentEntry>,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), Unproved> {
    segment_with(engine, entry, next, |engine| {
        while engine.executed < entry.instructions && !cancelled() {
            engine.run_to((engine.executed + SLICE).min(entry.instructions))?;
        }
        if engine.executed == entry.instructions { engine.run_to(entry.instructions) } else { Ok(()) }
    })
}

/// The same, with a way of one's own to execute all of the segment, which has begun.
pub(crate) fn segment_with<J: Journal>(
    engine: &mut Engine<J>,
    entry: &SegmentEntry,
    next: Option<&SegmentEntry>,
    run: impl FnOnce(&mut Engine<J>) -> Result<(), Divergence>,
) -> Result<(), Unproved> {
    let program = Arc::clone(engine.program());
    let unproved = |from: u64, reason: String| Unproved { from, to: entry.end(), reason };
    let damaged = |error: TraceError| unproved(entry.first, error.to_string());
    let (head, streams) = program.trace().read_segment(entry).map_err(damaged)?;
    let mut executed = engine.begin(head, Arc::new(streams));
    if executed.is_ok() {
        executed = run(engine);
    }
    executed.map_err(|divergence| unproved(entry.first + engine.checked, divergence.to_string()))?;
    if let Some(next) = next.filter(|next| next.first == entry.end() && entry.flags & FLAG_OPEN_END == 0)
        && let Some(reason) = keyframe_mismatch(&program, next, &engine.registers())
    {
        return Err(unproved(entry.first, reason));
    }
    Ok(())
}

/// What is wrong with the registers at the end of a segment, by the keyframe of the one that follows it. If that one
/// is damaged, nothing is: the digests have proved the segment as far as they can.
pub(crate) fn keyframe_mismatch(
    program: &Program,
    next: &SegmentEntry,
    registers: &KnownRegisters,
) -> Option<String> {
    let head = program.trace().read_head(next).ok()?;
    if head.registers.len() != registers.len() {
        return Some(format!("the next keyframe does not have {} registers", registers.len()));
    }
    let volatile = program.instruction_set().volatile_registers();
    let pairs = head.registers.iter().zip(registers.iter()).enumerate();
    let names: Vec<_> = pairs
        .filter_map(|(number, (keyframe, model))| {
            // What changes by itself may have changed between the two.
            let model = model.filter(|model| model != keyframe && !volatile.contains(number))?;
            Some(format!("register {number} is {keyframe:#010x}, the model has {model:#010x}"))
        })
        .collect();
    if names.is_empty() {
        return None;
    }
    Some(format!("at the next keyframe {}", names.join(", ")))
}

/// Verifies everything on rayon's current thread pool. `progress` is told instructions as segments are done;
/// once `cancelled` is true no further segment is begun, and what remains or is under way counts as not proved.
pub fn verify(
    program: &Arc<Program>,
    progress: &(dyn Fn(u64) + Sync),
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Report {
    let segments = program.trace().segments();
    let outcomes: Vec<Result<(), Unproved>> = segments
        .par_iter()
        .enumerate()
        .map_init(
            || Engine::<NoJournal>::new(Arc::clone(program)),
            |engine, (number, entry)| {
                let outcome = if cancelled() {
                    Ok(())
                } else {
                    segment_unless(engine, entry, segments.get(number + 1), cancelled)
                };
                // What was under way then is not known to be right.
                if cancelled() {
                    let reason = "not verified: interrupted".into();
                    return Err(Unproved { from: entry.first, to: entry.end(), reason });
                }
                progress(entry.instructions);
                outcome
            },
        )
        .collect();
    let mut report = Report { instructions: program.trace().instructions(), ..Report::default() };
    let mut position = 0;
    for (entry, outcome) in segments.iter().zip(outcomes) {
        if entry.first > position {
            report.divergences.push(missing_segment(position, entry.first));
        }
        position = entry.end();
        match outcome {
            Ok(()) => report.proved += entry.instructions,
            Err(unproved) => {
                report.proved += unproved.from - entry.first;
                report.divergences.push(unproved);
            }
        }
    }
    report.divergences = merged(report.divergences);
    report
}

/// Neighbours with the same reason become one.
fn merged(divergences: Vec<Unproved>) -> Vec<Unproved> {
    let mut merged: Vec<Unproved> = Vec::new();
    for divergence in divergences {
        match merged.last_mut() {
            Some(last) if last.to == divergence.from && last.reason == divergence.reason => {
                last.to = divergence.to
            }
            _ => merged.push(divergence),
        }
    }
    merged
}
