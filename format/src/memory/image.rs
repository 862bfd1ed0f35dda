//! Reads a memory image: a table of chunks is built when it is opened, and chunks are expanded when first read.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::Mmap;

use super::table::{Content, Fold, Table, folds};
use super::{FILE_NAME, ImageError, Region};
use crate::record::record_at;
use crate::unpack::unpack;

/// Expanded chunks that are kept: 16 MiB with chunks of the size that [`super::ImageWriter`] writes.
const CACHED_CHUNKS: usize = 256;

/// Memory before the first recorded instruction, by guest-physical address. Many threads can read it at once.
#[derive(Debug)]
pub struct Image {
    file: Mmap,
    regions: Vec<Region>,
    contents: Vec<Content>,
    /// Indexes into `regions`, by address.
    by_address: Vec<usize>,
    /// Addresses whose memory was seen at an earlier region's address, in ascending order.
    folds: Vec<Fold>,
    defect: Option<String>,
    cache: Mutex<Cache>,
}

/// A stretch of addresses of which either every byte is known or none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Bytes, at least one unless nothing was asked for.
    pub length: usize,
    /// Whether the image holds them.
    pub known: bool,
}

/// Expanded chunks, in slots that the chunk's number picks.
#[derive(Debug, Default)]
struct Cache {
    slots: HashMap<usize, CachedChunk>,
}

#[derive(Debug)]
struct CachedChunk {
    /// The offset of the chunk's record.
    record: u64,
    /// `None` if it is damaged.
    bytes: Option<Arc<[u8]>>,
}

impl Image {
    /// Opens `memory.kt` in `directory`. A file that was cut short or is damaged opens too: what it lost is unknown
    /// memory, and [`Image::defect`] says what is wrong.
    ///
    /// The file must not be changed while it is open.
    pub fn open(directory: &Path) -> Result<Self, ImageError> {
        let path = directory.join(FILE_NAME);
        // SAFETY: the mapping is only read, and through `&[u8]`. A trace's files are append-only by specification and
        // nothing of ktracer changes or truncates one that was written; the documentation above demands the same of
        // the caller. Every value in it is checked before use, so other bytes than expected are an error, no more.
        let file = unsafe { File::open(&path).and_then(|file| Mmap::map(&file)) }
            .map_err(|source| ImageError::Io { path: path.clone(), source })?;
        let table = Table::read(&file, &path)?;
        let mut by_address: Vec<usize> = (0..table.regions.len()).collect();
        by_address.sort_by_key(|&index| table.regions[index].start);
        Ok(Image {
            by_address,
            folds: folds(&table.regions),
            file,
            regions: table.regions,
            contents: table.contents,
            defect: table.defect,
            cache: Mutex::default(),
        })
    }

    /// All regions, in the order in which they were written: by address, as QEMU lists them.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region at a guest-physical address.
    pub fn region(&self, address: u64) -> Option<&Region> {
        self.region_index(address).map(|index| &self.regions[index])
    }

    /// What is missing or damaged in the file, as far as opening it can tell, for people.
    pub fn defect(&self) -> Option<&str> {
        self.defect.as_deref()
    }

    /// Reads every chunk, and returns what [`Image::defect`] says together with all chunks that are damaged.
    pub fn check(&self) -> Vec<String> {
        let mut found: Vec<String> = self.defect.iter().cloned().collect();
        for (region, content) in self.regions.iter().zip(&self.contents) {
            for span in &content.spans {
                let Some(record) = span.record else { continue };
                let from = content.chunk_bytes * span.first_chunk;
                if let Err(fault) = self.expand(record, content.chunk_length(region, span.first_chunk)) {
                    found.push(format!("{} at {:#x}: {fault}", region.name, region.start + from));
                }
            }
        }
        found
    }

    /// The address at which the image first shows the memory that is at `physical`: two addresses show the same byte
    /// of memory exactly if their canonical addresses are equal. Addresses outside all regions are their own.
    pub fn canonical(&self, physical: u64) -> u64 {
        self.fold(physical).0
    }

    /// Reads memory from a guest-physical address on. Returns which bytes of `buffer` are known, as ascending ranges
    /// of indexes that do not touch; the others are left as they were.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Vec<Range<usize>> {
        let mut known: Vec<Range<usize>> = Vec::new();
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(from) = address.checked_add(done as u64) else { break };
            let run = self.read_run(from, rest);
            let end = done + run.length.max(1);
            match known.last_mut() {
                Some(last) if run.known && last.end == done => last.end = end,
                _ if run.known => known.push(done..end),
                _ => {}
            }
            done = end;
        }
        known
    }

    /// Reads the longest stretch from `address` on that lies in one chunk or in none, without allocating: what
    /// [`Image::read`] is made of. An unknown stretch leaves `buffer` as it was.
    pub fn read_run(&self, address: u64, buffer: &mut [u8]) -> Run {
        let (canonical, folded) = self.fold(address);
        let limit = usize::try_from(folded).unwrap_or(usize::MAX).min(buffer.len());
        let unknown = |length: u64| Run {
            length: usize::try_from(length).unwrap_or(usize::MAX).min(limit),
            known: false,
        };
        let Some(index) = self.region_index(canonical) else {
            return unknown(self.next_region_start(canonical).map_or(u64::MAX, |start| start - canonical));
        };
        let (Some(region), Some(content)) = (self.regions.get(index), self.contents.get(index)) else {
            return unknown(u64::MAX);
        };
        let offset = canonical - region.start;
        if content.chunk_bytes == 0 || offset / content.chunk_bytes >= content.chunks {
            return unknown(region.length - offset);
        }
        let chunk = offset / content.chunk_bytes;
        let within = offset % content.chunk_bytes;
        let chunk_length = content.chunk_length(region, chunk);
        let length = usize::try_from(chunk_length - within).unwrap_or(usize::MAX).min(limit);
        let span = content.spans.partition_point(|span| span.first_chunk <= chunk);
        let Some(span) = span.checked_sub(1).and_then(|last| content.spans.get(last)) else {
            return unknown(length as u64);
        };
        let Some(record) = span.record else {
            buffer[..length].fill(0);
            return Run { length, known: true };
        };
        let Some(bytes) = self.chunk(record, chunk, chunk_length) else { return unknown(length as u64) };
        let within = within as usize;
        match bytes.get(within..within + length) {
            Some(bytes) => {
                buffer[..length].copy_from_slice(bytes);
                Run { length, known: true }
            }
            None => unknown(length as u64),
        }
    }

    /// An expanded chunk, from the cache if it is there; `None` if it is damaged.
    fn chunk(&self, record: u64, chunk: u64, length: u64) -> Option<Arc<[u8]>> {
        let slot = (chunk % CACHED_CHUNKS as u64) as usize;
        // A thread that panicked while it held the lock left the cache as it was or with one more entry.
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cache.slots.get(&slot).filter(|cached| cached.record == record) {
            return cached.bytes.clone();
        }
        drop(cache);
        let bytes = self.expand(record, length).ok();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.slots.insert(slot, CachedChunk { record, bytes: bytes.clone() });
        bytes
    }

    fn expand(&self, record: u64, length: u64) -> Result<Arc<[u8]>, String> {
        let record = record_at(&self.file, record)
            .ok_or_else(|| "the chunk is missing".to_owned())?
            .map_err(|error| error.to_string())?;
        let payload = record.payload().map_err(|error| error.to_string())?;
        let fault = || format!("the chunk at offset {} does not expand to {length} bytes", record.offset);
        // `length` is a chunk's at most, which the layout bounds.
        let bytes = unpack(payload, length as usize).map_err(|_| fault())?;
        if bytes.len() as u64 == length { Ok(bytes.into()) } else { Err(fault()) }
    }

    fn region_index(&self, address: u64) -> Option<usize> {
        let after = self.by_address.partition_point(|&index| self.regions[index].start <= address);
        let index = *self.by_address.get(after.checked_sub(1)?)?;
        self.regions[index].contains(address).then_some(index)
    }

    fn next_region_start(&self, address: u64) -> Option<u64> {
        let after = self.by_address.partition_point(|&index| self.regions[index].start <= address);
        self.by_address.get(after).map(|&index| self.regions[index].start)
    }

    /// The canonical address, and for how many bytes the same distance to it holds.
    fn fold(&self, address: u64) -> (u64, u64) {
        let after = self.folds.partition_point(|fold| fold.start <= address);
        if let Some(fold) = after.checked_sub(1).and_then(|index| self.folds.get(index)) {
            let offset = address - fold.start;
            if offset < fold.length {
                return (fold.canonical + offset, fold.length - offset);
            }
        }
        let next = self.folds.get(after).map_or(u64::MAX, |fold| fold.start - address);
        (address, next)
    }
}
