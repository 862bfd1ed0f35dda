//! Writes a memory image in one pass, holding one chunk in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::layout::{CHUNK_BYTES, KIND_CHUNK, KIND_END, KIND_REGION, KIND_ZERO_CHUNKS, RegionRecord};
use super::{FILE_NAME, ImageError, MAX_REGIONS, Region};
use crate::record::RecordWriter;

/// Low, as a recording waits for it: memory is either zero or compressed already (kernels, initial RAM disks).
const COMPRESSION_LEVEL: i32 = 1;

/// Writes `memory.kt`. Regions go in one after the other; [`ImageWriter::finish`] closes the file, and an image that
/// was dropped before reads as cut short.
///
/// ```
/// use ktrace_format::memory::{Image, ImageWriter, Region, RegionKind};
/// # let dir = std::env::temp_dir().join(format!("ktracer-doc-memory-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir).unwrap();
/// let ram =
///     Region { start: 0x4000_0000, length: 8, kind: RegionKind::Ram, name: "ram".to_owned(), block_offset: 0 };
/// let mut writer = ImageWriter::create(&dir)?;
/// writer.add_region(&ram, &b"8 bytes."[..])?;
/// writer.finish()?;
///
/// let image = Image::open(&dir)?;
/// let mut four = [0; 4];
/// assert_eq!(image.read(0x4000_0006, &mut four), [0..2], "two bytes are known, and two lie beyond the RAM");
/// assert_eq!(&four[..2], b"s.");
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), ktrace_format::memory::ImageError>(())
/// ```
#[derive(Debug)]
pub struct ImageWriter {
    path: PathBuf,
    records: RecordWriter<BufWriter<File>>,
    regions: Vec<Region>,
}

impl ImageWriter {
    /// Creates `memory.kt` in `directory`; one that is there is emptied.
    pub fn create(directory: &Path) -> Result<Self, ImageError> {
        let path = directory.join(FILE_NAME);
        let file = File::create(&path).map_err(|source| ImageError::Io { path: path.clone(), source })?;
        Ok(ImageWriter { path, records: RecordWriter::new(BufWriter::new(file)), regions: Vec::new() })
    }

    /// Whether earlier regions show all the bytes of `region`: then [`ImageWriter::add_alias`] takes it.
    pub fn is_alias(&self, region: &Region) -> bool {
        let mut shown = BTreeMap::new();
        for earlier in self.regions.iter().filter(|earlier| earlier.name == region.name) {
            let end = shown.entry(earlier.block_offset).or_insert(0);
            *end = earlier.block_offset.saturating_add(earlier.length).max(*end);
        }
        let mut reached = region.block_offset;
        for (from, to) in shown {
            if from <= reached {
                reached = to.max(reached);
            }
        }
        reached >= region.block_offset.saturating_add(region.length)
    }

    /// Appends a region and its bytes: exactly `region.length` of them are read from `content`.
    pub fn add_region(&mut self, region: &Region, content: impl Read) -> Result<(), ImageError> {
        self.append_region(region, true)?;
        self.append_content(region, content)
    }

    /// Appends a region whose bytes are those that earlier regions of the same name show.
    pub fn add_alias(&mut self, region: &Region) -> Result<(), ImageError> {
        if !self.is_alias(region) {
            return Err(ImageError::bad_region(region, "an alias of memory that was not seen before"));
        }
        self.append_region(region, false)
    }

    /// Closes the image.
    pub fn finish(mut self) -> Result<(), ImageError> {
        let count = self.regions.len() as u64;
        self.records
            .append(KIND_END, &[&count.to_le_bytes()])
            .and_then(|_| self.records.get_mut().flush())
            .map_err(|source| self.io_error(source))
    }

    fn io_error(&self, source: io::Error) -> ImageError {
        ImageError::Io { path: self.path.clone(), source }
    }

    fn append_region(&mut self, region: &Region, stored: bool) -> Result<(), ImageError> {
        let overlaps = |other: &Region| {
            region.start < other.end() && other.start < region.start.saturating_add(region.length)
        };
        if let Some(fault) = region.fault() {
            return Err(ImageError::bad_region(region, fault));
        }
        if self.regions.iter().any(overlaps) {
            return Err(ImageError::bad_region(region, "a region that overlaps another"));
        }
        if self.regions.len() == MAX_REGIONS {
            return Err(ImageError::bad_region(region, "more regions than an image may have"));
        }
        let record = RegionRecord { region: region.clone(), stored, chunk_bytes: CHUNK_BYTES };
        self.records
            .append(KIND_REGION, &[&record.encode()])
            .map_err(|source| ImageError::Io { path: self.path.clone(), source })?;
        self.regions.push(record.region);
        Ok(())
    }

    fn append_content(&mut self, region: &Region, mut content: impl Read) -> Result<(), ImageError> {
        let mut compressor =
            zstd::bulk::Compressor::new(COMPRESSION_LEVEL).map_err(|source| self.io_error(source))?;
        let mut chunk = vec![0; CHUNK_BYTES as usize];
        let mut left = region.length;
        let mut zero_chunks = 0u64;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let chunk = &mut chunk[..length];
            content.read_exact(chunk).map_err(|source| ImageError::Content {
                name: region.name.clone(),
                start: region.start,
                source,
            })?;
            left -= length as u64;
            if is_zero(chunk) {
                zero_chunks += 1;
                continue;
            }
            self.append_zero_chunks(&mut zero_chunks)?;
            compressor
                .compress(chunk)
                .and_then(|frame| self.records.append(KIND_CHUNK, &[&frame]))
                .map_err(|source| self.io_error(source))?;
        }
        self.append_zero_chunks(&mut zero_chunks)
    }

    fn append_zero_chunks(&mut self, count: &mut u64) -> Result<(), ImageError> {
        let count = std::mem::take(count);
        if count > 0 {
            self.records
                .append(KIND_ZERO_CHUNKS, &[&count.to_le_bytes()])
                .map_err(|source| self.io_error(source))?;
        }
        Ok(())
    }
}

/// In blocks, which the compiler turns into vector instructions: this is most of the work on sparse memory.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}
