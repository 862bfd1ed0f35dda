//! One translation block: the unit that the recorder sees executing and that the executor runs.

use super::dependencies;
use super::instruction::{Condition, Decoded, Instruction, Opaque};
use super::lower::{Site, lower};
use super::mode::Mode;
use super::operation::{MicroOperation, Operation};
use super::{a32, t32};
use crate::Dependencies;
use crate::flow::Flow;

/// The code of a block is not something that QEMU executes as one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is no code.
    #[error("the block has no code")]
    Empty,
    /// The address is not that of an instruction.
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
    /// QEMU ends a block after a branch.
    #[error("the branch at offset {offset} is not the last instruction")]
    BranchInside {
        /// Where the branch is in the code.
        offset: usize,
    },
}

/// A decoded translation block: instructions at consecutive addresses, of which at most the last one branches.
#[derive(Clone, Debug)]
pub struct Block {
    address: u32,
    mode: Mode,
    /// The length of the code in bytes.
    length: u32,
    /// After the last instruction, if it does not branch.
    mode_after: Mode,
    flow: Flow,
    pub(super) operations: Box<[MicroOperation]>,
    /// The instructions of [`Operation::General`].
    pub(super) general: Box<[Instruction]>,
    /// The instructions of [`Operation::Opaque`].
    opaque: Box<[Opaque]>,
    opaque_indices: Box<[u16]>,
    /// For each instruction whether a block can end early in it.
    may_stop: Box<[bool]>,
    /// For each instruction, if they were asked for.
    dependencies: Box<[Dependencies]>,
}

impl Block {
    /// Decodes the code at a virtual address. `mode` is the processor's at the block's start; `code` are the block's
    /// bytes as in memory, instructions little-endian.
    ///
    /// Where `mode` says that data is big-endian, every instruction that accesses memory is opaque.
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
        Self::decode_with(address, mode, code, |_, _, _| None, None)
    }

    fn decode_with(
        address: u32,
        mode: Mode,
        code: &[u8],
        lower: impl Fn(&Instruction, Site, bool) -> Option<Operation>,
        mut all_dependencies: Option<Vec<Dependencies>>,
    ) -> Result<Block, DecodeError> {
        let thumb = mode.thumb();
        if code.is_empty() {
            return Err(DecodeError::Empty);
        }
        if address & if thumb { 1 } else { 3 } != 0 {
            return Err(DecodeError::Misaligned { address });
        }
        if code.len() > usize::from(u16::MAX) {
            return Err(DecodeError::TooLong { length: code.len() });
        }

        let mut operations = Vec::with_capacity(code.len() / if thumb { 2 } else { 4 });
        let mut general = Vec::new();
        let mut opaque = Vec::new();
        let mut opaque_indices = Vec::new();
        let mut may_stop = Vec::new();
        let mut flow = Flow::Sequential;
        let mut mode_here = mode;
        let mut offset = 0;
        while offset < code.len() {
            let decoded = decode_one(&code[offset..], mode_here).ok_or(DecodeError::Truncated { offset })?;
            let last = offset + usize::from(decoded.length) == code.len();
            let site = Site::new(address.wrapping_add(offset as u32), thumb);
            let mut instruction = decoded.instruction;
            let mut condition = decoded.condition;
            if let Some(given) = mode_here.it_condition() {
                if condition != Condition::ALWAYS {
                    instruction = Instruction::Opaque(Opaque::UNKNOWN);
                }
                condition = given;
            }
            if mode.big_endian()
                && let Some(as_opaque) = instruction.memory_as_opaque()
            {
                instruction = Instruction::Opaque(as_opaque);
            }
            if !last && instruction.branches() {
                return Err(DecodeError::BranchInside { offset });
            }
            if last {
                flow = instruction.flow(condition, site);
            }
            if let Some(all) = &mut all_dependencies {
                all.push(dependencies::of(&instruction, condition));
            }
            may_stop.push(
                last || instruction.memory_as_opaque().is_some()
                    || matches!(instruction, Instruction::Opaque(_)),
            );
            // The offset is below the limit that was checked above, and there is less than one entry for each byte.
            let index = operations.len() as u16;
            let operation = match instruction {
                Instruction::Opaque(mut entry) => {
                    if !last {
                        // QEMU ends a block after whatever may branch, so this one went on to the next instruction.
                        entry.writes &= !(1 << 15);
                    }
                    opaque.push(entry);
                    opaque_indices.push(index);
                    // It stops the executor whether its condition holds or not: the trace has its results.
                    condition = Condition::ALWAYS;
                    Operation::Opaque(opaque.len() as u16 - 1)
                }
                instruction => lower(&instruction, site, thumb).unwrap_or_else(|| {
                    general.push(instruction);
                    Operation::General(general.len() as u16 - 1)
                }),
            };
            operations.push(MicroOperation {
                operation,
                condition,
                it: mode_here.it(),
                offset: offset as u16,
            });
            mode_here = match it_state(&code[offset..], thumb) {
                Some(state) => mode_here.with_it(state),
                None => mode_here.advance(),
            };
            offset += usize::from(decoded.length);
        }
        Ok(Block {
            address,
            mode,
            length: offset as u32,
            mode_after: mode_here,
            flow,
            operations: operations.into(),
            general: general.into(),
            opaque: opaque.into(),
            opaque_indices: opaque_indices.into(),
            may_stop: may_stop.into(),
            dependencies: all_dependencies.unwrap_or_default().into(),
        })
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

    /// The length of an instruction in bytes; 0 from `len` on.
    pub fn length_of(&self, index: usize) -> u32 {
        self.offset_of(index.saturating_add(1)) - self.offset_of(index)
    }

    fn offset_of(&self, index: usize) -> u32 {
        self.operations.get(index).map_or(self.length, |operation| u32::from(operation.offset))
    }

    /// What is known of an instruction if it is opaque. The program counter is among its `writes` only if it is the
    /// block's last instruction: QEMU ends a block after whatever may branch.
    pub fn opaque(&self, index: usize) -> Option<&Opaque> {
        match self.operations.get(index)?.operation {
            Operation::Opaque(entry) => self.opaque.get(usize::from(entry)),
            _ => None,
        }
    }

    /// The indices of all opaque instructions, rising.
    pub fn opaque_indices(&self) -> &[u16] {
        &self.opaque_indices
    }

    /// The mode before an instruction: inside an IT block ITSTATE advances from one to the next. From `len` on, the
    /// mode after the last instruction if that does not branch.
    pub fn mode_before(&self, index: usize) -> Mode {
        self.operations.get(index).map_or(self.mode_after, |operation| self.mode.with_it(operation.it))
    }

    /// Execution can end right after or inside this instruction: it accesses memory, it is opaque, or it is the last
    /// one. All others always complete and are followed by the next.
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

    /// The last instruction is modelled and may be without effect: it has a condition, or is CBZ or CBNZ.
    pub fn conditional(&self) -> bool {
        let conditional = |operation: &MicroOperation| operation.condition != Condition::ALWAYS;
        matches!(self.flow, Flow::Branch { conditional: true, .. })
            || self.operations.last().is_some_and(conditional)
    }
}

/// The ITSTATE that an IT instruction sets. QEMU sets it for UNPREDICTABLE forms of IT too, which are opaque.
fn it_state(code: &[u8], thumb: bool) -> Option<u8> {
    match *code {
        [state, 0xbf, ..] if thumb && state & 0xf != 0 => Some(state),
        _ => None,
    }
}

/// Decodes the first instruction of `code`; `None` if there is not enough of it.
fn decode_one(code: &[u8], mode: Mode) -> Option<Decoded> {
    let halfword = |at: usize| Some(u16::from_le_bytes(code.get(at..at + 2)?.try_into().ok()?));
    if !mode.thumb() {
        let word = u32::from_le_bytes(code.get(..4)?.try_into().ok()?);
        return Some(a32::decode(word));
    }
    let first = halfword(0)?;
    let second = if first >= 0xe800 { halfword(2)? } else { 0 };
    Some(t32::decode(first, second, mode.in_it_block()))
}
