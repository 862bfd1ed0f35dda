//! The oracle for MIPS: QEMU's own log of all registers before each instruction.
//!
//! `qemu-system-mips -accel tcg,one-insn-per-tb=on -d cpu,nochain,exec` writes, for each instruction (also one in a
//! nullified delay slot),
//!
//! ```text
//! Trace 0: 0x7f9b68002600 [00000000/0000000000400008/000118b2/ff000201]
//! pc=0x00400008 HI=0x00000000 LO=0x00000000 ds 118b2 00400014 0
//! GPR00: r0 00000000 at 00000000 v0 00000000 v1 00000000
//! GPR04: a0 00000000 a1 00000000 a2 00000000 a3 00000000
//! ⋮
//! CP0 Status  0x30000010 Cause   0x00000000 EPC    0x00400000
//! ⋮
//! ```
//!
//! and with `-d fpu`, where the processor may use its floating-point unit, FIR, FCSR and the registers in pairs. What follows
//! `ds` are the processor's hidden flags, the target of a branch whose slot this is, and whether it is taken.
//!
//! As for ARM (see [`oracle`](crate::oracle)), a block that was about to run when another request came is logged too, with
//! a line behind it that says so; it does not appear here. The log's last block may be one that never began.

use std::io::{BufRead, Read};

/// The registers just before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// In the order of gdb's numbers; those that are not among `known` are 0.
    pub registers: [u32; 72],
    /// Which registers the log has, as a mask over their numbers.
    pub known: u128,
    /// QEMU's hidden flags.
    pub flags: u32,
    /// The result of the last conditional branch.
    pub condition: bool,
}

/// General registers, Status, LO, HI, Cause, the program counter.
const CORE: u128 = 0xffff_ffff | 1 << 32 | 1 << 33 | 1 << 34 | 1 << 36 | 1 << 37;
/// f0 to f31, FCSR and FIR.
const FPU: u128 = 0x3_ffff_ffff << 38;

impl State {
    /// `MIPS_HFLAG_BMASK_BASE`: a branch is pending.
    const BRANCH: u32 = 0x0080_3800;
    /// `MIPS_HFLAG_BL`.
    const LIKELY: u32 = 0x1800;
    /// `MIPS_HFLAG_M16`.
    const COMPRESSED: u32 = 0x400;

    /// The address of the instruction.
    pub fn address(&self) -> u32 {
        self.registers[37] & !1
    }

    /// The instruction is in a delay slot.
    pub fn in_delay_slot(&self) -> bool {
        self.flags & Self::BRANCH != 0
    }

    /// The instruction is in the slot of a branch-likely that is not taken: it does nothing.
    pub fn nullified(&self) -> bool {
        self.flags & Self::BRANCH == Self::LIKELY && !self.condition
    }
}

/// A log cannot be read, or is not what QEMU writes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OracleError {
    /// Reading failed.
    #[error("reading the log: {0}")]
    Read(#[from] std::io::Error),
    /// A line is not the one that belongs here.
    #[error("line {number} of the log is not {expected}: {line:?}")]
    Malformed {
        /// The line's number, from 1.
        number: u64,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        line: String,
    },
}

/// No line of QEMU's is as long.
const LONGEST_LINE: u64 = 4096;

/// Reads a log from a file or a pipe, in bounded memory. A record that is cut at the log's end is left out.
#[derive(Debug)]
pub struct MipsOracle<Source> {
    reader: std::io::BufReader<Source>,
    line: String,
    number: u64,
    /// The record that was read last never began.
    stopped: bool,
    ended: bool,
}

impl<Source: Read> MipsOracle<Source> {
    /// Reads the log from `source`. Lines before the first record are skipped.
    pub fn new(source: Source) -> Self {
        let reader = std::io::BufReader::with_capacity(1 << 18, source);
        MipsOracle { reader, line: String::new(), number: 0, stopped: false, ended: false }
    }

    /// `Ok(false)` at the log's end.
    fn read_line(&mut self) -> Result<bool, OracleError> {
        self.line.clear();
        self.number += 1;
        (&mut self.reader).take(LONGEST_LINE).read_line(&mut self.line)?;
        if self.line.len() as u64 == LONGEST_LINE {
            return Err(self.malformed("a line of QEMU's log"));
        }
        Ok(self.line.ends_with('\n'))
    }

    fn malformed(&self, expected: &'static str) -> OracleError {
        let line = self.line.chars().take(80).collect();
        OracleError::Malformed { number: self.number, expected, line }
    }

    fn numbers<const COUNT: usize>(
        &self,
        positions: [usize; COUNT],
        expected: &'static str,
    ) -> Result<[u32; COUNT], OracleError> {
        let mut values = [0; COUNT];
        for (value, position) in values.iter_mut().zip(positions) {
            let field = self.line.split([' ', '=', '\n']).filter(|field| !field.is_empty()).nth(position);
            let digits = field.map(|field| field.trim_start_matches("0x"));
            *value = digits
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .ok_or_else(|| self.malformed(expected))?;
        }
        Ok(values)
    }

    /// Reads the record that follows a `Trace` line, up to the next one. `None` if the log ends inside of it.
    fn read_record(&mut self) -> Result<Option<State>, OracleError> {
        let mut registers = [0; 72];
        if !self.read_line()? {
            return Ok(None);
        }
        let expected = "the line of the program counter";
        let [pc, hi, lo, flags, condition] = self.numbers([1, 3, 5, 7, 9], expected)?;
        for row in 0..8 {
            if !self.read_line()? {
                return Ok(None);
            }
            let values = self.numbers([2, 4, 6, 8], "a line of four registers")?;
            registers[4 * row..4 * row + 4].copy_from_slice(&values);
        }
        if !self.read_line()? {
            return Ok(None);
        }
        let [status, cause] = self.numbers([2, 4], "the line of Status and Cause")?;
        for _ in 0..3 {
            if !self.read_line()? {
                return Ok(None);
            }
        }
        registers[32..38].copy_from_slice(&[status, lo, hi, 0, cause, pc]);
        registers[37] |= u32::from(flags & State::COMPRESSED != 0);
        Ok(Some(State { registers, known: CORE, flags, condition: condition != 0 }))
    }

    /// Adds the floating-point registers to a state if they are what follows, up to the next record. `Ok(false)` if the log
    /// ends there.
    fn read_rest(&mut self, state: &mut State) -> Result<bool, OracleError> {
        while self.read_line()? {
            if self.line.starts_with("Trace ") {
                return Ok(true);
            } else if self.line.starts_with("Stopped execution of TB chain before ") {
                self.stopped = true;
            } else if self.line.starts_with("CP1 FCR0") {
                let [fir, fcsr] = self.numbers([2, 4], "the line of FCR0 and FCR31")?;
                state.registers[70..].copy_from_slice(&[fcsr, fir]);
                for pair in 0..16 {
                    if !self.read_line()? {
                        return Ok(false);
                    }
                    // After the first colon; the low register comes second.
                    let digits = self.line.split(" d:").nth(1).and_then(|rest| rest.get(..16));
                    let value = digits
                        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                        .ok_or_else(|| self.malformed("a pair of floating-point registers"))?;
                    state.registers[38 + 2 * pair] = value as u32;
                    state.registers[39 + 2 * pair] = (value >> 32) as u32;
                }
                state.known |= FPU;
            }
        }
        Ok(false)
    }

    fn advance(&mut self) -> Result<Option<State>, OracleError> {
        while !self.line.starts_with("Trace ") {
            if !self.read_line()? {
                return Ok(None);
            }
        }
        loop {
            let Some(mut state) = self.read_record()? else { return Ok(None) };
            self.stopped = false;
            self.ended = !self.read_rest(&mut state)?;
            if !self.stopped {
                return Ok(Some(state));
            } else if self.ended {
                return Ok(None);
            }
        }
    }
}

impl<Source: Read> Iterator for MipsOracle<Source> {
    type Item = Result<State, OracleError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance().transpose();
        self.ended = self.ended || !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn a_nullified_slot_is_known() {
        let text = record(0, 0x118b2, false);
        assert!(read(&text)[0].nullified());
        assert!(!read(&text.replace(" 00400014 0\n", " 00400014 1\n"))[0].nullified());
        assert!(!read(&record(0, 0x108b2, false))[0].nullified());
    }

    fn record(address: u32, flags: u32, fpu: bool) -> String {
        let mut text = format!("Trace 0: 0x7f9b68002600 [00000000/{address:016x}/000118b2/ff000201] \n");
        writeln!(text, "pc=0x{address:08x} HI=0x0000000a LO=0x0000000b ds {flags:04x} 00400014 0").unwrap();
        for row in 0..8 {
            write!(text, "GPR{:02}:", 4 * row).unwrap();
            for column in 0..4 {
                write!(text, " t{column} {:08x}", 0x1000 + 4 * row + column).unwrap();
            }
            text.push('\n');
        }
        text += "CP0 Status  0x30000010 Cause   0x0000000c EPC    0x00400000\n";
        text += "    Config0 0x80000482 Config1 0x9e190c8f LLAddr 0x0000000000000001\n";
        text += "    Config2 0x80000000 Config3 0x00000000\n    Config4 0x00000000 Config5 0x00000000\n";
        if fpu {
            text += "CP1 FCR0 0x00739300  FCR31 0x01000001  SR.FR 0  fp_status 0x00\n";
            for pair in 0..16 {
                writeln!(
                    text,
                    "f{:2}: w:{:08x} d:{:08x}{:08x} fd:  0 fs:  0 psu:  0",
                    2 * pair,
                    0x2000 + 2 * pair,
                    0x2001 + 2 * pair,
                    0x2000 + 2 * pair
                )
                .unwrap();
            }
        }
        text
    }

    fn read(text: &str) -> Vec<State> {
        MipsOracle::new(text.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn all_registers_are_read() {
        let states = read(&(record(0x40_0008, 0x118b2, true) + &record(0x40_000c, 0x4b2, false)));
        assert_eq!(states.len(), 2);
        let first = states[0];
        assert_eq!((first.address(), first.in_delay_slot(), first.known), (0x40_0008, true, CORE | FPU));
        for number in 0..32 {
            assert_eq!(first.registers[number], 0x1000 + number as u32);
            assert_eq!(first.registers[38 + number], 0x2000 + number as u32);
        }
        assert_eq!(first.registers[32..38], [0x3000_0010, 0xb, 0xa, 0, 0xc, 0x40_0008]);
        assert_eq!(first.registers[70..], [0x0100_0001, 0x0073_9300]);
        assert_eq!((states[1].registers[37], states[1].known), (0x40_000d, CORE));
        assert!(!states[1].in_delay_slot());
    }

    #[test]
    fn a_block_that_was_stopped_is_left_out() {
        let stopped = "Stopped execution of TB chain before 0x7f2884000100 [0000000000000004] \n";
        let text = record(0, 0, true) + &record(4, 0, true) + stopped + &record(8, 0, false);
        let addresses = |text: &str| read(text).iter().map(State::address).collect::<Vec<_>>();
        assert_eq!(addresses(&text), [0, 8]);
        assert!(addresses(&(record(0, 0, false) + stopped)).is_empty());
    }

    #[test]
    fn a_cut_record_is_left_out() {
        let first = record(0, 0, true);
        let second = record(4, 0, false);
        for cut in 0..second.len() {
            let text = format!("qemu: a line before\n{first}{}", &second[..cut]);
            assert_eq!(read(&text).len(), 1, "cut to {cut} bytes");
        }
        assert_eq!(read(&(first + &second)).len(), 2);
    }

    #[test]
    fn a_damaged_line_is_an_error() {
        let text = record(0, 0, false).replace("0000100c", "0000100g");
        let error = MipsOracle::new(text.as_bytes()).next().unwrap().unwrap_err();
        assert!(matches!(error, OracleError::Malformed { number: 6, .. }), "{error}");
    }
}
