//! What is particular to MIPS when a recording is held against QEMU's log ([`crate::mips_oracle`]).

use std::fmt;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

use crate::agreement::{LoggedState, difference};
use crate::mips_oracle::{MipsOracle, State};

/// The number (gdb's) of Cause, which a recording may not know.
const CAUSE: usize = 36;
/// Its bits TI and IP7 to IP2: the timer and interrupt lines set them while the processor is anywhere, so also between the
/// moments at which the recorder and the log look at one position.
const LINES: u32 = 0x4000_fc00;

impl State {
    fn differing<'a>(&'a self, shown: &'a [Option<u32>]) -> impl Iterator<Item = usize> + 'a {
        let logged = (0..self.registers.len()).filter(|number| self.known >> number & 1 != 0);
        logged.filter(|number| match shown.get(*number).copied().flatten() {
            Some(value) if *number == CAUSE => (value ^ self.registers[CAUSE]) & !LINES != 0,
            Some(value) => value != self.registers[*number],
            None => *number != CAUSE,
        })
    }
}

impl LoggedState for State {
    fn program_counter(&self) -> u32 {
        self.registers[37]
    }

    fn differences(&self, shown: &[Option<u32>]) -> Vec<String> {
        let described = self.differing(shown).map(|number| {
            difference(&name(number), shown.get(number).copied().flatten(), self.registers[number])
        });
        described.collect()
    }

    fn agrees(&self, shown: &[Option<u32>]) -> bool {
        self.differing(shown).next().is_none()
    }
}

fn name(register: usize) -> String {
    match register {
        32 => "status".to_owned(),
        33 => "lo".to_owned(),
        34 => "hi".to_owned(),
        36 => "cause".to_owned(),
        37 => "pc".to_owned(),
        38..70 => format!("f{}", register - 38),
        70 => "fcsr".to_owned(),
        71 => "fir".to_owned(),
        number => format!("r{number}"),
    }
}

/// Reads a log's states, at most `limit` of them, without the last, which may never have begun.
pub fn read_log(file: &Path, limit: usize) -> Result<Vec<State>> {
    let source = File::open(file).with_context(|| file.display().to_string())?;
    let mut states = MipsOracle::new(source).take(limit.saturating_add(1)).collect::<Result<Vec<_>, _>>()?;
    states.pop();
    Ok(states)
}

/// What kinds of positions a log covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Positions.
    pub positions: u64,
    /// Delay slots.
    pub slots: u64,
    /// Of these, those of a branch-likely that was not taken.
    pub nullified: u64,
    /// Positions in user mode.
    pub user: u64,
    /// Positions at addresses that the TLB maps.
    pub mapped: u64,
}

impl Coverage {
    /// Of a log.
    pub fn of(states: &[State]) -> Coverage {
        let mut coverage = Coverage::default();
        for state in states {
            let (address, status) = (state.address(), state.registers[32]);
            coverage.positions += 1;
            coverage.slots += u64::from(state.in_delay_slot());
            coverage.nullified += u64::from(state.nullified());
            // KSU is user mode, and neither EXL nor ERL overrides it.
            coverage.user += u64::from(status & 0x1e == 0x10);
            coverage.mapped += u64::from(!(0x8000_0000..0xc000_0000).contains(&address));
        }
        coverage
    }

    /// Adds another's numbers.
    pub fn add(&mut self, other: &Coverage) {
        self.positions += other.positions;
        self.slots += other.slots;
        self.nullified += other.nullified;
        self.user += other.user;
        self.mapped += other.mapped;
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Coverage { positions, slots, nullified, user, mapped } = self;
        write!(
            formatter,
            "{positions} positions: {slots} in delay slots, {nullified} of them nullified; {user} in user mode, {mapped} \
             at mapped addresses"
        )
    }
}
