//! `index.kt`: the [groups](crate::group) of a trace's segments, in a file of their own, since they are derived from the trace
//! and can be made again at any time.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use memmap2::Mmap;

use crate::group::{GROUP_SEGMENTS, PackedGroup};
use crate::reader::{SegmentEntry, Trace};
use crate::record::{self, RecordWriter};

/// The file with the groups.
pub const INDEX_FILE: &str = "index.kt";

/// Kinds of its records.
pub mod kind {
    /// Which trace it belongs to. The first record.
    pub const TRACE: u32 = 1;
    /// A group.
    pub const GROUP: u32 = 2;
}

/// Bytes of a group's record before the group.
const GROUP_HEAD_BYTES: usize = 24;

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

/// Writes `index.kt` beside a trace, in place of the one that is there. `groups` are all groups of the trace in order.
pub fn write(directory: &Path, trace: &Trace, groups: &[impl AsRef<[u8]>]) -> io::Result<()> {
    let new = directory.join("index.kt.new");
    let mut records = RecordWriter::new(BufWriter::new(File::create(&new)?));
    records.append(kind::TRACE, &[&trace.header_checksum().to_le_bytes()])?;
    for (number, group) in groups.iter().enumerate() {
        records.append(kind::GROUP, &[&head(trace, number), group.as_ref()])?;
    }
    records.get_mut().flush()?;
    std::fs::rename(new, directory.join(INDEX_FILE))
}

/// A trace's `index.kt`, mapped.
#[derive(Debug)]
pub struct IndexFile {
    map: Mmap,
    /// For each group where its record is.
    groups: Vec<Option<u64>>,
}

impl IndexFile {
    /// Opens the file beside a trace. Groups that it does not have, or that are of other segments, stay without one.
    /// `None`: there is no such file, or it is another trace's.
    pub fn open(directory: &Path, trace: &Trace) -> Option<IndexFile> {
        let file = File::open(directory.join(INDEX_FILE)).ok()?;
        // SAFETY: as with the trace itself, nobody is expected to change the file while it is mapped.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let mut groups = vec![None; group_count(trace)];
        let mut records = record::records(&map).map_while(Result::ok);
        let first = records.next().filter(|first| first.kind == kind::TRACE)?;
        if first.payload().ok()? != trace.header_checksum().to_le_bytes() {
            return None;
        }
        for record in records.filter(|record| record.kind == kind::GROUP) {
            let Some(found) = record.unchecked_payload().first_chunk::<GROUP_HEAD_BYTES>() else { continue };
            let number = u32::from_le_bytes([found[0], found[1], found[2], found[3]]) as usize;
            if let Some(place) = groups.get_mut(number).filter(|_| head(trace, number) == *found) {
                *place = Some(record.offset);
            }
        }
        Some(IndexFile { map, groups })
    }

    /// Whether every group is there. What is damaged in them shows when they are used.
    pub fn is_complete(&self) -> bool {
        self.groups.iter().all(Option::is_some)
    }

    /// A group; `None` if it is not there or damaged.
    pub fn group(&self, number: usize) -> Option<PackedGroup<'_>> {
        let record = record::record_at(&self.map, (*self.groups.get(number)?)?)?.ok()?;
        PackedGroup::new(record.payload().ok()?.get(GROUP_HEAD_BYTES..)?).ok()
    }
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
}
