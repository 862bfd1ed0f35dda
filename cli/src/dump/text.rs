//! One line an instruction, for people.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Result;
use ktrace_timeline::segment_memory::Access;
use ktrace_timeline::verify::Unproved;
use ktrace_timeline::walk::{Discontinuity, Instruction};
use ktrace_timeline::{InstructionSet, Program};

use super::{Printer, changes, changes_of_discontinuity, device_name};
use crate::disassembly::{Disassembler, number};

pub struct Text {
    program: Arc<Program>,
    disassembler: Disassembler,
    /// Digits of the last position.
    width: usize,
}

impl Text {
    pub fn new(program: Arc<Program>) -> Result<Text> {
        let width = program.trace().instructions().to_string().len();
        let disassembler = Disassembler::new(program.instruction_set())?;
        Ok(Text { program, disassembler, width })
    }

    /// Appends accesses; neighbours of a run of equal accesses to adjacent addresses share one address.
    fn accesses(&self, accesses: &[Access], line: &mut String) {
        let mut last: Option<Access> = None;
        for access in accesses {
            let continues = last.is_some_and(|last| {
                (last.store, last.bytes, last.device) == (access.store, access.bytes, access.device)
                    && access.device.is_none()
                    && access.address == last.address.wrapping_add(u32::from(last.bytes))
            });
            if !continues {
                let what = if access.store { "write" } else { "read" };
                *line += &format!("  {what} [{:08x}]", access.address);
                if let Some((name, _)) = access.device {
                    *line += &format!(" of {}", device_name(&self.program, name));
                }
                *line += ":";
            }
            *line += &format!(" {:0width$x}", access.value, width = 2 * usize::from(access.bytes));
            last = Some(*access);
        }
    }
}

impl Printer for Text {
    fn instruction(&mut self, instruction: &Instruction, out: &mut dyn Write) -> io::Result<()> {
        let text = self.disassembler.text(instruction);
        let mut line = format!(
            "{:>width$}  {:08x}  {:<8}  {:<7} {:<24}",
            instruction.position,
            instruction.address,
            number(instruction.encoding, instruction.code()),
            text.mnemonic,
            text.operands,
            width = self.width
        );
        for (name, value) in changes(&self.program, instruction).into_iter().flatten() {
            match value {
                Some(value) => line += &format!("  {name}={value:08x}"),
                None => line += &format!("  {name}=(not known)"),
            }
        }
        self.accesses(&instruction.accesses, &mut line);
        writeln!(out, "{}", line.trim_end())
    }

    fn discontinuity(&mut self, discontinuity: &Discontinuity, out: &mut dyn Write) -> io::Result<()> {
        let Discontinuity { cause, after, .. } = discontinuity;
        let pc = after.get(self.program.instruction_set().program_counter()).unwrap_or_default();
        let to = match cause.name() {
            Some(name) if cause.is_vector() => format!("vector {}, {name}", cause.code()),
            Some(name) => format!("{name}, to {pc:08x}"),
            None => match self.program.instruction_set() {
                InstructionSet::Arm => format!("not to an exception vector, but to {pc:08x}"),
                InstructionSet::Mips(_) => format!("of cause {}, to {pc:08x}", cause.code()),
            },
        };
        write!(out, "{:>width$}  -- discontinuity: {to}", "", width = self.width)?;
        for cause in &discontinuity.further {
            match cause.name() {
                Some(name) => write!(out, "; then at once {name}")?,
                None => write!(out, "; then at once one of cause {}", cause.code())?,
            }
        }
        write!(out, " --")?;
        for (name, value) in changes_of_discontinuity(&self.program, discontinuity) {
            write!(out, "  {name}={value:08x}")?;
        }
        writeln!(out)
    }

    fn unknown(&mut self, unproved: &Unproved, out: &mut dyn Write) -> io::Result<()> {
        let Unproved { from, to, reason } = unproved;
        writeln!(
            out,
            "{from:>width$}  -- nothing is known up to position {to}: {reason} --",
            width = self.width
        )
    }

    fn end(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
