//! What all replays of one trace share: the trace, the initial memory, and the decoded blocks.

use std::path::Path;
use std::sync::OnceLock;

use ktrace_format::header::{self, Architecture, ByteOrder, Header};
use ktrace_format::memory::Image;
use ktrace_format::segment::Head;
use ktrace_format::segment::encoder::entry_key;
use ktrace_format::{Trace, TraceError};
use ktrace_machine::{self as machine, Block, InstructionSet, Mode};

/// A trace that is ready to be replayed. It is shared between threads.
#[derive(Debug)]
pub struct Program {
    trace: Trace,
    instruction_set: InstructionSet,
    image: Option<Image>,
    decoded: Box<[OnceLock<Option<Block>>]>,
    /// For each block the number of its entry point.
    entries: Box<[u32]>,
    entry_blocks: Vec<EntryPoint>,
}

/// An address and mode at which blocks begin.
#[derive(Debug)]
pub struct EntryPoint {
    key: u64,
    /// Numbers of the blocks, rising.
    blocks: Box<[u32]>,
}

const NO_ENTRY: u32 = u32::MAX;

/// What the guest of a trace executes, or what it is that can't be replayed.
fn instruction_set(header: &Header) -> Result<InstructionSet, &'static str> {
    match (header.arch, header.byte_order) {
        (Architecture::Arm, ByteOrder::Little) => Ok(InstructionSet::Arm),
        (Architecture::Arm, ByteOrder::Big) => Err("a big-endian ARM guest"),
        (Architecture::Mips, ByteOrder::Little) => Ok(InstructionSet::mips(machine::ByteOrder::Little)),
        (Architecture::Mips, ByteOrder::Big) => Ok(InstructionSet::mips(machine::ByteOrder::Big)),
    }
}

impl Program {
    /// Opens the trace in a directory and its initial memory, if that was captured.
    pub fn open(directory: &Path) -> Result<Program, TraceError> {
        let trace = Trace::open(directory)?;
        let unsupported = |what| TraceError::Unsupported { path: trace.path().to_owned(), what };
        let mut instruction_set = instruction_set(trace.header()).map_err(unsupported)?;
        if let Some(block) = (0..trace.block_count()).find_map(|id| trace.block(id as u32)) {
            instruction_set = instruction_set.with_properties_of(Mode::from_bits(block.mode));
        }
        let image = Image::open(directory).ok();
        let mut entry_blocks: Vec<EntryPoint> = Vec::new();
        let mut entries = vec![NO_ENTRY; trace.block_count()].into_boxed_slice();
        for id in 0..trace.block_count() {
            let Some(block) = trace.block(id as u32) else { continue };
            let key = entry_key(block.address, block.mode);
            let blocks = trace.blocks_at(key);
            // The first block of an entry point makes its entry; the others are in its list.
            if blocks.first() == Some(&(id as u32)) {
                for &block in blocks {
                    if let Some(entry) = entries.get_mut(block as usize) {
                        *entry = entry_blocks.len() as u32;
                    }
                }
                entry_blocks.push(EntryPoint { key, blocks: blocks.into() });
            }
        }
        let decoded = (0..trace.block_count()).map(|_| OnceLock::new()).collect();
        Ok(Program { trace, instruction_set, image, decoded, entries, entry_blocks })
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What the guest executes.
    pub fn instruction_set(&self) -> InstructionSet {
        self.instruction_set
    }

    /// It has registers where blocks begin and nothing else: see *Imported recordings* in `SPEC.md`.
    pub fn is_imported(&self) -> bool {
        self.trace.header().path == header::Path::Original
    }

    /// The memory before the first instruction, if it was captured.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }

    /// A block, decoded; `None` if the trace has no such block or its code can't be one.
    #[inline]
    pub fn block(&self, id: u32) -> Option<&Block> {
        self.decoded.get(id as usize)?.get_or_init(|| self.decode(id)).as_ref()
    }

    #[cold]
    fn decode(&self, id: u32) -> Option<Block> {
        let entry = self.trace.block(id)?;
        let mode = Mode::from_bits(entry.mode);
        let decode = if self.is_imported() { Block::decode_with_dependencies } else { Block::decode };
        decode(self.instruction_set, entry.address, mode, self.trace.code(entry)).ok()
    }

    /// How many entry points there are.
    pub fn entry_count(&self) -> usize {
        self.entry_blocks.len()
    }

    /// The number of a block's entry point.
    pub fn entry_of(&self, block: u32) -> Option<u32> {
        self.entries.get(block as usize).copied().filter(|entry| *entry != NO_ENTRY)
    }

    /// The number of the entry point with a key, see [`entry_key`].
    pub fn entry_with(&self, key: u64) -> Option<u32> {
        self.entry_of(*self.trace.blocks_at(key).first()?)
    }

    /// The key of an entry point.
    pub fn entry_key(&self, entry: u32) -> Option<u64> {
        self.entry_blocks.get(entry as usize).map(|entry| entry.key)
    }

    /// The newest block that a segment may expect somewhere and whose record is lost: where an older one seems to be
    /// expected, that may be wrong.
    pub fn newest_lost(&self, head: &Head) -> Option<u32> {
        let lost = self.trace.newest_lost_block(head.dictionary)?;
        // The index, if it can be read, says which blocks ran.
        let mut segments = self.trace.segments().iter();
        let segment =
            segments.find(|entry| (entry.first, entry.instructions) == (head.first, head.instructions));
        match segment.and_then(|entry| self.trace.read_index(entry).ok()??.index().ok()) {
            Some(index) => {
                let expected = |id: &u32| *id < head.dictionary && self.trace.block(*id).is_none();
                index.blocks.into_iter().rev().find(expected)
            }
            None => Some(lost),
        }
    }

    /// The block that is expected at an entry point where none has run in a segment that began when the dictionary
    /// had `dictionary` blocks.
    pub fn first_expected(&self, entry: u32, dictionary: u32) -> Option<u32> {
        let blocks = &self.entry_blocks.get(entry as usize)?.blocks;
        blocks.iter().rev().copied().find(|&id| id < dictionary)
    }
}
