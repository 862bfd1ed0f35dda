//! Reads a trace's dictionary: the names and blocks that its segments refer to.

use memmap2::Advice;

use super::{BlockEntry, Trace, le32};
use crate::record::{self, RecordError};
use crate::segment::encoder::entry_key;
use crate::unpack::unpack;
use crate::writer::kind;

/// Names that a trace may have.
const NAME_LIMIT: usize = 1 << 20;
/// Blocks that a dictionary may have.
const BLOCK_LIMIT: usize = 1 << 24;
/// Bytes of all records of blocks together, before compression.
const DICTIONARY_LIMIT: usize = 1 << 30;
/// Bytes of one record that are asked for ahead.
const ASKED_LIMIT: u64 = 1 << 20;
/// Bytes of one record of blocks, before compression.
const BLOCKS_RECORD_LIMIT: usize = 1 << 28;

/// Which blocks begin at which address and mode.
#[derive(Debug, Default)]
pub(super) struct EntryPoints {
    /// Rising.
    pub(super) keys: Vec<u64>,
    /// Where in `blocks` those of each begin.
    starts: Vec<u32>,
    pub(super) blocks: Vec<u32>,
}

impl EntryPoints {
    pub(super) fn blocks_of(&self, at: usize) -> &[u32] {
        let start = self.starts.get(at).map_or(0, |start| *start as usize);
        let end = self.starts.get(at + 1).map_or(self.blocks.len(), |end| *end as usize);
        self.blocks.get(start..end).unwrap_or_default()
    }
}

impl Trace {
    /// Asks the system for the records of the dictionary, which lie all over the file: should it have to read them from a disk,
    /// it can read many at a time, in place of each when it is come to.
    pub(super) fn ask_for_dictionary(&self, offsets: &[u64]) {
        for (number, &offset) in offsets.iter().enumerate() {
            // At the latest there the next record begins.
            let segment = self.segments.partition_point(|segment| segment.offset <= offset);
            let segment = self.segments.get(segment).map(|segment| segment.offset);
            let next = offsets.get(number + 1).copied().into_iter().chain(segment).min();
            let most = offset.saturating_add(ASKED_LIMIT).min(self.map.len() as u64);
            let end = next.map_or(most, |next| next.min(most));
            if let Some(length) = end.checked_sub(offset).filter(|length| *length > 0) {
                // Without it all works the same, only later.
                let _ = self.map.advise_range(Advice::WillNeed, offset as usize, length as usize);
            }
        }
    }

    pub(super) fn read_dictionary(&mut self, offset: u64) {
        let fault = match record::record_at(&self.map, offset) {
            Some(Ok(record)) => match record.payload().map(<[u8]>::to_vec) {
                Ok(payload) => {
                    let read = match record.kind {
                        kind::NAMES => self.read_names(&payload),
                        kind::BLOCKS => self.read_blocks(&payload),
                        _ => None,
                    };
                    if read.is_some() { None } else { Some(RecordError::Unexpected { offset }) }
                }
                Err(error) => Some(error),
            },
            Some(Err(error)) => Some(error),
            None => Some(RecordError::NoRecord { offset }),
        };
        self.faults.extend(fault);
    }

    fn read_names(&mut self, payload: &[u8]) -> Option<()> {
        let first = le32(payload, 0)? as usize;
        // Names whose record was lost stay empty rather than shift the others.
        if first < self.names.len() || first > NAME_LIMIT {
            return None;
        }
        self.names.resize(first, String::new());
        let mut rest = payload.get(4..)?;
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (name, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            if self.names.len() == NAME_LIMIT {
                return None;
            }
            self.names.push(String::from_utf8_lossy(name).into_owned());
            rest = after;
        }
        Some(())
    }

    fn read_blocks(&mut self, payload: &[u8]) -> Option<()> {
        let (first, count, raw) = (le32(payload, 0)? as usize, le32(payload, 4)?, le32(payload, 8)? as usize);
        let last = first.checked_add(count as usize).filter(|last| *last <= BLOCK_LIMIT)?;
        if first < self.blocks.len() || last == first || raw > BLOCKS_RECORD_LIMIT {
            return None;
        }
        self.expanded = self.expanded.checked_add(raw).filter(|bytes| *bytes <= DICTIONARY_LIMIT)?;
        let bytes = unpack(payload.get(12..)?, raw).ok()?;
        self.blocks.resize(first, None);
        let mut rest = &bytes[..];
        for _ in 0..count {
            let (head, after) = rest.split_first_chunk::<8>()?;
            let length = usize::from(u16::from_le_bytes([head[6], head[7]]));
            let (code, after) = after.split_at_checked(length)?;
            let start = self.code.len();
            self.code.extend(code);
            self.blocks.push(Some(BlockEntry {
                address: u32::from_le_bytes([head[0], head[1], head[2], head[3]]),
                mode: u16::from_le_bytes([head[4], head[5]]),
                code: start..start + length,
            }));
            rest = after;
        }
        rest.is_empty().then_some(())
    }

    pub(super) fn index_entries(&mut self) {
        let mut all: Vec<(u64, u32)> = (0..)
            .zip(&self.blocks)
            .filter_map(|(id, block)| block.as_ref().map(|block| (entry_key(block.address, block.mode), id)))
            .collect();
        let lost = (0..).zip(&self.blocks).filter(|(_, block)| block.is_none());
        self.lost = lost.map(|(id, _)| id).collect();
        all.sort_unstable();
        self.entries.blocks = all.iter().map(|(_, id)| *id).collect();
        for (at, (key, _)) in all.iter().enumerate() {
            if self.entries.keys.last() != Some(key) {
                self.entries.keys.push(*key);
                self.entries.starts.push(at as u32);
            }
        }
    }
}
