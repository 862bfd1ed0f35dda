//! A processor of whichever instruction set the guest has.

use crate::arm;
use crate::bus::Bus;
use crate::mips;
use crate::{Block, InstructionSet, Mode, Registers, Results, Writes};

/// Why [`Cpu::run`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Every instruction that was asked for was executed.
    Done,
    /// The instruction with this index is opaque; it was not executed.
    Opaque(usize),
    /// The bus refused an access of the instruction with this index. The registers mean nothing now.
    Halted(usize),
}

/// Recorded results that do not belong to the instruction that they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpaqueError {
    /// On ARM.
    #[error(transparent)]
    Arm(#[from] arm::cpu::OpaqueError),
    /// On MIPS.
    #[error(transparent)]
    Mips(#[from] mips::cpu::OpaqueError),
    /// The block is of another instruction set.
    #[error("the block is of another instruction set than the processor")]
    Foreign,
}

/// One processor. Memory is not part of it: it reaches that through a [`Bus`]. Blocks that it is given must be of its
/// instruction set.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is copied only for snapshots, and a box would cost each instruction"
)]
pub enum Cpu {
    /// 32-bit ARM.
    Arm(arm::cpu::Cpu),
    /// MIPS32.
    Mips(mips::cpu::Cpu),
}

/// The same for each instruction set.
macro_rules! each {
    ($cpu:expr, $inner:ident => $answer:expr) => {
        match $cpu {
            Cpu::Arm($inner) => $answer,
            Cpu::Mips($inner) => $answer,
        }
    };
}

impl Cpu {
    /// A processor with these registers; those that are missing are 0.
    pub fn new(set: InstructionSet, registers: &Registers) -> Cpu {
        match set {
            InstructionSet::Arm => {
                let mut values = arm::cpu::Registers::default();
                values.0.iter_mut().zip(registers.iter()).for_each(|(into, from)| *into = *from);
                Cpu::Arm(arm::cpu::Cpu::new(&values))
            }
            InstructionSet::Mips(processor) => {
                let mut values = mips::cpu::Registers::default();
                values.0.iter_mut().zip(registers.iter()).for_each(|(into, from)| *into = *from);
                Cpu::Mips(mips::cpu::Cpu::new(&values, processor))
            }
        }
    }

    /// All registers.
    pub fn registers(&self) -> Registers {
        match self {
            Cpu::Arm(cpu) => Registers::from(cpu.registers().0),
            Cpu::Mips(cpu) => Registers::from(cpu.registers().0),
        }
    }

    /// One of [`registers`](Self::registers), without going through all of them; `None` if there is no such register.
    pub fn register(&self, number: usize) -> Option<u32> {
        each!(self, cpu => cpu.register(number))
    }

    /// The address of the next instruction.
    #[inline]
    pub fn pc(&self) -> u32 {
        each!(self, cpu => cpu.pc())
    }

    /// The mode in which the next instruction is decoded.
    #[inline]
    pub fn mode(&self) -> Mode {
        each!(self, cpu => cpu.mode().into())
    }

    /// The status register (ARM's CPSR, MIPS's Status): it decides which registers an opaque instruction writes, see
    /// [`Opaque::results`](crate::Opaque::results).
    pub fn status(&self) -> u32 {
        match self {
            Cpu::Arm(cpu) => cpu.cpsr(),
            Cpu::Mips(cpu) => cpu.status(),
        }
    }

    /// Executes the instructions `from..to` of a block (`to` is limited to the block's length), which must be the
    /// next ones for this processor. It stops before an opaque instruction, also one whose condition does not hold.
    /// With nothing to execute nothing changes: after a branch, the rest of its block is no fall-through.
    ///
    /// After [`Exit::Done`] and [`Exit::Opaque`] the program counter is the address of the next instruction to execute. It
    /// halts before a block of another instruction set.
    #[inline]
    pub fn run<B: Bus>(&mut self, block: &Block, from: usize, to: usize, bus: &mut B) -> Exit {
        match (self, block) {
            (Cpu::Arm(cpu), Block::Arm(block)) => cpu.run(block, from, to, bus),
            (Cpu::Mips(cpu), Block::Mips(block)) => cpu.run(block, from, to, bus),
            _ => Exit::Halted(from),
        }
    }

    /// Whether the instruction `index` of a block, which is the next one, writes a register if it completes, be it with the value
    /// that it had. The program counter is always written. The block must have been decoded
    /// [with dependencies](Block::decode_with_dependencies); otherwise it may write all.
    pub fn writes(&self, block: &Block, index: usize, register: usize) -> Writes {
        match (self, block) {
            (Cpu::Arm(_), _) if register == arm::description::PROGRAM_COUNTER => Writes::Yes,
            (Cpu::Mips(_), _) if register == mips::description::PROGRAM_COUNTER => Writes::Yes,
            (Cpu::Arm(cpu), Block::Arm(block)) => cpu.writes(block, index, register),
            (Cpu::Mips(cpu), Block::Mips(block)) => cpu.writes(block, index, register),
            _ => Writes::Perhaps,
        }
    }

    /// Gives the opaque instruction `index` of a block its recorded results and moves on to the next instruction. After an
    /// error nothing has changed.
    pub fn complete_opaque(
        &mut self,
        block: &Block,
        index: usize,
        results: &Results,
    ) -> Result<(), OpaqueError> {
        let (written, values) = (results.written.bits(), results.values());
        match (self, block) {
            (Cpu::Arm(cpu), Block::Arm(block)) => {
                // ARM has registers 0 to 16 only, so nothing is cut off.
                cpu.complete_opaque(block, index, written as u32, values)?;
            }
            (Cpu::Mips(cpu), Block::Mips(block)) => cpu.complete_opaque(block, index, written, values)?,
            _ => return Err(OpaqueError::Foreign),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteOrder;

    #[test]
    fn one_register_is_as_all_have_it() {
        for set in [InstructionSet::Arm, InstructionSet::mips(ByteOrder::Big)] {
            let mut registers = Registers::zero(set.register_count());
            let values = (1u32..).map(|number| number.wrapping_mul(0x1020_3041));
            registers.iter_mut().zip(values).for_each(|(register, value)| *register = value);
            let cpu = Cpu::new(set, &registers);
            let all: Vec<u32> = (0..).map_while(|number| cpu.register(number)).collect();
            assert_eq!(all, *cpu.registers());
            assert_eq!(all.len(), set.register_count());
        }
    }
}
