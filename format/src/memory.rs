//! The memory image: what the guest's physical memory held before the first recorded instruction (`memory.kt`).
//!
//! The image lists the ranges of RAM and ROM that the guest's processors see, and the bytes of each. One block of
//! memory can be seen at several addresses (aliases); [`Image::canonical`] folds them onto one. Bytes that the image
//! does not hold (devices, a part of the file that is missing or damaged) are reported as unknown, never as zero.
//!
//! `SPEC.md` beside this crate defines every byte; the framing is that of [`crate::record`].

mod image;
mod initial;
mod layout;
mod table;
mod writer;

use std::io;
use std::path::PathBuf;

pub use image::{Image, Run};
pub use writer::ImageWriter;

/// The image's name inside the trace's directory.
pub const FILE_NAME: &str = "memory.kt";

/// Most regions an image may have. QEMU's boards have a few dozen at most.
pub const MAX_REGIONS: usize = 4096;

/// What answers the guest's accesses to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// The guest reads and writes it.
    Ram,
    /// The guest only reads it: stores to it change nothing.
    Rom,
    /// A device that is read like memory until the guest writes a command to it (NOR flash).
    RomDevice,
}

/// A range of guest-physical addresses that shows part of one block of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first guest-physical address.
    pub start: u64,
    /// Bytes, at least one; `start + length` does not exceed 2⁶⁴ − 1.
    pub length: u64,
    /// What answers accesses.
    pub kind: RegionKind,
    /// The name of the block of memory. Regions of the same name show the same block.
    pub name: String,
    /// Which byte of the block is seen at `start`.
    pub block_offset: u64,
}

impl Region {
    /// The first address after the region.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// Whether `address` lies in the region.
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end()).contains(&address)
    }

    /// Why this is not a region, if it is not.
    fn fault(&self) -> Option<&'static str> {
        if self.length == 0 {
            Some("a region of no bytes")
        } else if self.start.checked_add(self.length).is_none()
            || self.block_offset.checked_add(self.length).is_none()
        {
            Some("a region beyond the end of the address space")
        } else if self.name.is_empty() {
            Some("a region without a name")
        } else if u32::try_from(self.name.len()).is_err() {
            Some("a region with an overlong name")
        } else {
            None
        }
    }
}

/// Why an image cannot be written or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The image's file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The source of a region's bytes failed or ended early.
    #[error("reading the bytes of {name} at {start:#x}: {source}")]
    Content {
        /// The region's name.
        name: String,
        /// Its first address.
        start: u64,
        /// What the source said.
        source: io::Error,
    },
    /// A region that cannot be, or that overlaps another.
    #[error("{fault} ({name} at {start:#x}, {length:#x} bytes)")]
    BadRegion {
        /// The region's name.
        name: String,
        /// Its first address.
        start: u64,
        /// Its length in bytes.
        length: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The file's records are intact and contradict its specification.
    #[error("{}, record at offset {offset}: {fault}", path.display())]
    Malformed {
        /// The image's file.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl ImageError {
    fn bad_region(region: &Region, fault: &'static str) -> Self {
        ImageError::BadRegion { name: region.name.clone(), start: region.start, length: region.length, fault }
    }
}

#[cfg(test)]
mod tests;
