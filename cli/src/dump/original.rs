//! Block by block with all registers before the block, as the ktracer for QEMU 4.0 printed it: for scripts that read that.

use std::io::{self, Write};

use anyhow::Result;
use ktrace_machine::KnownRegisters;
use ktrace_timeline::verify::Unproved;
use ktrace_timeline::walk::{Discontinuity, Instruction};

use super::Printer;
use crate::disassembly::Disassembler;
use crate::import::xpsr;

/// The names in the heads of blocks, in their spelling; the last is followed by xPSR, which is computed.
const NAMES: [&str; 17] = [
    "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "ip", "sp", "cl", "pc", "cspr",
];
const COLUMNS: usize = 6;

pub struct Original {
    disassembler: Disassembler,
    /// A block is being printed, and the address of the instruction that would continue it.
    open: Option<u32>,
}

impl Original {
    pub fn new() -> Result<Original> {
        Ok(Original { disassembler: Disassembler::new()?, open: None })
    }
}

fn write_registers(registers: &KnownRegisters, out: &mut dyn Write) -> io::Result<()> {
    let values = registers.iter().chain([registers.get(16).map(xpsr)]).map(Option::unwrap_or_default);
    let names = NAMES.into_iter().chain(["xspr"]);
    for (number, (name, value)) in names.zip(values).enumerate() {
        match number % COLUMNS {
            0 => write!(out, "{name}={value:08x}")?,
            _ => write!(out, " {name:>3}={value:08x}")?,
        }
        if number % COLUMNS == COLUMNS - 1 {
            writeln!(out)?;
        }
    }
    Ok(())
}

impl Printer for Original {
    fn instruction(&mut self, instruction: &Instruction, out: &mut dyn Write) -> io::Result<()> {
        if instruction.starts_block || self.open != Some(instruction.address) {
            self.end(out)?;
            write_registers(&instruction.before, out)?;
        }
        let text = self.disassembler.text(instruction);
        writeln!(out, "{:#x} :{}\t\t{}", instruction.address, text.mnemonic, text.operands)?;
        self.open = Some(instruction.address.wrapping_add(instruction.code().len() as u32));
        Ok(())
    }

    fn discontinuity(&mut self, _: &Discontinuity, out: &mut dyn Write) -> io::Result<()> {
        // The original had no word for it: the next block's head shows what came of it.
        self.end(out)
    }

    fn unknown(&mut self, _: &Unproved, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.open.take().is_some() { writeln!(out) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktrace_machine::RegisterSet;

    #[test]
    fn the_head_of_a_block_is_as_it_was() {
        let mut registers = [0; 17];
        registers[16] = 0x4000_01d3;
        let mut out = Vec::new();
        let registers = KnownRegisters::new(registers.into(), RegisterSet::EMPTY);
        write_registers(&registers, &mut out).unwrap();
        let expected = "\
r0=00000000  r1=00000000  r2=00000000  r3=00000000  r4=00000000  r5=00000000
r6=00000000  r7=00000000  r8=00000000  r9=00000000 r10=00000000 r11=00000000
ip=00000000  sp=00000000  cl=00000000  pc=00000000 cspr=400001d3 xspr=40000000
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
