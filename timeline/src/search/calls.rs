//! Calls of a function: where it is entered, with which arguments, where it returns, with which result.
//!
//! A call returns where the return address is executed with the stack pointer that there was at the entry.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use ktrace_format::Position;
use ktrace_machine::CallingConvention;

use super::Moment;
use super::candidates::{Candidates, Direction};
use super::hunt::Scouts;
use super::quarry::Quarry;
use super::scan::{Ended, Found, scan};
use crate::engine::Engine;
use crate::journal::NoJournal;
use crate::past::Past;
use crate::program::Program;
use crate::verify;

/// Calls that may wait for their return before the first of them is told without one.
const WAITING: usize = 10_000;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Position of the function's first instruction.
    pub position: u64,
    /// Its address.
    pub address: u32,
    /// What the registers of the first four arguments held.
    pub arguments: [Option<u32>; 4],
    /// Where it returns to.
    pub return_address: Option<u32>,
    stack_pointer: Option<u32>,
    /// Where it returned, and what the register of the result held then. `None`: it did not, up to the end of the recording,
    /// or within the next 10,000 calls.
    pub returned: Option<(u64, Option<u32>)>,
}

impl Call {
    fn new(moment: &dyn Moment, convention: CallingConvention, address: u32) -> Call {
        Call {
            position: moment.position(),
            address,
            arguments: convention.arguments.map(|register| moment.register(register)),
            return_address: moment.register(convention.return_address).map(|address| address & !1),
            stack_pointer: moment.register(convention.stack_pointer),
            returned: None,
        }
    }
}

/// Calls under way, in the order of their entries.
struct Calls<'a> {
    convention: CallingConvention,
    entries: &'a BTreeSet<u32>,
    waiting: VecDeque<Call>,
    /// Addresses that calls return to.
    returns: BTreeSet<u32>,
    /// Entries behind this position do not count.
    to: u64,
}

impl Calls<'_> {
    /// Something happens at an instruction. Returns an address that must be looked for from now on, too.
    fn at(&mut self, moment: &dyn Moment, address: u32) -> Option<u32> {
        if self.returns.contains(&address) {
            let stack_pointer = moment.register(self.convention.stack_pointer);
            // The innermost call that returns to here.
            let call = self.waiting.iter_mut().rev().find(|call| {
                call.returned.is_none()
                    && call.return_address == Some(address)
                    && call.stack_pointer == stack_pointer
            });
            if let Some(call) = call {
                call.returned = Some((moment.position(), moment.register(self.convention.result)));
            }
        }
        if !self.entries.contains(&address) || moment.position() > self.to {
            return None;
        }
        let call = Call::new(moment, self.convention, address);
        let to = call.return_address;
        self.waiting.push_back(call);
        to.filter(|to| self.returns.insert(*to))
    }

    /// Tells calls that are complete, and those that have waited for too long, or all.
    fn tell(&mut self, all: bool, tell: &mut dyn FnMut(Call) -> ControlFlow<()>) -> ControlFlow<()> {
        while let Some(first) = self.waiting.front() {
            if first.returned.is_none() && self.waiting.len() <= WAITING && !all {
                break;
            }
            if let Some(call) = self.waiting.pop_front() {
                tell(call)?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Tells the calls of functions that begin at any of `entries` and are entered at positions from `from` to `to`, in order, until
/// `tell` has enough or `cancelled` returns true, which ends it at the position that is returned: returns from there on are not
/// seen. What is not proved is passed over.
pub fn calls(
    program: &Arc<Program>,
    entries: &[u32],
    from: u64,
    to: u64,
    cancelled: &mut dyn FnMut() -> bool,
    tell: &mut dyn FnMut(Call) -> ControlFlow<()>,
) -> Option<Position> {
    let entries: BTreeSet<u32> = entries.iter().copied().collect();
    let convention = program.instruction_set().calling_convention();
    let (waiting, returns) = (VecDeque::new(), BTreeSet::new());
    let mut calls = Calls { convention, entries: &entries, waiting, returns, to };
    let mut quarry = Quarry::default();
    entries.iter().for_each(|entry| quarry.add_address(program, *entry));
    let segments = program.trace().segments();
    let mut next = segments.partition_point(|segment| segment.end() <= from);
    let scouts = Scouts::new(Arc::clone(program));
    let mut stopped = false;
    let mut cancelled = || {
        stopped |= cancelled();
        stopped
    };
    scouts.with(|engine| {
        while next < segments.len() {
            // Behind the last entry only returns are waited for.
            let late = segments.get(next).is_some_and(|segment| segment.first > to);
            if late && calls.waiting.is_empty() {
                break;
            }
            let mut candidates = Candidates::new(program, &quarry, Direction::Forward, next..segments.len());
            let found = loop {
                if cancelled() {
                    break None;
                }
                match candidates.next() {
                    Some(Some(number)) => break Some(number),
                    Some(None) => {}
                    None => break None,
                }
            };
            let Some(found) = found else { break };
            let ended = in_segment(engine, &mut quarry, &mut calls, found, from, &mut cancelled, tell);
            match ended {
                ControlFlow::Continue(()) => next = found + 1,
                ControlFlow::Break(()) if cancelled() => break,
                ControlFlow::Break(()) => return,
            }
        }
        let _ = calls.tell(true, tell);
    });
    let here = segments.get(next).map_or(to, |segment| segment.first);
    stopped.then(|| Position(here.max(from)))
}

fn in_segment(
    engine: &mut Engine<NoJournal>,
    quarry: &mut Quarry,
    calls: &mut Calls<'_>,
    number: usize,
    from: u64,
    cancelled: &mut dyn FnMut() -> bool,
    tell: &mut dyn FnMut(Call) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let program = Arc::clone(engine.program());
    let segments = program.trace().segments();
    let Some(entry) = segments.get(number) else { return ControlFlow::Continue(()) };
    let cancelled = RefCell::new(cancelled);
    let cancelled = || (cancelled.borrow_mut())();
    let proved = match verify::segment_unless(engine, entry, segments.get(number + 1), &cancelled) {
        Ok(()) => entry.instructions,
        Err(unproved) => unproved.from - entry.first,
    };
    let Ok(segment) = program.segment(number) else { return ControlFlow::Continue(()) };
    if engine.begin(segment.0.clone(), Arc::clone(&segment.1)).is_err() {
        return ControlFlow::Continue(());
    }
    let past = Past::new(Arc::clone(&program), number);
    // Positions up to here have been looked at.
    let mut seen = from.checked_sub(1);
    loop {
        if cancelled() {
            return ControlFlow::Break(());
        }
        let mut another = None;
        let ended = scan(engine, quarry, &past, proved, &cancelled, &mut |found, here| {
            let Found::Instruction { offset, address } = found else { return ControlFlow::Continue(()) };
            let position = entry.first + offset;
            if offset >= proved || seen.is_some_and(|seen| position <= seen) {
                return ControlFlow::Continue(());
            }
            seen = Some(position);
            another = calls.at(here, address);
            if another.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if cancelled() {
            return ControlFlow::Break(());
        }
        calls.tell(false, tell)?;
        match (ended, another) {
            (Ok(Ended::Enough), Some(address)) => quarry.add_address(&program, address),
            // What was proved a moment ago can be executed again.
            _ => return ControlFlow::Continue(()),
        }
    }
}
