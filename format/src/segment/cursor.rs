//! Reads a segment's streams in the order in which a replay asks for them.
//!
//! A [`Cursor`] is a set of offsets, cheap to copy: a replay that goes back to a snapshot puts the old one back.

use super::target::read_target;
use super::{
    OPAQUE_ACCESS_LIMIT, STREAMS, SegmentError, Stream, Streams, TRANSLATION_ENTRY_LIMIT, TRANSLATION_LIMIT,
    access, control, surprise,
};
use crate::shadow::Target;
use crate::varint;

/// What governs translation from some instruction on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Instructions of the segment before.
    pub from: u64,
    /// The machine says what they mean; of ARM they are registers, or nothing if those are not known.
    pub values: Vec<u64>,
}

/// All translation entries of a segment, in order.
pub fn translations(streams: &Streams) -> Result<Vec<Translation>, SegmentError> {
    let bad = || SegmentError::Stream(Stream::Translation);
    let mut cursor = Cursor::default();
    let (mut entries, mut from) = (Vec::new(), 0u64);
    while !cursor.at_end(streams, Stream::Translation) {
        from = from.checked_add(cursor.number(streams, Stream::Translation)?).ok_or_else(bad)?;
        let [count] = cursor.bytes(streams, Stream::Translation)?;
        if count > TRANSLATION_LIMIT || entries.len() == TRANSLATION_ENTRY_LIMIT {
            return Err(bad());
        }
        let mut values = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            values.push(u64::from_le_bytes(cursor.bytes(streams, Stream::Translation)?));
        }
        entries.push(Translation { from, values });
    }
    Ok(entries)
}

/// Where the next entry of each stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    at: [u32; STREAMS],
}

/// What a control entry says about one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The block's number, if it is not the expected one.
    pub block: Option<u32>,
    /// How many instructions started, if not as many as expected.
    pub started: Option<u32>,
    /// The discontinuity after the block: its cause, and how many accesses the whole block made.
    pub discontinuity: Option<(u8, u64)>,
    /// Those that followed it with no instruction between.
    pub further: Further,
    /// How many times devices wrote to memory before the block.
    pub device_writes: u64,
}

/// Further discontinuities: where their causes are in the Control stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Further {
    at: u32,
    count: u8,
}

impl Further {
    /// Their causes, in order.
    pub fn causes<'a>(&self, streams: &'a Streams) -> &'a [u8] {
        let at = self.at as usize;
        streams.0[Stream::Control as usize].get(at..at + usize::from(self.count)).unwrap_or_default()
    }
}

/// A device's write to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceWrite<'a> {
    /// Physical address of the first byte, canonical.
    pub physical: u64,
    /// What was written: at least one byte, of which none lies beyond the last address.
    pub bytes: &'a [u8],
}

/// An access of an opaque instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpaqueAccess {
    /// Virtual address.
    pub address: u32,
    /// Size in bytes: 1, 2, 4, 8 or 16.
    pub bytes: usize,
    /// A store.
    pub store: bool,
    /// The bytes are in memory in big-endian order.
    pub big_endian: bool,
    /// Bits 0 to 63 of the value, and 64 to 127.
    pub value: [u64; 2],
}

impl OpaqueAccess {
    /// The value's bytes in the order of rising addresses; the first `bytes` of them count.
    pub fn memory_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.value[0].to_le_bytes());
        bytes[8..].copy_from_slice(&self.value[1].to_le_bytes());
        if self.big_endian {
            bytes[..self.bytes].reverse();
        }
        bytes
    }
}

/// A device access beside its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAccess {
    /// Number of the device's name.
    pub name: u32,
    /// Physical address.
    pub physical: u64,
}

impl Cursor {
    fn slice<'a>(&self, streams: &'a Streams, stream: Stream) -> &'a [u8] {
        streams.0[stream as usize].get(self.at[stream as usize] as usize..).unwrap_or_default()
    }

    /// Whether a stream has been read to its end.
    pub fn at_end(&self, streams: &Streams, stream: Stream) -> bool {
        self.slice(streams, stream).is_empty()
    }

    #[inline]
    fn number(&mut self, streams: &Streams, stream: Stream) -> Result<u64, SegmentError> {
        let mut at = self.at[stream as usize] as usize;
        let number =
            varint::read(&streams.0[stream as usize], &mut at).map_err(|_| SegmentError::Stream(stream))?;
        self.at[stream as usize] = at as u32;
        Ok(number)
    }

    #[inline]
    fn bytes<const N: usize>(&mut self, streams: &Streams, stream: Stream) -> Result<[u8; N], SegmentError> {
        let slice = self.slice(streams, stream).first_chunk::<N>().ok_or(SegmentError::Stream(stream))?;
        self.at[stream as usize] += N as u32;
        Ok(*slice)
    }

    /// How many blocks are as expected before the next one that has a control entry; `None`: all that remain.
    pub fn next_control(&mut self, streams: &Streams) -> Result<Option<u64>, SegmentError> {
        if self.at_end(streams, Stream::Control) {
            return Ok(None);
        }
        self.number(streams, Stream::Control).map(Some)
    }

    /// The entry that [`next_control`](Self::next_control) announced.
    pub fn control(&mut self, streams: &Streams) -> Result<Control, SegmentError> {
        let bad = SegmentError::Stream(Stream::Control);
        let [flags] = self.bytes::<1>(streams, Stream::Control)?;
        // Several vCPUs are for recorders to come; a reader that skipped them would show lies.
        if flags & !control::READ != 0 {
            return Err(bad);
        }
        if flags & control::FURTHER != 0 && flags & control::DISCONTINUITY == 0 {
            return Err(bad);
        }
        let mut entry = Control::default();
        let small = |number: u64| u32::try_from(number).map_err(|_| SegmentError::Stream(Stream::Control));
        if flags & control::BLOCK != 0 {
            entry.block = Some(small(self.number(streams, Stream::Control)?)?);
        }
        if flags & control::STARTED != 0 {
            entry.started = Some(small(self.number(streams, Stream::Control)?)?);
        }
        if flags & control::DISCONTINUITY != 0 {
            let [cause] = self.bytes::<1>(streams, Stream::Control)?;
            entry.discontinuity = Some((cause, self.number(streams, Stream::Control)?));
        }
        if flags & control::FURTHER != 0 {
            let [count] = self.bytes::<1>(streams, Stream::Control)?;
            if count == 0 || self.slice(streams, Stream::Control).len() < usize::from(count) {
                return Err(bad);
            }
            let at = &mut self.at[Stream::Control as usize];
            entry.further = Further { at: *at, count };
            *at += u32::from(count);
        }
        if flags & control::DEVICE_WRITES != 0 {
            entry.device_writes = self.number(streams, Stream::Control)?;
            if entry.device_writes == 0 {
                return Err(bad);
            }
        }
        Ok(entry)
    }

    /// The entry that [`next_control`](Self::next_control) announced for the place behind the last block: how many times
    /// devices wrote to memory after that. There it can say nothing else.
    pub fn control_at_end(&mut self, streams: &Streams) -> Result<u64, SegmentError> {
        let entry = self.control(streams)?;
        let allowed = Control { device_writes: entry.device_writes, ..Control::default() };
        if entry != allowed || entry.device_writes == 0 {
            return Err(SegmentError::Stream(Stream::Control));
        }
        Ok(entry.device_writes)
    }

    /// The next device write.
    pub fn device_write<'a>(&mut self, streams: &'a Streams) -> Result<DeviceWrite<'a>, SegmentError> {
        let bad = SegmentError::Stream(Stream::DeviceWrites);
        let physical = self.number(streams, Stream::DeviceWrites)?;
        let length = self.number(streams, Stream::DeviceWrites)?;
        let inside = length.checked_sub(1).is_some_and(|last| physical.checked_add(last).is_some());
        let start = self.at[Stream::DeviceWrites as usize] as usize;
        let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
        let bytes = end.and_then(|end| streams.0[Stream::DeviceWrites as usize].get(start..end));
        let bytes = bytes.filter(|_| inside).ok_or(bad)?;
        // No stream is longer than STREAM_LIMIT.
        self.at[Stream::DeviceWrites as usize] += bytes.len() as u32;
        Ok(DeviceWrite { physical, bytes })
    }

    /// Accesses from the last surprise to the next, and what it is (see [`surprise`]); `None`: no more.
    pub fn next_surprise(&mut self, streams: &Streams) -> Result<Option<(u64, u64)>, SegmentError> {
        if self.at_end(streams, Stream::Surprises) {
            return Ok(None);
        }
        let number = self.number(streams, Stream::Surprises)?;
        Ok(Some((number >> 1, number & surprise::REMAP)))
    }

    /// The virtual page of a remapping surprise.
    pub fn remapped_page(&mut self, streams: &Streams) -> Result<u32, SegmentError> {
        let page = self.number(streams, Stream::Mappings)?;
        u32::try_from(page).ok().filter(|page| *page < 1 << 20).ok_or(SegmentError::Stream(Stream::Mappings))
    }

    /// What is behind the page that is mapped next.
    pub fn target(&mut self, streams: &Streams) -> Result<Target, SegmentError> {
        let mut at = self.at[Stream::Mappings as usize] as usize;
        let target = read_target(&streams.0[Stream::Mappings as usize], &mut at);
        self.at[Stream::Mappings as usize] = at as u32;
        target.ok_or(SegmentError::Stream(Stream::Mappings))
    }

    /// The next value of `bytes` (at most 8) bytes.
    #[inline]
    pub fn value(&mut self, streams: &Streams, bytes: usize) -> Result<u64, SegmentError> {
        let bad = SegmentError::Stream(Stream::Values);
        let slice = self.slice(streams, Stream::Values).get(..bytes).ok_or(bad)?;
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(slice);
        self.at[Stream::Values as usize] += bytes as u32;
        Ok(u64::from_le_bytes(value))
    }

    /// Who answered the device access under way.
    pub fn device(&mut self, streams: &Streams) -> Result<DeviceAccess, SegmentError> {
        let name = u32::try_from(self.number(streams, Stream::Devices)?);
        let name = name.map_err(|_| SegmentError::Stream(Stream::Devices))?;
        Ok(DeviceAccess { name, physical: self.number(streams, Stream::Devices)? })
    }

    /// How many accesses the opaque instruction under way made.
    pub fn opaque_count(&mut self, streams: &Streams) -> Result<u64, SegmentError> {
        let count = self.number(streams, Stream::OpaqueAccesses)?;
        if count > OPAQUE_ACCESS_LIMIT {
            return Err(SegmentError::Stream(Stream::OpaqueAccesses));
        }
        Ok(count)
    }

    /// The next of them.
    pub fn opaque_access(&mut self, streams: &Streams) -> Result<OpaqueAccess, SegmentError> {
        let bad = SegmentError::Stream(Stream::OpaqueAccesses);
        let [flags] = self.bytes::<1>(streams, Stream::OpaqueAccesses)?;
        let address = u32::from_le_bytes(self.bytes(streams, Stream::OpaqueAccesses)?);
        let bytes = 1usize << (flags & access::SIZE);
        if bytes > 16 || flags & !access::ALL != 0 {
            return Err(bad);
        }
        let slice = self.slice(streams, Stream::OpaqueAccesses).get(..bytes).ok_or(bad)?;
        let mut wide = [0; 16];
        wide[..bytes].copy_from_slice(slice);
        self.at[Stream::OpaqueAccesses as usize] += bytes as u32;
        let wide = u128::from_le_bytes(wide);
        Ok(OpaqueAccess {
            address,
            bytes,
            store: flags & access::STORE != 0,
            big_endian: flags & access::BIG_ENDIAN != 0,
            value: [wide as u64, (wide >> 64) as u64],
        })
    }

    /// The next register of an opaque instruction's results.
    pub fn result(&mut self, streams: &Streams) -> Result<u32, SegmentError> {
        self.bytes(streams, Stream::Results).map(u32::from_le_bytes)
    }

    /// The next register of a keyframe after a discontinuity.
    pub fn keyframe(&mut self, streams: &Streams) -> Result<u32, SegmentError> {
        self.bytes(streams, Stream::Keyframes).map(u32::from_le_bytes)
    }

    /// The next digest.
    pub fn checkpoint(&mut self, streams: &Streams) -> Result<u64, SegmentError> {
        self.bytes(streams, Stream::Checkpoints).map(u64::from_le_bytes)
    }
}
