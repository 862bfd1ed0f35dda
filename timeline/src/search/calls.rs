//! Calls of a function: where it is entered, with which arguments, where it returns, with which result.
//!
//! A call returns where the return address is executed with the stack pointer that there was at the entry.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
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
    /// Calls before those.
    told: u64,
    /// Those that have not returned, by return address and stack pointer: their numbers, rising. There may be thousands of them.
    open: HashMap<Return, VecDeque<u64>>,
    /// Addresses that calls return to.
    returns: BTreeSet<u32>,
    /// Entries behind this position do not count.
    to: u64,
}

/// Where a call returns: the address, and the stack pointer there.
type Return = (Option<u32>, Option<u32>);

impl Calls<'_> {
    /// Something happens at an instruction. Returns an address that must be looked for from now on, too.
    fn at(&mut self, moment: &dyn Moment, address: u32) -> Option<u32> {
        if self.returns.contains(&address) {
            let stack_pointer = moment.register(self.convention.stack_pointer);
            // The innermost call that returns to here.
            let number = self.open.get_mut(&(Some(address), stack_pointer)).and_then(VecDeque::pop_back);
            let place = number.and_then(|number| usize::try_from(number.checked_sub(self.told)?).ok());
            if let Some(call) = place.and_then(|place| self.waiting.get_mut(place)) {
                call.returned = Some((moment.position(), moment.register(self.convention.result)));
            }
        }
        if !self.entries.contains(&address) || moment.position() > self.to {
            return None;
        }
        let call = Call::new(moment, self.convention, address);
        let to = call.return_address;
        let number = self.told + self.waiting.len() as u64;
        self.open.entry((to, call.stack_pointer)).or_default().push_back(number);
        self.waiting.push_back(call);
        to.filter(|to| self.returns.insert(*to))
    }

    /// No return of a call is looked for any more, the oldest that waited.
    fn close(&mut self, call: &Call) {
        let key = (call.return_address, call.stack_pointer);
        let Some(open) = self.open.get_mut(&key) else { return };
        if call.returned.is_none() {
            open.pop_front();
        }
        if open.is_empty() {
            self.open.remove(&key);
        }
    }

    /// Tells calls that are complete, and those that have waited for too long, or all.
    fn tell(&mut self, all: bool, tell: &mut dyn FnMut(Call) -> ControlFlow<()>) -> ControlFlow<()> {
        while let Some(first) = self.waiting.front() {
            if first.returned.is_none() && self.waiting.len() <= WAITING && !all {
                break;
            }
            if let Some(call) = self.waiting.pop_front() {
                self.told += 1;
                self.close(&call);
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
    let mut calls =
        Calls { convention, entries: &entries, waiting, told: 0, open: HashMap::new(), returns, to };
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

#[cfg(test)]
mod tests {
    use super::*;
    use ktrace_machine::InstructionSet;

    /// r0, the stack pointer and the return address are known at each.
    struct At {
        position: u64,
        registers: [u32; 16],
    }

    impl Moment for At {
        fn position(&self) -> u64 {
            self.position
        }

        fn register(&self, number: usize) -> Option<u32> {
            self.registers.get(number).copied()
        }

        fn read_memory(&self, _: u32, into: &mut [Option<u8>]) {
            into.fill(None);
        }
    }

    /// Entries and returns at random, as they come with recursion, tail calls and longjmp: each return is the innermost call's
    /// that is to come back to there.
    #[test]
    fn the_innermost_call_returns() {
        let entries = BTreeSet::from([0x100]);
        let convention = InstructionSet::Arm.calling_convention();
        let (waiting, returns) = (VecDeque::new(), BTreeSet::new());
        let mut calls = Calls {
            convention,
            entries: &entries,
            waiting,
            told: 0,
            open: HashMap::new(),
            returns,
            to: u64::MAX,
        };
        let mut expected: Vec<(u64, u32, u32, Option<u64>)> = Vec::new();
        let mut told = Vec::new();
        let mut random = fastrand::Rng::with_seed(1);
        for position in 0..100_000 {
            let mut registers = [0; 16];
            let (stack_pointer, to) = (random.u32(..40), 4 * random.u32(..3));
            (registers[13], registers[14]) = (stack_pointer, 0x200 + to);
            // More calls than returns, so that some are given up.
            let address = if random.u32(..5) < 3 { 0x100 } else { 0x200 + to };
            calls.at(&At { position, registers }, address);
            if address == 0x100 {
                expected.push((position, stack_pointer, 0x200 + to, None));
            } else {
                // Calls wait for the next 10,000.
                let oldest = expected.len().saturating_sub(WAITING);
                let open = expected[oldest..].iter_mut().rev();
                let innermost = open
                    .filter(|call| call.3.is_none())
                    .find(|call| (call.1, call.2) == (stack_pointer, address));
                if let Some(call) = innermost {
                    call.3 = Some(position);
                }
            }
            let outcome = calls.tell(position == 99_999, &mut |call| {
                told.push((
                    call.position,
                    call.stack_pointer.unwrap(),
                    call.return_address.unwrap(),
                    call.returned,
                ));
                ControlFlow::Continue(())
            });
            assert!(outcome.is_continue());
        }
        let told: Vec<_> = told
            .into_iter()
            .map(|(at, pointer, to, returned)| (at, pointer, to, returned.map(|(at, _)| at)))
            .collect();
        assert_eq!(told.len(), expected.len());
        assert!(told == expected);
        assert!(told.iter().any(|call| call.3.is_none()));
        assert!(calls.open.is_empty());
    }
}
