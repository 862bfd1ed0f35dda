//! A segment's index: which blocks ran in it, which 64-byte lines of physical memory it read and wrote, and what the
//! written lines held at its end. All of it could be computed again by replaying the segment.

use std::collections::HashMap;

use super::commit::KnownPage;
use super::device_bytes::DeviceBytes;
use super::target::{read_target, write_target};
use super::{STREAM_LIMIT, SegmentError};
use crate::shadow::{LINE_BYTES, Target};
use crate::unpack::unpack;
use crate::varint;

/// Lines of one physical page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageLines {
    /// Number of the physical page.
    pub page: u64,
    /// Lines that were read, bit n for bytes `64 * n` and up.
    pub read: u64,
    /// Lines of which a byte was stored to, or was seen to have changed.
    pub written: u64,
    /// For each written line, in rising order, which of its 64 bytes are known at the segment's end.
    pub known: Vec<u64>,
    /// Where the first written line's bytes are in the contents, in lines.
    pub first_content: usize,
}

/// What a segment did, without the contents of the lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Numbers of the blocks that were entered, rising.
    pub blocks: Vec<u32>,
    /// Pages that were touched, rising.
    pub pages: Vec<PageLines>,
    /// What was behind the virtual pages that were accessed, at the segment's end: the number of the virtual page, rising.
    pub mappings: Vec<(u32, Target)>,
    /// How often opaque instructions started: number of the mnemonic, count.
    pub opaque: Vec<(u32, u64)>,
    /// Pages with bytes whose last change in the segment was a device's write, rising.
    pub device: Vec<DevicePage>,
}

/// Bytes of a physical page that a device wrote last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePage {
    /// Number of the physical page.
    pub page: u64,
    /// Lines that have such bytes: some of those that were written.
    pub lines: u64,
    /// For each of these lines, in rising order, which of its 64 bytes.
    pub bytes: Vec<u64>,
}

impl Index {
    /// Whether a device wrote this byte of a physical page, and nothing in the segment changed it after that.
    pub fn written_by_device(&self, page: u64, offset: usize) -> bool {
        let found = self.device.binary_search_by_key(&page, |page| page.page).ok();
        let Some(page) = found.and_then(|at| self.device.get(at)) else { return false };
        let line = offset / LINE_BYTES;
        if line >= 64 || page.lines >> line & 1 == 0 {
            return false;
        }
        let rank = (page.lines & ((1 << line) - 1)).count_ones() as usize;
        page.bytes.get(rank).is_some_and(|bytes| bytes >> (offset % LINE_BYTES) & 1 != 0)
    }

    /// The lines of a physical page, if it was touched.
    pub fn page(&self, number: u64) -> Option<&PageLines> {
        self.pages.binary_search_by_key(&number, |lines| lines.page).ok().and_then(|at| self.pages.get(at))
    }
}

/// The sets of an index are not longer than this, in bytes before compression.
const SETS_LIMIT: u32 = 1 << 26;

/// A physical page that a segment touched.
pub(super) struct IndexPage<'a> {
    pub(super) number: u64,
    /// Lines, as in [`PageLines`].
    pub(super) read: u64,
    pub(super) written: u64,
    /// The page at the segment's end.
    pub(super) known: &'a KnownPage,
}

pub(super) struct IndexWriter {
    sets: Vec<u8>,
    contents: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
}

impl IndexWriter {
    pub(super) fn new() -> std::io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(super::encoder::COMPRESSION_LEVEL)?;
        Ok(IndexWriter { sets: Vec::new(), contents: Vec::new(), compressor })
    }

    /// `blocks`, `mapped` (virtual pages and what is behind them) and `pages` must be rising.
    pub(super) fn write(
        &mut self,
        blocks: &[u32],
        mapped: &[(u32, Target)],
        opaque: &HashMap<u32, u64>,
        pages: &[IndexPage<'_>],
        device: &DeviceBytes,
        into: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        self.sets.clear();
        self.contents.clear();
        varint::write(&mut self.sets, blocks.len() as u64);
        let mut last = 0;
        for &block in blocks {
            varint::write(&mut self.sets, u64::from(block - last));
            last = block;
        }
        varint::write(&mut self.sets, pages.len() as u64);
        let mut last = 0;
        for page in pages {
            varint::write(&mut self.sets, page.number - last);
            last = page.number;
            self.write_page(page);
        }
        self.write_mappings(mapped);
        let mut opaque: Vec<_> = opaque.iter().collect();
        opaque.sort_unstable();
        varint::write(&mut self.sets, opaque.len() as u64);
        for (&name, &count) in opaque {
            varint::write(&mut self.sets, u64::from(name));
            varint::write(&mut self.sets, count);
        }
        self.write_device(device);
        into.clear();
        into.extend([0; 16]);
        for (part, raw) in [&self.sets, &self.contents].into_iter().enumerate() {
            let packed = if raw.is_empty() { Vec::new() } else { self.compressor.compress(raw)? };
            into[8 * part..8 * part + 4].copy_from_slice(&(raw.len() as u32).to_le_bytes());
            into[8 * part + 4..8 * part + 8].copy_from_slice(&(packed.len() as u32).to_le_bytes());
            into.extend(packed);
        }
        Ok(())
    }

    fn write_mappings(&mut self, mapped: &[(u32, Target)]) {
        varint::write(&mut self.sets, mapped.len() as u64);
        let mut last = 0;
        for &(page, target) in mapped {
            varint::write(&mut self.sets, u64::from(page - last));
            last = page;
            write_target(&mut self.sets, target);
        }
    }

    fn write_device(&mut self, device: &DeviceBytes) {
        varint::write(&mut self.sets, device.pages().count() as u64);
        let mut last = 0;
        for (page, lines) in device.pages() {
            varint::write(&mut self.sets, page - last);
            last = page;
            let set = (0..64).filter(|line| lines[*line] != 0).fold(0u64, |set, line| set | 1 << line);
            self.sets.extend(set.to_le_bytes());
            for bytes in lines.iter().filter(|bytes| **bytes != 0) {
                self.sets.extend(bytes.to_le_bytes());
            }
        }
    }

    fn write_page(&mut self, page: &IndexPage<'_>) {
        let lines = (0..64).filter(|line| page.written >> line & 1 != 0);
        let complete = lines
            .clone()
            .filter(|&line| page.known.known[line] == u64::MAX)
            .fold(0, |set, line| set | 1 << line);
        for set in [page.read, page.written, complete] {
            self.sets.extend(u64::to_le_bytes(set));
        }
        for line in lines {
            if complete >> line & 1 == 0 {
                self.sets.extend(page.known.known[line].to_le_bytes());
            }
            self.contents.extend(&page.known.data[line * LINE_BYTES..(line + 1) * LINE_BYTES]);
        }
    }
}

/// An index record's payload, still packed.
#[derive(Clone, Copy, Debug)]
pub struct PackedIndex<'a> {
    parts: [(&'a [u8], usize); 2],
}

impl<'a> PackedIndex<'a> {
    /// Finds the two parts of an index record's payload.
    pub fn new(payload: &'a [u8]) -> Result<Self, SegmentError> {
        let (table, mut rest) = payload.split_at_checked(16).ok_or(SegmentError::Head)?;
        let mut parts = [(rest, 0); 2];
        for ((entry, part), limit) in table.chunks_exact(8).zip(&mut parts).zip([SETS_LIMIT, STREAM_LIMIT]) {
            let raw = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let packed = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            if raw > limit {
                return Err(SegmentError::Head);
            }
            let (bytes, after) = rest.split_at_checked(packed as usize).ok_or(SegmentError::Head)?;
            rest = after;
            *part = (bytes, raw as usize);
        }
        Ok(PackedIndex { parts })
    }

    fn unpack(&self, part: usize) -> Result<Vec<u8>, SegmentError> {
        let (bytes, raw) = self.parts[part];
        if raw == 0 {
            return Ok(Vec::new());
        }
        let unpacked = unpack(bytes, raw).ok().filter(|unpacked| unpacked.len() == raw);
        unpacked.ok_or(SegmentError::Compression { stream: part })
    }

    /// The contents of the written lines, 64 bytes each, in the order of pages and lines.
    pub fn contents(&self) -> Result<Vec<u8>, SegmentError> {
        self.unpack(1)
    }

    /// The sets.
    pub fn index(&self) -> Result<Index, SegmentError> {
        let bytes = self.unpack(0)?;
        let mut at = 0;
        let mut next = || varint::read(&bytes, &mut at).map_err(|_| SegmentError::Head);
        let mut index = Index::default();
        let mut last = None;
        for _ in 0..next()? {
            let block = rising(&mut last, next()?, 1 << 32)?;
            index.blocks.push(block as u32);
        }
        let pages = next()?;
        let (mut last, mut first_content) = (None, 0);
        for _ in 0..pages {
            let delta = varint::read(&bytes, &mut at).map_err(|_| SegmentError::Head)?;
            let page = rising(&mut last, delta, 1 << 52)?;
            let (read, written, complete) =
                (set(&bytes, &mut at)?, set(&bytes, &mut at)?, set(&bytes, &mut at)?);
            let mut known = Vec::with_capacity(written.count_ones() as usize);
            for line in (0..64).filter(|line| written >> line & 1 != 0) {
                known.push(if complete >> line & 1 != 0 { u64::MAX } else { set(&bytes, &mut at)? });
            }
            let lines = known.len();
            index.pages.push(PageLines { page, read, written, known, first_content });
            first_content += lines;
        }
        let mappings = varint::read(&bytes, &mut at).map_err(|_| SegmentError::Head)?;
        let mut last = None;
        for _ in 0..mappings {
            let delta = varint::read(&bytes, &mut at).map_err(|_| SegmentError::Head)?;
            let page = rising(&mut last, delta, 1 << 20)? as u32;
            index.mappings.push((page, read_target(&bytes, &mut at).ok_or(SegmentError::Head)?));
        }
        let opaque = varint::read(&bytes, &mut at).map_err(|_| SegmentError::Head)?;
        for _ in 0..opaque {
            let mut next = || varint::read(&bytes, &mut at).map_err(|_| SegmentError::Head);
            let name = u32::try_from(next()?).map_err(|_| SegmentError::Head)?;
            index.opaque.push((name, next()?));
        }
        // The first traces ended here.
        if at != bytes.len() {
            index.device = device_pages(&bytes, &mut at, &index)?;
        }
        if at != bytes.len() {
            return Err(SegmentError::Head);
        }
        Ok(index)
    }
}

/// What of `index` a device wrote: it must have been written, and be known.
fn device_pages(bytes: &[u8], at: &mut usize, index: &Index) -> Result<Vec<DevicePage>, SegmentError> {
    let mut pages = Vec::new();
    let mut last = None;
    for _ in 0..varint::read(bytes, at).map_err(|_| SegmentError::Head)? {
        let delta = varint::read(bytes, at).map_err(|_| SegmentError::Head)?;
        let page = rising(&mut last, delta, 1 << 52)?;
        let lines = set(bytes, at)?;
        let touched = index.page(page).ok_or(SegmentError::Head)?;
        if lines == 0 || lines & !touched.written != 0 {
            return Err(SegmentError::Head);
        }
        let mut written = Vec::with_capacity(lines.count_ones() as usize);
        for line in (0..64).filter(|line| lines >> line & 1 != 0) {
            let rank = (touched.written & ((1 << line) - 1)).count_ones() as usize;
            let (these, known) = (set(bytes, at)?, touched.known.get(rank).copied().unwrap_or_default());
            if these == 0 || these & !known != 0 {
                return Err(SegmentError::Head);
            }
            written.push(these);
        }
        pages.push(DevicePage { page, lines, bytes: written });
    }
    Ok(pages)
}

/// The next number of a rising list, from its distance to the one before (the first: to 0).
fn rising(last: &mut Option<u64>, delta: u64, limit: u64) -> Result<u64, SegmentError> {
    let next = match *last {
        None => Some(delta),
        Some(_) if delta == 0 => None,
        Some(last) => last.checked_add(delta),
    };
    *last = next.filter(|next| *next < limit);
    last.ok_or(SegmentError::Head)
}

fn set(bytes: &[u8], at: &mut usize) -> Result<u64, SegmentError> {
    let eight = bytes
        .get(*at..*at + 8)
        .and_then(|slice| <[u8; 8]>::try_from(slice).ok())
        .ok_or(SegmentError::Head)?;
    *at += 8;
    Ok(u64::from_le_bytes(eight))
}
