//! `index.kt`: the [groups](crate::group) of a trace's segments, and [indexes](crate::segment::index) of segments whose own are
//! damaged or missing, in a file of their own, since they are derived from the trace and can be made again at any time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::group::{GROUP_SEGMENTS, PackedGroup};
use crate::reader::{SegmentEntry, Trace};
use crate::record::{self, Record, RecordWriter};
use crate::segment::index::PackedIndex;

/// The file.
pub const INDEX_FILE: &str = "index.kt";
/// The file while it is being written.
const NEW_FILE: &str = "index.kt.new";

/// Kinds of its records.
pub mod kind {
    /// Which trace it belongs to. The first record.
    pub const TRACE: u32 = 1;
    /// A group.
    pub const GROUP: u32 = 2;
    /// The index of a segment whose own can't be read.
    pub const REPLACEMENT: u32 = 3;
}

/// Bytes of a group's record before the group.
const GROUP_HEAD_BYTES: usize = 24;
/// Bytes of a replacement's record before the index.
const REPLACEMENT_HEAD_BYTES: usize = 16;

/// How many groups a trace's segments make.
pub fn group_count(trace: &Trace) -> usize {
    trace.segments().len().div_ceil(GROUP_SEGMENTS)
}

/// The segments of a group.
pub fn members(trace: &Trace, group: usize) -> &[SegmentEntry] {
    let first = group.saturating_mul(GROUP_SEGMENTS);
    let rest = trace.segments().get(first..).unwrap_or_default();
    rest.get(..GROUP_SEGMENTS).unwrap_or(rest)
}

/// Which segments a group is of: their number, and where the first and last are.
fn head(trace: &Trace, group: usize) -> [u8; GROUP_HEAD_BYTES] {
    let members = members(trace, group);
    let offset = |segment: Option<&SegmentEntry>| segment.map_or(0, |segment| segment.offset);
    let mut bytes = [0; GROUP_HEAD_BYTES];
    bytes[..4].copy_from_slice(&(group as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(members.len() as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&offset(members.first()).to_le_bytes());
    bytes[16..].copy_from_slice(&offset(members.last()).to_le_bytes());
    bytes
}

/// Which segment a replacement is of: its number, and where and what it is. `None`: there is no such segment.
fn replacement_head(trace: &Trace, segment: usize) -> Option<[u8; REPLACEMENT_HEAD_BYTES]> {
    let entry = trace.segments().get(segment)?;
    let mut bytes = [0; REPLACEMENT_HEAD_BYTES];
    bytes[..4].copy_from_slice(&u32::try_from(segment).ok()?.to_le_bytes());
    bytes[4..8].copy_from_slice(&trace.segment_checksum(entry)?.to_le_bytes());
    bytes[8..].copy_from_slice(&entry.offset.to_le_bytes());
    Some(bytes)
}

/// Writes `index.kt` beside a trace. Until it is [finished](Self::finish) the one that is there stays as it is; without that
/// nothing is left of it.
#[derive(Debug)]
pub struct IndexFileWriter<'a> {
    trace: &'a Trace,
    directory: PathBuf,
    records: RecordWriter<BufWriter<File>>,
    finished: bool,
}

impl<'a> IndexFileWriter<'a> {
    /// Starts one.
    pub fn create(directory: &Path, trace: &'a Trace) -> io::Result<Self> {
        let file = File::create(directory.join(NEW_FILE))?;
        let records = RecordWriter::new(BufWriter::new(file));
        let mut writer = IndexFileWriter { trace, directory: directory.to_owned(), records, finished: false };
        writer.records.append(kind::TRACE, &[&trace.header_checksum().to_le_bytes()])?;
        Ok(writer)
    }

    /// Adds the index of a segment whose own can't be read: an index record's payload.
    pub fn replacement(&mut self, segment: usize, index: &[u8]) -> io::Result<()> {
        let head = replacement_head(self.trace, segment)
            .ok_or_else(|| io::Error::other(format!("the trace has no segment {segment}")))?;
        self.records.append(kind::REPLACEMENT, &[&head, index])?;
        Ok(())
    }

    /// Adds a group.
    pub fn group(&mut self, number: usize, group: &[u8]) -> io::Result<()> {
        self.records.append(kind::GROUP, &[&head(self.trace, number), group])?;
        Ok(())
    }

    /// What has been written so far.
    pub fn written(&mut self) -> io::Result<IndexFile> {
        self.records.get_mut().flush()?;
        IndexFile::open_file(&self.directory.join(NEW_FILE), self.trace)
            .ok_or_else(|| io::Error::other(format!("{NEW_FILE} is not what was written")))
    }

    /// Puts the file in the place of the one that is there, if one is.
    pub fn finish(mut self) -> io::Result<()> {
        let file = self.records.get_mut();
        file.flush()?;
        // What replaces the old file must be on the disk before it does.
        file.get_ref().sync_all()?;
        std::fs::rename(self.directory.join(NEW_FILE), self.directory.join(INDEX_FILE))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for IndexFileWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Should it stay, it means nothing.
            let _ = std::fs::remove_file(self.directory.join(NEW_FILE));
        }
    }
}

/// A trace's `index.kt`, mapped.
#[derive(Debug)]
pub struct IndexFile {
    map: Mmap,
    /// For each group where its record is.
    groups: Vec<Option<u64>>,
    /// For segments that have a replacement where its record is.
    replacements: BTreeMap<usize, u64>,
}

impl IndexFile {
    /// Opens the file beside a trace. Groups that it does not have, or that are of other segments, stay without one.
    /// `None`: there is no such file, or it is another trace's.
    pub fn open(directory: &Path, trace: &Trace) -> Option<IndexFile> {
        IndexFile::open_file(&directory.join(INDEX_FILE), trace)
    }

    fn open_file(path: &Path, trace: &Trace) -> Option<IndexFile> {
        let file = File::open(path).ok()?;
        // SAFETY: as with the trace itself, nobody is expected to change the file while it is mapped.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let mut groups = vec![None; group_count(trace)];
        let mut replacements = BTreeMap::new();
        let mut records = record::records(&map).map_while(Result::ok);
        let first = records.next().filter(|first| first.kind == kind::TRACE)?;
        if first.payload().ok()? != trace.header_checksum().to_le_bytes() {
            return None;
        }
        for record in records {
            match record.kind {
                kind::GROUP => {
                    let Some((number, found)) = numbered::<GROUP_HEAD_BYTES>(&record) else { continue };
                    if let Some(place) = groups.get_mut(number).filter(|_| head(trace, number) == *found) {
                        *place = Some(record.offset);
                    }
                }
                kind::REPLACEMENT => {
                    let Some((number, found)) = numbered::<REPLACEMENT_HEAD_BYTES>(&record) else { continue };
                    if replacement_head(trace, number).as_ref() == Some(found) {
                        replacements.insert(number, record.offset);
                    }
                }
                _ => {}
            }
        }
        Some(IndexFile { map, groups, replacements })
    }

    /// The payload of an undamaged record.
    fn payload(&self, offset: u64) -> Option<&[u8]> {
        record::record_at(&self.map, offset)?.ok()?.payload().ok()
    }

    /// The index that stands in for a segment's own: an index record's payload; `None` if there is none or it is damaged.
    pub fn replacement_bytes(&self, segment: usize) -> Option<&[u8]> {
        self.payload(*self.replacements.get(&segment)?)?.get(REPLACEMENT_HEAD_BYTES..)
    }

    /// The same, taken apart.
    pub fn replacement(&self, segment: usize) -> Option<PackedIndex<'_>> {
        PackedIndex::new(self.replacement_bytes(segment)?).ok()
    }

    /// Whether every group is there. What is damaged in them shows when they are used.
    pub fn is_complete(&self) -> bool {
        self.groups.iter().all(Option::is_some)
    }

    /// A group; `None` if it is not there or damaged.
    pub fn group(&self, number: usize) -> Option<PackedGroup<'_>> {
        PackedGroup::new(self.payload((*self.groups.get(number)?)?)?.get(GROUP_HEAD_BYTES..)?).ok()
    }
}

/// The head of a group's or a replacement's record, and the number that it begins with.
fn numbered<'a, const BYTES: usize>(record: &Record<'a>) -> Option<(usize, &'a [u8; BYTES])> {
    let head = record.unchecked_payload().first_chunk::<BYTES>()?;
    let number = head.first_chunk::<4>().map(|number| u32::from_le_bytes(*number))?;
    Some((number as usize, head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GroupBuilder;
    use crate::header::{Architecture, ByteOrder, Header, Path as RecordingPath};
    use crate::segment::encoder::{BlockTraits, Encoder, Finished, UnknownMemory};
    use crate::writer::TraceWriter;

    fn trace(directory: &Path, segments: usize, started: &str) -> Trace {
        let header = Header {
            format_version: 2,
            arch: Architecture::Arm,
            byte_order: ByteOrder::Little,
            cpu: String::new(),
            path: RecordingPath::Portable,
            qemu_version: String::new(),
            command_line: Vec::new(),
            tracer_version: "0".into(),
            host: String::new(),
            started: started.into(),
        };
        let mut trace = TraceWriter::create(directory, header).unwrap();
        let mut encoder = Encoder::new(UnknownMemory).unwrap();
        trace.block(0x8000, 0, &[0xfe, 0xff, 0xff, 0xea]);
        let traits = BlockTraits { address: 0x8000, mode: 0, instructions: 1, opaque: [].into() };
        let mut registers = [0; 17];
        registers[15] = 0x8000;
        let block = encoder.define_block(traits);
        for position in 0..segments as u64 {
            encoder.begin_segment(position, 0, &registers);
            encoder.enter_block(block);
            encoder.end_block(1);
            let mut finished = Finished::default();
            encoder.finish_segment(false, &mut finished).unwrap();
            trace.segment(&finished).unwrap();
        }
        trace.close("exit").unwrap();
        Trace::open(directory).unwrap()
    }

    fn groups(trace: &Trace) -> Vec<Vec<u8>> {
        (0..group_count(trace))
            .map(|group| {
                let mut builder = GroupBuilder::default();
                builder.add(group, None);
                builder.finish().unwrap()
            })
            .collect()
    }

    fn write(directory: &Path, trace: &Trace, groups: &[Vec<u8>]) -> io::Result<()> {
        let mut writer = IndexFileWriter::create(directory, trace)?;
        groups.iter().enumerate().try_for_each(|(number, group)| writer.group(number, group))?;
        writer.finish()
    }

    #[test]
    fn groups_come_back_where_they_belong() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = trace(one.path(), 130, "one");
        assert!(IndexFile::open(one.path(), &first).is_none());
        write(one.path(), &first, &groups(&first)).unwrap();
        let file = IndexFile::open(one.path(), &first).unwrap();
        assert!(file.is_complete());
        for group in 0..3 {
            assert_eq!(file.group(group).unwrap().marks().unwrap().unknown, 1 << group);
        }
        assert!(file.group(3).is_none());

        let second = trace(other.path(), 130, "other");
        std::fs::copy(one.path().join(INDEX_FILE), other.path().join(INDEX_FILE)).unwrap();
        assert!(IndexFile::open(other.path(), &second).is_none(), "it is another trace's");
    }

    #[test]
    fn damage_costs_the_groups_that_it_hits() {
        let directory = tempfile::tempdir().unwrap();
        let trace = trace(directory.path(), 70, "one");
        write(directory.path(), &trace, &groups(&trace)).unwrap();
        let path = directory.path().join(INDEX_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let file = IndexFile::open(directory.path(), &trace).unwrap();
        assert!(file.group(0).is_some() && file.group(1).is_none());
        std::fs::write(&path, &bytes[..last]).unwrap();
        let file = IndexFile::open(directory.path(), &trace).unwrap();
        assert!(file.group(0).is_some() && !file.is_complete());
    }

    #[test]
    fn a_replacement_is_of_one_segment_and_whole_or_not_there() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let trace = trace(one.path(), 5, "one");
        let own = trace.read_index(&trace.segments()[3]).unwrap().unwrap().index().unwrap();
        // Any index does: here there are no two that differ.
        let offset = trace.segments()[3].index.unwrap();
        let bytes = std::fs::read(one.path().join(crate::writer::TRACE_FILE)).unwrap();
        let index = record::record_at(&bytes, offset).unwrap().unwrap().payload().unwrap().to_vec();
        let mut writer = IndexFileWriter::create(one.path(), &trace).unwrap();
        writer.replacement(3, &index).unwrap();
        assert!(writer.replacement(5, &index).is_err());
        assert_eq!(writer.written().unwrap().replacement_bytes(3), Some(&index[..]));
        writer.group(0, &groups(&trace)[0]).unwrap();
        writer.finish().unwrap();
        assert!(!one.path().join(NEW_FILE).exists());

        let path = one.path().join(INDEX_FILE);
        let file = IndexFile::open(one.path(), &trace).unwrap();
        assert!(file.group(0).is_some() && file.is_complete());
        assert_eq!(file.replacement(3).unwrap().index().unwrap(), own);
        assert!(file.replacement(2).is_none());
        let written = std::fs::read(&path).unwrap();
        let at = written.windows(index.len()).position(|window| window == index).unwrap();
        for damaged in [at - REPLACEMENT_HEAD_BYTES, at - 1, at + index.len() - 1] {
            let mut bytes = written.clone();
            bytes[damaged] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let file = IndexFile::open(one.path(), &trace).unwrap();
            assert!((0..5).all(|segment| file.replacement(segment).is_none()), "byte {damaged}");
            assert!(file.group(0).is_some(), "what follows is still there");
        }
        // The same file, but the segment is another.
        std::fs::write(&path, &written).unwrap();
        let mut bytes = std::fs::read(one.path().join(crate::writer::TRACE_FILE)).unwrap();
        let head = trace.segments()[3].offset as usize;
        bytes[head + 16] ^= 1;
        let sum = crc32c::crc32c(&bytes[head..head + 20]);
        bytes[head + 20..head + 24].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(other.path().join(crate::writer::TRACE_FILE), &bytes).unwrap();
        let trace = Trace::open(other.path()).unwrap();
        std::fs::copy(&path, other.path().join(INDEX_FILE)).unwrap();
        assert!(IndexFile::open(other.path(), &trace).unwrap().replacement(3).is_none());
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let trace = trace(directory.path(), 3, "one");
        write(directory.path(), &trace, &groups(&trace)).unwrap();
        let before = std::fs::read(directory.path().join(INDEX_FILE)).unwrap();
        let mut writer = IndexFileWriter::create(directory.path(), &trace).unwrap();
        writer.replacement(0, &[0; 16]).unwrap();
        drop(writer);
        assert!(!directory.path().join(NEW_FILE).exists());
        assert_eq!(std::fs::read(directory.path().join(INDEX_FILE)).unwrap(), before);
    }
}
