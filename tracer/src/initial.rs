//! The memory that the guest had before the first instruction, for the encoder.

use std::path::Path;

use ktrace_format::memory::{Image, RegionKind};
use ktrace_format::segment::encoder::InitialMemory;
use ktrace_format::shadow::PAGE_BYTES;

/// The captured image, or nothing.
pub struct Initial(Option<Image>);

impl Initial {
    /// Opens the image of a trace; there may be none.
    pub fn open(directory: &Path) -> Self {
        Initial(Image::open(directory).ok())
    }
}

impl InitialMemory for Initial {
    fn fill(&mut self, page: u64, data: &mut [u8; PAGE_BYTES], known: &mut [u64; 64]) -> bool {
        let Some(image) = &self.0 else { return false };
        let address = page * PAGE_BYTES as u64;
        for range in image.read(address, data) {
            for offset in range {
                if let Some(word) = known.get_mut(offset / 64) {
                    *word |= 1 << (offset % 64);
                }
            }
        }
        image.region(address).is_some_and(|region| region.kind == RegionKind::Rom)
    }

    fn canonical(&mut self, page: u64) -> u64 {
        self.0.as_ref().map_or(page, |image| image.canonical(page * PAGE_BYTES as u64) / PAGE_BYTES as u64)
    }
}
