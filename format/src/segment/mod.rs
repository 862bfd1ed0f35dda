//! One segment: a stretch of the recording that can be decoded with nothing but the block dictionary.
//!
//! The [`encoder`] turns the events of an execution into streams; the [`cursor`] reads the streams back in the order
//! in which a replay asks for them. What is predicted and when is said in `SPEC.md`; the two modules are its two halves.

mod commit;
pub mod cursor;
pub mod device_bytes;
mod devices;
pub mod encoder;
pub mod index;
mod local_memory;
mod page_table;
mod pool;
pub mod replayed;
pub(crate) mod target;
mod translations;

pub use commit::Committer;
pub use devices::UNKNOWN_DEVICE;
pub use local_memory::AccessKind;
pub use translations::{Answer, Behind};

use crate::unpack::unpack;
use crate::varint;

/// The streams of a segment in the order in which they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stream {
    /// Blocks that were not predicted, blocks cut short, discontinuities.
    Control,
    /// Values of loads that were not predicted.
    Values,
    /// Accesses at which the prediction was wrong.
    Surprises,
    /// What is behind virtual pages.
    Mappings,
    /// Device accesses.
    Devices,
    /// Accesses of opaque instructions.
    OpaqueAccesses,
    /// Register results of opaque instructions.
    Results,
    /// Registers after discontinuities.
    Keyframes,
    /// Digests.
    Checkpoints,
    /// Device writes to memory.
    DeviceWrites,
    /// What says how virtual addresses are translated: system registers, or a TLB.
    Translation,
}

/// How many streams a segment has.
pub const STREAMS: usize = 11;
/// A checkpoint of the digest is stored before every block whose ordinal is a multiple of this, and at the end.
pub const CHECKPOINT_BLOCKS: u32 = 4096;
/// The streams of a segment are not longer than this together, in bytes before compression; nor are an index's contents.
pub const STREAM_LIMIT: u32 = 1 << 28;
/// A segment has at most this many instructions, and at most this many blocks: it bounds how long one takes.
pub const INSTRUCTION_LIMIT: u32 = 1 << 24;
/// One opaque instruction makes at most this many accesses.
pub const OPAQUE_ACCESS_LIMIT: u64 = 1024;
/// A segment has at most this many translation entries.
pub const TRANSLATION_ENTRY_LIMIT: usize = 1 << 20;
/// What governs translation is said in full at least once in so many segments that follow each other.
pub const TRANSLATION_SEGMENTS: usize = 64;
/// A translation entry has at most this many values.
pub const TRANSLATION_LIMIT: u8 = 16;
/// The architecture has at most this many registers in a keyframe.
pub const REGISTER_LIMIT: u32 = 128;

/// Bits of a control entry: what it says about one block.
pub mod control {
    /// The block's number follows: it is not the one that was expected at this address.
    pub const BLOCK: u8 = 1;
    /// The number of instructions that started follows: it is not the expected one.
    pub const STARTED: u8 = 2;
    /// A discontinuity follows the block.
    pub const DISCONTINUITY: u8 = 4;
    /// Device writes to memory precede the block.
    pub const DEVICE_WRITES: u8 = 8;
    /// Another vCPU runs from this block on.
    pub const VCPU: u8 = 16;
    /// Further discontinuities follow the one after the block, with no instruction between them.
    pub const FURTHER: u8 = 32;
    /// All bits that this version reads.
    pub const READ: u8 = BLOCK | STARTED | DISCONTINUITY | DEVICE_WRITES | FURTHER;
}

/// The cause of a discontinuity that is a gap: what ran before the next block was not recorded.
pub const CAUSE_GAP: u8 = 254;
/// The cause of a discontinuity that is not known. All others are the instruction set's.
pub const CAUSE_UNKNOWN: u8 = 255;

/// Bits of the first byte of an opaque instruction's access.
pub mod access {
    /// Bits 0 to 2: the logarithm of the size in bytes, 0 to 4.
    pub const SIZE: u8 = 7;
    /// A store.
    pub const STORE: u8 = 8;
    /// The bytes lie in memory in big-endian order; without it in little-endian order.
    pub const BIG_ENDIAN: u8 = 16;
    /// All bits with a meaning.
    pub const ALL: u8 = 31;
}

/// Which surprise is at an access: bit 0 of its number.
pub mod surprise {
    /// The load's value is in the values stream although all its bytes are known.
    pub const VALUE: u64 = 0;
    /// A virtual page that is already mapped shows something else from here on.
    pub const REMAP: u64 = 1;
}

/// What is wrong with a segment's contents.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentError {
    /// The fixed part or the stream table does not fit.
    #[error(
        "the segment's head is cut short, its sizes contradict each other, or it has something of a newer version"
    )]
    Head,
    /// The table at the trace's end says something else of it.
    #[error("the segment's head contradicts the table at the trace's end")]
    Table,
    /// The writer has more than a segment may hold.
    #[error("the segment has {bytes} bytes in its streams, more than the format allows")]
    TooLong {
        /// Bytes before compression.
        bytes: u64,
    },
    /// A stream can't be unpacked.
    #[error("stream {stream} of the segment can't be decompressed")]
    Compression {
        /// Its number, see [`Stream`].
        stream: usize,
    },
    /// A stream ended before the replay was done, or holds a number that can't be.
    #[error("the segment's {0:?} stream ends early or holds an impossible number")]
    Stream(Stream),
}

impl From<(Stream, varint::BadNumber)> for SegmentError {
    fn from((stream, _): (Stream, varint::BadNumber)) -> Self {
        SegmentError::Stream(stream)
    }
}

/// The last instruction may not have completed: the recording ended while it ran. What it would have written is unknown.
pub const FLAG_OPEN_END: u32 = 1;

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// Position of the first instruction.
    pub first: u64,
    /// Instructions that started.
    pub instructions: u64,
    /// Blocks that were entered.
    pub blocks: u32,
    /// Blocks that the dictionary had before the segment: only these are expected without being named.
    pub dictionary: u32,
    /// The vCPU that runs first.
    pub vcpu: u32,
    /// `FLAG_…` bits.
    pub flags: u32,
    /// Memory accesses.
    pub accesses: u64,
    /// The keyframe: all registers before the first instruction, in the machine's order.
    pub registers: Vec<u32>,
}

impl Head {
    /// Where the position of the first instruction is in the fixed part.
    pub(crate) const FIRST_BYTES: std::ops::Range<usize> = 0..8;
    /// Bytes of the fixed part.
    pub const FIXED_BYTES: usize = 44;

    fn write(&self, into: &mut Vec<u8>) {
        into.extend(self.first.to_le_bytes());
        into.extend(self.instructions.to_le_bytes());
        for field in [self.blocks, self.dictionary, self.vcpu, self.flags] {
            into.extend(field.to_le_bytes());
        }
        into.extend(self.accesses.to_le_bytes());
        into.extend((self.registers.len() as u32).to_le_bytes());
        for register in &self.registers {
            into.extend(register.to_le_bytes());
        }
    }

    /// Reads the head from a segment record's payload; returns what follows it too.
    pub fn read(payload: &[u8]) -> Result<(Head, &[u8]), SegmentError> {
        let (fixed, rest) = payload.split_at_checked(Self::FIXED_BYTES).ok_or(SegmentError::Head)?;
        let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let count = word(40);
        if count > REGISTER_LIMIT {
            return Err(SegmentError::Head);
        }
        let (registers, rest) = rest.split_at_checked(4 * count as usize).ok_or(SegmentError::Head)?;
        let registers = registers
            .chunks_exact(4)
            .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect();
        let head = Head {
            first: long(0),
            instructions: long(8),
            blocks: word(16),
            dictionary: word(20),
            vcpu: word(24),
            flags: word(28),
            accesses: long(32),
            registers,
        };
        // No instruction is executed without having started in some block of at most 65535 instructions.
        if head.instructions > u64::from(head.blocks) * 0xffff
            || head.instructions > u64::from(INSTRUCTION_LIMIT)
            || head.blocks > INSTRUCTION_LIMIT
            || head.flags & !FLAG_OPEN_END != 0
            || head.first.checked_add(head.instructions).is_none()
        {
            return Err(SegmentError::Head);
        }
        Ok((head, rest))
    }
}

/// Appends a segment record's payload: the head, the stream table, the compressed streams.
fn write_payload(
    head: &Head,
    streams: &[Vec<u8>; STREAMS],
    compressor: &mut zstd::bulk::Compressor<'_>,
    into: &mut Vec<u8>,
) -> std::io::Result<()> {
    into.clear();
    let bytes = streams.iter().map(|stream| stream.len() as u64).sum();
    if bytes > u64::from(STREAM_LIMIT) {
        return Err(std::io::Error::other(SegmentError::TooLong { bytes }));
    }
    head.write(into);
    into.extend((STREAMS as u32).to_le_bytes());
    let table = into.len();
    into.resize(table + 8 * STREAMS, 0);
    for (number, stream) in streams.iter().enumerate() {
        let packed = if stream.is_empty() { Vec::new() } else { compressor.compress(stream)? };
        let at = table + 8 * number;
        into[at..at + 4].copy_from_slice(&(stream.len() as u32).to_le_bytes());
        into[at + 4..at + 8].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        into.extend(packed);
    }
    Ok(())
}

/// A segment's streams, unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams(pub [Vec<u8>; STREAMS]);

impl Streams {
    /// How many bytes each stream has before compression, from what follows the head, without unpacking anything.
    pub fn lengths(rest: &[u8]) -> Result<[u32; STREAMS], SegmentError> {
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(SegmentError::Head)?;
        let count = u32::from_le_bytes(*count) as usize;
        if count > STREAMS {
            return Err(SegmentError::Head);
        }
        let table = rest.get(..8 * count).ok_or(SegmentError::Head)?;
        let mut lengths = [0; STREAMS];
        for (length, entry) in lengths.iter_mut().zip(table.chunks_exact(8)) {
            *length = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        }
        Ok(lengths)
    }

    /// Unpacks what follows the head. Streams that an older ktracer did not know are empty.
    pub fn read(rest: &[u8]) -> Result<Streams, SegmentError> {
        Self::read_if(rest, |_| true)
    }

    /// The same, but all streams other than `wanted` stay empty.
    pub fn read_one(rest: &[u8], wanted: Stream) -> Result<Streams, SegmentError> {
        Self::read_if(rest, |stream| stream == wanted as usize)
    }

    fn read_if(rest: &[u8], wanted: impl Fn(usize) -> bool) -> Result<Streams, SegmentError> {
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(SegmentError::Head)?;
        let count = u32::from_le_bytes(*count) as usize;
        if count > STREAMS {
            return Err(SegmentError::Head);
        }
        let (table, mut rest) = rest.split_at_checked(8 * count).ok_or(SegmentError::Head)?;
        let mut streams = Streams::default();
        let mut left = STREAM_LIMIT;
        for (stream, entry) in table.chunks_exact(8).enumerate() {
            let raw = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let packed = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            left = left.checked_sub(raw).ok_or(SegmentError::Head)?;
            let (bytes, after) = rest.split_at_checked(packed as usize).ok_or(SegmentError::Head)?;
            rest = after;
            if raw > 0 && wanted(stream) {
                // The limit keeps a hostile length from allocating much; the decompressor stops at it too.
                let unpacked = unpack(bytes, raw as usize);
                streams.0[stream] = unpacked.map_err(|_| SegmentError::Compression { stream })?;
                if streams.0[stream].len() != raw as usize {
                    return Err(SegmentError::Compression { stream });
                }
            }
        }
        if !rest.is_empty() {
            return Err(SegmentError::Head);
        }
        Ok(streams)
    }
}
