//! Turns the events of one segment's execution into its record. The recorder's encoder threads spend their time here.
//!
//! It relies on being told every event in order: a block entered, its accesses, how many of its instructions
//! started, a discontinuity. Prediction is the mirror image of what a replay does, see `SPEC.md`.
//!
//! A [`SegmentEncoder`] carries nothing of memory from one segment to the next, so several can encode different segments
//! side by side. What depends on all segments before, a segment's index, is [`Committer`]'s part.

mod accesses;

use std::collections::HashMap;
use std::sync::Arc;

use super::commit::Committer;
use super::device_bytes::DeviceBytes;
use super::devices::Devices;
use super::local_memory::{AccessKind, CONDITIONAL, FirstSight, LocalMemory, WIDE, memory_order};
use super::pool::Pool;
use super::translations::Translations;
use super::{CHECKPOINT_BLOCKS, FLAG_OPEN_END, Head, STREAMS, Stream, control, write_payload};
use crate::digest::Digest;
use crate::shadow::{PAGE_BYTES, Target, mask_of_bytes};
use crate::varint;

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
/// So many words ahead of the present ones are fetched into the cache: they were written by another core.
const AHEAD: usize = 64;
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

/// An encoded segment, before its place in the recording is known.
#[derive(Debug, Default)]
pub struct Encoded {
    /// The segment record's payload; the position of the first instruction in it is 0.
    pub(super) payload: Vec<u8>,
    pub(super) head: Head,
    pub(super) discontinuities: u64,
    /// Blocks that were entered, rising.
    pub(super) run: Vec<u32>,
    /// What was behind the virtual pages that were accessed, by rising page.
    pub(super) mapped: Vec<(u32, Target)>,
    pub(super) opaque_counts: HashMap<u32, u64>,
    pub(super) pages: Pool,
    pub(super) sights: Vec<FirstSight>,
    pub(super) device_bytes: DeviceBytes,
}

impl Encoded {
    /// What the segment says of itself; the position of its first instruction is not known yet.
    pub fn head(&self) -> &Head {
        &self.head
    }
}

/// A finished segment with its index, ready to be written as two records.
#[derive(Debug, Default)]
pub struct Finished {
    /// The segment record's payload.
    pub segment: Vec<u8>,
    /// The index record's payload.
    pub index: Vec<u8>,
    /// A copy of the segment's head.
    pub head: Head,
    /// Discontinuities in it.
    pub discontinuities: u64,
}

/// How the words of [`SegmentEncoder::plain_events`] are understood.
pub trait Words {
    /// Values are numbers of a big-endian guest, of which the lowest address holds the most significant byte. Else it holds
    /// the least significant one.
    const BIG_ENDIAN: bool;
    /// The block that was entered after all instructions of the one before had started, and whose accesses, if it makes any,
    /// follow in words of their own.
    fn whole_block(&self, word: u64) -> Option<u32>;
    /// The [`AccessKind::number`] of an access by a modelled instruction, if this is the first word of one. It has the
    /// virtual address in bits 0 to 31. A second word has the value, of which bits above the size mean nothing.
    fn access(&self, word: u64) -> Option<usize>;
    /// The block that was entered, whose accesses follow packed: one word for each that
    /// [`define_accesses`](SegmentEncoder::define_accesses) has told, with the virtual address in bits 0 to 31 and the value
    /// above. If the access is of 8 bytes or conditional, bits 32 to 63 are 0 if it did not happen, and a second word has
    /// the value. All instructions of the block have started if another block follows at once.
    fn packed_block(&self, word: u64) -> Option<u32>;
    /// Whether it is the first word of a block, in whatever form or context.
    fn enters_block(&self, word: u64) -> bool;
    /// The number of the block, if it is one's first word. Anything else is as good: it only says what is looked at next.
    fn block_ahead(&self, word: u64) -> u32 {
        word as u32
    }
    /// Has the processor fetch this into its cache.
    fn prefetch<T>(&self, _: &T) {}
}

/// How far [`SegmentEncoder::plain_events`] has got: words, and words of the packed accesses of the block there.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    word: usize,
    packed: usize,
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

    /// A block was entered. The one before it must have ended.
    #[inline(always)]
    pub fn enter_block(&mut self, id: BlockId) {
        if self.ordinal == self.next_checkpoint {
            self.checkpoint();
        }
        self.current = id.0;
        self.block_first_access = self.accesses;
        if self.blocks.get(id.0 as usize).is_none_or(|block| block.settled != self.generation) {
            self.enter_slowly(id.0);
        }
    }

    #[cold]
    #[inline(never)]
    fn checkpoint(&mut self) {
        self.next_checkpoint += CHECKPOINT_BLOCKS;
        self.streams[Stream::Checkpoints as usize].extend(self.digest.0.to_le_bytes());
    }

    #[inline(never)]
    fn enter_slowly(&mut self, id: u32) {
        let (Some(block), Some(history)) = (self.blocks.get(id as usize), self.history.get_mut(id as usize))
        else {
            self.error.get_or_insert(EncodeError::UnknownBlock(id));
            self.current = NO_BLOCK;
            return;
        };
        if history.entered != self.generation {
            history.entered = self.generation;
            history.expected_started = u32::from(block.instructions);
            self.run.push(id);
        }
        let entry = &mut self.entries[history.entry as usize];
        if entry.generation != self.generation {
            entry.generation = self.generation;
            let known = self.head.dictionary;
            entry.expected = entry.blocks.iter().rev().copied().find(|&id| id < known).unwrap_or(NO_BLOCK);
        }
        let expected = std::mem::replace(&mut entry.expected, id);
        if expected != id {
            self.flags |= control::BLOCK;
            if let Some(other) = self.blocks.get_mut(expected as usize) {
                other.settled = 0;
            }
        }
        self.settle(id);
    }

    /// Notes whether the block needs no closer look from now on.
    fn settle(&mut self, id: u32) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        let expected = self.history.get(id as usize).map(|history| history.expected_started);
        let is_plain = expected == Some(u32::from(block.instructions))
            && self.traits.get(id as usize).is_some_and(|traits| traits.opaque.is_empty());
        block.settled = if is_plain { self.generation } else { 0 };
    }

    /// The block under way has ended, and all of its instructions had started.
    #[inline(always)]
    pub fn end_whole_block(&mut self) {
        let Some(block) = self.blocks.get(self.current as usize) else { return };
        if block.settled == self.generation && self.flags == 0 {
            self.digest.mix(block.digest);
            self.head.instructions += u64::from(block.instructions);
            self.ordinal += 1;
            self.current = NO_BLOCK;
        } else {
            let instructions = block.instructions;
            self.end_block(u32::from(instructions));
        }
    }

    /// Takes blocks and accesses that need no closer look, from words that [`Words`] understands: those of whole blocks, of
    /// accesses by modelled instructions in `context`, and of blocks in it whose accesses are packed. Stops at the first
    /// word that is none of these, or that is to be told with other functions. Returns how many words were taken.
    #[inline(always)]
    pub fn plain_events<W: Words>(&mut self, context: u8, words: &[u64], understood: &W) -> usize {
        let mut at = Place::default();
        while let Some((address, kind, value)) = self.plain_run(context, words, understood, &mut at) {
            let kind = AccessKind::from_number(kind);
            let value = memory_order(W::BIG_ENDIAN, value, kind.number());
            self.access(context, address, kind, value & mask_of_bytes(1 << kind.size));
        }
        at.word
    }

    /// As [`plain_events`](Self::plain_events), up to an access that takes a closer look: its address, kind and value.
    #[inline(always)]
    fn plain_run<W: Words>(
        &mut self,
        context: u8,
        words: &[u64],
        understood: &W,
        place: &mut Place,
    ) -> Option<(u32, usize, u64)> {
        let generation = self.generation;
        let settled = self.blocks.get(self.current as usize).filter(|block| block.settled == generation);
        let mut now = settled.filter(|_| self.flags == 0)?;
        let values = &mut self.streams[Stream::Values as usize];
        let mut view = self.memory.view(context, &mut self.sights, values)?;
        let (mut digest, mut instructions) = (self.digest, self.head.instructions);
        let (mut ordinal, mut current) = (self.ordinal, self.current);
        let (mut accesses, mut first_access) = (self.accesses, self.block_first_access);
        let last = self.next_checkpoint - 1;
        let (mut at, mut done) = (place.word, place.packed);
        let mut unforeseen = None;
        macro_rules! enter {
            ($id:expr, $next:expr) => {
                if $next.settled != generation || ordinal == last {
                    break;
                }
                digest.mix(now.digest);
                instructions += u64::from(now.instructions);
                ordinal += 1;
                (now, current, first_access) = ($next, $id, accesses);
            };
        }
        while let Some(&first) = words.get(at) {
            if let Some(id) = understood.packed_block(first) {
                let Some(next) = self.blocks.get(id as usize) else { break };
                let end = at + 1 + next.packed_words as usize;
                // All of it happened if the next block follows at once.
                let Some(&following) = words.get(end) else { break };
                if !understood.enters_block(following) {
                    break;
                }
                if let Some(ahead) = self.blocks.get(understood.block_ahead(following) as usize) {
                    understood.prefetch(ahead);
                }
                if let Some(ahead) = words.get(end + AHEAD) {
                    understood.prefetch(ahead);
                }
                let Some(record) = words.get(at + 1..end) else { break };
                if done == 0 {
                    enter!(id, next);
                }
                if record.is_empty() {
                } else if next.listed == 0 {
                    let (made, now) = view.accesses(W::BIG_ENDIAN, record, next.kinds, done, digest);
                    digest = now;
                    accesses += (made - done) as u64;
                    if let Some(word) = record.get(made) {
                        let kind = (next.kinds >> (4 * made % 64)) as usize % 16;
                        (done, unforeseen) = (made + 1, Some((*word as u32, kind, word >> 32)));
                        accesses += 1;
                        break;
                    }
                } else {
                    let start = next.kinds as usize;
                    let Some(kinds) = self.kinds.get(start..start + usize::from(next.listed)) else { break };
                    let made = view.listed_accesses(W::BIG_ENDIAN, record, kinds, done, &mut digest);
                    accesses += made.happened;
                    if let Some(access) = made.unforeseen {
                        (done, unforeseen) = (made.words, Some(access));
                        accesses += 1;
                        break;
                    }
                }
                done = 0;
                at = end;
            } else if let Some(kind) = understood.access(first) {
                let Some(&value) = words.get(at + 1) else { break };
                accesses += 1;
                at += 2;
                let stored = memory_order(W::BIG_ENDIAN, value, kind);
                if !view.access(first as u32, kind, stored, &mut digest) {
                    unforeseen = Some((first as u32, kind, value));
                    break;
                }
            } else if let Some(id) = understood.whole_block(first) {
                let Some(next) = self.blocks.get(id as usize) else { break };
                enter!(id, next);
                at += 1;
            } else {
                break;
            }
        }
        *place = Place { word: at, packed: done };
        (self.digest, self.head.instructions) = (digest, instructions);
        (self.ordinal, self.current) = (ordinal, current);
        // The one that takes a closer look is counted there.
        (self.accesses, self.block_first_access) = (accesses - u64::from(unforeseen.is_some()), first_access);
        unforeseen
    }

    /// The block under way has ended after `started` of its instructions had started.
    #[inline(never)]
    pub fn end_block(&mut self, started: u32) {
        let current = self.current;
        let Some(history) = self.history.get_mut(current as usize) else { return };
        let Some(traits) = self.traits.get(current as usize) else { return };
        self.digest.block(traits.address, started);
        self.head.instructions += u64::from(started);
        if history.expected_started != started {
            history.expected_started = started;
            self.flags |= control::STARTED;
            self.settle(current);
        }
        if self.traits.get(current as usize).is_some_and(|traits| !traits.opaque.is_empty()) {
            self.end_opaque(started);
        }
        if self.flags != 0 {
            self.write_control(started);
        }
        self.ordinal += 1;
        self.current = NO_BLOCK;
    }

    /// The address and mode of the block under way, and how many instructions it has.
    pub fn current_block(&self) -> Option<BlockId> {
        (self.current != NO_BLOCK).then_some(BlockId(self.current))
    }

    /// The block under way was followed by a discontinuity: `cause` as `SPEC.md` defines, all registers after it.
    /// To be told before [`end_block`](Self::end_block).
    pub fn discontinuity(&mut self, cause: u8, registers: &[u32]) {
        self.flags |= control::DISCONTINUITY;
        self.discontinuities += 1;
        self.pending.push(cause);
        varint::write(&mut self.pending, self.accesses - self.block_first_access);
        let keyframes = &mut self.streams[Stream::Keyframes as usize];
        for register in registers {
            keyframes.extend(register.to_le_bytes());
        }
    }

    /// Another discontinuity followed the one just told, with no instruction between: `registers` there are those after the
    /// last one. At most 255 of them have room; what comes after is left out.
    pub fn further_discontinuity(&mut self, cause: u8) {
        if self.flags & control::DISCONTINUITY != 0 && self.further.len() < usize::from(u8::MAX) {
            self.flags |= control::FURTHER;
            self.discontinuities += 1;
            self.further.push(cause);
        }
    }

    fn write_control(&mut self, started: u32) {
        let stream = &mut self.streams[Stream::Control as usize];
        varint::write(stream, u64::from(self.ordinal - self.next_control));
        stream.push(self.flags);
        if self.flags & control::BLOCK != 0 {
            varint::write(stream, u64::from(self.current));
        }
        if self.flags & control::STARTED != 0 {
            varint::write(stream, u64::from(started));
        }
        stream.append(&mut self.pending);
        if self.flags & control::FURTHER != 0 {
            stream.push(self.further.len() as u8);
            stream.append(&mut self.further);
        }
        if self.flags & control::DEVICE_WRITES != 0 {
            varint::write(stream, self.device_writes);
            self.device_writes = 0;
        }
        self.next_control = self.ordinal + 1;
        self.flags = 0;
    }

    fn end_opaque(&mut self, started: u32) {
        let Some(traits) = self.traits.get(self.current as usize) else { return };
        let stream = &mut self.streams[Stream::OpaqueAccesses as usize];
        let mut accesses = self.opaque.drain(..).peekable();
        for instruction in traits.opaque.iter().take_while(|opaque| u32::from(opaque.index) < started) {
            *self.opaque_counts.entry(instruction.name.0).or_default() += 1;
            if !instruction.memory {
                continue;
            }
            let last = u32::from(instruction.index) + 1 == started;
            let (mut count, mut end, start) =
                (0, None, accesses.peek().map_or(self.opaque_bytes.len(), |access| access.start));
            while let Some(access) = accesses
                .next_if(|access| access.index == instruction.index || (last && access.index == LAST_STARTED))
            {
                let _ = access;
                count += 1;
                end = Some(accesses.peek().map_or(self.opaque_bytes.len(), |next| next.start));
            }
            varint::write(stream, count);
            stream.extend(self.opaque_bytes.get(start..end.unwrap_or(start)).unwrap_or_default());
        }
        drop(accesses);
        self.opaque_bytes.clear();
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

    /// Ends the segment. With `open_end` the last instruction may not have completed.
    pub fn finish(&mut self, open_end: bool, into: &mut Encoded) -> std::io::Result<()> {
        if let Some(error) = self.error.take() {
            return Err(std::io::Error::other(error));
        }
        if self.device_writes > 0 {
            // An entry of its own, behind the last block.
            self.flags = control::DEVICE_WRITES;
            self.write_control(0);
        }
        self.streams[Stream::Checkpoints as usize].extend(self.digest.0.to_le_bytes());
        self.head.blocks = self.ordinal;
        self.head.accesses = self.accesses;
        self.head.flags = if open_end { FLAG_OPEN_END } else { 0 };
        write_payload(&self.head, &self.streams, &mut self.compressor, &mut into.payload)?;
        self.run.sort_unstable();
        self.mapped.sort_unstable();
        into.mapped.clear();
        for at in 0..self.mapped.len() {
            let page = self.mapped[at];
            // What accesses met. Should it have changed since the last of them, that is for the segment that sees it.
            into.mapped.push((page, self.shown[page as usize % VIRTUAL_PAGES].1));
        }
        std::mem::swap(&mut self.run, &mut into.run);
        std::mem::swap(&mut self.opaque_counts, &mut into.opaque_counts);
        std::mem::swap(&mut self.sights, &mut into.sights);
        std::mem::swap(&mut self.device_bytes, &mut into.device_bytes);
        self.memory.exchange(&mut into.pages);
        into.head.clone_from(&self.head);
        into.discontinuities = self.discontinuities;
        Ok(())
    }
}

/// A [`SegmentEncoder`] and its [`Committer`], for one segment after the other.
pub struct Encoder<M> {
    segment: SegmentEncoder<M>,
    committer: Committer<M>,
    encoded: Encoded,
    first: u64,
}

impl<M: InitialMemory> Encoder<M> {
    /// An encoder with an empty dictionary.
    pub fn new(memory: M) -> std::io::Result<Self> {
        let memory = Arc::new(memory);
        Ok(Encoder {
            segment: SegmentEncoder::new(Arc::clone(&memory))?,
            committer: Committer::new(memory)?,
            encoded: Encoded::default(),
            first: 0,
        })
    }

    /// Starts a segment at position `first` with all registers. Blocks entered so far must have ended.
    pub fn begin_segment(&mut self, first: u64, vcpu: u32, registers: &[u32]) {
        self.first = first;
        let dictionary = self.segment.block_count() as u32;
        self.segment.begin(dictionary, vcpu, registers);
    }

    /// Ends the segment. With `open_end` the last instruction may not have completed.
    pub fn finish_segment(&mut self, open_end: bool, into: &mut Finished) -> std::io::Result<()> {
        self.segment.finish(open_end, &mut self.encoded)?;
        self.committer.commit(self.first, &mut self.encoded, into)
    }
}

impl<M> std::ops::Deref for Encoder<M> {
    type Target = SegmentEncoder<M>;

    fn deref(&self) -> &Self::Target {
        &self.segment
    }
}

impl<M> std::ops::DerefMut for Encoder<M> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.segment
    }
}

/// The key of an entry point: blocks with the same one can stand for each other.
pub fn entry_key(address: u32, mode: u16) -> u64 {
    u64::from(address) | u64::from(mode) << 32
}
