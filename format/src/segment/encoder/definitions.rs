//! What an encoder is told before the events: blocks, their accesses, and memory before the first instruction.

use crate::segment::local_memory::AccessKind;
use crate::shadow::PAGE_BYTES;

/// A block's number in the dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// A string's number in the trace: a device's or a mnemonic's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(pub u32);

/// One opaque instruction of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpaqueInstruction {
    /// Which instruction of the block it is.
    pub index: u16,
    /// It may access memory: the trace says, each time it ran, which accesses it made.
    pub memory: bool,
    /// Its mnemonic, for the counts.
    pub name: NameId,
}

/// What the encoder must know of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockTraits {
    /// Virtual address of the first instruction.
    pub address: u32,
    /// The processor's mode, see `SPEC.md`.
    pub mode: u16,
    /// How many instructions it has: at least one.
    pub instructions: u16,
    /// Those that are opaque, in rising order.
    pub opaque: Box<[OpaqueInstruction]>,
}

/// An access of a block whose accesses come packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedAccess {
    /// How it is made.
    pub kind: AccessKind,
    /// It may not happen though all instructions of the block start.
    pub conditional: bool,
}

impl PackedAccess {
    /// How many words stand for it.
    pub fn words(self) -> usize {
        if self.kind.size == 3 || self.conditional { 2 } else { 1 }
    }
}

/// The key of an entry point: blocks with the same one can stand for each other.
pub fn entry_key(address: u32, mode: u16) -> u64 {
    u64::from(address) | u64::from(mode) << 32
}

/// What is known of memory before the first instruction.
pub trait InitialMemory: Send + Sync {
    /// Fills `data` with the bytes of physical page `page` and sets a bit of `known` (one word a 64-byte line) for
    /// each that is known.
    fn fill(&self, page: u64, data: &mut [u8; PAGE_BYTES], known: &mut [u64; 64]);
    /// Whether the page is read-only memory, in which stores are dropped.
    fn is_read_only(&self, page: u64) -> bool;
    /// The one physical page number by which memory that shows at several is known.
    fn canonical(&self, page: u64) -> u64;
}

/// No initial memory was captured: nothing is known of any page.
#[derive(Debug, Default)]
pub struct UnknownMemory;

impl InitialMemory for UnknownMemory {
    fn fill(&self, _: u64, _: &mut [u8; PAGE_BYTES], _: &mut [u64; 64]) {}

    fn is_read_only(&self, _: u64) -> bool {
        false
    }

    fn canonical(&self, page: u64) -> u64 {
        page
    }
}
