//! One translation block: the unit that the recorder sees executing and that the executor runs.

use super::compressed;
use super::dependencies;
use super::description::FLOATING_POINT;
use super::effects::Flow;
use super::instruction::{Instruction, Opaque, PROGRAM_COUNTER};
use super::lower::lower;
use super::mips32;
use super::mode::{Mode, Slot};
use super::operation::Operation;
use crate::Dependencies;

/// The code of a block is not something that QEMU executes as one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is no code.
    #[error("the block has no code")]
    Empty,
    /// The address is not that of an instruction, and what is there not the one that QEMU makes a block of, in which it
    /// raises an address error.
    #[error("no instruction can be at address {address:#010x}")]
    Misaligned {
        /// The block's address.
        address: u32,
    },
    /// More code than QEMU ever puts into one block (some 2 KiB); instruction offsets have 16 bits.
    #[error("a block of {length} bytes is too long, the limit is {limit}", limit = u16::MAX)]
    TooLong {
        /// How many bytes there are.
        length: usize,
    },
    /// The code ends inside an instruction.
    #[error("the code ends inside the instruction at offset {offset}")]
    Truncated {
        /// Where that instruction is in the code.
        offset: usize,
    },
    /// QEMU ends a block after a branch and its delay slot.
    #[error("behind the delay slot at offset {offset} is more code")]
    BranchInside {
        /// Where the delay slot is in the code.
        offset: usize,
    },
}

/// A decoded translation block: instructions at consecutive addresses. A branch is the last one, or the last but one with
/// its delay slot behind it.
#[derive(Clone, Debug)]
pub struct Block {
    address: u32,
    mode: Mode,
    /// The length of the code in bytes.
    length: u32,
    flow: Flow,
    /// The index of the instruction in a delay slot, or [`NO_SLOT`]. The block's length, if the branch is its last
    /// instruction.
    slot_index: usize,
    /// Whose slot that is.
    slot: Slot,
    pub(super) operations: Box<[Operation]>,
    /// The instructions of [`Operation::General`].
    pub(super) general: Box<[Instruction]>,
    /// The instructions of [`Operation::Opaque`].
    opaque: Box<[Opaque]>,
    opaque_indices: Box<[u16]>,
    /// For each instruction whether a block can end early in it.
    may_stop: Box<[bool]>,
    /// Where each instruction is; empty if all have four bytes.
    offsets: Box<[u16]>,
    /// The indices of instructions that may write what is in [`FLOATING_POINT`], modelled or not, rising.
    floating: Box<[u16]>,
    /// For each instruction, if they were asked for.
    dependencies: Box<[Dependencies]>,
}

/// The part of an address inside a page of memory, the smallest that there are.
const PAGE_MASK: u32 = 0xfff;

/// No block has an instruction with this index.
const NO_SLOT: usize = usize::MAX - 1;

impl Block {
    /// Decodes the code at a virtual address, whose bit 0 is clear, also of compressed code. `mode` is the processor's at
    /// the block's start; `code` are the block's bytes as in memory, whatever the byte order. An address that is no multiple
    /// of four has one opaque instruction, which raises an address error (`decode_opc`). Of a branch-likely that can't be
    /// taken at the end of a page the slot, which nobody has fetched, is not in the code.
    pub fn decode(address: u32, mode: Mode, code: &[u8]) -> Result<Block, DecodeError> {
        Self::decode_with(address, mode, code, lower, None)
    }

    /// The same, and finds out what each instruction's results depend on: see [`Block::dependencies`].
    pub fn decode_with_dependencies(address: u32, mode: Mode, code: &[u8]) -> Result<Block, DecodeError> {
        Self::decode_with(address, mode, code, lower, Some(Vec::new()))
    }

    /// The same, but every modelled instruction executes in its neutral form.
    #[cfg(test)]
    pub(super) fn decode_neutral(address: u32, mode: Mode, code: &[u8]) -> Result<Block, DecodeError> {
        Self::decode_with(address, mode, code, |_, _| None, None)
    }

    fn decode_with(
        address: u32,
        mode: Mode,
        code: &[u8],
        lower: impl Fn(&Instruction, u32) -> Option<Operation>,
        mut all_dependencies: Option<Vec<Dependencies>>,
    ) -> Result<Block, DecodeError> {
        if code.is_empty() {
            return Err(DecodeError::Empty);
        }
        let is_misaligned = address & if mode.compressed() { 1 } else { 3 } != 0;
        if is_misaligned && (mode.compressed() || mode.in_delay_slot() || code.len() > 4) {
            return Err(DecodeError::Misaligned { address });
        }
        if code.len() > usize::from(u16::MAX) {
            return Err(DecodeError::TooLong { length: code.len() });
        }
        if mode.compressed() {
            let mut block = Self::decode_compressed(address, mode, code)?;
            if all_dependencies.is_some() {
                block.dependencies = block.opaque.iter().map(dependencies::of_opaque).collect();
            }
            return Ok(block);
        }

        let mut operations = Vec::with_capacity(code.len() / 4);
        let mut general = Vec::new();
        let mut opaque = Vec::new();
        let mut may_stop = Vec::with_capacity(code.len() / 4);
        let mut offsets = Vec::with_capacity(code.len() / 4);
        let mut floating = Vec::new();
        let mut flow = Flow::Sequential;
        let mut branch = None;
        let mut slot_index = NO_SLOT;
        let mut slot = mode.slot();
        if slot != Slot::None {
            slot_index = 0;
            flow = Flow::Computed;
        }
        let mut offset = 0;
        while offset < code.len() {
            let index = operations.len();
            if index > 0 && index == slot_index + 1 {
                return Err(DecodeError::BranchInside { offset: offset - 4 });
            }
            let bytes = code.get(offset..offset + 4).ok_or(DecodeError::Truncated { offset })?;
            let bytes = bytes.try_into().map_err(|_| DecodeError::Truncated { offset })?;
            let word = if mode.big_endian() { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
            let here = address.wrapping_add(offset as u32);
            let mut instruction =
                if is_misaligned { Instruction::Opaque(Opaque::UNKNOWN) } else { mips32::decode(word, mode) };
            if index == slot_index {
                instruction = instruction.in_slot(slot);
                flow = match (branch, &instruction) {
                    (Some((branch, at)), _) => Instruction::flow(&branch, at, &instruction),
                    (None, Instruction::Opaque(entry)) if entry.writes & PROGRAM_COUNTER != 0 => Flow::Opaque,
                    (None, _) => Flow::Computed,
                };
            } else if instruction.slot() != Slot::None {
                slot = instruction.slot();
                slot_index = index + 1;
                branch = Some((instruction, here));
            }
            let skips = matches!(instruction, Instruction::BranchNever { skip: true, .. });
            let length = if skips { 8 } else { 4 };
            let ends_page = here & PAGE_MASK == PAGE_MASK & !3;
            let left = code.len() - offset;
            if left < length && !(ends_page && left == 4) {
                return Err(DecodeError::Truncated { offset });
            }
            let last = offset + length >= code.len();

            if let Some(all) = &mut all_dependencies {
                all.push(dependencies::of(&instruction));
            }
            // The offset is below the limit that was checked above, and there is less than one entry for each byte.
            offsets.push(offset as u16);
            may_stop.push(last || instruction.may_stop());
            if instruction.writes() & FLOATING_POINT != 0 {
                floating.push(index as u16);
            }
            let entry = match instruction {
                Instruction::Opaque(entry) => Some(entry),
                Instruction::OpaqueBranch(mnemonic) => Some(Opaque::writer(mnemonic, 0)),
                _ => None,
            };
            operations.push(if let Some(mut entry) = entry {
                if !last {
                    // QEMU ends a block after whatever may branch, so this one went on to the next instruction.
                    entry.writes &= !PROGRAM_COUNTER;
                } else if index != slot_index && entry.writes & PROGRAM_COUNTER != 0 {
                    flow = Flow::Opaque;
                }
                opaque.push((index as u16, entry));
                Operation::Opaque(opaque.len() as u16 - 1)
            } else {
                lower(&instruction, here).unwrap_or_else(|| {
                    general.push(instruction);
                    Operation::General(general.len() as u16 - 1)
                })
            });
            offset += length;
        }
        let uniform = offsets.len() * 4 == code.len();
        Ok(Block {
            address,
            mode,
            length: offset as u32,
            flow,
            slot_index,
            slot,
            operations: operations.into(),
            general: general.into(),
            opaque_indices: opaque.iter().map(|(index, _)| *index).collect(),
            opaque: opaque.into_iter().map(|(_, entry)| entry).collect(),
            may_stop: may_stop.into(),
            offsets: if uniform { Box::default() } else { offsets.into() },
            floating: floating.into(),
            dependencies: all_dependencies.unwrap_or_default().into(),
        })
    }

    /// Compressed code: every instruction is opaque, and nothing is known of it but its length. Where its branches have
    /// delay slots these are the last instructions of their blocks, and write the program counter.
    fn decode_compressed(address: u32, mode: Mode, code: &[u8]) -> Result<Block, DecodeError> {
        let mnemonic = if mode.micromips() { "micromips" } else { "mips16e" };
        let mut offsets = Vec::with_capacity(code.len() / 2);
        let mut offset = 0;
        while let Some(&[first, second, ..]) = code.get(offset..).filter(|rest| rest.len() >= 2) {
            let bytes = [first, second];
            let halfword =
                if mode.big_endian() { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
            offsets.push(offset as u16);
            let length = compressed::length(halfword, mode);
            if code.len() - offset < length {
                return Err(DecodeError::Truncated { offset });
            }
            offset += length;
        }
        if offset < code.len() {
            return Err(DecodeError::Truncated { offset });
        }
        let count = offsets.len() as u16;
        let inside = Opaque::UNKNOWN.writes & !PROGRAM_COUNTER;
        let opaque = (1..=count).map(|number| Opaque {
            mnemonic,
            writes: if number == count { Opaque::UNKNOWN.writes } else { inside },
            ..Opaque::UNKNOWN
        });
        Ok(Block {
            address,
            mode,
            length: offset as u32,
            flow: Flow::Opaque,
            slot_index: NO_SLOT,
            slot: Slot::None,
            operations: (0..count).map(Operation::Opaque).collect(),
            general: Box::default(),
            opaque: opaque.collect(),
            opaque_indices: (0..count).collect(),
            may_stop: vec![true; count.into()].into(),
            offsets: offsets.into(),
            floating: (0..count).collect(),
            dependencies: Box::default(),
        })
    }

    /// An instruction may write a register of the floating-point unit, if it completes: those in [`FLOATING_POINT`].
    pub fn writes_floating_point(&self, index: usize) -> bool {
        u16::try_from(index).is_ok_and(|index| self.floating.binary_search(&index).is_ok())
    }

    /// How many instructions it has; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// The address of its first instruction.
    pub fn address(&self) -> u32 {
        self.address
    }

    /// The mode that it was decoded for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The address of an instruction; from `len` on, the address behind the last one.
    pub fn address_of(&self, index: usize) -> u32 {
        self.address.wrapping_add(self.offset_of(index))
    }

    /// The length of an instruction in bytes; 0 from `len` on. It is 8 for a branch-likely that can't be taken.
    pub fn length_of(&self, index: usize) -> u32 {
        self.offset_of(index.saturating_add(1)) - self.offset_of(index)
    }

    fn offset_of(&self, index: usize) -> u32 {
        if index >= self.operations.len() {
            self.length
        } else {
            self.offsets.get(index).map_or(4 * index as u32, |offset| u32::from(*offset))
        }
    }

    /// What is known of an instruction if it is opaque. The program counter is among its `writes` only if it is the
    /// block's last instruction: QEMU ends a block after whatever may branch.
    pub fn opaque(&self, index: usize) -> Option<&Opaque> {
        match self.operations.get(index)? {
            Operation::Opaque(entry) => self.opaque.get(usize::from(*entry)),
            _ => None,
        }
    }

    /// The indices of all opaque instructions, rising.
    pub fn opaque_indices(&self) -> &[u16] {
        &self.opaque_indices
    }

    /// The mode before an instruction: a delay slot is one in it. From `len` on, the mode at
    /// [`Block::address_of`]`(len)` if control goes on there: in a delay slot, if the last instruction is a branch.
    pub fn mode_before(&self, index: usize) -> Mode {
        let index = index.min(self.len());
        self.mode.with_slot(if index == self.slot_index { self.slot } else { Slot::None })
    }

    /// Execution can end right after or inside this instruction: it accesses memory, it is opaque, its operands can make
    /// it raise an exception, or it is the last one. All others always complete and are followed by the next.
    pub fn may_stop_at(&self, index: usize) -> bool {
        self.may_stop.get(index).copied().unwrap_or(false)
    }

    /// What an instruction's results depend on. `None` from `len` on, and if the block was not decoded
    /// [with dependencies](Self::decode_with_dependencies).
    pub fn dependencies(&self, index: usize) -> Option<Dependencies> {
        self.dependencies.get(index).copied()
    }

    /// Where control goes after the last instruction.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// The last instruction is in the slot of a branch-likely and may be nullified, or the branch before it may not be
    /// taken: control may go to the address behind the block, whatever [`Block::flow`] says.
    pub fn conditional(&self) -> bool {
        matches!(self.flow, Flow::Branch { conditional: true, .. })
            || self.slot == Slot::Likely && self.slot_index < self.len()
    }

    /// The address behind the delay slot: where a branch that is not taken leads, and a link.
    #[inline(always)]
    pub(super) fn behind_slot(&self) -> u32 {
        // Where the branch is the last instruction, its slot is behind the block.
        let outside = if self.slot_index == self.operations.len() { 4 } else { 0 };
        self.address.wrapping_add(self.length + outside)
    }

    /// The instruction before this one is in a delay slot.
    #[inline(always)]
    pub(super) fn ends_slot(&self, index: usize) -> bool {
        index == self.slot_index + 1
    }
}
