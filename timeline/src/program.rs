//! What all replays of one trace share: the trace, the initial memory, and the decoded blocks.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use ktrace_format::header::{self, Architecture, ByteOrder, Header};
use ktrace_format::index_file::IndexFile;
use ktrace_format::memory::Image;
use ktrace_format::segment::index::{Index, PackedIndex};
use ktrace_format::segment::{Head, Streams};
use ktrace_format::{Trace, TraceError};
use ktrace_machine::{self as machine, InstructionSet, Mode};

use crate::blocks::{BlockRef, BlockStore, DecodedBlocks};
use crate::cache::{Limits, Unpacked};
use crate::catalogue::Catalogue;
use crate::events::{Kind, Kinds};
use crate::proofs::Proofs;
use crate::rebuilt::Rebuilt;
use crate::replay::ReplayError;
use crate::search::Watchpoint;

/// Blocks by where they are.
#[derive(Debug)]
struct ByAddress {
    /// Addresses and numbers, rising.
    blocks: Box<[(u32, u32)]>,
    /// The length of the longest one in bytes.
    longest: u32,
}

/// A trace that is ready to be replayed. It is shared between threads.
#[derive(Debug)]
pub struct Program {
    trace: Trace,
    instruction_set: InstructionSet,
    image: OnceLock<Option<Image>>,
    decoded: BlockStore,
    limits: Limits,
    unpacked: Unpacked,
    proofs: Proofs,
    index_file: OnceLock<Option<IndexFile>>,
    catalogue: OnceLock<Catalogue>,
    /// See [`executed_instead`](Self::executed_instead).
    executed_instead: AtomicUsize,
    by_address: OnceLock<ByAddress>,
    /// For each block the number of its entry point.
    entries: Box<[u32]>,
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
    /// Opens the trace in a directory. Its initial memory, if that was captured, is opened when it is first asked for.
    pub fn open(directory: &Path) -> Result<Program, TraceError> {
        Program::open_within(directory, Limits::default())
    }

    /// The same, using so much memory.
    pub fn open_within(directory: &Path, limits: Limits) -> Result<Program, TraceError> {
        let trace = Trace::open(directory)?;
        let unsupported = |what| TraceError::Unsupported { path: trace.path().to_owned(), what };
        let mut instruction_set = instruction_set(trace.header()).map_err(unsupported)?;
        if let Some(block) = (0..trace.block_count()).find_map(|id| trace.block(id as u32)) {
            instruction_set = instruction_set.with_properties_of(Mode::from_bits(block.mode));
        }
        let mut entries = vec![NO_ENTRY; trace.block_count()].into_boxed_slice();
        for (number, (_, blocks)) in (0..).zip(trace.entry_points()) {
            for block in blocks {
                if let Some(entry) = entries.get_mut(*block as usize) {
                    *entry = number;
                }
            }
        }
        let decoded = BlockStore::new(trace.block_count(), limits.blocks(), instruction_set);
        let unpacked = Unpacked::new(limits);
        let proofs = Proofs::new(trace.segments().len());
        Ok(Program {
            trace,
            instruction_set,
            image: OnceLock::new(),
            decoded,
            limits,
            unpacked,
            proofs,
            index_file: OnceLock::new(),
            catalogue: OnceLock::new(),
            executed_instead: AtomicUsize::new(0),
            by_address: OnceLock::new(),
            entries,
        })
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(crate) fn directory(&self) -> &Path {
        self.trace.path().parent().unwrap_or(Path::new(""))
    }

    /// What the guest executes.
    pub fn instruction_set(&self) -> InstructionSet {
        self.instruction_set
    }

    /// It has registers where blocks begin and nothing else: see *Imported recordings* in `SPEC.md`.
    pub fn is_imported(&self) -> bool {
        self.trace.header().path == header::Path::Original
    }

    /// The kinds of events that its recorder has seen. Of others there are none in the trace, which says nothing about the run.
    pub fn recorded_kinds(&self) -> Kinds {
        match self.trace.header().path {
            header::Path::Fast => Kinds::ALL,
            // What devices write to memory is not seen before the processor loads it.
            header::Path::Portable => Kinds::ALL.without(Kinds::from_iter([Kind::Dma])),
            header::Path::Original => Kinds::from_iter([Kind::Gap]),
        }
    }

    /// An imported recording has no accesses of memory. To find none would say that there were none.
    pub(crate) fn must_have_accesses(&self, watchpoints: &[Watchpoint]) -> Result<(), ReplayError> {
        if self.is_imported() && !watchpoints.is_empty() {
            return Err(ReplayError::NotRecorded("memory accesses"));
        }
        Ok(())
    }

    /// The memory before the first instruction, if it was captured.
    pub fn image(&self) -> Option<&Image> {
        // Its file is read from end to end, so not before somebody asks.
        self.image.get_or_init(|| Image::open(self.directory()).ok()).as_ref()
    }

    /// A block, decoded; `None` if the trace has no such block or its code can't be one.
    pub fn block(&self, id: u32) -> Option<BlockRef> {
        BlockRef::new(self.decoded.present(), &self.trace, id)
    }

    /// All blocks, decoded as they are asked for.
    pub(crate) fn blocks(&self) -> Arc<DecodedBlocks> {
        self.decoded.present()
    }

    /// The blocks whose code has a byte at an address.
    pub(crate) fn blocks_with(&self, address: u32) -> impl Iterator<Item = u32> {
        let ByAddress { blocks, longest } = self.by_address.get_or_init(|| {
            let all = (0..self.trace.block_count() as u32).filter_map(|id| Some((self.trace.block(id)?, id)));
            let mut longest = 0;
            let mut blocks: Vec<(u32, u32)> = all
                .map(|(block, id)| {
                    longest = longest.max(self.trace.code(block).len() as u32);
                    (block.address, id)
                })
                .collect();
            blocks.sort_unstable();
            ByAddress { blocks: blocks.into(), longest }
        });
        let first = address.saturating_sub(longest.saturating_sub(1));
        let from = blocks.partition_point(|(start, _)| *start < first);
        let near = blocks.get(from..).unwrap_or_default().iter();
        near.take_while(move |(start, _)| *start <= address).filter_map(move |(start, id)| {
            let length = self.trace.code(self.trace.block(*id)?).len() as u32;
            (address - start < length).then_some(*id)
        })
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn unpacked(&self) -> &Unpacked {
        &self.unpacked
    }

    /// Which segments are proved.
    pub(crate) fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    /// The trace's `index.kt`, if it is there.
    pub(crate) fn index_file(&self) -> Option<&IndexFile> {
        self.index_file.get_or_init(|| IndexFile::open(self.directory(), &self.trace)).as_ref()
    }

    /// Which segments may have done what.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        self.catalogue.get_or_init(|| Catalogue::new(&self.trace))
    }

    /// A segment, unpacked.
    pub(crate) fn segment(&self, number: usize) -> Result<Arc<(Head, Arc<Streams>)>, TraceError> {
        self.unpacked.segment(number, || {
            let entry = self.trace.segments().get(number).ok_or_else(|| TraceError::NotATrace {
                path: self.trace.path().to_owned(),
                why: format!("it has no segment {number}"),
            })?;
            let (head, streams) = self.trace.read_segment(entry)?;
            Ok(Arc::new((head, Arc::new(streams))))
        })
    }

    /// A segment's index as the recorder wrote it, packed; `None` if it has none, or it is damaged.
    pub(crate) fn own_index(&self, segment: usize) -> Option<PackedIndex<'_>> {
        self.trace.read_index(self.trace.segments().get(segment)?).ok()?
    }

    /// What stands in `index.kt` in its place.
    pub(crate) fn replacement(&self, segment: usize) -> Option<PackedIndex<'_>> {
        self.index_file()?.replacement(segment)
    }

    /// The one of the two that says what the segment did.
    fn packed_index(&self, segment: usize) -> Option<PackedIndex<'_>> {
        self.replacement(segment).or_else(|| self.own_index(segment))
    }

    /// A segment's index, which is not kept; `None` if it has none that can be read.
    pub(crate) fn read_index(&self, segment: usize) -> Option<Arc<Index>> {
        self.packed_index(segment)?.index().ok().map(Arc::new)
    }

    /// A segment's index; `None` if it has none that can be read.
    pub(crate) fn index(&self, segment: usize) -> Option<Arc<Index>> {
        let index = self.unpacked.index(segment, || Ok::<_, TraceError>(self.read_index(segment)));
        let index = index.ok().flatten();
        if index.is_none() {
            self.catalogue().tell_of_lacking(self, segment);
        }
        index
    }

    /// What the lines that its index names held at its end.
    pub(crate) fn contents(&self, segment: usize) -> Option<Arc<Vec<u8>>> {
        let read = || self.packed_index(segment)?.contents().ok().map(Arc::new);
        self.unpacked.contents(segment, || Ok::<_, TraceError>(read())).ok().flatten()
    }

    /// What stands in for a segment's index where none can be read; `None`: nothing.
    pub(crate) fn rebuilt(self: &Arc<Self>, segment: usize) -> Option<Arc<Rebuilt>> {
        let rebuild = || {
            self.note_executed_instead();
            Ok::<_, TraceError>(Rebuilt::new(self, segment).map(Arc::new))
        };
        self.unpacked.rebuilt(segment, rebuild).ok().flatten()
    }

    /// A segment is executed because no index of it can be read.
    pub(crate) fn note_executed_instead(&self) {
        self.executed_instead.fetch_add(1, Ordering::Relaxed);
    }

    /// How often segments have been executed because their indexes can't be read.
    pub fn executed_instead(&self) -> usize {
        self.executed_instead.load(Ordering::Relaxed)
    }

    /// How many entry points there are.
    pub fn entry_count(&self) -> usize {
        self.trace.entry_points().len()
    }

    /// The number of a block's entry point.
    pub fn entry_of(&self, block: u32) -> Option<u32> {
        self.entries.get(block as usize).copied().filter(|entry| *entry != NO_ENTRY)
    }

    /// The number of the entry point with a key, see [`entry_key`](ktrace_format::segment::encoder::entry_key).
    pub fn entry_with(&self, key: u64) -> Option<u32> {
        self.trace.entry_number(key).map(|number| number as u32)
    }

    /// The key of an entry point.
    pub fn entry_key(&self, entry: u32) -> Option<u64> {
        self.trace.entry_point(entry as usize).map(|(key, _)| key)
    }

    /// The newest block that a segment may expect somewhere and whose record is lost: where an older one seems to be
    /// expected, that may be wrong.
    pub fn newest_lost(&self, head: &Head) -> Option<u32> {
        let lost = self.trace.newest_lost_block(head.dictionary)?;
        // The index, if it can be read, says which blocks ran.
        let mut segments = self.trace.segments().iter();
        let segment =
            segments.position(|entry| (entry.first, entry.instructions) == (head.first, head.instructions));
        match segment.and_then(|segment| self.read_index(segment)) {
            Some(index) => {
                let expected = |id: &u32| *id < head.dictionary && self.trace.block(*id).is_none();
                index.blocks.iter().copied().rev().find(expected)
            }
            None => Some(lost),
        }
    }

    /// The block that is expected at an entry point where none has run in a segment that began when the dictionary
    /// had `dictionary` blocks.
    pub fn first_expected(&self, entry: u32, dictionary: u32) -> Option<u32> {
        let (_, blocks) = self.trace.entry_point(entry as usize)?;
        blocks.iter().rev().copied().find(|&id| id < dictionary)
    }
}
