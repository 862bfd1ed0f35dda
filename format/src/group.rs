//! What up to 64 neighbouring segments did, in one: which of them ran a block, touched a physical page or accessed a virtual
//! one. A search reads this instead of 64 indexes, and so passes over most of a trace without looking at it.
//!
//! All of it is derived from the segments' indexes, or from executing segments whose indexes can't be read.

use std::collections::BTreeMap;

use crate::segment::target::{read_target, write_target};
use crate::segment::{SegmentError, index::Index};
use crate::shadow::Target;
use crate::unpack::unpack;
use crate::varint;

/// Segments in a group; only the last has fewer.
pub const GROUP_SEGMENTS: usize = 64;

/// Parts of a group are not longer than this before compression.
const PART_LIMIT: u32 = 1 << 27;
const PARTS: usize = 4;
const COMPRESSION_LEVEL: i32 = 3;

/// Segments of the group: bit *n* is for the *n*-th.
pub type Members = u64;

/// What is told of all members at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Nothing more is known of these: they may have done anything.
    pub unknown: Members,
    /// A virtual page showed something else than before in the same segment, so that the segment's index does not name all
    /// that was behind it.
    pub remapped: Members,
    /// Devices wrote to memory.
    pub device_writes: Members,
    /// The processor accessed devices.
    pub device_accesses: Members,
}

/// A block and who ran it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockUse {
    /// The block's number.
    pub block: u32,
    /// Who entered it.
    pub members: Members,
}

/// A physical page and who touched it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageUse {
    /// The page's number.
    pub page: u64,
    /// Lines that somebody read, as in [`PageLines`](crate::segment::index::PageLines): bit *n* for bytes `64 * n` and up.
    pub read: u64,
    /// Lines that somebody wrote.
    pub written: u64,
    /// Who read one.
    pub readers: Members,
    /// Who wrote one.
    pub writers: Members,
}

/// A virtual page, what was behind it at the end of segments that accessed it, and in which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualUse {
    /// The page's number.
    pub page: u32,
    /// In the order in which they were first there.
    pub targets: Vec<(Target, Members)>,
}

/// What one segment did.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its index.
    pub index: &'a Index,
    /// See [`Marks::remapped`].
    pub remapped: bool,
    /// See [`Marks::device_writes`].
    pub device_writes: bool,
    /// See [`Marks::device_accesses`].
    pub device_accesses: bool,
}

/// Blocks below this number have a place in a table; no recording has been seen with more.
const TABLE_BLOCKS: u32 = 1 << 20;

/// Who ran each block. A group names each of its blocks some ten times, so a tree would take most of the time of an index.
#[derive(Debug, Default)]
struct BlockTable {
    table: Vec<Members>,
    others: BTreeMap<u32, Members>,
}

impl BlockTable {
    fn add(&mut self, block: u32, bit: Members) {
        if block >= TABLE_BLOCKS {
            *self.others.entry(block).or_default() |= bit;
            return;
        }
        let at = block as usize;
        if self.table.len() <= at {
            self.table.resize((at + 1).next_power_of_two(), 0);
        }
        self.table[at] |= bit;
    }

    /// Those that somebody ran, rising.
    fn used(&self) -> impl Iterator<Item = (u32, Members)> {
        let table = (0..).zip(self.table.iter().copied()).filter(|(_, members)| *members != 0);
        table.chain(self.others.iter().map(|(&block, &members)| (block, members)))
    }
}

/// Puts a group together.
#[derive(Debug, Default)]
pub struct GroupBuilder {
    marks: Marks,
    blocks: BlockTable,
    pages: BTreeMap<u64, PageUse>,
    virtual_pages: BTreeMap<u32, Vec<(Target, Members)>>,
}

impl GroupBuilder {
    /// Adds the member with a number below [`GROUP_SEGMENTS`]; without facts it may have done anything.
    pub fn add(&mut self, member: usize, facts: Option<Facts<'_>>) {
        let bit = 1u64 << (member % GROUP_SEGMENTS);
        let Some(facts) = facts else {
            self.marks.unknown |= bit;
            return;
        };
        let flag = |set: bool| if set { bit } else { 0 };
        self.marks.remapped |= flag(facts.remapped);
        self.marks.device_writes |= flag(facts.device_writes);
        self.marks.device_accesses |= flag(facts.device_accesses);
        for &block in &facts.index.blocks {
            self.blocks.add(block, bit);
        }
        for lines in &facts.index.pages {
            let page = self
                .pages
                .entry(lines.page)
                .or_insert_with(|| PageUse { page: lines.page, ..PageUse::default() });
            page.read |= lines.read;
            page.written |= lines.written;
            page.readers |= flag(lines.read != 0);
            page.writers |= flag(lines.written != 0);
        }
        for &(page, target) in &facts.index.mappings {
            let targets = self.virtual_pages.entry(page).or_default();
            match targets.iter_mut().find(|(known, _)| *known == target) {
                Some((_, members)) => *members |= bit,
                None => targets.push((target, bit)),
            }
        }
    }

    /// The group's bytes.
    pub fn finish(self) -> std::io::Result<Vec<u8>> {
        let mut parts: [Vec<u8>; PARTS] = Default::default();
        let [marks, blocks, pages, virtual_pages] = &mut parts;
        let Marks { unknown, remapped, device_writes, device_accesses } = self.marks;
        for set in [unknown, remapped, device_writes, device_accesses] {
            marks.extend(set.to_le_bytes());
        }
        let mut last = 0;
        varint::write(blocks, self.blocks.used().count() as u64);
        for (block, _) in self.blocks.used() {
            varint::write(blocks, u64::from(block - last));
            last = block;
        }
        self.blocks.used().for_each(|(_, members)| blocks.extend(members.to_le_bytes()));
        let mut last = 0;
        varint::write(pages, self.pages.len() as u64);
        for page in self.pages.keys() {
            varint::write(pages, page - last);
            last = *page;
        }
        for PageUse { read, written, readers, writers, .. } in self.pages.values() {
            [read, written, readers, writers].into_iter().for_each(|set| pages.extend(set.to_le_bytes()));
        }
        let mut last = 0;
        varint::write(virtual_pages, self.virtual_pages.len() as u64);
        for (page, targets) in &self.virtual_pages {
            varint::write(virtual_pages, u64::from(page - last));
            last = *page;
            varint::write(virtual_pages, targets.len() as u64);
            for (target, members) in targets {
                write_target(virtual_pages, *target);
                virtual_pages.extend(members.to_le_bytes());
            }
        }
        let mut bytes = vec![0; 8 * PARTS];
        for (number, raw) in parts.iter().enumerate() {
            let packed = zstd::bulk::compress(raw, COMPRESSION_LEVEL)?;
            let sizes = [raw.len() as u32, packed.len() as u32].map(u32::to_le_bytes).concat();
            bytes[8 * number..8 * number + 8].copy_from_slice(&sizes);
            bytes.extend(packed);
        }
        Ok(bytes)
    }
}

/// A group's bytes; each of its parts is unpacked by itself.
#[derive(Clone, Copy, Debug)]
pub struct PackedGroup<'a> {
    parts: [(&'a [u8], usize); PARTS],
}

impl<'a> PackedGroup<'a> {
    /// Finds the parts.
    pub fn new(bytes: &'a [u8]) -> Result<Self, SegmentError> {
        let (table, mut rest) = bytes.split_at_checked(8 * PARTS).ok_or(SegmentError::Head)?;
        let mut parts = [(rest, 0); PARTS];
        for (sizes, part) in table.chunks_exact(8).zip(&mut parts) {
            let raw = u32::from_le_bytes([sizes[0], sizes[1], sizes[2], sizes[3]]);
            let packed = u32::from_le_bytes([sizes[4], sizes[5], sizes[6], sizes[7]]);
            if raw > PART_LIMIT {
                return Err(SegmentError::Head);
            }
            let (bytes, after) = rest.split_at_checked(packed as usize).ok_or(SegmentError::Head)?;
            rest = after;
            *part = (bytes, raw as usize);
        }
        Ok(PackedGroup { parts })
    }

    fn unpack(&self, part: usize) -> Result<Part, SegmentError> {
        let (bytes, raw) = self.parts[part];
        let unpacked = unpack(bytes, raw).ok().filter(|unpacked| unpacked.len() == raw);
        Ok(Part { bytes: unpacked.ok_or(SegmentError::Compression { stream: part })?, at: 0 })
    }

    /// What is told of all members.
    pub fn marks(&self) -> Result<Marks, SegmentError> {
        let mut part = self.unpack(0)?;
        let marks = Marks {
            unknown: part.set()?,
            remapped: part.set()?,
            device_writes: part.set()?,
            device_accesses: part.set()?,
        };
        part.end(marks)
    }

    /// The blocks, rising.
    pub fn blocks(&self) -> Result<Vec<BlockUse>, SegmentError> {
        let mut part = self.unpack(1)?;
        let numbers = part.rising(1 << 32)?;
        let mut blocks = Vec::with_capacity(numbers.len());
        for block in numbers {
            blocks.push(BlockUse { block: block as u32, members: part.set()? });
        }
        part.end(blocks)
    }

    /// The physical pages, rising.
    pub fn pages(&self) -> Result<Vec<PageUse>, SegmentError> {
        let mut part = self.unpack(2)?;
        let numbers = part.rising(1 << 52)?;
        let mut pages = Vec::with_capacity(numbers.len());
        for page in numbers {
            let (read, written, readers, writers) = (part.set()?, part.set()?, part.set()?, part.set()?);
            pages.push(PageUse { page, read, written, readers, writers });
        }
        part.end(pages)
    }

    /// The virtual pages, rising.
    pub fn virtual_pages(&self) -> Result<Vec<VirtualUse>, SegmentError> {
        let mut part = self.unpack(3)?;
        let mut pages = Vec::new();
        let mut last = None;
        for _ in 0..part.number()? {
            let page = part.next_rising(&mut last, 1 << 20)? as u32;
            let mut targets = Vec::new();
            for _ in 0..part.number()? {
                let target = read_target(&part.bytes, &mut part.at).ok_or(SegmentError::Head)?;
                targets.push((target, part.set()?));
            }
            pages.push(VirtualUse { page, targets });
        }
        part.end(pages)
    }
}

/// A part, unpacked, and how far it was read.
struct Part {
    bytes: Vec<u8>,
    at: usize,
}

impl Part {
    fn number(&mut self) -> Result<u64, SegmentError> {
        varint::read(&self.bytes, &mut self.at).map_err(|_| SegmentError::Head)
    }

    fn set(&mut self) -> Result<u64, SegmentError> {
        let set = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>());
        self.at += 8;
        set.map(|set| u64::from_le_bytes(*set)).ok_or(SegmentError::Head)
    }

    fn next_rising(&mut self, last: &mut Option<u64>, limit: u64) -> Result<u64, SegmentError> {
        let delta = self.number()?;
        let next = match *last {
            None => Some(delta),
            Some(_) if delta == 0 => None,
            Some(last) => last.checked_add(delta),
        };
        *last = next.filter(|next| *next < limit);
        last.ok_or(SegmentError::Head)
    }

    fn rising(&mut self, limit: u64) -> Result<Vec<u64>, SegmentError> {
        let (count, mut last, mut numbers) = (self.number()?, None, Vec::new());
        for _ in 0..count {
            numbers.push(self.next_rising(&mut last, limit)?);
        }
        Ok(numbers)
    }

    fn end<T>(&self, value: T) -> Result<T, SegmentError> {
        if self.at == self.bytes.len() { Ok(value) } else { Err(SegmentError::Head) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::index::PageLines;
    use proptest::prelude::*;

    fn lines(page: u64, read: u64, written: u64) -> PageLines {
        PageLines { page, read, written, known: Vec::new(), first_content: 0 }
    }

    #[test]
    fn a_group_knows_who_did_what() {
        let one = Index {
            blocks: vec![0, 7, u32::MAX],
            pages: vec![lines(3, 1, 2), lines(9, 4, 0)],
            mappings: vec![(1, Target::Ram(3)), (2, Target::Device)],
            ..Index::default()
        };
        let other = Index {
            blocks: vec![7],
            pages: vec![lines(3, 0, 8)],
            mappings: vec![(1, Target::Rom(4))],
            ..Index::default()
        };
        let mut builder = GroupBuilder::default();
        let facts = Facts { index: &one, remapped: false, device_writes: true, device_accesses: false };
        builder.add(0, Some(facts));
        builder.add(5, None);
        builder.add(63, Some(Facts { index: &other, remapped: true, device_accesses: true, ..facts }));
        let bytes = builder.finish().unwrap();
        let group = PackedGroup::new(&bytes).unwrap();
        let last = 1 << 63;
        assert_eq!(
            group.marks(),
            Ok(Marks { unknown: 1 << 5, remapped: last, device_writes: 1 | last, device_accesses: last })
        );
        let blocks = [(0, 1), (7, 1 | last), (u32::MAX, 1)];
        let blocks = blocks.map(|(block, members)| BlockUse { block, members }).to_vec();
        assert_eq!(group.blocks(), Ok(blocks));
        let pages = vec![
            PageUse { page: 3, read: 1, written: 10, readers: 1, writers: 1 | last },
            PageUse { page: 9, read: 4, written: 0, readers: 1, writers: 0 },
        ];
        assert_eq!(group.pages(), Ok(pages));
        let virtual_pages = vec![
            VirtualUse { page: 1, targets: vec![(Target::Ram(3), 1), (Target::Rom(4), last)] },
            VirtualUse { page: 2, targets: vec![(Target::Device, 1)] },
        ];
        assert_eq!(group.virtual_pages(), Ok(virtual_pages));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(raw: [Vec<u8>; PARTS], cut: proptest::sample::Index) {
            let mut bytes = vec![0; 8 * PARTS];
            for (number, raw) in raw.iter().enumerate() {
                let packed = zstd::bulk::compress(raw, 1).unwrap();
                bytes[8 * number..][..4].copy_from_slice(&(raw.len() as u32).to_le_bytes());
                bytes[8 * number + 4..][..4].copy_from_slice(&(packed.len() as u32).to_le_bytes());
                bytes.extend(packed);
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(group) = PackedGroup::new(&bytes) {
                let _ = (group.marks(), group.blocks(), group.pages(), group.virtual_pages());
            }
        }
    }
}
