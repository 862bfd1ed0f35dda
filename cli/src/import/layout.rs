//! How the original ktracer laid out a record of one instruction set: 32-bit words, little-endian.

use clap::ValueEnum;
use ktrace_format::header::{Architecture, ByteOrder};
use ktrace_machine::InstructionSet;

use super::records::Problem;

/// What the recorded guest was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guest {
    /// 32-bit ARM, A or R profile
    Arm,
}

/// Words of a record before its registers: the block's address, and the first and the end (exclusive) of its instructions.
pub const WORDS_BEFORE_REGISTERS: usize = 3;

/// Words of an ARM record: behind r0 to r15 and CPSR comes xPSR.
const ARM_WORDS: usize = WORDS_BEFORE_REGISTERS + 18;
const ARM_PROGRAM_COUNTER: usize = 15;
const ARM_STATUS: usize = 16;
const ARM_XPSR: usize = 17;

impl Guest {
    /// What it executes.
    pub fn instruction_set(self) -> InstructionSet {
        match self {
            Guest::Arm => InstructionSet::Arm,
        }
    }

    /// The same for a trace's header.
    pub fn header(self) -> (Architecture, ByteOrder) {
        match self {
            Guest::Arm => (Architecture::Arm, ByteOrder::Little),
        }
    }

    /// How many words a record of CONTEXT has.
    pub fn record_words(self) -> usize {
        match self {
            Guest::Arm => ARM_WORDS,
        }
    }

    /// A keyframe of the registers of a record, and the problem of a block that can't begin with them at `address`.
    pub fn keyframe(self, address: u32, registers: &[u32]) -> Result<Vec<u32>, Problem> {
        let register = |number: usize| registers.get(number).copied().unwrap_or_default();
        match self {
            Guest::Arm => {
                let (pc, cpsr, found) =
                    (register(ARM_PROGRAM_COUNTER), register(ARM_STATUS), register(ARM_XPSR));
                if pc != address {
                    return Err(Problem::ProgramCounter { address, pc });
                }
                let expected = xpsr(cpsr);
                if (found ^ expected) & !XPSR_GREATER_OR_EQUAL != 0 {
                    return Err(Problem::Xpsr { found, expected });
                }
                Ok(registers.get(..=ARM_STATUS).unwrap_or_default().to_vec())
            }
        }
    }

    /// A word of EXECUTION as it lies in the guest's memory; `None`: it is no instruction of this length in bytes, 2 or 4.
    pub fn code(self, word: u32, length: usize) -> Option<Vec<u8>> {
        match self {
            Guest::Arm if length == 2 => Some(u16::try_from(word).ok()?.to_le_bytes().to_vec()),
            Guest::Arm => Some(word.to_le_bytes().to_vec()),
        }
    }
}

/// GE, which QEMU 4.0 left out of xPSR.
const XPSR_GREATER_OR_EQUAL: u32 = 0x000f_0000;

/// The M-profile status word as QEMU computes it, also for other processors, where it is made of the state that they have
/// too (`xpsr_read` in target/arm/cpu.h): N, Z, C, V, Q and GE where CPSR has them; CPSR.T at bit 24; ITSTATE where CPSR has
/// it; the exception number, in bits 0 to 8, is 0 on A-profile processors. So CPSR's bits 5 to 8, 20 to 23 and the mode are
/// missing, and 400001d3 becomes 40000000.
pub fn xpsr(cpsr: u32) -> u32 {
    const SAME: u32 = 0xf800_0000 | 0x000f_0000 | 0x0600_fc00;
    const CPSR_THUMB: u32 = 1 << 5;
    const XPSR_THUMB: u32 = 1 << 24;
    cpsr & SAME | if cpsr & CPSR_THUMB != 0 { XPSR_THUMB } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xpsr_has_the_flags_the_it_state_and_thumb() {
        assert_eq!(xpsr(0xffff_ffff), 0xff0f_fc00);
        assert_eq!(xpsr(0x6000_0030), 0x6100_0000);
        assert_eq!(xpsr(0x0600_fc13), 0x0600_fc00);
    }
}
