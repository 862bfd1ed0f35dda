//! Holds a recording's interrupts and exceptions against those that QEMU logs under `-d int`.
//!
//! QEMU's line about an exception is between the records ([`crate::oracle`]) of the last instruction before it and of the
//! first one after it. So the log says at which position each one is, and the registers there say where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ktrace_format::Position;
use ktrace_format::header;
use ktrace_timeline::events::{Cause, Discontinuity, Event, Kind};
use ktrace_timeline::{InstructionSet, Recording, Replay};

use crate::agreement::Registers;

/// An exception in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// How many instructions of the log began before it: it comes just before the state with this number.
    pub before: usize,
    /// Its cause, as a recording numbers it: its vector, or [`HOST_CALL`].
    pub cause: u8,
    /// An instruction raised it.
    pub raised: bool,
}

/// The cause of a call that QEMU executes in place of firmware.
pub const HOST_CALL: u8 = 9;

/// Reads the exceptions in a log. If it has no registers, all of them have come before nothing.
pub fn read_log(file: &Path) -> Result<Vec<Logged>> {
    let source = File::open(file).with_context(|| file.display().to_string())?;
    let mut before = 0;
    let mut exceptions: Vec<Logged> = Vec::new();
    let mut lines = BufReader::with_capacity(1 << 18, source);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        if line.starts_with(b"Trace ") {
            before += 1;
        } else if line.starts_with(b"Stopped execution of TB chain before ") {
            before -= 1;
        } else if line.starts_with(b"Taking exception ") {
            let (cause, raised) = cause_of(&String::from_utf8_lossy(&line))?;
            exceptions.push(Logged { before, cause, raised });
        }
        line.clear();
    }
    Ok(exceptions)
}

/// The cause that belongs to a line, and whether an instruction raises such an exception.
fn cause_of(line: &str) -> Result<(u8, bool)> {
    // QEMU's numbers, EXCP_… in target/arm/cpu.h.
    let number = line.split_whitespace().nth(2).and_then(|number| number.parse().ok());
    Ok(match number {
        Some(1) => (1, true),
        Some(2) => (2, true),
        Some(3) => (3, false),
        Some(4) => (4, true),
        Some(5) => (6, false),
        Some(6) => (7, false),
        // A breakpoint goes to the vector of the prefetch abort.
        Some(7) => (3, true),
        // With the machine's default settings QEMU itself answers a hypervisor call.
        Some(11) => (HOST_CALL, true),
        _ => bail!("these tests do not know this exception: {line:?}"),
    })
}

/// The interrupts, exceptions and resets of a recording at positions `from..=to`.
pub fn recorded(recording: &mut Recording, from: u64, to: u64) -> Result<Vec<Discontinuity>> {
    recording.seek(Position(from))?;
    recording
        .events([Kind::Interrupt, Kind::Exception].into_iter().collect(), &mut || false)
        .take_while(|event| event.position() <= to)
        .map(|event| match event {
            Event::Discontinuity(discontinuity) => Ok(discontinuity),
            other => bail!("at position {}: {other}", other.position()),
        })
        .collect()
}

/// What must be recorded for each exception in a log, whose first state is at position `first`; but for those that come
/// before it or behind the last one.
fn expected(states: &[Registers], logged: &[Logged], first: u64) -> Result<Vec<Discontinuity>> {
    let inside = logged.iter().filter(|logged| (1..states.len()).contains(&logged.before));
    let mut expected: Vec<Discontinuity> = Vec::new();
    for Logged { before, cause, raised } in inside {
        let (from, after) = (&states[before - 1], &states[*before]);
        let position = first + *before as u64;
        let mut this = Discontinuity {
            position,
            cause: Cause::new(InstructionSet::Arm, *cause),
            raised_by: raised.then_some(position - 1),
            // What an interrupt or a prefetch abort interrupts is at LR - 4 (DDI 0406C, B1.8.3).
            pc: Some(if *raised { from[15] } else { after[14].wrapping_sub(4) }),
            to: Some(after[15]),
        };
        if let Some(earlier) = expected.last_mut().filter(|earlier| earlier.position == position) {
            // An interrupt right behind a call that QEMU answers. Other exceptions mask interrupts, and after an interrupt
            // the log would not say what it interrupted.
            ensure!(earlier.cause.code() == HOST_CALL, "two exceptions at position {position}");
            earlier.to = None;
            (this.raised_by, this.pc) = (None, None);
        }
        expected.push(this);
    }
    Ok(expected)
}

/// How many exceptions of each cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<u8, (Option<&'static str>, u64)>);

impl Counts {
    /// Of one cause.
    pub fn of(&self, cause: u8) -> u64 {
        self.0.get(&cause).map_or(0, |(_, count)| *count)
    }

    /// Of all.
    pub fn all(&self) -> u64 {
        self.0.values().map(|(_, count)| count).sum()
    }
}

impl FromIterator<Cause> for Counts {
    fn from_iter<I: IntoIterator<Item = Cause>>(causes: I) -> Counts {
        let mut counts = BTreeMap::new();
        for cause in causes {
            counts.entry(cause.code()).or_insert((cause.name(), 0)).1 += 1;
        }
        Counts(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("no exception");
        }
        let counts =
            self.0.values().map(|(name, count)| format!("{count} {}", name.unwrap_or("without a name")));
        formatter.write_str(&counts.collect::<Vec<_>>().join(", "))
    }
}

/// Compares the exceptions in a log, whose first state is at position `first`, with those that the recording has from
/// there to the last state, in both directions: there are no others. Returns how many there are, or an error that tells
/// the first difference.
pub fn compare(
    recording: &mut Recording,
    states: &[Registers],
    logged: &[Logged],
    first: u64,
) -> Result<Counts> {
    let mut expected = expected(states, logged, first)?;
    let last = first + states.len() as u64 - 1;
    let recorded = recorded(recording, first + 1, last)?;
    for (expected, recorded) in expected.iter_mut().zip(&recorded) {
        // Where an instruction that is not computed has led is not known if an interrupt came before the next one.
        let before = states[(expected.position - first) as usize - 1][15];
        let is_next = |pc: u32| matches!(pc.wrapping_sub(before), 2 | 4);
        if expected.raised_by.is_none() && !expected.pc.is_some_and(is_next) && recorded.pc.is_none() {
            expected.pc = None;
        }
    }
    equal(&expected, &recorded)?;
    Ok(expected.iter().map(|exception| exception.cause).collect())
}

/// Compares all exceptions of a recording, from its start to its end, with the causes in logs of the whole run, in order.
/// The portable path infers one at the block behind it, so it does not know of one behind the last block.
pub fn compare_order(recording: &mut Recording, logged: &[Logged]) -> Result<Counts> {
    let end = recording.end().0;
    let recorded: Vec<u8> =
        recorded(recording, 0, end)?.iter().map(|exception| exception.cause.code()).collect();
    let mut expected: Vec<u8> = logged.iter().map(|exception| exception.cause).collect();
    if recording.program().trace().header().path == header::Path::Portable
        && expected.len() == recorded.len() + 1
    {
        expected.pop();
    }
    equal(&expected, &recorded)?;
    Ok(expected.into_iter().map(|code| Cause::new(InstructionSet::Arm, code)).collect())
}

/// That what is logged and what is recorded is the same; the error tells the first difference.
pub(crate) fn equal<T: PartialEq + fmt::Debug>(logged: &[T], recorded: &[T]) -> Result<()> {
    let same = logged.iter().zip(recorded).take_while(|(logged, recorded)| logged == recorded).count();
    if same < logged.len().max(recorded.len()) {
        bail!(
            "exception {same} of {} logged and {} recorded ones: logged {:x?}, recorded {:x?}",
            logged.len(),
            recorded.len(),
            logged.get(same),
            recorded.get(same)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(pc: u32, lr: u32) -> Registers {
        let mut registers = [0; 17];
        (registers[14], registers[15]) = (lr, pc);
        registers
    }

    #[test]
    fn an_exception_is_at_the_position_of_the_state_behind_it() -> Result<()> {
        let scratch = tempfile::NamedTempFile::new()?;
        let lines = [
            "Taking exception 5 [IRQ] on CPU 0",
            "Trace 0: 0x7f [0/1000/0/0]",
            "Taking exception 2 [SVC] on CPU 0",
            "...from EL1 to EL1",
            "Trace 0: 0x7f [0/8/0/0]",
            "Trace 0: 0x7f [0/c/0/0]",
            "Stopped execution of TB chain before 0x7f",
            "Taking exception 5 [IRQ] on CPU 0",
            "Trace 0: 0x7f [0/18/0/0]",
            "Taking exception 4 [Data Abort] on CPU 0\n",
        ];
        std::fs::write(scratch.path(), lines.join("\n"))?;
        let logged = read_log(scratch.path())?;
        let found: Vec<_> = logged.iter().map(|logged| (logged.before, logged.cause)).collect();
        assert_eq!(found, [(0, 6), (1, 2), (2, 6), (3, 4)]);

        let states = [registers(0x1000, 0), registers(8, 0), registers(0x18, 0x2004)];
        let at = |position, cause, raised_by, pc, to| {
            let cause = Cause::new(InstructionSet::Arm, cause);
            Discontinuity { position, cause, raised_by, pc, to }
        };
        let found = expected(&states, &logged, 100)?;
        assert_eq!(
            found,
            [at(101, 2, Some(100), Some(0x1000), Some(8)), at(102, 6, None, Some(0x2000), Some(0x18))]
        );

        assert!(equal(&found, &found).is_ok());
        assert!(equal(&found, &found[1..]).is_err());
        assert!(equal(&found[..1], &found).is_err());
        assert!(equal(&found, &found[..1]).is_err());

        // An interrupt right behind a host call.
        let call = Logged { cause: HOST_CALL, raised: true, before: 2 };
        let both = expected(&states, &[call, logged[2]], 100)?;
        assert_eq!(both, [at(102, 9, Some(101), Some(8), None), at(102, 6, None, None, Some(0x18))]);
        assert!(expected(&states, &[logged[2], call], 100).is_err());
        Ok(())
    }

    #[test]
    fn an_exception_that_is_not_known_is_an_error() {
        assert!(cause_of("Taking exception 12 [Hypervisor Trap] on CPU 0").is_err());
        assert!(cause_of("Taking exception").is_err());
    }
}
