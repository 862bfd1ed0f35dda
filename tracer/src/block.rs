//! Translation blocks as the recorder sees them.
//!
//! QEMU's generated code holds pointers to them for as long as QEMU lives, so they are never freed; equal blocks
//! (same address, mode and code) share one, however often QEMU translates them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use ktrace_format::segment::encoder::PackedAccess;
use ktrace_machine::{Block as Decoded, DecodeError, Flow, InstructionSet, Mode, Opaque};

/// No instruction is at an odd address: what never is the next block's.
const NOWHERE: u32 = 1;

/// An opaque instruction of a block.
#[derive(Debug)]
pub struct OpaqueSite {
    /// Which instruction of the block.
    pub index: u16,
    /// What it may do.
    pub opaque: Opaque,
    /// It is the only instruction of its block. QEMU runs an instruction in a block of its own after a device access
    /// in the middle of another; then it really is that block's last one that started.
    pub alone: bool,
}

impl OpaqueSite {
    /// Something is to be read after it.
    pub fn has_results(&self) -> bool {
        !self.opaque.writes.is_empty() || self.opaque.changes_mapping
    }
}

/// An access in a block's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessSite {
    /// Which instruction of the block makes it.
    pub instruction: u32,
    /// How.
    pub access: PackedAccess,
}

/// An instruction of a block that QEMU runs in the place of instructions of another block.
#[derive(Debug)]
pub struct Again {
    /// That block.
    pub block: &'static Block,
    /// Which instruction of it.
    pub index: u32,
}

/// One block. Leaked, see the [module](self).
#[derive(Debug)]
pub struct Block {
    /// Counts blocks in the order in which they were first translated.
    pub serial: u32,
    /// Virtual address of the first instruction.
    pub address: u32,
    /// How many instructions it has.
    pub instructions: u32,
    /// Where the next block is if nothing special happens; `NOWHERE` if that takes a closer look.
    pub next: u32,
    /// The other place where the next block may be, or the same.
    pub or_next: u32,
    /// What of the mode at its start the block before hands over: on ARM ITSTATE.
    pub carried: u8,
    /// What it hands over to the next one. QEMU sometimes leaves another ITSTATE behind: its system register accesses save
    /// it, and nothing clears it again after the last instruction of an IT block.
    pub next_carried: u8,
    /// The model's view.
    pub decoded: Decoded,
    /// The code.
    pub code: Box<[u8]>,
    /// Its opaque instructions, in rising order.
    pub opaque: Box<[OpaqueSite]>,
    /// The accesses that it makes if all of its instructions start, once QEMU has told.
    accesses: OnceLock<Box<[AccessSite]>>,
    again: OnceLock<Box<[Again]>>,
}

impl Block {
    fn new(serial: u32, decoded: Decoded, code: &[u8]) -> Block {
        let address = decoded.address();
        let instructions = decoded.len();
        let behind = decoded.address_of(instructions);
        let opaque: Box<[OpaqueSite]> = decoded
            .opaque_indices()
            .iter()
            .filter_map(|&index| {
                let opaque = decoded.opaque(usize::from(index))?;
                Some(OpaqueSite { index, opaque, alone: instructions == 1 })
            })
            .collect();
        // An opaque last instruction has results to read, which also takes a closer look.
        let ends_opaque = opaque.last().is_some_and(|site| usize::from(site.index) + 1 == instructions);
        let (next, or_next) = match decoded.flow() {
            _ if ends_opaque => (NOWHERE, NOWHERE),
            Flow::Sequential => (behind, behind),
            Flow::Branch { target, conditional: true } => (target, behind),
            Flow::Branch { target, conditional: false } => (target, target),
            _ => (NOWHERE, NOWHERE),
        };
        let (carried, next_carried) = (decoded.carried_before(0), decoded.carried_before(instructions));
        let (code, instructions) = (code.into(), instructions as u32);
        Block {
            serial,
            address,
            instructions,
            next,
            or_next,
            carried,
            next_carried,
            decoded,
            code,
            opaque,
            accesses: OnceLock::new(),
            again: OnceLock::new(),
        }
    }

    /// The accesses that it makes if all of its instructions start, in their order; `None` if QEMU has not told.
    pub fn accesses(&self) -> Option<&[AccessSite]> {
        self.accesses.get().map(|accesses| &accesses[..])
    }

    /// Notes the accesses that it makes. False if they are not those that were noted before.
    pub fn note_accesses(&self, accesses: Vec<AccessSite>) -> bool {
        **self.accesses.get_or_init(|| accesses.clone().into()) == accesses[..]
    }

    /// How many of its accesses come before those of an instruction.
    pub fn accesses_before(&self, instruction: u32) -> usize {
        let accesses = self.accesses().unwrap_or_default();
        accesses.partition_point(|access| access.instruction < instruction)
    }

    /// Its instructions, for when QEMU runs them in the place of others.
    pub fn again(&'static self) -> &'static [Again] {
        self.again.get_or_init(|| (0..self.instructions).map(|index| Again { block: self, index }).collect())
    }

    /// Whether its accesses can be told together: what happens in the middle of the block does not change what they meet,
    /// and all of them are modelled instructions'.
    pub fn can_be_packed(&self) -> bool {
        self.opaque.iter().all(|site| {
            !site.opaque.memory
                && (!site.opaque.changes_mapping || u32::from(site.index) + 1 == self.instructions)
        })
    }

    /// What is before the first block: nothing is expected after it.
    pub fn none(set: InstructionSet) -> &'static Block {
        // Its serial number is never sent.
        let block = Block::new(u32::MAX, Decoded::nop(set), &[]);
        Box::leak(Box::new(Block { next: NOWHERE, or_next: NOWHERE, ..block }))
    }

    /// Which instruction of the block is at an address.
    pub fn index_of(&self, address: u32) -> Option<u32> {
        (0..self.instructions).find(|&index| self.decoded.address_of(index as usize) == address)
    }

    /// The opaque instruction at an index.
    pub fn opaque_at(&self, index: u32) -> Option<&OpaqueSite> {
        let at = self.opaque.binary_search_by_key(&index, |site| u32::from(site.index)).ok()?;
        self.opaque.get(at)
    }
}

/// All blocks, as the encoder's thread looks them up.
pub type Shared = Arc<Mutex<Vec<&'static Block>>>;

/// Finds blocks by their contents, on the vCPU's side.
pub struct Registry {
    set: InstructionSet,
    known: HashMap<(u32, u16, Box<[u8]>), &'static Block>,
    shared: Shared,
}

impl Registry {
    /// No blocks.
    pub fn new(set: InstructionSet, shared: Shared) -> Self {
        Registry { set, known: HashMap::new(), shared }
    }

    /// How many blocks there are.
    pub fn len(&self) -> u32 {
        match self.shared.lock() {
            Ok(shared) => shared.len() as u32,
            Err(poisoned) => poisoned.into_inner().len() as u32,
        }
    }

    /// The block with this code at this address.
    pub fn block(&mut self, address: u32, mode: Mode, code: &[u8]) -> Result<&'static Block, DecodeError> {
        let key = (address, mode.bits(), Box::from(code));
        if let Some(block) = self.known.get(&key) {
            return Ok(block);
        }
        let decoded = Decoded::decode(self.set, address, mode, code)?;
        let mut shared = match self.shared.lock() {
            Ok(shared) => shared,
            // The encoder's thread panicked while it looked a block up, which changes nothing in the list.
            Err(poisoned) => poisoned.into_inner(),
        };
        let block: &'static Block = Box::leak(Box::new(Block::new(shared.len() as u32, decoded, code)));
        shared.push(block);
        self.known.insert(key, block);
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(words: &[u32]) -> Block {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let decoded = Decoded::decode(InstructionSet::Arm, 0x8000, Mode::default(), &code).unwrap();
        Block::new(0, decoded, &code)
    }

    #[test]
    fn the_next_address_is_known_for_plain_code_and_constant_branches() {
        assert_eq!((block(&[0xe1a0_0001]).next, block(&[0xe1a0_0001]).or_next), (0x8004, 0x8004));
        let branch = block(&[0xe1a0_0001, 0x1aff_fffd]); // bne 0x8000
        assert_eq!((branch.next, branch.or_next), (0x8000, 0x8008));
    }

    #[test]
    fn indirect_branches_and_opaque_ends_take_a_closer_look() {
        for word in [0xe12f_ff1e, 0xe8bd_8000, 0xee01_0f10] {
            assert_eq!(block(&[word]).next, NOWHERE, "{word:08x}"); // bx lr, pop {pc}, mcr
        }
        assert_eq!(block(&[0xee01_0f10, 0xe1a0_0001]).next, 0x8008);
    }
}
