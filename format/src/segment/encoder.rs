//! Turns the events of one segment's execution into its record. The recorder's encoder threads spend their time here.
//!
//! It relies on being told every event in order: a block entered, its accesses, how many of its instructions
//! started, a discontinuity. Prediction is the mirror image of what a replay does, see `SPEC.md`.
//!
//! A [`SegmentEncoder`] carries nothing of memory from one segment to the next, so several can encode different segments
//! side by side. What depends on all segments before, a segment's index, is [`Committer`]'s part.

mod accesses;
mod control;
mod definitions;
mod finished;
mod plain;

use std::collections::HashMap;
use std::sync::Arc;

pub use definitions::{
    BlockId, BlockTraits, InitialMemory, NameId, OpaqueInstruction, PackedAccess, UnknownMemory, entry_key,
};
pub use finished::{Encoded, Encoder, Finished};
pub use plain::Words;

use super::device_bytes::DeviceBytes;
use super::devices::Devices;
use super::local_memory::{CONDITIONAL, FirstSight, LocalMemory, WIDE};
use super::translations::Translations;
use super::{CHECKPOINT_BLOCKS, Head, STREAMS, Stream};
use crate::digest::Digest;
use crate::shadow::Target;
use crate::varint;

/// What the encoder can't make a segment of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The recorder has not told what is behind a page.
    #[error(
        "an access to {address:#010x}, whose page QEMU has not shown to the tracer: this is a bug in ktracer"
    )]
    Unmapped {
        /// Virtual address of the access.
        address: u32,
    },
    /// A block without a number.
    #[error("block {0} was entered before it was defined: this is a bug in ktracer")]
    UnknownBlock(u32),
}

/// What is looked at each time a block is entered: two of them in a line of the cache.
#[derive(Debug)]
struct BlockState {
    /// What the digest takes in of a block all of whose instructions started.
    digest: u64,
    /// The generation in which nothing about entering and leaving it needs a closer look: it has been entered, is the
    /// one expected at its entry point, is expected to start all of its instructions, and none of them is opaque.
    settled: u32,
    /// How many words its accesses take, if they come packed; `NOT_PACKED` if that is not known.
    packed_words: u32,
    /// How its accesses are packed: if `listed` is 0, their [`AccessKind::number`]s, four bits each, and one word stands for
    /// each. Else the first of so many entries of `kinds`.
    kinds: u64,
    listed: u16,
    instructions: u16,
}

const NOT_PACKED: u32 = u32::MAX;
/// As many kinds have room in [`BlockState::kinds`].
const SHORT: usize = 16;

/// What is looked at when a block is entered or left for the first time, or not as expected.
#[derive(Debug)]
struct BlockHistory {
    /// The generation in which it was entered.
    entered: u32,
    entry: u32,
    /// How many instructions it is expected to start.
    expected_started: u32,
}

#[derive(Debug)]
struct EntryPoint {
    generation: u32,
    /// The block that is expected here.
    expected: u32,
    blocks: Vec<u32>,
}

#[derive(Debug)]
struct OpaqueAccess {
    /// Index in the block, or `LAST` for the last instruction that started.
    index: u16,
    start: usize,
}

/// An access's instruction is the last one of the block that started: QEMU ran it again on its own.
pub const LAST_STARTED: u16 = u16::MAX;

const NO_BLOCK: u32 = u32::MAX;
const VIRTUAL_PAGES: usize = 1 << 20;
/// The physical address of a device access that is not known.
pub const UNKNOWN_PHYSICAL: u64 = u64::MAX;

/// See the [module](self).
pub struct SegmentEncoder<M> {
    initial: Arc<M>,
    memory: LocalMemory,
    generation: u32,
    blocks: Vec<BlockState>,
    history: Vec<BlockHistory>,
    traits: Vec<BlockTraits>,
    /// The accesses of blocks, see [`define_accesses`](Self::define_accesses).
    kinds: Vec<u8>,
    entries: Vec<EntryPoint>,
    entry_numbers: HashMap<u64, u32>,
    /// What is behind each virtual page as last told, in all of the recording.
    translations: Translations,
    /// What the segment has said is behind each virtual page, with the generation in which it did.
    shown: Box<[(u32, Target)]>,
    devices: Devices,
    /// What answers the next access, if that was told.
    next_device: Option<(NameId, u64)>,
    /// The translation context of the access under way.
    context: u8,

    head: Head,
    streams: [Vec<u8>; STREAMS],
    digest: Digest,
    current: u32,
    flags: u8,
    ordinal: u32,
    next_checkpoint: u32,
    next_control: u32,
    accesses: u64,
    block_first_access: u64,
    last_surprise: u64,
    opaque: Vec<OpaqueAccess>,
    opaque_bytes: Vec<u8>,
    pending: Vec<u8>,
    /// Causes of the discontinuities that followed the one in `pending`.
    further: Vec<u8>,
    /// Device writes since the last block.
    device_writes: u64,
    device_bytes: DeviceBytes,
    sights: Vec<FirstSight>,
    run: Vec<u32>,
    /// Virtual pages mapped in this segment.
    mapped: Vec<u32>,
    opaque_counts: HashMap<u32, u64>,
    discontinuities: u64,
    /// Instructions before the last translation entry.
    last_translation: u64,
    error: Option<EncodeError>,
    compressor: zstd::bulk::Compressor<'static>,
}

/// zstd's level for everything in segments: the encoder threads' time is what limits recording.
pub const COMPRESSION_LEVEL: i32 = 1;

impl<M: InitialMemory> SegmentEncoder<M> {
    /// An encoder with an empty dictionary.
    pub fn new(initial: Arc<M>) -> std::io::Result<Self> {
        Ok(SegmentEncoder {
            initial,
            memory: LocalMemory::new(),
            generation: 0,
            blocks: Vec::new(),
            history: Vec::new(),
            traits: Vec::new(),
            kinds: Vec::new(),
            entries: Vec::new(),
            entry_numbers: HashMap::new(),
            translations: Translations::default(),
            shown: vec![(0, Target::Device); VIRTUAL_PAGES].into_boxed_slice(),
            devices: Devices::default(),
            next_device: None,
            context: 0,
            head: Head::default(),
            streams: Default::default(),
            digest: Digest::default(),
            current: NO_BLOCK,
            flags: 0,
            ordinal: 0,
            next_checkpoint: CHECKPOINT_BLOCKS,
            next_control: 0,
            accesses: 0,
            block_first_access: 0,
            last_surprise: 0,
            opaque: Vec::new(),
            opaque_bytes: Vec::new(),
            pending: Vec::new(),
            further: Vec::new(),
            device_writes: 0,
            device_bytes: DeviceBytes::default(),
            sights: Vec::new(),
            run: Vec::new(),
            mapped: Vec::new(),
            opaque_counts: HashMap::new(),
            discontinuities: 0,
            last_translation: 0,
            error: None,
            compressor: zstd::bulk::Compressor::new(COMPRESSION_LEVEL)?,
        })
    }

    /// Adds a block to the dictionary; the next number is its own.
    pub fn define_block(&mut self, traits: BlockTraits) -> BlockId {
        let id = self.blocks.len() as u32;
        let key = entry_key(traits.address, traits.mode);
        let entries = &mut self.entries;
        let entry = *self.entry_numbers.entry(key).or_insert_with(|| {
            entries.push(EntryPoint { generation: 0, expected: NO_BLOCK, blocks: Vec::new() });
            (entries.len() - 1) as u32
        });
        self.entries[entry as usize].blocks.push(id);
        let instructions = u32::from(traits.instructions);
        self.blocks.push(BlockState {
            digest: Digest::of_block(traits.address, instructions),
            settled: 0,
            packed_words: NOT_PACKED,
            kinds: 0,
            listed: 0,
            instructions: traits.instructions,
        });
        self.history.push(BlockHistory { entered: 0, entry, expected_started: instructions });
        self.traits.push(traits);
        BlockId(id)
    }

    /// Tells which accesses a block makes when all of its instructions start, in their order: so they can be packed.
    pub fn define_accesses(&mut self, id: BlockId, accesses: impl Iterator<Item = PackedAccess>) {
        let Some(block) = self.blocks.get_mut(id.0 as usize).filter(|block| block.packed_words == NOT_PACKED)
        else {
            return;
        };
        let start = self.kinds.len();
        let mut words = 0;
        for access in accesses {
            words += access.words();
            let wide = if access.words() > 1 { WIDE } else { 0 };
            let conditional = if access.conditional { CONDITIONAL } else { 0 };
            self.kinds.push(access.kind.number() as u8 | wide | conditional);
        }
        let count = self.kinds.len() - start;
        block.packed_words = words as u32;
        if count <= SHORT && words == count {
            block.kinds = self.kinds.drain(start..).rev().fold(0, |kinds, kind| kinds << 4 | u64::from(kind));
        } else {
            (block.kinds, block.listed) = (start as u64, count as u16);
        }
    }

    /// How many blocks the dictionary has.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Starts a segment with all registers. Only the first `dictionary` blocks can be expected without being named.
    pub fn begin(&mut self, dictionary: u32, vcpu: u32, registers: &[u32]) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            // After four thousand million segments the old marks would look fresh again.
            self.blocks.iter_mut().for_each(|block| block.settled = 0);
            self.history.iter_mut().for_each(|history| history.entered = 0);
            self.entries.iter_mut().for_each(|entry| entry.generation = 0);
            self.shown.iter_mut().for_each(|shown| shown.0 = 0);
            self.generation = 1;
        }
        self.flags = 0;
        self.pending.clear();
        self.further.clear();
        self.device_writes = 0;
        self.device_bytes.forget();
        self.memory.begin_segment();
        for stream in &mut self.streams {
            stream.clear();
        }
        self.head = Head { vcpu, dictionary, registers: registers.to_vec(), ..Head::default() };
        self.digest = Digest::default();
        self.current = NO_BLOCK;
        self.ordinal = 0;
        self.next_checkpoint = CHECKPOINT_BLOCKS;
        self.next_control = 0;
        self.accesses = 0;
        self.last_surprise = 0;
        self.sights.clear();
        self.run.clear();
        self.mapped.clear();
        self.opaque_counts.clear();
        self.discontinuities = 0;
        self.last_translation = 0;
        self.next_device = None;
        self.error = None;
    }

    /// The address and mode of the block under way, and how many instructions it has.
    pub fn current_block(&self) -> Option<BlockId> {
        (self.current != NO_BLOCK).then_some(BlockId(self.current))
    }

    /// Registers after an opaque instruction, those that it may have written: CPSR comes first if it is among them (which
    /// others are can depend on it), then r0 to r15 in rising order. It can be called for one or some at a time.
    pub fn opaque_results(&mut self, values: &[u32]) {
        let stream = &mut self.streams[Stream::Results as usize];
        for value in values {
            stream.extend(value.to_le_bytes());
        }
    }

    /// After `index` instructions of the block under way (or before the segment's first block), what governs translation is
    /// this, in the machine's words: at most [`TRANSLATION_LIMIT`](super::TRANSLATION_LIMIT) values.
    pub fn translation(&mut self, index: u32, values: &[u64]) {
        let instructions = self.head.instructions + u64::from(index);
        let stream = &mut self.streams[Stream::Translation as usize];
        varint::write(stream, instructions - self.last_translation);
        self.last_translation = instructions;
        stream.push(values.len() as u8);
        for value in values {
            stream.extend(value.to_le_bytes());
        }
    }

    /// Instructions in the segment so far, without the block under way.
    pub fn instructions(&self) -> u64 {
        self.head.instructions
    }

    /// Bytes that the segment's streams have so far, before compression.
    pub fn stream_bytes(&self) -> usize {
        self.streams.iter().map(Vec::len).sum()
    }
}
