//! How the original ktracer laid out a record of one instruction set: 32-bit words, little-endian.

use clap::ValueEnum;
use ktrace_format::header::{self, Architecture};
use ktrace_machine::{ByteOrder, Encoding, InstructionSet};

use super::records::Problem;

/// What the recorded guest was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guest {
    /// 32-bit ARM, A or R profile
    Arm,
    /// MIPS32, big-endian
    Mips,
    /// MIPS32, little-endian
    Mipsel,
}

/// Words of a record before its registers: the block's address, and the first and the end (exclusive) of its instructions.
pub const WORDS_BEFORE_REGISTERS: usize = 3;

/// Words of an ARM record: behind r0 to r15 and CPSR comes xPSR.
const ARM_WORDS: usize = WORDS_BEFORE_REGISTERS + 18;
const ARM_PROGRAM_COUNTER: usize = 15;
const ARM_STATUS: usize = 16;
const ARM_XPSR: usize = 17;

/// Words of a MIPS record.
const MIPS_WORDS: usize = WORDS_BEFORE_REGISTERS + 40;
/// The number of the program counter, in a record and in a keyframe: both begin with r0 to r31, Status, LO, HI, BadVAddr,
/// Cause and the program counter.
const MIPS_PROGRAM_COUNTER: usize = 37;
/// The numbers of FCR31 and FCR0 in a record, and in a keyframe, which has f0 to f31 before them.
const MIPS_FLOATING_POINT: [(usize, usize); 2] = [(38, 70), (39, 71)];

impl Guest {
    /// What it executes.
    pub fn instruction_set(self) -> InstructionSet {
        match self {
            Guest::Arm => InstructionSet::Arm,
            Guest::Mips => InstructionSet::mips(ByteOrder::Big),
            Guest::Mipsel => InstructionSet::mips(ByteOrder::Little),
        }
    }

    /// The same for a trace's header.
    pub fn header(self) -> (Architecture, header::ByteOrder) {
        match self {
            Guest::Arm => (Architecture::Arm, header::ByteOrder::Little),
            Guest::Mips => (Architecture::Mips, header::ByteOrder::Big),
            Guest::Mipsel => (Architecture::Mips, header::ByteOrder::Little),
        }
    }

    /// How many words a record of CONTEXT has.
    pub fn record_words(self) -> usize {
        match self {
            Guest::Arm => ARM_WORDS,
            Guest::Mips | Guest::Mipsel => MIPS_WORDS,
        }
    }

    /// The address of a block that is said to begin at `address`: in compressed MIPS code bit 0 is the ISA mode.
    pub fn block_address(self, address: u32) -> u32 {
        match self {
            Guest::Arm => address,
            Guest::Mips | Guest::Mipsel => address & !1,
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
            Guest::Mips | Guest::Mipsel => {
                let pc = register(MIPS_PROGRAM_COUNTER);
                if self.block_address(pc) != self.block_address(address) {
                    return Err(Problem::ProgramCounter { address, pc });
                }
                if register(0) != 0 {
                    return Err(Problem::Zero { value: register(0) });
                }
                let mut keyframe = registers.get(..=MIPS_PROGRAM_COUNTER).unwrap_or_default().to_vec();
                keyframe.resize(self.instruction_set().register_count(), 0);
                for (from, to) in MIPS_FLOATING_POINT {
                    if let Some(place) = keyframe.get_mut(to) {
                        *place = register(from);
                    }
                }
                Ok(keyframe)
            }
        }
    }

    /// A word of EXECUTION as it lies in the guest's memory. `None`: it can't be an instruction of this encoding.
    pub fn code(self, word: u32, encoding: Encoding) -> Option<Vec<u8>> {
        match encoding {
            Encoding::A32 => Some(word.to_le_bytes().to_vec()),
            Encoding::T32 { .. } => Some(u16::try_from(word).ok()?.to_le_bytes().to_vec()),
            Encoding::Mips32(order) => Some(in_order(order, word.to_le_bytes())),
            Encoding::Mips16(order) | Encoding::MicroMips(order) => Some(match u16::try_from(word) {
                Ok(halfword) => in_order(order, halfword.to_le_bytes()),
                // The halves of an instruction of 32 bits, the first one on top.
                Err(_) => [word >> 16, word & 0xffff]
                    .map(|half| in_order(order, (half as u16).to_le_bytes()))
                    .concat(),
            }),
        }
    }
}

fn in_order<const BYTES: usize>(order: ByteOrder, mut bytes: [u8; BYTES]) -> Vec<u8> {
    if order == ByteOrder::Big {
        bytes.reverse();
    }
    bytes.to_vec()
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
