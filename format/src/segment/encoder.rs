//! Turns the events of an execution into segments. The recorder's encoder thread spends its time here.
//!
//! It relies on being told every event in order: a block entered, its accesses, how many of its instructions
//! started, a discontinuity. Prediction is the mirror image of what a replay does, see `SPEC.md`.

use std::collections::{HashMap, HashSet};

use super::device_bytes::DeviceBytes;
use super::index::IndexWriter;
use super::target::write_target;
use super::{
    CHECKPOINT_BLOCKS, FLAG_OPEN_END, Head, STREAMS, Stream, access, control, surprise, write_payload,
};
use crate::digest::Digest;
use crate::shadow::{Behaviour, Mapping, PAGE_BYTES, Page, Shadow, Target, known_bits, within_line};
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

/// What is known of memory before the first instruction; fills pages that the recording meets for the first time.
pub trait InitialMemory {
    /// Fills `data` with the bytes of physical page `page` and sets a bit of `known` (one word a 64-byte line) for
    /// each that is known. Returns whether the page is read-only memory, in which stores are dropped.
    fn fill(&mut self, page: u64, data: &mut [u8; PAGE_BYTES], known: &mut [u64; 64]) -> bool;
    /// The one physical page number by which memory that shows at several is known.
    fn canonical(&mut self, page: u64) -> u64;
}

/// No initial memory was captured: nothing is known of any page.
#[derive(Debug, Default)]
pub struct UnknownMemory;

impl InitialMemory for UnknownMemory {
    fn fill(&mut self, _: u64, _: &mut [u8; PAGE_BYTES], _: &mut [u64; 64]) -> bool {
        false
    }

    fn canonical(&mut self, page: u64) -> u64 {
        page
    }
}

#[derive(Debug)]
struct BlockState {
    traits: BlockTraits,
    entry: u32,
    generation: u32,
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

/// See the [module](self).
pub struct Encoder<M> {
    memory: M,
    shadow: Shadow,
    generation: u32,
    blocks: Vec<BlockState>,
    entries: Vec<EntryPoint>,
    entry_numbers: HashMap<u64, u32>,
    /// What is behind each virtual page as last told, in all of the recording; `None` if never told.
    targets: Box<[Option<Target>]>,
    read_only: HashSet<u64>,
    canonical: HashMap<u64, u64>,
    /// Pages mapped in this segment whose mapping has changed since.
    remapped: HashSet<u32>,

    head: Head,
    streams: [Vec<u8>; STREAMS],
    digest: Digest,
    current: u32,
    flags: u8,
    ordinal: u32,
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
    run: Vec<u32>,
    /// Virtual pages mapped in this segment.
    mapped: Vec<u32>,
    opaque_counts: HashMap<u32, u64>,
    discontinuities: u64,
    /// Instructions before the last translation entry.
    last_translation: u64,
    compressor: zstd::bulk::Compressor<'static>,
    index: IndexWriter,
}

/// zstd's level for everything in segments: the encoder thread's time is what limits recording.
pub const COMPRESSION_LEVEL: i32 = 1;

impl<M: InitialMemory> Encoder<M> {
    /// An encoder with an empty dictionary.
    pub fn new(memory: M) -> std::io::Result<Self> {
        Ok(Encoder {
            memory,
            shadow: Shadow::new(usize::MAX),
            generation: 0,
            blocks: Vec::new(),
            entries: Vec::new(),
            entry_numbers: HashMap::new(),
            targets: vec![None; VIRTUAL_PAGES].into_boxed_slice(),
            read_only: HashSet::new(),
            canonical: HashMap::new(),
            remapped: HashSet::new(),
            head: Head::default(),
            streams: Default::default(),
            digest: Digest::default(),
            current: NO_BLOCK,
            flags: 0,
            ordinal: 0,
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
            run: Vec::new(),
            mapped: Vec::new(),
            opaque_counts: HashMap::new(),
            discontinuities: 0,
            last_translation: 0,
            compressor: zstd::bulk::Compressor::new(COMPRESSION_LEVEL)?,
            index: IndexWriter::new()?,
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
        let expected_started = u32::from(traits.instructions);
        self.blocks.push(BlockState { traits, entry, generation: 0, expected_started });
        BlockId(id)
    }

    /// Starts a segment at position `first` with all registers. Blocks entered so far must have ended.
    pub fn begin_segment(&mut self, first: u64, vcpu: u32, registers: &[u32]) {
        self.generation += 1;
        self.flags = 0;
        self.pending.clear();
        self.further.clear();
        self.device_writes = 0;
        self.device_bytes.forget();
        self.shadow.begin_segment();
        self.remapped.clear();
        for stream in &mut self.streams {
            stream.clear();
        }
        self.head = Head {
            first,
            vcpu,
            dictionary: self.blocks.len() as u32,
            registers: registers.to_vec(),
            ..Head::default()
        };
        self.digest = Digest::default();
        self.current = NO_BLOCK;
        self.ordinal = 0;
        self.next_control = 0;
        self.accesses = 0;
        self.last_surprise = 0;
        self.run.clear();
        self.mapped.clear();
        self.opaque_counts.clear();
        self.discontinuities = 0;
        self.last_translation = 0;
    }

    /// A block was entered. The one before it must have ended.
    #[inline]
    pub fn enter_block(&mut self, id: BlockId) {
        if self.ordinal % CHECKPOINT_BLOCKS == 0 && self.ordinal > 0 {
            self.streams[Stream::Checkpoints as usize].extend(self.digest.0.to_le_bytes());
        }
        self.current = id.0;
        self.block_first_access = self.accesses;
        let block = &mut self.blocks[id.0 as usize];
        if block.generation != self.generation {
            block.generation = self.generation;
            block.expected_started = u32::from(block.traits.instructions);
            self.run.push(id.0);
        }
        let entry = &mut self.entries[block.entry as usize];
        if entry.generation != self.generation {
            entry.generation = self.generation;
            let known = self.head.dictionary;
            entry.expected = entry.blocks.iter().rev().copied().find(|&id| id < known).unwrap_or(NO_BLOCK);
        }
        if entry.expected != id.0 {
            entry.expected = id.0;
            self.flags |= control::BLOCK;
        }
    }

    /// The block under way has ended after `started` of its instructions had started.
    #[inline]
    pub fn end_block(&mut self, started: u32) {
        let Some(block) = self.blocks.get_mut(self.current as usize) else { return };
        self.digest.block(block.traits.address, started);
        self.head.instructions += u64::from(started);
        if block.expected_started != started {
            block.expected_started = started;
            self.flags |= control::STARTED;
        }
        if !block.traits.opaque.is_empty() {
            self.end_opaque(started);
        }
        if self.device_writes > 0 {
            self.flags |= control::DEVICE_WRITES;
        }
        if self.flags != 0 {
            self.write_control(started);
        }
        self.ordinal += 1;
        self.current = NO_BLOCK;
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
        let Some(block) = self.blocks.get(self.current as usize) else { return };
        let stream = &mut self.streams[Stream::OpaqueAccesses as usize];
        let mut accesses = self.opaque.drain(..).peekable();
        for instruction in block.traits.opaque.iter().take_while(|opaque| u32::from(opaque.index) < started) {
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

    /// A device wrote `bytes` to memory at a physical address: to be told between two blocks, or at either end of the
    /// segment.
    pub fn device_write(&mut self, physical: u64, bytes: &[u8]) {
        // A run of pages that follow one another is one write: its canonical address, its first byte, its length.
        let mut run: Option<(u64, usize, usize)> = None;
        let mut done = 0;
        while let Some(here) = physical.checked_add(done as u64).filter(|_| done < bytes.len()) {
            let offset = here as usize % PAGE_BYTES;
            let length = (PAGE_BYTES - offset).min(bytes.len() - done);
            let page = self.canonical_page(here / PAGE_BYTES as u64);
            let address = page * PAGE_BYTES as u64 + offset as u64;
            self.device_write_page(page, offset, &bytes[done..done + length]);
            run = match run {
                Some((start, from, before)) if start + before as u64 == address => {
                    Some((start, from, before + length))
                }
                other => {
                    self.note_device_write(other, bytes);
                    Some((address, done, length))
                }
            };
            done += length;
        }
        self.note_device_write(run, bytes);
    }

    fn device_write_page(&mut self, number: u64, offset: usize, bytes: &[u8]) {
        let (memory, read_only) = (&mut self.memory, &mut self.read_only);
        let key = self.shadow.touch(number, |page: &mut Page| {
            if memory.fill(page.number, &mut page.data, &mut page.ever) {
                read_only.insert(page.number);
            }
        });
        let page = self.shadow.page_at_mut(key);
        page.data[offset..offset + bytes.len()].copy_from_slice(bytes);
        for at in offset..offset + bytes.len() {
            page.known[at / 64] |= 1 << (at % 64);
            page.ever[at / 64] |= 1 << (at % 64);
            page.written |= 1 << (at / 64);
        }
        self.device_bytes.written(number, offset, bytes.len());
    }

    fn note_device_write(&mut self, run: Option<(u64, usize, usize)>, bytes: &[u8]) {
        let Some((physical, from, length)) = run else { return };
        let stream = &mut self.streams[Stream::DeviceWrites as usize];
        varint::write(stream, physical);
        varint::write(stream, length as u64);
        stream.extend(&bytes[from..from + length]);
        self.device_writes += 1;
    }

    fn canonical_page(&mut self, page: u64) -> u64 {
        let memory = &mut self.memory;
        *self.canonical.entry(page).or_insert_with(|| memory.canonical(page))
    }

    /// What is behind the virtual page of `address` is `target` from the next access on.
    pub fn map(&mut self, address: u32, target: Target) {
        let target = match target.physical_page() {
            None => target,
            Some(page) => Target::Ram(self.canonical_page(page)),
        };
        let slot = &mut self.targets[(address >> 12) as usize & (VIRTUAL_PAGES - 1)];
        if *slot != Some(target) {
            *slot = Some(target);
            if self.shadow.mapping(address).is_some() {
                self.remapped.insert(address >> 12);
                self.shadow.unmap(address);
            }
        }
    }

    #[inline]
    fn mapping(&mut self, address: u32) -> Mapping {
        match self.shadow.mapping(address) {
            Some(mapping) => mapping,
            None => self.mapping_slowly(address),
        }
    }

    /// The mappings of an access's first and last byte. Pages that changed are named before those that are new: a
    /// replay meets them in this order.
    fn mappings(&mut self, address: u32, bytes: usize) -> [Mapping; 2] {
        let last = address.wrapping_add(bytes as u32 - 1);
        if !self.remapped.is_empty() {
            for address in [address, last] {
                if self.remapped.contains(&(address >> 12)) {
                    self.mapping_slowly(address);
                }
            }
        }
        [self.mapping(address), self.mapping(last)]
    }

    #[cold]
    fn mapping_slowly(&mut self, address: u32) -> Mapping {
        let mut target =
            self.targets[(address >> 12) as usize & (VIRTUAL_PAGES - 1)].unwrap_or(Target::Device);
        let (memory, read_only) = (&mut self.memory, &mut self.read_only);
        let map = |shadow: &mut Shadow, target: Target, read_only: &mut HashSet<u64>, memory: &mut M| {
            shadow.map(address, target, |page: &mut Page| {
                if memory.fill(page.number, &mut page.data, &mut page.ever) {
                    read_only.insert(page.number);
                }
            })
        };
        let mut mapping = map(&mut self.shadow, target, read_only, memory);
        if let Target::Ram(page) = target {
            if self.read_only.contains(&page) {
                target = Target::Rom(page);
                mapping = map(&mut self.shadow, target, &mut self.read_only, memory);
            }
        }
        let remapped = self.remapped.remove(&(address >> 12));
        if !remapped {
            self.mapped.push(address >> 12);
        } else {
            self.surprise(surprise::REMAP);
            varint::write(&mut self.streams[Stream::Mappings as usize], u64::from(address >> 12));
        }
        write_target(&mut self.streams[Stream::Mappings as usize], target);
        mapping
    }

    fn surprise(&mut self, kind: u64) {
        let gap = self.accesses - self.last_surprise;
        varint::write(&mut self.streams[Stream::Surprises as usize], gap << 1 | kind);
        self.last_surprise = self.accesses;
    }

    /// A modelled instruction loaded `value` (zero-extended) of `bytes` bytes (1, 2, 4, 8) at `address`.
    #[inline]
    pub fn load(&mut self, address: u32, bytes: u8, value: u64) {
        self.digest.access(address, bytes, false, value);
        let (offset, size) = (address as usize % PAGE_BYTES, usize::from(bytes));
        if let Some(mapping) = self.shadow.mapping(address) {
            if within_line(address, size) && mapping.behaviour != Behaviour::Device {
                let page = self.shadow.page_mut(mapping);
                let (line, bits) = (offset / 64, known_bits(offset, size));
                if page.known[line] & bits == bits && page.value(offset, size) == value {
                    page.read |= 1 << line;
                    self.accesses += 1;
                    return;
                }
            }
        }
        self.load_slowly(address, size, value);
    }

    #[cold]
    #[inline(never)]
    fn load_slowly(&mut self, address: u32, size: usize, value: u64) {
        let mappings = self.mappings(address, size);
        let device = mappings.iter().any(|mapping| mapping.behaviour == Behaviour::Device);
        let (mut known, mut same) = (true, true);
        if !device {
            for (at, byte) in value.to_le_bytes().into_iter().take(size).enumerate() {
                let address = address.wrapping_add(at as u32);
                let offset = address as usize % PAGE_BYTES;
                let page = self.shadow.page_mut(
                    if at > 0 && address >> 12 != (address.wrapping_sub(at as u32)) >> 12 {
                        mappings[1]
                    } else {
                        mappings[0]
                    },
                );
                let (line, bit) = (offset / 64, 1 << (offset % 64));
                let is_known = page.known[line] & bit != 0;
                let is_same = page.data[offset] == byte;
                known &= is_known;
                same &= is_same;
                if !is_same || page.ever[line] & bit == 0 {
                    // Something other than a store of this processor changed it, or it was never seen before.
                    page.written |= 1 << line;
                    if !self.device_bytes.is_empty() {
                        self.device_bytes.changed(page.number, line, bit);
                    }
                }
                page.read |= 1 << line;
                page.known[line] |= bit;
                page.ever[line] |= bit;
                page.data[offset] = byte;
            }
        }
        if device || !known || !same {
            if !device && known {
                self.surprise(surprise::VALUE);
            }
            self.streams[Stream::Values as usize].extend(&value.to_le_bytes()[..size]);
        }
        self.accesses += 1;
    }

    /// A modelled instruction stored `value` (zero-extended) of `bytes` bytes (1, 2, 4, 8) at `address`.
    #[inline]
    pub fn store(&mut self, address: u32, bytes: u8, value: u64) {
        self.digest.access(address, bytes, true, value);
        let (offset, size) = (address as usize % PAGE_BYTES, usize::from(bytes));
        if let Some(mapping) = self.shadow.mapping(address) {
            if within_line(address, size) && mapping.behaviour == Behaviour::Ram {
                let page = self.shadow.page_mut(mapping);
                let (line, bits) = (offset / 64, known_bits(offset, size));
                page.known[line] |= bits;
                page.ever[line] |= bits;
                page.written |= 1 << line;
                page.set_value(offset, size, value);
                if !self.device_bytes.is_empty() {
                    self.device_bytes.changed(page.number, line, bits);
                }
                self.accesses += 1;
                return;
            }
        }
        self.store_slowly(address, size, value);
    }

    #[cold]
    #[inline(never)]
    fn store_slowly(&mut self, address: u32, size: usize, value: u64) {
        self.write_bytes(address, &value.to_le_bytes()[..size]);
        self.accesses += 1;
    }

    fn write_bytes(&mut self, address: u32, bytes: &[u8]) {
        let mappings = self.mappings(address, bytes.len());
        for (at, byte) in bytes.iter().enumerate() {
            let here = address.wrapping_add(at as u32);
            let mapping = mappings[usize::from(here >> 12 != address >> 12)];
            if mapping.behaviour == Behaviour::Ram {
                let offset = here as usize % PAGE_BYTES;
                let page = self.shadow.page_mut(mapping);
                page.known[offset / 64] |= 1 << (offset % 64);
                page.ever[offset / 64] |= 1 << (offset % 64);
                page.written |= 1 << (offset / 64);
                page.data[offset] = *byte;
                if !self.device_bytes.is_empty() {
                    self.device_bytes.changed(page.number, offset / 64, 1 << (offset % 64));
                }
            }
        }
    }

    /// The next access, which must follow at once, is one to device `name` at a physical address.
    pub fn device(&mut self, name: NameId, physical: u64) {
        let stream = &mut self.streams[Stream::Devices as usize];
        varint::write(stream, u64::from(name.0));
        varint::write(stream, physical);
    }

    /// Instruction `index` of the block (or [`LAST_STARTED`]), which is opaque, made an access of `2^size` bytes, at
    /// most 16. Bits 64 and up of the value are in `high`.
    pub fn opaque_access(&mut self, index: u16, address: u32, flags: u8, value: u64, high: u64) {
        let size = 1usize << (flags & access::SIZE).min(4);
        let store = flags & access::STORE != 0;
        let value = value & crate::shadow::mask_of_bytes(size.min(8));
        if size == 16 {
            self.digest.access(address, 8, store, value);
            self.digest.access(address.wrapping_add(8), 8, store, high);
        } else {
            self.digest.access(address, size as u8, store, value);
        }
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        self.opaque.push(OpaqueAccess { index, start: self.opaque_bytes.len() });
        self.opaque_bytes.push(flags);
        self.opaque_bytes.extend(address.to_le_bytes());
        self.opaque_bytes.extend(&bytes[..size]);
        let memory = &mut bytes[..size];
        if flags & access::BIG_ENDIAN != 0 {
            memory.reverse();
        }
        if store {
            let memory = &bytes[..size];
            self.write_bytes(address, memory);
        } else {
            self.see_bytes(address, size, bytes);
        }
        self.accesses += 1;
    }

    /// A load of an opaque instruction saw these bytes.
    fn see_bytes(&mut self, address: u32, size: usize, bytes: [u8; 16]) {
        let mappings = self.mappings(address, size);
        for (at, byte) in bytes.into_iter().take(size).enumerate() {
            let here = address.wrapping_add(at as u32);
            let mapping = mappings[usize::from(here >> 12 != address >> 12)];
            if mapping.behaviour != Behaviour::Device {
                let offset = here as usize % PAGE_BYTES;
                let page = self.shadow.page_mut(mapping);
                let (line, bit) = (offset / 64, 1 << (offset % 64));
                if page.data[offset] != byte || page.ever[line] & bit == 0 {
                    page.written |= 1 << line;
                    if !self.device_bytes.is_empty() {
                        self.device_bytes.changed(page.number, line, bit);
                    }
                }
                page.read |= 1 << line;
                page.known[line] |= bit;
                page.ever[line] |= bit;
                page.data[offset] = byte;
            }
        }
    }

    /// Registers after an opaque instruction, those that it may have written: CPSR comes first if it is among them (which
    /// others are can depend on it), then r0 to r15 in rising order. It can be called for one or some at a time.
    pub fn opaque_results(&mut self, values: &[u32]) {
        let stream = &mut self.streams[Stream::Results as usize];
        for value in values {
            stream.extend(value.to_le_bytes());
        }
    }

    /// After `index` instructions of the block under way (or before the segment's first block), the system registers
    /// that govern translation have these values, in the machine's order; none if they are not known.
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
    pub fn finish_segment(&mut self, open_end: bool, into: &mut Finished) -> std::io::Result<()> {
        if self.device_writes > 0 {
            // An entry of its own, behind the last block.
            self.flags = control::DEVICE_WRITES;
            self.write_control(0);
        }
        self.streams[Stream::Checkpoints as usize].extend(self.digest.0.to_le_bytes());
        self.head.blocks = self.ordinal;
        self.head.accesses = self.accesses;
        self.head.flags = if open_end { FLAG_OPEN_END } else { 0 };
        write_payload(&self.head, &self.streams, &mut self.compressor, &mut into.segment)?;
        self.run.sort_unstable();
        self.mapped.sort_unstable();
        let mapped: Vec<_> = self.mapped.iter().map(|&page| (page, self.target_at_end(page))).collect();
        let (opaque, shadow, device) = (&self.opaque_counts, &self.shadow, &self.device_bytes);
        self.index.write(&self.run, &mapped, opaque, shadow, device, &mut into.index)?;
        into.head.clone_from(&self.head);
        into.discontinuities = self.discontinuities;
        Ok(())
    }
}

impl<M> Encoder<M> {
    /// What is behind a virtual page of this segment: also where it has changed and was not accessed since.
    fn target_at_end(&self, page: u32) -> Target {
        let told = self.targets.get(page as usize).copied().flatten().unwrap_or(Target::Device);
        match told {
            Target::Ram(number) if self.read_only.contains(&number) => Target::Rom(number),
            _ => told,
        }
    }
}

/// The key of an entry point: blocks with the same one can stand for each other.
pub fn entry_key(address: u32, mode: u16) -> u64 {
    u64::from(address) | u64::from(mode) << 32
}
