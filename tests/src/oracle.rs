//! The oracle: QEMU's own log of all core registers before each instruction.
//!
//! `qemu-system-arm -accel tcg,one-insn-per-tb=on -d cpu,nochain,exec -D LOG` writes, for each instruction,
//!
//! ```text
//! Trace 0: 0x7f2884000240 [00000400/0000000040200004/00000520/ff020201]
//! R00=00000001 R01=00000000 R02=00000000 R03=00000000
//! R04=00000000 R05=00000000 R06=00000000 R07=00000000
//! R08=00000000 R09=00000000 R10=00000000 R11=00000000
//! R12=00000000 R13=00000000 R14=00000000 R15=40200004
//! PSR=400001d3 -Z-- A svc32
//! ```
//!
//! The log knows nothing of plugins, so it can judge one. [`Oracle`] reads it as a stream, whatever its length.
//!
//! A block that was about to run when an interrupt or another request came is logged too. QEMU then adds a line that says
//! so, and the block does not appear here; but it may be the log's last, with that line missing. So the last state
//! has [`State::began`] unset.

use std::io::{BufRead, BufReader, Read};

/// The processor's core registers just before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Where its record starts in the log, in bytes.
    pub offset: u64,
    /// QEMU's number of the processor.
    pub processor: u32,
    /// The address on the record's `Trace` line: of the instruction, as `registers[15]`.
    pub address: u64,
    /// r0 to r15.
    pub registers: [u32; 16],
    /// CPSR.
    pub psr: u32,
    /// The instruction is known to have started. False for the last state of a log only.
    pub began: bool,
}

/// A log cannot be read, or is not what QEMU writes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OracleError {
    /// Reading failed.
    #[error("reading the log at byte {offset}: {source}")]
    Read {
        /// Up to where it was read.
        offset: u64,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not the one that belongs here.
    #[error("the log's line at byte {offset} is not {expected}: {line:?}")]
    Malformed {
        /// Where the line starts.
        offset: u64,
        /// What should be there.
        expected: &'static str,
        /// What is there, at most its first 80 bytes.
        line: String,
    },
}

/// No line of QEMU's is as long; what is longer is no log.
const LONGEST_LINE: u64 = 1024;

/// Lines that other parts of QEMU write between two records under `-d exec` and `-d int`.
const OTHER_LINES: [&[u8]; 7] =
    [b"Linking TBs", b"cpu_io_recompile", b"Taking exception", b"Exception return", b"...", b"\n", b"AArch"];

/// Reads a log from a file or a pipe, in bounded memory. After an error it ends.
#[derive(Debug)]
pub struct Oracle<Source> {
    reader: BufReader<Source>,
    line: Vec<u8>,
    /// Where `line` starts.
    line_offset: u64,
    offset: u64,
    /// `line` is the `Trace` line of the next record.
    at_trace: bool,
    held: Option<State>,
    seen_trace: bool,
    cut: bool,
    ended: bool,
}

/// The log ends where a line should be: at its end, or in the middle of a line.
struct End;

impl<Source: Read> Oracle<Source> {
    /// Reads the log from `source`. Lines before the first record are skipped: a log that was switched on in the middle
    /// of a run may start in the middle of a record.
    pub fn new(source: Source) -> Self {
        Oracle {
            reader: BufReader::with_capacity(1 << 18, source),
            line: Vec::with_capacity(128),
            line_offset: 0,
            offset: 0,
            at_trace: false,
            held: None,
            seen_trace: false,
            cut: false,
            ended: false,
        }
    }

    /// The log ended in the middle of a record, as it does when QEMU is killed. That record was not yielded. Known once
    /// the iterator has ended.
    pub fn was_cut(&self) -> bool {
        self.cut
    }

    fn read_line(&mut self) -> Result<Result<(), End>, OracleError> {
        self.line.clear();
        self.line_offset = self.offset;
        let count = (&mut self.reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut self.line)
            .map_err(|source| OracleError::Read { offset: self.offset, source })? as u64;
        self.offset += count;
        if self.line.last() == Some(&b'\n') {
            Ok(Ok(()))
        } else if count == LONGEST_LINE {
            Err(self.malformed("a line of QEMU's log"))
        } else {
            Ok(Err(End))
        }
    }

    fn malformed(&self, expected: &'static str) -> OracleError {
        let shown = &self.line[..self.line.len().min(80)];
        OracleError::Malformed {
            offset: self.line_offset,
            expected,
            line: String::from_utf8_lossy(shown).trim_end().to_owned(),
        }
    }

    /// Reads on to the next `Trace` line. `Ok(false)` at the log's end.
    fn find_trace(&mut self) -> Result<bool, OracleError> {
        loop {
            if self.at_trace {
                return Ok(true);
            }
            if let Err(End) = self.read_line()? {
                self.cut = self.cut || (!self.line.is_empty() && self.seen_trace);
                return Ok(false);
            }
            if self.line.starts_with(b"Trace ") {
                self.at_trace = true;
                self.seen_trace = true;
            } else if self.line.starts_with(b"Stopped execution of TB chain before ") {
                // The record just read never began.
                self.held = None;
            } else if self.seen_trace && !OTHER_LINES.iter().any(|known| self.line.starts_with(known)) {
                return Err(self.malformed("the start of a record (Trace …)"));
            }
        }
    }

    /// Reads the record whose `Trace` line is in `line`. `None` if the log ends inside it.
    fn read_record(&mut self) -> Result<Option<State>, OracleError> {
        self.at_trace = false;
        let offset = self.line_offset;
        let (processor, address) =
            parse_trace(&self.line).ok_or_else(|| self.malformed("a Trace line with an address"))?;
        let mut registers = [0; 16];
        for (row, values) in registers.chunks_exact_mut(4).enumerate() {
            if let Err(End) = self.read_line()? {
                return Ok(None);
            }
            parse_registers(&self.line, row * 4, values)
                .ok_or_else(|| self.malformed("a line of four registers (Rnn=…)"))?;
        }
        if let Err(End) = self.read_line()? {
            return Ok(None);
        }
        let psr = parse_psr(&self.line).ok_or_else(|| self.malformed("the status register (PSR=…)"))?;
        Ok(Some(State { offset, processor, address, registers, psr, began: true }))
    }

    fn advance(&mut self) -> Result<Option<State>, OracleError> {
        loop {
            // Whether the record that is held began shows in what follows it.
            if !self.find_trace()? {
                self.ended = true;
                return Ok(self.held.take().map(|state| State { began: false, ..state }));
            }
            let began = self.held.take();
            match self.read_record()? {
                Some(state) => self.held = Some(state),
                None => {
                    self.cut = true;
                    self.ended = true;
                    return Ok(began);
                }
            }
            if began.is_some() {
                return Ok(began);
            }
        }
    }
}

impl<Source: Read> Iterator for Oracle<Source> {
    type Item = Result<State, OracleError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance();
        self.ended = self.ended || next.is_err();
        next.transpose()
    }
}

/// `Trace N: HOST [CS_BASE/ADDRESS/FLAGS/CFLAGS] SYMBOL`, all but N in hexadecimal.
fn parse_trace(line: &[u8]) -> Option<(u32, u64)> {
    let rest = line.strip_prefix(b"Trace ")?;
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let processor = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
    let bracket = rest.iter().position(|byte| *byte == b'[')?;
    let mut fields = rest[bracket + 1..].split(|byte| *byte == b'/');
    let address = parse_hexadecimal(fields.nth(1)?)?;
    fields.next()?;
    Some((processor, address))
}

/// Four of `Rnn=XXXXXXXX`, separated by spaces, the first of which is `first`.
fn parse_registers(line: &[u8], first: usize, values: &mut [u32]) -> Option<()> {
    // Each has 12 bytes and one more, a space or the line's end.
    if line.len() != values.len() * 13 {
        return None;
    }
    for (index, (entry, value)) in line.chunks_exact(13).zip(values).enumerate() {
        let number = first + index;
        let name = [b'R', b'0' + (number / 10) as u8, b'0' + (number % 10) as u8, b'='];
        *value = parse_hexadecimal(entry.strip_prefix(&name)?.get(..8)?)? as u32;
    }
    Some(())
}

fn parse_psr(line: &[u8]) -> Option<u32> {
    Some(parse_hexadecimal(line.strip_prefix(b"PSR=")?.get(..8)?)? as u32)
}

fn parse_hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |value, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(nibble))
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    fn record(address: u32, seed: u32, psr: u32) -> String {
        let mut text =
            format!("Trace 0: 0x7f2884000100 [00000400/{address:016x}/00000520/ff020201] symbol[1]/x\n");
        for register in 0..16 {
            let value = if register == 15 { address } else { seed.wrapping_mul(register + 1) };
            let end = if register % 4 == 3 { '\n' } else { ' ' };
            write!(text, "R{register:02}={value:08x}{end}").unwrap();
        }
        writeln!(text, "PSR={psr:08x} -Z-- A svc32").unwrap();
        text
    }

    fn read(text: &str) -> Vec<State> {
        Oracle::new(text.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    fn addresses(text: &str) -> Vec<(u64, bool)> {
        read(text).iter().map(|state| (state.address, state.began)).collect()
    }

    #[test]
    fn all_registers_are_read() {
        let text = record(0x4020_0000, 0x1234_5677, 0x4000_01d3) + &record(0x4020_0004, 1, 0xf000_01d3);
        let states = read(&text);
        assert_eq!(states.len(), 2);
        assert_eq!(states[0].registers[0], 0x1234_5677);
        assert_eq!(states[0].registers[14], 0x1234_5677_u32.wrapping_mul(15));
        assert_eq!(states[0].registers[15], 0x4020_0000);
        assert_eq!((states[0].address, states[0].psr, states[0].processor), (0x4020_0000, 0x4000_01d3, 0));
        assert_eq!(states[1].psr, 0xf000_01d3);
        assert_eq!(states[1].offset, text.len() as u64 / 2);
    }

    #[test]
    fn only_the_last_state_may_not_have_begun() {
        let text = record(0, 1, 2) + &record(4, 1, 2) + &record(8, 1, 2);
        assert_eq!(addresses(&text), [(0, true), (4, true), (8, false)]);
    }

    #[test]
    fn a_block_that_was_stopped_is_left_out() {
        let stopped = "Stopped execution of TB chain before 0x7f2884000100 [0000000000000004] \n";
        let text = record(0, 1, 2) + &record(4, 1, 2) + stopped + &record(0x18, 1, 2) + &record(0x1c, 1, 2);
        assert_eq!(addresses(&text), [(0, true), (0x18, true), (0x1c, false)]);
        let text = record(0, 1, 2) + &record(4, 1, 2) + stopped;
        assert_eq!(addresses(&text), [(0, true)]);
    }

    #[test]
    fn a_cut_record_ends_the_log() {
        let whole = record(0, 1, 2) + &record(4, 3, 4);
        for length in record(0, 1, 2).len() + 1..whole.len() {
            let mut oracle = Oracle::new(&whole.as_bytes()[..length]);
            let states: Vec<_> = oracle.by_ref().map(|state| state.unwrap().address).collect();
            assert_eq!(states, [0], "cut to {length} bytes");
            assert!(oracle.was_cut(), "cut to {length} bytes");
        }
        let mut oracle = Oracle::new(whole.as_bytes());
        assert_eq!(oracle.by_ref().count(), 2);
        assert!(!oracle.was_cut());
    }

    #[test]
    fn the_tail_of_a_record_at_the_start_is_skipped() {
        let first = record(0, 1, 2);
        let text = first[first.len() / 2..].to_owned() + &record(4, 1, 2);
        assert_eq!(addresses(&text), [(4, false)]);
    }

    #[test]
    fn malformed_lines_are_reported_with_their_offset() {
        let good = record(0, 1, 2);
        let offset_of = |text: String| match Oracle::new(text.as_bytes()).find_map(Result::err) {
            Some(OracleError::Malformed { offset, .. }) => offset,
            other => panic!("{other:?}"),
        };
        let length = good.len() as u64;
        assert_eq!(offset_of(good.clone() + "nonsense\n"), length);
        assert_eq!(offset_of(good.clone() + "Trace 0: nowhere\n"), length);
        assert_eq!(
            offset_of(good.clone() + &good.replace("R05=", "R06=")),
            length + (good.find("R04").unwrap() as u64)
        );
        assert_eq!(
            offset_of(good.clone() + &good.replace("PSR", "XPSR")),
            length + (good.find("PSR").unwrap() as u64)
        );
        assert_eq!(
            offset_of(good.clone() + &good.replace("00000001", "0000000g")),
            length + (good.find("R00").unwrap() as u64)
        );
        assert_eq!(offset_of(good + &"x".repeat(100_000)), length);
    }

    #[test]
    fn it_ends_after_an_error() {
        let text = record(0, 1, 2) + "nonsense\n" + &record(4, 1, 2);
        let mut oracle = Oracle::new(text.as_bytes());
        assert!(oracle.next().unwrap().is_err());
        assert!(oracle.next().is_none());
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            for state in Oracle::new(bytes.as_slice()) {
                let _ = state;
            }
        }

        #[test]
        fn a_damaged_log_never_panics(position: prop::sample::Index, byte: u8) {
            let mut bytes = (record(0, 1, 2) + &record(4, 3, 4) + &record(8, 3, 4)).into_bytes();
            let position = position.index(bytes.len());
            bytes[position] = byte;
            prop_assert!(Oracle::new(bytes.as_slice()).count() <= 3);
        }
    }
}
