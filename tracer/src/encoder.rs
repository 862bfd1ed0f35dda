//! Turns the events of one segment into an encoded segment. Several of these work side by side, each on its own segments.

use std::sync::Arc;

use ktrace_format::segment::encoder::{
    BlockId, BlockTraits, EncodeError, Encoded, NameId, OpaqueInstruction, SegmentEncoder, Words,
};
use ktrace_format::segment::{AccessKind, Behind, access as access_flags, encoder};
use ktrace_format::shadow::mask_of_bytes;
use ktrace_machine::{ByteOrder, InstructionSet};

use crate::block::{AccessSite, Block, Shared as SharedBlocks};
use crate::event::{ALL_STARTED, EndReason, From, Tag, Under, access};
use crate::initial::Initial;
use crate::names::Names;
use crate::ring::{Segment, Start};

/// Why a segment could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The ring holds something that is no event.
    #[error("the word {0:#018x} in the event ring is no event: this is a bug in ktracer")]
    BadEvent(u64),
    /// A modelled instruction made an access that no modelled instruction makes.
    #[error(
        "an access of {bytes} bytes at {address:#010x} by a modelled instruction: this is a bug in ktracer"
    )]
    BadAccess {
        /// Virtual address.
        address: u32,
        /// Size.
        bytes: u32,
    },
    /// QEMU ran an instruction again that the block under way does not have.
    #[error("QEMU ran the instruction at {0:#010x} again, which is none of the block under way")]
    StrangeInstruction(u32),
    /// The accesses of a block are packed, and nobody has told which those are.
    #[error(
        "the accesses of the block at {0:#010x} are packed in a way that was not told: this is a bug in ktracer"
    )]
    UnknownAccesses(u32),
    /// The encoder can't go on.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The encoder's thread panicked.
    #[error("an encoder's thread panicked, see above: this is a bug in ktracer")]
    Panic,
    /// Compression failed.
    #[error("can't compress a segment: {0}")]
    Compress(std::io::Error),
}

/// How a segment ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The recording ended with it.
    pub end: Option<EndReason>,
}

/// What became known of mappings in one segment, for the encoders that did not see it themselves.
#[derive(Debug, Default)]
pub struct Delta {
    /// Which segment.
    pub sequence: u64,
    /// The words of `Map` and `DeviceRange` events.
    pub events: Vec<u64>,
}

/// Packed accesses. What comes behind them in the ring may belong before them, or say that not all of them happened.
#[derive(Debug)]
struct Packed {
    block: &'static Block,
    words: Vec<u64>,
    /// How many of them happened.
    happened: usize,
}

/// See the [module](self).
pub struct Worker {
    set: InstructionSet,
    /// The guest's data are.
    is_big_endian: bool,
    encoder: SegmentEncoder<Initial>,
    blocks: SharedBlocks,
    names: Names,
    known: Vec<&'static Block>,
    /// Instructions of the block under way that started, or `ALL_STARTED`.
    started: u32,
    /// By how much accesses of the first block number its instructions too high.
    skipped: u32,
    in_block: bool,
    /// The accesses of the block under way that are still to be told to the encoder, if they are packed.
    packed: Option<Packed>,
    /// The translation context of the last access.
    context: u8,
    end: Option<(EndReason, bool)>,
}

/// The rest of an event after its first word.
fn take<'a>(words: &mut &'a [u64], count: usize, first: u64) -> Result<&'a [u64], SegmentError> {
    let (taken, rest) = words.split_at_checked(count).ok_or(SegmentError::BadEvent(first))?;
    *words = rest;
    Ok(taken)
}

/// Whether a word says that a block is entered, in either way.
#[inline(always)]
fn enters_block(word: u64) -> bool {
    const _: () = assert!(Tag::Block as u64 >> 1 == Tag::Packed as u64 >> 1);
    word >> 57 == Tag::Block as u64 >> 1
}

/// What the words mean that need no closer look, in a translation context.
struct InContext<const BIG_ENDIAN: bool> {
    plain: u64,
    packed: u32,
}

impl<const BIG_ENDIAN: bool> InContext<BIG_ENDIAN> {
    fn new(context: u8) -> Self {
        let packed = (Tag::Packed.word() >> 32) as u32 | u32::from(context) << 16 | ALL_STARTED;
        InContext { plain: access::plain(context), packed }
    }
}

impl<const BIG_ENDIAN: bool> Words for InContext<BIG_ENDIAN> {
    const BIG_ENDIAN: bool = BIG_ENDIAN;

    #[inline(always)]
    fn whole_block(&self, word: u64) -> Option<u32> {
        const WHOLE: u32 = (Tag::Block.word() >> 32) as u32 | ALL_STARTED;
        ((word >> 32) as u32 == WHOLE).then_some(word as u32)
    }

    #[inline(always)]
    fn access(&self, word: u64) -> Option<usize> {
        access::kind(word, self.plain)
    }

    #[inline(always)]
    fn packed_block(&self, word: u64) -> Option<u32> {
        ((word >> 32) as u32 == self.packed).then_some(word as u32)
    }

    #[inline(always)]
    fn enters_block(&self, word: u64) -> bool {
        enters_block(word)
    }

    #[inline(always)]
    fn prefetch<T>(&self, place: &T) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch has no effect but on time, and the address is that of something.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }
}

impl Worker {
    /// A worker that knows no block yet.
    pub fn new(
        set: InstructionSet,
        initial: Arc<Initial>,
        blocks: SharedBlocks,
        names: Names,
    ) -> std::io::Result<Self> {
        Ok(Worker {
            set,
            is_big_endian: set.byte_order() == ByteOrder::Big,
            encoder: SegmentEncoder::new(initial)?,
            blocks,
            names,
            known: Vec::new(),
            started: ALL_STARTED,
            skipped: 0,
            in_block: false,
            packed: None,
            context: 0,
            end: None,
        })
    }

    /// Learns what other workers' segments have shown of mappings.
    pub fn learn(&mut self, delta: &Delta) -> Result<(), SegmentError> {
        let mut words = &delta.events[..];
        while let Some((&first, rest)) = words.split_first() {
            words = rest;
            let tag = Tag::of(first).ok_or(SegmentError::BadEvent(first))?;
            self.event(tag, first, &mut words)?;
        }
        Ok(())
    }

    /// Encodes a segment.
    pub fn encode(&mut self, segment: &Segment, into: &mut Encoded) -> Result<Outcome, SegmentError> {
        let Start { registers, dictionary, .. } = &segment.start;
        self.know_blocks();
        self.encoder.begin(*dictionary, 0, registers);
        self.in_block = false;
        self.packed = None;
        self.started = ALL_STARTED;
        self.skipped = 0;
        self.end = None;
        segment.read(|words| self.chunk(words))?;
        self.end_block(ALL_STARTED)?;
        let open_end = self.end.is_some_and(|(_, open)| open);
        self.encoder.finish(open_end, into).map_err(SegmentError::Compress)?;
        Ok(Outcome { end: self.end.map(|(reason, _)| reason) })
    }

    fn chunk(&mut self, mut words: &[u64]) -> Result<(), SegmentError> {
        while let Some(&first) = words.first() {
            if self.started == ALL_STARTED && self.skipped == 0 && self.packed.is_none() {
                // The recording spends its time in there.
                let taken = if self.is_big_endian {
                    self.encoder.plain_events(self.context, words, &InContext::<true>::new(self.context))
                } else {
                    self.encoder.plain_events(self.context, words, &InContext::<false>::new(self.context))
                };
                if taken > 0 {
                    words = words.get(taken..).unwrap_or_default();
                    continue;
                }
            }
            if first >> 56 == Tag::Packed as u64 {
                words = words.get(1..).unwrap_or_default();
                self.packed_block(first, &mut words)?;
                continue;
            }
            if first >> 63 == 0 {
                let [_, value, ref rest @ ..] = *words else { return Err(SegmentError::BadEvent(first)) };
                words = rest;
                self.context = access::context(first);
                self.single_access(first, value, &mut words)?;
                continue;
            }
            words = words.get(1..).unwrap_or_default();
            if first >> 56 == Tag::Block as u64 {
                let started = (first >> 32) as u32 & ALL_STARTED;
                let serial = first as u32;
                self.end_block(started)?;
                self.enter_block(serial);
            } else {
                let tag = Tag::of(first).ok_or(SegmentError::BadEvent(first))?;
                self.event(tag, first, &mut words)?;
            }
        }
        Ok(())
    }

    fn enter_block(&mut self, serial: u32) {
        self.in_block = true;
        if serial as usize >= self.known.len() {
            self.know_blocks();
        }
        self.encoder.enter_block(BlockId(serial));
    }

    /// A block with packed accesses that takes a closer look.
    fn packed_block(&mut self, first: u64, words: &mut &[u64]) -> Result<(), SegmentError> {
        self.end_block(ALL_STARTED)?;
        self.context = (first >> 48) as u8 & 15;
        let serial = first as u32;
        self.enter_block(serial);
        let Some(block) = self.known.get(serial as usize).copied() else {
            return Err(EncodeError::UnknownBlock(serial).into());
        };
        let Some(accesses) = block.accesses() else {
            return Err(SegmentError::UnknownAccesses(block.address));
        };
        self.encoder.define_accesses(BlockId(serial), accesses.iter().map(|site| site.access));
        let packed = take(words, accesses.iter().map(|site| site.access.words()).sum(), first)?;
        if words.first().is_some_and(|next| enters_block(*next)) {
            return self.packed_accesses(accesses, packed);
        }
        self.packed = Some(Packed { block, words: packed.to_vec(), happened: accesses.len() });
        Ok(())
    }

    fn packed_accesses(&mut self, accesses: &[AccessSite], mut words: &[u64]) -> Result<(), SegmentError> {
        for AccessSite { access, .. } in accesses {
            let (first, value) = match *take(&mut words, access.words(), 0)? {
                [first] => (first, first >> 32),
                [first, _] if access.conditional && first >> 32 == 0 => continue,
                [first, value] => (first, value),
                _ => return Err(SegmentError::BadEvent(0)),
            };
            let value = self.memory_order(value, access.kind.size);
            self.encoder.access(self.context, first as u32, access.kind, value);
        }
        Ok(())
    }

    /// The value of an access by a modelled instruction, as a number of which the lowest address holds the least significant
    /// byte. Bits above the size, of which the logarithm is given, mean nothing before and are 0 after.
    fn memory_order(&self, value: u64, size: u32) -> u64 {
        let unused = 64 - (8 << size);
        if self.is_big_endian { value.swap_bytes() >> unused } else { value << unused >> unused }
    }

    /// Tells the encoder the accesses of the block under way that happened, if they are packed.
    fn unpack(&mut self) -> Result<(), SegmentError> {
        let Some(Packed { block, words, happened }) = self.packed.take() else { return Ok(()) };
        let accesses = block.accesses().unwrap_or_default();
        self.packed_accesses(accesses.get(..happened).unwrap_or(accesses), &words)
    }

    /// Of the block under way no instruction behind this one started, and of its accesses so many happened if it makes
    /// more than one.
    fn left_at(&mut self, index: u32, progress: usize) -> Result<(), SegmentError> {
        if let Some(packed) = &mut self.packed {
            let (before, behind) =
                (packed.block.accesses_before(index), packed.block.accesses_before(index + 1));
            packed.happened = if behind - before > 1 { progress.clamp(before, behind) } else { before };
        }
        self.unpack()
    }

    /// An access that takes a closer look, or an opaque instruction's.
    #[inline(never)]
    fn single_access(&mut self, first: u64, value: u64, words: &mut &[u64]) -> Result<(), SegmentError> {
        self.unpack()?;
        let (address, size) = (first as u32, access::size(first));
        let owner = access::owner(first);
        if owner == access::MODELLED && size <= 3 {
            let kind = AccessKind { size, store: access::store(first) };
            self.encoder.access(access::context(first), address, kind, self.memory_order(value, size));
            return Ok(());
        }
        if owner == access::MODELLED || size > 4 {
            return Err(SegmentError::BadAccess { address, bytes: 1 << size });
        }
        let high = if size == 4 { take(words, 1, first)?[0] } else { 0 };
        let mut flags = size as u8;
        if access::store(first) {
            flags |= access_flags::STORE;
        }
        if access::swapped(first) != cfg!(target_endian = "big") {
            flags |= access_flags::BIG_ENDIAN;
        }
        let index = match owner {
            access::ALONE => encoder::LAST_STARTED,
            _ => (owner - 1).saturating_sub(self.skipped) as u16,
        };
        let value = value & mask_of_bytes(1 << size.min(3));
        self.encoder.opaque_access_in(access::context(first), index, address, flags, value, high);
        Ok(())
    }

    /// Ends the block under way, of which so many instructions started unless another event has said more.
    fn end_block(&mut self, started: u32) -> Result<(), SegmentError> {
        self.unpack()?;
        let started = started.min(std::mem::replace(&mut self.started, ALL_STARTED));
        if std::mem::take(&mut self.in_block) {
            self.skipped = 0;
            if started == ALL_STARTED {
                self.encoder.end_whole_block()
            } else {
                self.encoder.end_block(started)
            }
        }
        Ok(())
    }

    fn event(&mut self, tag: Tag, first: u64, words: &mut &[u64]) -> Result<(), SegmentError> {
        let low = first as u32;
        match tag {
            Tag::Map => {
                let [bits] = *take(words, 1, first)? else { return Err(SegmentError::BadEvent(first)) };
                let behind = Behind::from_bits(bits).ok_or(SegmentError::BadEvent(bits))?;
                self.encoder.translate((first >> 32) as u8 & 15, low, behind);
            }
            Tag::Device => {
                let [physical] = *take(words, 1, first)? else { return Err(SegmentError::BadEvent(first)) };
                self.encoder.device(NameId(low), physical);
            }
            Tag::DeviceRange => {
                let [start, last] = *take(words, 2, first)? else {
                    return Err(SegmentError::BadEvent(first));
                };
                self.encoder.device_range(start, last, NameId(low));
            }
            Tag::Results => {
                for word in take(words, low as usize, first)? {
                    self.encoder.opaque_results(&[*word as u32]);
                }
            }
            Tag::Again => self.again(low)?,
            Tag::Skipped => self.skipped = low,
            Tag::Started => self.started = self.started.min(low),
            Tag::Discontinuity => self.discontinuity(first, words)?,
            Tag::DeviceWrite => {
                self.end_block(ALL_STARTED)?;
                let [physical] = *take(words, 1, first)? else { return Err(SegmentError::BadEvent(first)) };
                let data = take(words, (low as usize).div_ceil(8), first)?;
                let mut bytes: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
                bytes.truncate(low as usize);
                self.encoder.device_write(physical, &bytes);
            }
            Tag::Translation => {
                let values = take(words, low as usize, first)?;
                let index = (first >> 32) as u32 & ALL_STARTED;
                let done = match self.current().filter(|_| index == ALL_STARTED) {
                    Some(block) => block.instructions.min(self.started),
                    None if index == ALL_STARTED => 0,
                    None => index,
                };
                self.encoder.translation(done, values);
            }
            Tag::End => {
                let started = (first >> 32) as u32 & ALL_STARTED;
                let is_left_out = self.end_inside(first >> 9 & 3)?;
                self.end_block(started)?;
                let reason = match first as u8 {
                    0 => EndReason::Exit,
                    1 => EndReason::StopAfter,
                    _ => EndReason::Error,
                };
                // What is before a block that is left out has completed, and its results are there.
                self.end = Some((reason, first >> 8 & 1 != 0 && !is_left_out));
            }
            Tag::Block | Tag::Packed => return Err(SegmentError::BadEvent(first)),
        }
        Ok(())
    }

    fn current(&self) -> Option<&'static Block> {
        let BlockId(serial) = self.encoder.current_block()?;
        self.known.get(serial as usize).copied()
    }

    /// QEMU has left the block under way to run one of its instructions again.
    fn again(&mut self, address: u32) -> Result<(), SegmentError> {
        let index = self.current().and_then(|current| current.index_of(address));
        let index = index.ok_or(SegmentError::StrangeInstruction(address))?;
        self.started = index + 1;
        // Accesses that it had made before it was left are made again.
        self.left_at(index, 0)
    }

    /// The recording ends while a block is under way. True: it is left out.
    fn end_inside(&mut self, under: u64) -> Result<bool, SegmentError> {
        match &self.packed {
            Some(packed) if under == Under::Last as u64 => {
                self.left_at(packed.block.instructions - 1, 0)?;
                Ok(false)
            }
            Some(_) if under == Under::Unknown as u64 => {
                self.packed = None;
                self.started = 0;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn discontinuity(&mut self, first: u64, words: &mut &[u64]) -> Result<(), SegmentError> {
        let registers = take(words, self.set.register_count(), first)?;
        let further = take(words, (first >> 8) as usize & 0xff, first)?;
        let at = first >> 16 & 3;
        if at != From::Between as u64 {
            let [pc, progress] = *take(words, 2, first)? else { return Err(SegmentError::BadEvent(first)) };
            if let Some(block) = self.current() {
                let index = block.index_of(pc as u32);
                if let Some(index) = index {
                    let has_started = at == From::At as u64 || block.opaque_at(index).is_some();
                    if has_started {
                        self.started = index + 1;
                        self.left_at(index, progress as usize)?;
                    }
                }
            }
        }
        self.unpack()?;
        let kept = match self.current() {
            Some(block) => block.decoded.keyframe_after(self.started.min(block.instructions) as usize),
            None => self.set.all_registers(),
        };
        let keyframe: Vec<u32> =
            kept.iter().filter_map(|number| registers.get(number)).map(|word| *word as u32).collect();
        self.encoder.discontinuity(first as u8, &keyframe);
        for cause in further {
            self.encoder.further_discontinuity(*cause as u8);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn know_blocks(&mut self) {
        let shared = match self.blocks.lock() {
            Ok(shared) => shared,
            Err(poisoned) => poisoned.into_inner(),
        };
        for block in shared.iter().skip(self.known.len()) {
            let opaque = block.opaque.iter().map(|site| OpaqueInstruction {
                index: site.index,
                memory: site.opaque.memory,
                name: NameId(self.names.number(site.opaque.mnemonic)),
            });
            let traits = BlockTraits {
                address: block.address,
                mode: block.decoded.mode().bits(),
                instructions: block.instructions as u16,
                opaque: opaque.collect(),
            };
            self.encoder.define_block(traits);
            self.known.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use ktrace_format::segment::encoder::Finished;
    use ktrace_format::segment::{Committer, FLAG_OPEN_END};
    use ktrace_machine::{Mode, Registers};

    use super::*;
    use crate::block::Registry;
    use crate::ring::{Cursor, Writer};

    /// An instruction whose results were read, and a block behind it of which nobody knows what happened, when the recording
    /// ends. Returns whether it ends open, and how many instructions there are.
    fn ends_open(under: Under) -> (bool, u64) {
        let mode = ktrace_machine::mips::Mode::of_processor(false);
        let set = InstructionSet::Mips(mode);
        let shared = SharedBlocks::default();
        let mut registry = Registry::new(set, Arc::clone(&shared));
        let mode = Mode::from(mode);
        // ERET; MOVE.
        let eret = registry.block(0x8000_0000, mode, &0x4200_0018u32.to_le_bytes()).unwrap();
        let behind = registry.block(0x8000_1000, mode, &0x0040_4025u32.to_le_bytes()).unwrap();
        assert!(behind.note_accesses(Vec::new()));
        let (sender, segments) = channel();
        let mut ring = Writer::new(sender, Cursor::at_nothing());
        let mut registers = Registers::zero(set.register_count());
        registers[37] = eret.address;
        ring.begin_segment(registers, registry.len(), ALL_STARTED);
        let entered =
            |tag: Tag, block: &Block| tag.word() | u64::from(ALL_STARTED) << 32 | u64::from(block.serial);
        ring.push([entered(Tag::Block, eret)]);
        ring.push([Tag::Results.word() | 2, 0, u64::from(behind.address)]);
        ring.push([entered(Tag::Packed, behind)]);
        ring.end(Tag::End.word() | u64::from(ALL_STARTED) << 32 | (under as u64) << 9 | 1 << 8 | 2);
        drop(ring);
        let segment = segments.recv().unwrap();
        let initial = Arc::new(Initial::open(std::path::Path::new("/nowhere")));
        let mut worker = Worker::new(set, Arc::clone(&initial), shared, Names::new()).unwrap();
        let (mut encoded, mut finished) = (Encoded::default(), Finished::default());
        worker.encode(&segment, &mut encoded).unwrap();
        Committer::new(initial).unwrap().commit(0, &mut encoded, &mut finished).unwrap();
        (finished.head.flags & FLAG_OPEN_END != 0, finished.head.instructions)
    }

    /// Else the results would have no place: a replay takes none of a last instruction before an open end.
    #[test]
    fn what_is_before_a_block_that_is_left_out_has_completed() {
        assert_eq!(ends_open(Under::Unknown), (false, 1));
        assert_eq!(ends_open(Under::Way), (true, 2));
    }
}
