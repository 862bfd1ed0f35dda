//! One translation block of whichever instruction set the guest has.

use crate::arm;
use crate::mips;
use crate::{Flow, InstructionSet, Mode, Opaque, RegisterSet};

/// The code of a block is not something that QEMU executes as one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The instruction set has no such mode.
    #[error("there is no mode {:#06x}", .0.bits())]
    Mode(Mode),
    /// It is no block of ARM code.
    #[error(transparent)]
    Arm(#[from] arm::block::DecodeError),
    /// It is no block of MIPS code.
    #[error(transparent)]
    Mips(#[from] mips::block::DecodeError),
}

/// A decoded translation block: instructions at consecutive addresses, the unit that the recorder sees executing and that
/// the executor runs.
#[derive(Clone, Debug)]
pub enum Block {
    /// ARM code.
    Arm(arm::block::Block),
    /// MIPS code.
    Mips(mips::block::Block),
}

/// The same for each instruction set.
macro_rules! each {
    ($block:expr, $inner:ident => $answer:expr) => {
        match $block {
            Block::Arm($inner) => $answer,
            Block::Mips($inner) => $answer,
        }
    };
}

/// The mode of MIPS code, which must be in the byte order of the processor.
fn known_mips_mode(processor: mips::Mode, mode: Mode) -> Result<mips::Mode, DecodeError> {
    let known = mips::Mode::from_bits(mode.bits());
    known.filter(|mode| mode.big_endian() == processor.big_endian()).ok_or(DecodeError::Mode(mode))
}

impl Block {
    /// Decodes the code at a virtual address. `mode` is the processor's at the block's start; `code` are the block's
    /// bytes as in memory.
    pub fn decode(set: InstructionSet, address: u32, mode: Mode, code: &[u8]) -> Result<Block, DecodeError> {
        Ok(match set {
            InstructionSet::Arm => {
                let mode = arm::Mode::from_bits(mode.bits()).ok_or(DecodeError::Mode(mode))?;
                Block::Arm(arm::block::Block::decode(address, mode, code)?)
            }
            InstructionSet::Mips(processor) => {
                let mode = known_mips_mode(processor, mode)?;
                Block::Mips(mips::block::Block::decode(address, mode, code)?)
            }
        })
    }

    /// The same, and finds out what each instruction's results depend on: see [`Block::unknown_after`].
    pub fn decode_with_dependencies(
        set: InstructionSet,
        address: u32,
        mode: Mode,
        code: &[u8],
    ) -> Result<Block, DecodeError> {
        Ok(match set {
            InstructionSet::Arm => {
                let mode = arm::Mode::from_bits(mode.bits()).ok_or(DecodeError::Mode(mode))?;
                Block::Arm(arm::block::Block::decode_with_dependencies(address, mode, code)?)
            }
            InstructionSet::Mips(processor) => {
                let mode = known_mips_mode(processor, mode)?;
                Block::Mips(mips::block::Block::decode_with_dependencies(address, mode, code)?)
            }
        })
    }

    /// The registers that are not known behind an instruction, if no value that is loaded and no result of an opaque
    /// instruction is known, and `unknown` are not known before it. All, if the block was not decoded
    /// [with dependencies](Self::decode_with_dependencies). The program counter of an instruction that is not the last is
    /// always known.
    pub fn unknown_after(&self, index: usize, unknown: RegisterSet) -> RegisterSet {
        match each!(self, block => block.dependencies(index)) {
            Some(found) => found.unknown_after(unknown),
            None => RegisterSet::ALL,
        }
    }

    /// The registers that an instruction may write, but for the program counter. All, if the block was not decoded
    /// [with dependencies](Self::decode_with_dependencies).
    pub fn may_write(&self, index: usize) -> RegisterSet {
        match each!(self, block => block.dependencies(index)) {
            Some(found) => found.computed | found.loaded,
            None => RegisterSet::ALL,
        }
    }

    /// A block of one instruction at address 0 that does nothing.
    pub fn nop(set: InstructionSet) -> Block {
        let (mode, code) = match set {
            InstructionSet::Arm => (Mode::default(), 0xe320_f000_u32.to_le_bytes()),
            InstructionSet::Mips(processor) => (processor.into(), [0; 4]),
        };
        match Block::decode(set, 0, mode, &code) {
            Ok(block) => block,
            Err(error) => unreachable!("a NOP decodes: {error}"),
        }
    }

    /// How many instructions it has; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        each!(self, block => block.len())
    }

    /// The address of its first instruction.
    #[inline]
    pub fn address(&self) -> u32 {
        each!(self, block => block.address())
    }

    /// The mode that it was decoded for.
    pub fn mode(&self) -> Mode {
        each!(self, block => block.mode().into())
    }

    /// The address of an instruction; from `len` on, the address behind the last one.
    pub fn address_of(&self, index: usize) -> u32 {
        each!(self, block => block.address_of(index))
    }

    /// The length of an instruction in bytes; 0 from `len` on.
    pub fn length_of(&self, index: usize) -> u32 {
        each!(self, block => block.length_of(index))
    }

    /// What is known of an instruction if it is opaque. The program counter is among its `writes` only if QEMU ends the
    /// block with it.
    pub fn opaque(&self, index: usize) -> Option<Opaque> {
        match self {
            Block::Arm(block) => block.opaque(index).map(Opaque::from),
            Block::Mips(block) => block.opaque(index).map(Opaque::from),
        }
    }

    /// The indices of all opaque instructions, rising.
    pub fn opaque_indices(&self) -> &[u16] {
        each!(self, block => block.opaque_indices())
    }

    /// The mode before an instruction. From `len` on, the mode after the last instruction if that does not branch.
    pub fn mode_before(&self, index: usize) -> Mode {
        each!(self, block => block.mode_before(index).into())
    }

    /// Execution can end right after or inside this instruction: it accesses memory, it is opaque, or it is the last
    /// one. All others always complete and are followed by the next.
    pub fn may_stop_at(&self, index: usize) -> bool {
        each!(self, block => block.may_stop_at(index))
    }

    /// Where control goes after the last instruction.
    pub fn flow(&self) -> Flow {
        each!(self, block => block.flow())
    }

    /// The block's branch is modelled and may not be taken.
    pub fn conditional(&self) -> bool {
        each!(self, block => block.conditional())
    }

    /// The part of the mode before an instruction (from `len` on, behind the last one) that is the same whether or not a
    /// branch was taken there: what this block hands to the next one.
    pub fn carried_before(&self, index: usize) -> u8 {
        match self {
            // ITSTATE.
            Block::Arm(block) => block.mode_before(index).it(),
            // Whether a delay slot follows, and of what.
            Block::Mips(block) => block.mode_before(index).slot_bits(),
        }
    }

    /// The registers of a keyframe after a discontinuity that follows this block, of which so many instructions started. On
    /// MIPS those of the floating-point unit keep their values, for no exception changes them. But if the last instruction
    /// may write one, they are in the keyframe: it may have raised an exception instead, and if it is opaque nobody has read
    /// its results.
    pub fn keyframe_after(&self, started: usize) -> RegisterSet {
        match self {
            Block::Arm(_) => InstructionSet::Arm.all_registers(),
            Block::Mips(block) => {
                let all = InstructionSet::Mips(block.mode()).all_registers();
                let floating = RegisterSet::from_bits(mips::description::FLOATING_POINT);
                let written = started.checked_sub(1).is_some_and(|last| block.writes_floating_point(last));
                if written { all } else { all.without(floating) }
            }
        }
    }

    /// What a register holds before the first instruction, if QEMU's copy of it is `value` when it enters the block: it
    /// knows some state from the block's translation and does not keep it in the register.
    pub fn at_entry(&self, register: usize, value: u32) -> u32 {
        match self {
            // ITSTATE is cleared, as the block's code knows it (`arm_tr_tb_start` in target/arm/tcg/translate.c). The
            // program counter is stale where blocks are chained.
            Block::Arm(block) => match register {
                arm::description::PROGRAM_COUNTER => block.address(),
                arm::description::CPSR if block.mode().thumb() => block.mode().put_it_into(value),
                _ => value,
            },
            // Likewise.
            Block::Mips(block) => match register {
                mips::description::PROGRAM_COUNTER => block.address() | u32::from(block.mode().compressed()),
                _ => value,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteOrder;

    #[test]
    fn a_keyframe_leaves_out_what_no_exception_changes() {
        let nop = Block::nop(InstructionSet::Arm);
        assert_eq!((nop.keyframe_after(0).len(), nop.keyframe_after(1).len()), (17, 17));
        // mfc0 t5, cause; mtc1 t1, f2, which is modelled; add.s f0, f0, f0, which is not; nop
        let words = [0x400d_6800_u32, 0x4489_1000, 0x4600_0000, 0];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mips = InstructionSet::mips(ByteOrder::Little);
        let block = Block::decode(mips, 0x8000_0000, Mode::default(), &code).unwrap();
        assert_eq!(block.opaque_indices(), [0, 2]);
        let counts = [0, 1, 2, 3, 4].map(|started| block.keyframe_after(started).len());
        assert_eq!(counts, [39, 39, 72, 72, 39]);
        let short: Vec<usize> = block.keyframe_after(0).iter().collect();
        assert_eq!(short, (0..=37).chain([70]).collect::<Vec<_>>());
    }
}
