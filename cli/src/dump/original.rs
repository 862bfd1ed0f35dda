//! Block by block with all registers before the block, as the ktracer for QEMU 4.0 printed it: for scripts that read that.

use std::io::{self, Write};

use anyhow::Result;
use ktrace_machine::{InstructionSet, KnownRegisters};
use ktrace_timeline::verify::Unproved;
use ktrace_timeline::walk::{Discontinuity, Instruction};

use super::Printer;
use crate::disassembly::Disassembler;
use crate::import::xpsr;

/// The names in the heads of ARM blocks, in their spelling; the last is followed by xPSR, which is computed.
const ARM_NAMES: [&str; 17] = [
    "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "ip", "sp", "cl", "pc", "cspr",
];
const ARM_COLUMNS: usize = 6;

/// The names in the heads of MIPS blocks, in their spelling, and the registers' numbers.
const MIPS_REGISTERS: [(&str, usize); 40] = [
    ("zero", 0),
    ("at", 1),
    ("v0", 2),
    ("v1", 3),
    ("a0", 4),
    ("a1", 5),
    ("a2", 6),
    ("a3", 7),
    ("t0", 8),
    ("t1", 9),
    ("t2", 10),
    ("t3", 11),
    ("t4", 12),
    ("t5", 13),
    ("t6", 14),
    ("t7", 15),
    ("s0", 16),
    ("s1", 17),
    ("s2", 18),
    ("s3", 19),
    ("s4", 20),
    ("s5", 21),
    ("s6", 22),
    ("s7", 23),
    ("t8", 24),
    ("t9", 25),
    ("k0", 26),
    ("k1", 27),
    ("gp", 28),
    ("sp", 29),
    ("s8", 30),
    ("ra", 31),
    ("sr", 32),
    ("lo", 33),
    ("hi", 34),
    ("bad", 35),
    ("cause", 36),
    ("pc", 37),
    ("fsr", 70),
    ("fir", 71),
];
const MIPS_COLUMNS: usize = 8;

pub struct Original {
    set: InstructionSet,
    disassembler: Disassembler,
    /// A block is being printed, and the address of the instruction that would continue it.
    open: Option<u32>,
}

impl Original {
    pub fn new(set: InstructionSet) -> Result<Original> {
        Ok(Original { set, disassembler: Disassembler::new(set)?, open: None })
    }
}

fn write_registers(set: InstructionSet, registers: &KnownRegisters, out: &mut dyn Write) -> io::Result<()> {
    match set {
        InstructionSet::Arm => write_arm_registers(registers, out),
        InstructionSet::Mips(_) => write_mips_registers(registers, out),
    }
}

/// A value, or as many question marks where it is not known.
fn text(value: Option<u32>) -> String {
    value.map_or_else(|| "????????".to_owned(), |value| format!("{value:08x}"))
}

fn write_arm_registers(registers: &KnownRegisters, out: &mut dyn Write) -> io::Result<()> {
    let values = registers.iter().chain([registers.get(16).map(xpsr)]).map(text);
    let names = ARM_NAMES.into_iter().chain(["xspr"]);
    for (number, (name, value)) in names.zip(values).enumerate() {
        match number % ARM_COLUMNS {
            0 => write!(out, "{name}={value}")?,
            _ => write!(out, " {name:>3}={value}")?,
        }
        if number % ARM_COLUMNS == ARM_COLUMNS - 1 {
            writeln!(out)?;
        }
    }
    Ok(())
}

fn write_mips_registers(registers: &KnownRegisters, out: &mut dyn Write) -> io::Result<()> {
    for row in MIPS_REGISTERS.chunks(MIPS_COLUMNS) {
        let names: Vec<String> = row.iter().map(|(name, _)| format!("{name:>8}")).collect();
        let values: Vec<String> = row.iter().map(|(_, number)| text(registers.get(*number))).collect();
        writeln!(out, "{}\n{}", names.join(" "), values.join(" "))?;
    }
    Ok(())
}

impl Printer for Original {
    fn instruction(&mut self, instruction: &Instruction, out: &mut dyn Write) -> io::Result<()> {
        if instruction.starts_block || self.open != Some(instruction.address) {
            self.end(out)?;
            write_registers(self.set, &instruction.before, out)?;
        }
        let text = self.disassembler.text(instruction);
        let (address, mnemonic, operands) = (instruction.address, &text.mnemonic, &text.operands);
        match self.set {
            InstructionSet::Arm => writeln!(out, "{address:#x} :{mnemonic}\t\t{operands}")?,
            InstructionSet::Mips(_) => {
                let line = format!("{address:#x}:     {mnemonic:<8}{operands}");
                writeln!(out, "{}", line.trim_end())?;
            }
        }
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
    use ktrace_machine::{ByteOrder, RegisterSet};

    #[test]
    fn the_head_of_an_arm_block_is_as_it_was() {
        let mut registers = [0; 17];
        registers[16] = 0x4000_01d3;
        let mut out = Vec::new();
        let registers = KnownRegisters::new(registers.into(), RegisterSet::EMPTY);
        write_registers(InstructionSet::Arm, &registers, &mut out).unwrap();
        let expected = "\
r0=00000000  r1=00000000  r2=00000000  r3=00000000  r4=00000000  r5=00000000
r6=00000000  r7=00000000  r8=00000000  r9=00000000 r10=00000000 r11=00000000
ip=00000000  sp=00000000  cl=00000000  pc=00000000 cspr=400001d3 xspr=40000000
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn the_head_of_a_mips_block_is_as_it_was() {
        let set = InstructionSet::mips(ByteOrder::Little);
        let mut registers = [0; 72];
        (registers[32], registers[37], registers[71]) = (0x0040_0004, 0x8000_5ce0, 0x0073_9300);
        let registers = KnownRegisters::new(registers.into(), set.volatile_registers());
        let mut out = Vec::new();
        write_registers(set, &registers, &mut out).unwrap();
        let expected = "    zero       at       v0       v1       a0       a1       a2       a3
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
      t0       t1       t2       t3       t4       t5       t6       t7
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
      s0       s1       s2       s3       s4       s5       s6       s7
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
      t8       t9       k0       k1       gp       sp       s8       ra
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
      sr       lo       hi      bad    cause       pc      fsr      fir
00400004 00000000 00000000 00000000 ???????? 80005ce0 00000000 00739300
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
