//! Holds a recording of a MIPS guest against the interrupts and exceptions in QEMU's log.
//!
//! Under `-d int` QEMU logs exceptions, between the records of the last instruction before and of the first one after
//! them, but not interrupts (`mips_cpu_do_interrupt` in `target/mips/tcg/system/tlb_helper.c`). Those show in the records:
//! the processor is at a vector to which nothing but an exception leads, and none was logged.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use ktrace_format::Position;
use ktrace_timeline::events::{Cause, Discontinuity};
use ktrace_timeline::{Recording, Replay};

use crate::exceptions::{Counts, equal, recorded};
use crate::mips_oracle::State;

/// ExcCode of an interrupt.
pub const INTERRUPT: u8 = 0;

/// Where interrupts lead, from where the exception vectors start: the general vector, and the one of interrupts alone.
const VECTORS: [u32; 2] = [0x180, 0x200];

/// An exception in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// How many instructions of the log began before it: it comes just before the state with this number.
    pub before: usize,
    /// ExcCode of the register Cause.
    pub cause: u8,
    /// The address of the instruction that could not be executed.
    pub pc: u32,
    /// The address of the vector.
    pub to: u32,
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
                Some(pc) => {
                    let (to, cause) = (u32::from_str_radix(field("PC")?, 16)?, field("cause")?.parse()?);
                    exceptions.push(Logged { before, cause, pc, to });
                }
            }
        }
    }
    Ok(exceptions)
}

/// Where interrupts can lead: from where exceptions have led, or where the processor has entered the exception level by itself.
fn vectors(states: &[State], logged: &[Logged]) -> BTreeSet<u32> {
    const EXL: u32 = 2;
    let entered = states.windows(2).filter_map(|pair| {
        let (from, after) = (&pair[0], &pair[1]);
        let set = (from.registers[32] ^ after.registers[32]) & after.registers[32] & EXL != 0;
        (set && after.address() != from.address() + 4).then(|| after.address())
    });
    let pages = entered.chain(logged.iter().map(|logged| logged.to)).map(|address| address & !0xfff);
    pages.flat_map(|page| VECTORS.map(|offset| page | offset)).collect()
}

/// What must be recorded for the exceptions in a log, whose first state is at position `first`, and for the interrupts
/// that its states show; but for those that come before it or behind the last one.
fn expected(recording: &Recording, states: &[State], logged: &[Logged], first: u64) -> Vec<Discontinuity> {
    let set = recording.program().instruction_set();
    let vectors = vectors(states, logged);
    let mut logged = logged.iter().peekable();
    let mut expected = Vec::new();
    for (number, pair) in states.windows(2).enumerate() {
        let (from, after, before) = (&pair[0], &pair[1], number + 1);
        while logged.next_if(|logged| logged.before < before).is_some() {}
        let (cause, pc, raised) = match logged.next_if(|logged| logged.before == before) {
            // An instruction that can't be fetched has not begun.
            Some(logged) => (logged.cause, logged.pc, logged.pc == from.address()),
            None if vectors.contains(&after.address()) && after.address() != from.address() + 4 => {
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

/// Compares the exceptions in a log, whose first state is at position `first`, and its interrupts, with those that the
/// recording has from there to the last state: there are no others. Returns how many there are, and how many of them came at a
/// delay slot, or an error that tells the first difference.
pub fn compare(
    recording: &mut Recording,
    states: &[State],
    logged: &[Logged],
    first: u64,
) -> Result<(Counts, Counts)> {
    let mut expected = expected(recording, states, logged, first);
    let last = first + states.len() as u64 - 1;
    let recorded = recorded(recording, first + 1, last)?;
    for (expected, recorded) in expected.iter_mut().zip(&recorded) {
        if expected.raised_by.is_some() || expected.pc.is_none() || recorded.pc.is_some() {
            continue;
        }
        // Where an instruction that is not computed has led is not known if an interrupt came before the next one. ERET may
        // have led to the next address, too.
        let before = states[(expected.position - first) as usize - 1].address();
        if expected.pc != Some(before + 4) || is_eret(recording, expected.position - 1, before)? {
            expected.pc = None;
        }
    }
    equal(&expected, &recorded)?;
    let in_slots = expected.iter().filter(|event| {
        // Cause.BD.
        states[(event.position - first) as usize].registers[36] >> 31 != 0
    });
    Ok((
        expected.iter().map(|exception| exception.cause).collect(),
        in_slots.map(|exception| exception.cause).collect(),
    ))
}

fn is_eret(recording: &mut Recording, position: u64, address: u32) -> Result<bool> {
    const ERET: u32 = 0x4200_0018;
    recording.seek(Position(position))?;
    let mut code = [None; 4];
    recording.read_memory(address, &mut code)?;
    Ok(code == ERET.to_be_bytes().map(Some) || code == ERET.to_le_bytes().map(Some))
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
            Logged { before: 1, cause: 2, pc: 0x8010_0000, to: 0x8000_0000 },
            Logged { before: 2, cause: 8, pc: 0x8010_0004, to: 0x8000_0180 },
        ];
        assert_eq!(read_log(scratch.path())?, expected);
        Ok(())
    }
}
