//! The walk over a memory image's records: which regions there are, where their chunks lie, what is an alias of what.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::layout::{KIND_CHUNK, KIND_END, KIND_REGION, KIND_ZERO_CHUNKS, RegionRecord};
use super::{ImageError, MAX_REGIONS, Region};
use crate::record::{Record, RecordError, records};

/// What the walk finds.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) regions: Vec<Region>,
    /// One for each region.
    pub(super) contents: Vec<Content>,
    /// What is missing or damaged. Everything before it was taken.
    pub(super) defect: Option<String>,
}

/// What the file holds of one region, in order of chunks.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) chunk_bytes: u64,
    pub(super) spans: Vec<Span>,
    /// Chunks that the spans account for. Those after them are missing from the file.
    pub(super) chunks: u64,
    /// Chunks that the region has; none if it is an alias.
    all_chunks: u64,
}

/// One chunk, or some chunks of zero bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) first_chunk: u64,
    /// The offset of the chunk's record in the file; `None` for zero bytes.
    pub(super) record: Option<u64>,
}

impl Content {
    /// The length of a chunk: the last of a region may be shorter than the others.
    pub(super) fn chunk_length(&self, region: &Region, chunk: u64) -> u64 {
        region.length.saturating_sub(chunk.saturating_mul(self.chunk_bytes)).min(self.chunk_bytes)
    }

    fn push(&mut self, count: u64, record: Option<u64>) -> Result<(), Stop> {
        if count == 0 || count > self.all_chunks - self.chunks {
            return Err(Stop::Malformed("more chunks than the region has, or none"));
        }
        self.spans.push(Span { first_chunk: self.chunks, record });
        self.chunks += count;
        Ok(())
    }
}

/// Why the walk ends before the end of the file.
enum Stop {
    /// Bytes are missing or damaged.
    Lost(RecordError),
    /// The bytes are what was written, and make no sense.
    Malformed(&'static str),
}

impl From<RecordError> for Stop {
    fn from(error: RecordError) -> Self {
        Stop::Lost(error)
    }
}

impl Table {
    /// Walks a whole file. `path` is for messages.
    pub(super) fn read(file: &[u8], path: &Path) -> Result<Table, ImageError> {
        let mut table = Table::default();
        let mut ended = false;
        for record in records(file) {
            let offset = match &record {
                Ok(record) => record.offset,
                Err(error) => error.offset(),
            };
            let taken = record.map_err(Stop::from).and_then(|record| table.take(&record, ended));
            match taken {
                Ok(end) => ended = end,
                Err(Stop::Lost(error)) => {
                    table.defect = Some(format!("{}: {error}", path.display()));
                    return Ok(table);
                }
                Err(Stop::Malformed(fault)) => {
                    return Err(ImageError::Malformed { path: path.to_owned(), offset, fault });
                }
            }
        }
        if !ended {
            table.defect =
                Some(format!("{}: it was cut short: the record that ends it is missing", path.display()));
        }
        Ok(table)
    }

    /// Takes one record in; says whether the image has ended.
    fn take(&mut self, record: &Record<'_>, ended: bool) -> Result<bool, Stop> {
        match record.kind {
            KIND_REGION | KIND_CHUNK | KIND_ZERO_CHUNKS | KIND_END if ended => {
                Err(Stop::Malformed("a record after the one that ends the image"))
            }
            KIND_REGION => {
                self.finish_region()?;
                let region = RegionRecord::decode(record.payload()?).map_err(Stop::Malformed)?;
                self.add_region(region)?;
                Ok(false)
            }
            KIND_CHUNK => {
                self.current()?.push(1, Some(record.offset))?;
                Ok(false)
            }
            KIND_ZERO_CHUNKS => {
                let count = number(record)?;
                self.current()?.push(count, None)?;
                Ok(false)
            }
            KIND_END => {
                self.finish_region()?;
                if number(record)? != self.regions.len() as u64 {
                    return Err(Stop::Malformed("another number of regions than there are"));
                }
                Ok(true)
            }
            // Later versions may add kinds that can be ignored.
            _ => Ok(ended),
        }
    }

    fn current(&mut self) -> Result<&mut Content, Stop> {
        self.contents.last_mut().ok_or(Stop::Malformed("a chunk before the first region"))
    }

    /// The current region must be complete when another begins.
    fn finish_region(&self) -> Result<(), Stop> {
        match self.contents.last() {
            Some(content) if content.chunks != content.all_chunks => {
                Err(Stop::Malformed("the region before has fewer chunks than its length asks for"))
            }
            _ => Ok(()),
        }
    }

    fn add_region(&mut self, record: RegionRecord) -> Result<(), Stop> {
        let RegionRecord { region, stored, chunk_bytes } = record;
        if self.regions.len() == MAX_REGIONS {
            return Err(Stop::Malformed("more regions than an image may have"));
        }
        if self.regions.iter().any(|other| region.start < other.end() && other.start < region.end()) {
            return Err(Stop::Malformed("a region that overlaps another"));
        }
        let chunk_bytes = u64::from(chunk_bytes);
        self.contents.push(Content {
            chunk_bytes,
            all_chunks: if stored { region.length.div_ceil(chunk_bytes) } else { 0 },
            ..Content::default()
        });
        self.regions.push(region);
        Ok(())
    }
}

fn number(record: &Record<'_>) -> Result<u64, Stop> {
    let bytes = record.payload()?.try_into().map_err(|_| Stop::Malformed("a number that is not 8 bytes"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Addresses that show memory which an earlier region shows at another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fold {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) canonical: u64,
}

/// All folds of an image, in ascending order of addresses.
pub(super) fn folds(regions: &[Region]) -> Vec<Fold> {
    let mut folds = Vec::new();
    // For each block of memory, the parts of it that were seen: from (the key) and to, and the address of the first byte.
    let mut seen: HashMap<&str, BTreeMap<u64, (u64, u64)>> = HashMap::new();
    for region in regions {
        let parts = seen.entry(&region.name).or_default();
        let end = region.block_offset.saturating_add(region.length);
        let mut at = region.block_offset;
        while at < end {
            let address = region.start + (at - region.block_offset);
            let earlier = parts.range(..=at).next_back().filter(|(_, (to, _))| *to > at);
            if let Some((&from, &(to, first))) = earlier {
                let length = to.min(end) - at;
                folds.push(Fold { start: address, length, canonical: first + (at - from) });
                at += length;
            } else {
                let to = parts.range(at..).next().map_or(end, |(&from, _)| from.min(end));
                parts.insert(at, (to, address));
                at = to;
            }
        }
    }
    folds.sort_by_key(|fold| fold.start);
    folds
}

#[cfg(test)]
mod tests {
    use super::super::RegionKind;
    use super::*;

    fn region(start: u64, length: u64, name: &str, block_offset: u64) -> Region {
        Region { start, length, kind: RegionKind::Ram, name: name.to_owned(), block_offset }
    }

    #[test]
    fn aliases_fold_onto_the_first_region_that_shows_a_byte() {
        let folds = folds(&[
            region(0x1000, 0x100, "a", 0x40),
            region(0x2000, 0x100, "b", 0x40),
            region(0x3000, 0x200, "a", 0),
            region(0x4000, 0x10, "a", 0x1f8),
        ]);
        let fold = |start, length, canonical| Fold { start, length, canonical };
        assert_eq!(folds, [fold(0x3040, 0x100, 0x1000), fold(0x4000, 8, 0x31f8)]);
    }
}
