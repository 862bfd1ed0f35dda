//! Opens a trace: maps `trace.kt` and finds its records, by the table of a closed trace or by walking an unclosed one.

mod dictionary;
mod error;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap};

use dictionary::EntryPoints;
pub use error::TraceError;

use crate::header::{FORMAT_VERSION, Header, Totals};
use crate::record::{self, Record, RecordError};
use crate::segment::index::PackedIndex;
use crate::segment::{Head, STREAMS, SegmentError, Stream, Streams};
use crate::writer::{CLOSE_MARK, TRACE_FILE, kind};

/// What the end record of a long recording takes, about: asked for ahead.
const END_BYTES: usize = 512 << 10;
/// One block of the dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    /// Virtual address of the first instruction.
    pub address: u32,
    /// The processor's mode, see `SPEC.md`.
    pub mode: u16,
    code: Range<usize>,
}

/// Where a segment is and what it spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Offset of its record.
    pub offset: u64,
    /// Offset of its index record, if it is there.
    pub index: Option<u64>,
    /// Position of its first instruction.
    pub first: u64,
    /// Instructions that started.
    pub instructions: u64,
    /// Blocks that were entered.
    pub blocks: u32,
    /// `FLAG_…` bits of the head.
    pub flags: u32,
}

impl SegmentEntry {
    /// Segments are in recorded order: by file offset and by position.
    fn follows(&self, before: Option<&SegmentEntry>) -> bool {
        self.first.checked_add(self.instructions).is_some()
            && before.is_none_or(|before| self.offset > before.offset && self.first >= before.end())
    }

    /// Position after its last instruction.
    pub fn end(&self) -> u64 {
        self.first + self.instructions
    }
}

/// A trace opened for reading. It can be shared between threads. [`TraceWriter`](crate::TraceWriter) has an example.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    map: Mmap,
    header: Header,
    names: Vec<String>,
    blocks: Vec<Option<BlockEntry>>,
    /// The numbers of those whose record is lost, rising.
    lost: Vec<u32>,
    code: Vec<u8>,
    /// Bytes of the dictionary's records that were expanded.
    expanded: usize,
    entries: EntryPoints,
    segments: Vec<SegmentEntry>,
    totals: Option<Totals>,
    faults: Vec<RecordError>,
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|four| u32::from_le_bytes(*four))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|eight| u64::from_le_bytes(*eight))
}

impl Trace {
    /// Opens the trace in a directory. A trace that was not closed, or is damaged in places, opens too:
    /// [`totals`](Self::totals) and [`faults`](Self::faults) tell.
    pub fn open(directory: &Path) -> Result<Trace, TraceError> {
        let path = directory.join(TRACE_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = if directory.exists() {
                    format!("it has no {TRACE_FILE}")
                } else {
                    "there is no such directory".into()
                };
                return Err(TraceError::NotATrace { path: directory.to_owned(), why });
            }
            Err(source) => return Err(TraceError::Io { path, source }),
        };
        // SAFETY: the map is read only. A trace is append-only, so no byte below the length that was mapped changes
        // while a well-behaved recorder still writes; should somebody truncate the file, reading ends the process
        // with SIGBUS, which is the documented price of mapping.
        let map =
            unsafe { Mmap::map(&file) }.map_err(|source| TraceError::Io { path: path.clone(), source })?;
        let header = Self::read_header(&map, &path)?;
        let mut trace = Trace {
            path,
            map,
            header,
            names: Vec::new(),
            blocks: Vec::new(),
            lost: Vec::new(),
            code: Vec::new(),
            expanded: 0,
            entries: EntryPoints::default(),
            segments: Vec::new(),
            totals: None,
            faults: Vec::new(),
        };
        if trace.read_table().is_none() {
            trace.totals = None;
            trace.segments.clear();
            trace.walk();
        }
        trace.index_entries();
        Ok(trace)
    }

    fn read_header(map: &[u8], path: &Path) -> Result<Header, TraceError> {
        let not = |why: String| TraceError::NotATrace { path: path.to_owned(), why };
        let first = record::record_at(map, 0).ok_or_else(|| not("the file is empty".into()))?;
        let first = first.map_err(|source| TraceError::Record { path: path.to_owned(), source })?;
        if first.kind != kind::HEADER {
            return Err(not("its first record is no header".into()));
        }
        let payload =
            first.payload().map_err(|source| TraceError::Record { path: path.to_owned(), source })?;
        let json: serde_json::Value =
            serde_json::from_slice(payload).map_err(|error| not(error.to_string()))?;
        // The version comes first: what else a newer header says may not be understood.
        match json.get("format_version").and_then(serde_json::Value::as_u64) {
            Some(found) if found > u64::from(FORMAT_VERSION) => {
                Err(TraceError::Newer { path: path.to_owned(), found })
            }
            Some(found) if found < u64::from(FORMAT_VERSION) => {
                Err(TraceError::Older { path: path.to_owned(), found })
            }
            Some(_) => serde_json::from_value(json).map_err(|error| not(error.to_string())),
            None => Err(not("its header has no format_version".into())),
        }
    }

    /// Uses the end record's table. `None`: the trace is not closed, or its end is damaged.
    fn read_table(&mut self) -> Option<()> {
        let tail = self.map.len().checked_sub(16)?;
        let _ = self.map.advise_range(Advice::WillNeed, tail.saturating_sub(END_BYTES), END_BYTES.min(tail));
        if self.map.get(tail + 8..)? != CLOSE_MARK {
            return None;
        }
        let end = record::record_at(&self.map, le64(&self.map, tail)?)?.ok()?;
        if end.kind != kind::END || end.end() != self.map.len() as u64 {
            return None;
        }
        let payload = end.payload().ok()?.to_vec();
        let json = le32(&payload, 0)? as usize;
        self.totals = Some(serde_json::from_slice(payload.get(4..4 + json)?).ok()?);
        let mut at = 4 + json;
        let count = le32(&payload, at)?;
        at += 4;
        let mut dictionary: Vec<u64> = Vec::new();
        for _ in 0..count {
            let offset = le64(&payload, at + 4)?;
            if dictionary.last().is_some_and(|last| *last >= offset) {
                return None;
            }
            dictionary.push(offset);
            at += 12;
        }
        let count = le32(&payload, at)?;
        at += 4;
        for _ in 0..count {
            let entry = SegmentEntry {
                offset: le64(&payload, at)?,
                index: Some(le64(&payload, at + 8)?),
                first: le64(&payload, at + 16)?,
                instructions: le64(&payload, at + 24)?,
                blocks: le32(&payload, at + 32)?,
                flags: le32(&payload, at + 36)?,
            };
            if !entry.follows(self.segments.last()) {
                return None;
            }
            self.segments.push(entry);
            at += 40;
        }
        self.ask_for_dictionary(&dictionary);
        for offset in dictionary {
            self.read_dictionary(offset);
        }
        Some(())
    }

    /// Finds records without a table: all that are whole, also behind damage.
    fn walk(&mut self) {
        let mut offset = 0;
        let mut segment_end = None;
        loop {
            let (kind, end) = match record::record_at(&self.map, offset) {
                None => break,
                Some(Ok(record)) => {
                    let (kind, end) = (record.kind, record.end());
                    if kind == kind::SEGMENT {
                        let fixed =
                            record.payload().map(|payload| Head::read(payload).ok().map(|(head, _)| head));
                        match fixed {
                            Ok(Some(head)) => {
                                let entry = SegmentEntry {
                                    offset,
                                    index: None,
                                    first: head.first,
                                    instructions: head.instructions,
                                    blocks: head.blocks,
                                    flags: head.flags,
                                };
                                if entry.follows(self.segments.last()) {
                                    self.segments.push(entry);
                                    segment_end = Some(end);
                                } else {
                                    self.faults.push(RecordError::Unexpected { offset });
                                }
                            }
                            Ok(None) => self.faults.push(RecordError::Unexpected { offset }),
                            Err(error) => self.faults.push(error),
                        }
                    }
                    (kind, end)
                }
                Some(Err(error)) => {
                    self.faults.push(error);
                    match self.next_head(offset + 1) {
                        Some(next) => {
                            offset = next;
                            continue;
                        }
                        None => break,
                    }
                }
            };
            match kind {
                kind::NAMES | kind::BLOCKS => self.read_dictionary(offset),
                // An index says nothing of whose it is: only the record right behind a segment is that segment's.
                kind::INDEX if segment_end == Some(offset) => {
                    if let Some(segment) = self.segments.last_mut() {
                        segment.index = Some(offset);
                    }
                }
                _ => {}
            }
            offset = end;
        }
    }

    fn next_head(&self, from: u64) -> Option<u64> {
        let from = usize::try_from(from).ok()?;
        let starts = self.map.get(from..)?.windows(4).enumerate();
        let mut starts =
            starts.filter(|(_, window)| *window == record::MAGIC).map(|(at, _)| (from + at) as u64);
        starts.find(|&offset| matches!(record::record_at(&self.map, offset), Some(Ok(_))))
    }

    /// The file with the records.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file with the records.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// What the trace says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The checksum of the header's record, by which other files tell whose they are.
    pub fn header_checksum(&self) -> u32 {
        let first = record::record_at(&self.map, 0).and_then(Result::ok);
        first.map_or(0, |first| crc32c::crc32c(first.unchecked_payload()))
    }

    /// Totals, if the trace was closed properly.
    pub fn totals(&self) -> Option<&Totals> {
        self.totals.as_ref()
    }

    /// Damaged or torn places that were met while opening.
    pub fn faults(&self) -> &[RecordError] {
        &self.faults
    }

    /// The highest number of a block below `limit` whose record is lost.
    pub fn newest_lost_block(&self, limit: u32) -> Option<u32> {
        if limit as usize > self.blocks.len() {
            return limit.checked_sub(1);
        }
        let below = self.lost.partition_point(|number| *number < limit);
        self.lost.get(below.checked_sub(1)?).copied()
    }

    /// All segments, in recorded order.
    pub fn segments(&self) -> &[SegmentEntry] {
        &self.segments
    }

    /// Instructions up to the end of the last segment: the last position.
    pub fn instructions(&self) -> u64 {
        self.segments.last().map_or(0, SegmentEntry::end)
    }

    /// A name by its number; empty if its record is lost.
    pub fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", String::as_str)
    }

    /// The number of a name; `None` if the trace does not have it.
    pub fn name_number(&self, name: &str) -> Option<u32> {
        self.names.iter().position(|known| known == name).and_then(|number| u32::try_from(number).ok())
    }

    /// How many blocks the dictionary has.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// A block by its number; `None` if there is none or its record is lost.
    pub fn block(&self, number: u32) -> Option<&BlockEntry> {
        self.blocks.get(number as usize)?.as_ref()
    }

    /// The code of a block.
    pub fn code(&self, block: &BlockEntry) -> &[u8] {
        self.code.get(block.code.clone()).unwrap_or_default()
    }

    /// The numbers of all blocks with an entry point (see [`entry_key`]), rising.
    pub fn blocks_at(&self, entry: u64) -> &[u32] {
        self.entries.keys.binary_search(&entry).map_or(&[], |at| self.entries.blocks_of(at))
    }

    /// All entry points, rising, and the numbers of their blocks, rising.
    pub fn entry_points(&self) -> impl ExactSizeIterator<Item = (u64, &[u32])> {
        self.entries.keys.iter().enumerate().map(|(at, key)| (*key, self.entries.blocks_of(at)))
    }

    /// The entry point with a number, as [`entry_points`](Self::entry_points) counts them.
    pub fn entry_point(&self, number: usize) -> Option<(u64, &[u32])> {
        self.entries.keys.get(number).map(|key| (*key, self.entries.blocks_of(number)))
    }

    /// The number of an entry point.
    pub fn entry_number(&self, entry: u64) -> Option<usize> {
        self.entries.keys.binary_search(&entry).ok()
    }

    fn record(&self, offset: u64) -> Result<Record<'_>, TraceError> {
        let error = |source| TraceError::Record { path: self.path.clone(), source };
        record::record_at(&self.map, offset)
            .ok_or(RecordError::NoRecord { offset })
            .and_then(|record| record)
            .map_err(error)
    }

    fn payload(&self, offset: u64, kind: u32) -> Result<&[u8], TraceError> {
        let error = |source| TraceError::Record { path: self.path.clone(), source };
        let record = self.record(offset)?;
        if record.kind != kind {
            return Err(error(RecordError::Unexpected { offset }));
        }
        record.payload().map_err(error)
    }

    /// What the head of a segment's record says is the checksum of its payload; `None` if no such record is there.
    pub fn segment_checksum(&self, segment: &SegmentEntry) -> Option<u32> {
        self.record(segment.offset)
            .ok()
            .filter(|record| record.kind == kind::SEGMENT)
            .map(|record| record.checksum())
    }

    /// Reads a segment: its head and its streams.
    pub fn read_segment(&self, segment: &SegmentEntry) -> Result<(Head, Streams), TraceError> {
        let error = |source| TraceError::Segment { path: self.path.clone(), offset: segment.offset, source };
        let (head, rest) = Head::read(self.payload(segment.offset, kind::SEGMENT)?).map_err(error)?;
        let told = (segment.first, segment.instructions, segment.blocks, segment.flags);
        if (head.first, head.instructions, head.blocks, head.flags) != told {
            return Err(error(SegmentError::Table));
        }
        Ok((head, Streams::read(rest).map_err(error)?))
    }

    /// How many bytes each of a segment's streams has, without unpacking any: what can't be in it.
    pub fn read_stream_lengths(&self, segment: &SegmentEntry) -> Result<[u32; STREAMS], TraceError> {
        let error = |source| TraceError::Segment { path: self.path.clone(), offset: segment.offset, source };
        let (_, rest) = Head::read(self.payload(segment.offset, kind::SEGMENT)?).map_err(error)?;
        Streams::lengths(rest).map_err(error)
    }

    /// Reads one stream of a segment; the others stay empty.
    pub fn read_stream(&self, segment: &SegmentEntry, stream: Stream) -> Result<Streams, TraceError> {
        let error = |source| TraceError::Segment { path: self.path.clone(), offset: segment.offset, source };
        let (_, rest) = Head::read(self.payload(segment.offset, kind::SEGMENT)?).map_err(error)?;
        Streams::read_one(rest, stream).map_err(error)
    }

    /// Reads a segment's head only.
    pub fn read_head(&self, segment: &SegmentEntry) -> Result<Head, TraceError> {
        let error = |source| TraceError::Segment { path: self.path.clone(), offset: segment.offset, source };
        Ok(Head::read(self.payload(segment.offset, kind::SEGMENT)?).map_err(error)?.0)
    }

    /// A segment's index; `None` if it has none.
    pub fn read_index(&self, segment: &SegmentEntry) -> Result<Option<PackedIndex<'_>>, TraceError> {
        let Some(offset) = segment.index else { return Ok(None) };
        let error = |source| TraceError::Segment { path: self.path.clone(), offset, source };
        PackedIndex::new(self.payload(offset, kind::INDEX)?).map(Some).map_err(error)
    }
}
