//! Holds a recording of a MIPS guest against the interrupts and exceptions in QEMU's log.
//!
//! Under `-d int` QEMU logs exceptions, between the records of the last instruction before and of the first one after
//! them, but not interrupts (`mips_cpu_do_interrupt` in `target/mips/tcg/system/tlb_helper.c`). Those show in the records:
//! Status.EXL is set at an exception vector, and no exception was logged.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use ktrace_timeline::events::{Cause, Discontinuity};
use ktrace_timeline::Recording;

use crate::exceptions::{Counts, equal, recorded};
use crate::mips_oracle::State;

/// ExcCode of an interrupt.
pub const INTERRUPT: u8 = 0;

/// An exception in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// How many instructions of the log began before it: it comes just before the state with this number.
    pub before: usize,
    /// ExcCode of the register Cause.
    pub cause: u8,
    /// The address of the instruction that could not be executed.
    pub pc: u32,
}

/// Reads the exceptions in a log of records and exceptions. There are no interrupts among them.
pub fn read_log(file: &Path) -> Result<Vec<Logged>> {
    let source = File::open(file).with_context(|| file.display().to_string())?;
    let (mut before, mut pc) = (0, None);
    let mut exceptions = Vec::new();
    for line in BufReader::with_capacity(1 << 18, source).split(b'\n') {
        let line = line?;
        if line.starts_with(b"Trace ") {
            before += 1;
        } else if line.starts_with(b"Stopped execution of TB chain before ") {
            before -= 1;
        } else if line.starts_with(b"mips_cpu_do_interrupt") {
            let line = String::from_utf8_lossy(&line);
            let field = |name: &str| {
                let mut words = line.split_whitespace().skip_while(|word| *word != name);
                words.nth(1).with_context(|| format!("{name} is missing: {line:?}"))
            };
            // Two lines for each: where it comes from, where it leads to.
            match pc.take() {
                None => pc = Some(u32::from_str_radix(field("PC")?, 16)?),
                Some(pc) => exceptions.push(Logged { before, cause: field("cause")?.parse()?, pc }),
            }
        }
    }
    Ok(exceptions)
}

/// What must be recorded for the exceptions in a log, whose first state is at position `first`, and for the interrupts
/// that its states show; but for those that come before it or behind the last one.
fn expected(recording: &Recording, states: &[State], logged: &[Logged], first: u64) -> Vec<Discontinuity> {
    let set = recording.program().instruction_set();
    let mut logged = logged.iter().peekable();
    let mut expected = Vec::new();
    for (number, pair) in states.windows(2).enumerate() {
        let (from, after, before) = (&pair[0], &pair[1], number + 1);
        while logged.next_if(|logged| logged.before < before).is_some() {}
        let (cause, pc, raised) = match logged.next_if(|logged| logged.before == before) {
            // An instruction that can't be fetched has not begun.
            Some(logged) => (logged.cause, logged.pc, logged.pc == from.address()),
            None if interrupted(from, after) => {
                let in_slot = after.registers[36] >> 31 != 0;
                (INTERRUPT, after.epc.wrapping_add(if in_slot { 4 } else { 0 }), false)
            }
            None => continue,
        };
        let position = first + before as u64;
        expected.push(Discontinuity {
            position,
            cause: Cause::new(set, cause),
            raised_by: raised.then_some(position - 1),
            pc: Some(pc),
            to: Some(after.address()),
        });
    }
    expected
}

/// Between two states of which no exception was logged an interrupt was taken.
fn interrupted(from: &State, after: &State) -> bool {
    const EXL: u32 = 2;
    let entered = from.registers[32] & EXL == 0 && after.registers[32] & EXL != 0;
    // The general vector and that of interrupts.
    entered && matches!(after.address() & 0xfff, 0x180 | 0x200) && after.address() != from.address() + 4
}

/// Compares the exceptions in a log, whose first state is at position `first`, and its interrupts, with those that the
/// recording has from there to the last state: there are no others. Returns how many there are, and how many of them came at a
/// delay slot, or an error that tells the first difference.
pub fn compare(
    recording: &mut Recording,
    states: &[State],
    logged: &[Logged],
    first: u64,
) -> Result<(Counts, Counts)> {
    let expected = expected(recording, states, logged, first);
    let last = first + states.len() as u64 - 1;
    equal(&expected, &recorded(recording, first + 1, last)?)?;
    let in_slots = expected.iter().filter(|event| {
        // Cause.BD.
        states[(event.position - first) as usize].registers[36] >> 31 != 0
    });
    Ok((
        expected.iter().map(|exception| exception.cause).collect(),
        in_slots.map(|exception| exception.cause).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_read_with_their_place() -> Result<()> {
        let scratch = tempfile::NamedTempFile::new()?;
        let lines = [
            "Trace 0: 0x7f [0/80100000/0/0]",
            "mips_cpu_do_interrupt enter: PC 80100000 EPC 00000000 TLB load exception",
            "mips_cpu_do_interrupt: PC 80000000 EPC 80100000 cause 2",
            "    S 20008103 C 10000008 A 00400000 D 00000000",
            "Trace 0: 0x7f [0/80000000/0/0]",
            "Trace 0: 0x7f [0/80000004/0/0]",
            "Stopped execution of TB chain before 0x7f",
            "mips_cpu_do_interrupt enter: PC 80100004 EPC 00000000 syscall exception",
            "mips_cpu_do_interrupt: PC 80000180 EPC 80100000 cause 8",
        ];
        std::fs::write(scratch.path(), lines.join("\n"))?;
        let expected = [
            Logged { before: 1, cause: 2, pc: 0x8010_0000 },
            Logged { before: 2, cause: 8, pc: 0x8010_0004 },
        ];
        assert_eq!(read_log(scratch.path())?, expected);
        Ok(())
    }
}
