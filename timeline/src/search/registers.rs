//! The last change of a register.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::hunt::{Scouts, hunt};
use crate::engine::{Divergence, Engine};
use crate::journal::NoJournal;
use crate::program::Program;
use crate::verify;

/// Instructions that are executed between two looks at whether the search was cancelled.
const SLICE: u64 = 1 << 12;

/// A change of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Position of the instruction that changed it, or behind which an exception or interrupt did.
    pub position: u64,
    /// Address of that instruction.
    pub address: u32,
    /// Its value before and after. `None`: it is not known.
    pub values: [Option<u32>; 2],
}

/// The last change of a register (by its number in [`registers`](crate::Replay::registers)) before position `at`; an
/// instruction that writes the value that there is already changes nothing. Runs on rayon's current thread pool (not from a
/// thread of it). `None`: there is none, it was cancelled, or everything before is not proved.
pub fn last_change(
    program: &Arc<Program>,
    register: usize,
    at: u64,
    cancelled: &mut dyn FnMut() -> bool,
) -> Option<Change> {
    let segments = program.trace().segments();
    let end = segments.partition_point(|segment| segment.first < at);
    let scouts = Scouts::new(Arc::clone(program));
    let work = |number: usize, stopped: &dyn Fn() -> bool| {
        scouts.with(|engine| in_segment(engine, number, register, at, stopped))
    };
    let mut found = None;
    let take = &mut |_, change: Option<Change>| {
        found = change;
        if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    hunt((0..end).rev().map(Some), &work, cancelled, take).ok()?;
    found
}

fn in_segment(
    engine: &mut Engine<NoJournal>,
    number: usize,
    register: usize,
    at: u64,
    stopped: &dyn Fn() -> bool,
) -> Option<Change> {
    let program = Arc::clone(engine.program());
    let segments = program.trace().segments();
    let entry = segments.get(number)?;
    let proved = match verify::segment(engine, entry, segments.get(number + 1)) {
        Ok(()) => entry.instructions,
        Err(unproved) => unproved.from - entry.first,
    };
    let until = proved.min(at.saturating_sub(entry.first));
    let segment = program.segment(number).ok()?;
    let mut last = None;
    let mut execute = || -> Result<(), Divergence> {
        engine.begin(segment.0.clone(), Arc::clone(&segment.1))?;
        engine.settle()?;
        let mut before = engine.registers().get(register);
        while engine.executed < until {
            if engine.executed.is_multiple_of(SLICE) && stopped() {
                break;
            }
            let (executed, address) = (engine.executed, engine.cpu.pc());
            engine.run_to(executed + 1)?;
            engine.settle()?;
            let after = engine.registers().get(register);
            if after != before {
                let position = entry.first + executed;
                last = Some(Change { position, address, values: [before, after] });
                before = after;
            }
        }
        Ok(())
    };
    // What was proved a moment ago can be executed again.
    execute().ok()?;
    last
}
