//! Holds a recording against QEMU's log of the same run: every register, at every position, in both directions.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ktrace_format::Position;
use ktrace_timeline::{Recording, Replay, Stop, StopAt};

use crate::oracle::{Oracle, State};

/// r0 to r15 and CPSR.
pub type Registers = [u32; 17];

/// Records of the log that must agree for a place in the trace to be the log's.
const ANCHOR: usize = 2000;

/// Positions behind the place that was found in which there must be no other.
const UNIQUE: u64 = 2_000_000;

/// Positions that are described when they disagree.
const SHOWN: usize = 10;

/// What a log says of a position.
pub trait LoggedState {
    /// The program counter, as a recording shows it.
    fn program_counter(&self) -> u32;

    /// The registers that a recording shows otherwise or not at all, described; none where it agrees. `shown` is in the
    /// recording's order.
    fn differences(&self, shown: &[Option<u32>]) -> Vec<String>;

    /// Whether there are none.
    fn agrees(&self, shown: &[Option<u32>]) -> bool {
        self.differences(shown).is_empty()
    }
}

impl LoggedState for Registers {
    fn program_counter(&self) -> u32 {
        self[15]
    }

    fn differences(&self, shown: &[Option<u32>]) -> Vec<String> {
        (0..17)
            .filter(|number| shown.get(*number) != Some(&Some(self[*number])))
            .map(|number| difference(&name(number), shown.get(number).copied().flatten(), self[number]))
            .collect()
    }

    fn agrees(&self, shown: &[Option<u32>]) -> bool {
        shown.iter().zip(self).all(|(shown, logged)| *shown == Some(*logged))
    }
}

/// A register that a recording shows otherwise than it is logged, described.
pub fn difference(name: &str, shown: Option<u32>, logged: u32) -> String {
    match shown {
        Some(value) => format!("{name} {value:08x} logged {logged:08x}"),
        None => format!("{name} unknown, logged {logged:08x}"),
    }
}

/// Reads a log's states, at most `limit` of them, without those that never began.
pub fn read_log(file: &Path, limit: usize) -> Result<Vec<Registers>> {
    let source = File::open(file).with_context(|| file.display().to_string())?;
    let mut states = Vec::new();
    for state in Oracle::new(source).take(limit) {
        let State { registers, psr, began, address, .. } = state?;
        ensure!(address == u64::from(registers[15]), "the log contradicts itself at {address:#x}");
        if began {
            let mut all = [psr; 17];
            all[..16].copy_from_slice(&registers);
            states.push(all);
        }
    }
    Ok(states)
}

/// What a recording says at a position.
pub fn registers_at(recording: &mut Recording, position: u64) -> Result<Vec<Option<u32>>> {
    recording.seek(Position(position))?;
    Ok(recording.registers()?)
}

/// Why a recording knows nothing at a position, if that is so.
fn why_unknown(recording: &mut Recording, shown: &[Option<u32>]) -> Option<String> {
    if shown.iter().any(Option::is_some) { None } else { recording.why_unknown() }
}

fn agrees(recording: &mut Recording, position: u64, state: &impl LoggedState) -> Result<bool> {
    Ok(state.agrees(&registers_at(recording, position)?))
}

/// The first position in `from..=to` where the log's first states are those of the recording. That another one follows
/// within [`UNIQUE`] positions is an error, as is that there is none. A log that begins in a loop that waits, and changes
/// nothing, is longer than that: then all of its states are what is looked for.
pub fn find(recording: &mut Recording, states: &[impl LoggedState], from: u64, to: u64) -> Result<u64> {
    let mut found = find_anchor(recording, &states[..states.len().min(ANCHOR)], from, to)?;
    if matches!(found, Found::Twice(..)) {
        found = find_anchor(recording, states, from, to)?;
    }
    match found {
        Found::Once(position) => Ok(position),
        Found::Twice(first, other) => bail!("the log fits at position {first} and at {other}"),
    }
}

/// Where states are in a recording.
enum Found {
    Once(u64),
    Twice(u64, u64),
}

fn find_anchor(recording: &mut Recording, anchor: &[impl LoggedState], from: u64, to: u64) -> Result<Found> {
    let (rarest, address) = rarest(anchor).context("the log is empty")?;
    let mut stop =
        StopAt { addresses: vec![address], position: Some(Position(to + rarest + 1)), ..StopAt::default() };
    let mut found: Option<u64> = None;
    let mut furthest = 0;
    let mut here = from + rarest;
    recording.seek(Position(here))?;
    loop {
        let first = here - rarest;
        let mut matching = 0;
        while matching < anchor.len() && agrees(recording, first + matching as u64, &anchor[matching])? {
            matching += 1;
        }
        furthest = furthest.max(matching);
        if matching == anchor.len() {
            if let Some(other) = found.replace(first) {
                return Ok(Found::Twice(other, first));
            }
            stop.position = Some(Position(here + UNIQUE));
        }
        recording.seek(Position(here))?;
        if recording.run_forward(&stop, &mut || false)? != Stop::Address {
            break;
        }
        here = recording.position().0;
    }
    found.map(Found::Once).with_context(|| {
        format!(
            "the log's first {} states are nowhere in positions {from} to {to}; at best {furthest} agree",
            anchor.len()
        )
    })
}

/// Which state of some is at an address that is the rarest among them, and that address: the fewer places look like it.
fn rarest(states: &[impl LoggedState]) -> Option<(u64, u32)> {
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for state in states {
        *counts.entry(state.program_counter()).or_default() += 1;
    }
    let addresses = (0..).zip(states.iter().map(LoggedState::program_counter));
    addresses.min_by_key(|(_, address)| counts[address])
}

/// What was compared, and what of it disagreed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Positions that were compared.
    pub positions: u64,
    /// Positions where a register differs or is not known.
    pub mismatches: u64,
    /// The first of them, described.
    pub described: Vec<String>,
}

impl Comparison {
    /// Compares what is shown at a position, or the reason why nothing is, with what is logged.
    fn note(
        &mut self,
        position: u64,
        shown: &[Option<u32>],
        reason: Option<String>,
        logged: &impl LoggedState,
    ) {
        self.positions += 1;
        let differing = match reason {
            Some(reason) => format!("unknown: {reason}"),
            None => logged.differences(shown).join(", "),
        };
        if !differing.is_empty() {
            self.mismatches += 1;
            if self.described.len() < SHOWN {
                let address = logged.program_counter();
                self.described.push(format!("position {position}, pc {address:08x}: {differing}"));
            }
        }
    }

    /// Adds another's numbers.
    pub fn add(&mut self, other: &Comparison) {
        self.positions += other.positions;
        self.mismatches += other.mismatches;
        self.described.extend(other.described.iter().cloned());
    }
}

fn name(register: usize) -> String {
    match register {
        15 => "pc".to_owned(),
        16 => "cpsr".to_owned(),
        number => format!("r{number}"),
    }
}

/// Walks forward over the log's positions; the first is at `first`.
pub fn forward(recording: &mut Recording, states: &[impl LoggedState], first: u64) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    for (position, state) in (first..).zip(states) {
        let shown = registers_at(recording, position)?;
        comparison.note(position, &shown, why_unknown(recording, &shown), state);
    }
    Ok(comparison)
}

/// Steps backward over the log's positions, from the last to the first.
pub fn backward(recording: &mut Recording, states: &[impl LoggedState], first: u64) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    for (offset, state) in states.iter().enumerate().rev() {
        let position = first + offset as u64;
        let shown = registers_at(recording, position)?;
        comparison.note(position, &shown, why_unknown(recording, &shown), state);
    }
    Ok(comparison)
}

/// What kinds of positions a log covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Positions.
    pub positions: u64,
    /// Instructions in T32.
    pub thumb: u64,
    /// Addresses from 0x80000000 on: the kernel's own, which exist only through its page tables.
    pub high: u64,
    /// Arrivals at the IRQ vector.
    pub interrupts: u64,
    /// Arrivals at the vectors of aborts, undefined instructions and supervisor calls.
    pub exceptions: u64,
}

impl Coverage {
    /// Of a log; the vectors are at 0xffff0000 as the kernel's, or at 0, as after reset.
    pub fn of(states: &[Registers]) -> Coverage {
        let mut coverage = Coverage::default();
        for (before, state) in std::iter::once(None).chain(states.iter().map(Some)).zip(states) {
            coverage.positions += 1;
            coverage.thumb += u64::from(state[16] >> 5 & 1);
            coverage.high += u64::from(state[15] >= 0x8000_0000);
            let mode = |state: &Registers| state[16] & 0x1f;
            let entered = before.is_some_and(|before| before[15].wrapping_add(4) != state[15]);
            match (state[15], mode(state)) {
                (0xffff_0018 | 0x18, 0x12) if entered => coverage.interrupts += 1,
                (0xffff_0004 | 0xffff_0008 | 0xffff_000c | 0xffff_0010 | 0x08, _) if entered => {
                    coverage.exceptions += 1
                }
                _ => {}
            }
        }
        coverage
    }

    /// Adds another's numbers.
    pub fn add(&mut self, other: &Coverage) {
        self.positions += other.positions;
        self.thumb += other.thumb;
        self.high += other.high;
        self.interrupts += other.interrupts;
        self.exceptions += other.exceptions;
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Coverage { positions, thumb, high, interrupts, exceptions } = self;
        write!(
            formatter,
            "{positions} positions: {} A32, {thumb} T32; {high} at kernel addresses; {interrupts} interrupts and \
             {exceptions} other exceptions taken",
            positions - thumb
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_and_what_is_unknown_are_mismatches() {
        let logged = [7; 17];
        let mut shown = vec![Some(7); 17];
        let mut comparison = Comparison::default();
        comparison.note(0, &shown, None, &logged);
        assert_eq!((comparison.positions, comparison.mismatches), (1, 0));
        shown[3] = Some(8);
        shown[16] = None;
        comparison.note(1, &shown, None, &logged);
        comparison.note(2, &shown[..16], None, &logged);
        assert_eq!((comparison.positions, comparison.mismatches), (3, 2));
        assert_eq!(
            comparison.described[0],
            "position 1, pc 00000007: r3 00000008 logged 00000007, cpsr unknown, logged 00000007"
        );
    }

    #[test]
    fn interrupts_are_counted_once() {
        let state = |pc: u32, cpsr: u32| {
            let mut state = [0; 17];
            (state[15], state[16]) = (pc, cpsr);
            state
        };
        let states = [
            state(0xc000_8000, 0x13),
            state(0xffff_0018, 0x92),
            state(0xffff_12a0, 0x92),
            state(0xc000_8004, 0x33),
            state(0xffff_0010, 0x97),
        ];
        let expected = Coverage { positions: 5, thumb: 1, high: 5, interrupts: 1, exceptions: 1 };
        assert_eq!(Coverage::of(&states), expected);
        // A log that starts in the handler does not show that it was entered.
        assert_eq!(Coverage::of(&states[1..3]).interrupts, 0);
    }
}
