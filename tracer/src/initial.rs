//! The memory that the guest had before the first instruction, for the encoders.

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
    fn fill(&self, page: u64, data: &mut [u8; PAGE_BYTES], known: &mut [u64; 64]) {
        let Some(image) = &self.0 else { return };
        for range in image.read(page * PAGE_BYTES as u64, data) {
            for offset in range {
                if let Some(word) = known.get_mut(offset / 64) {
                    *word |= 1 << (offset % 64);
                }
            }
        }
    }

    fn is_read_only(&self, page: u64) -> bool {
        let region = self.0.as_ref().and_then(|image| image.region(page * PAGE_BYTES as u64));
        region.is_some_and(|region| region.kind == RegionKind::Rom)
    }

    fn canonical(&self, page: u64) -> u64 {
        self.0.as_ref().map_or(page, |image| image.canonical(page * PAGE_BYTES as u64) / PAGE_BYTES as u64)
    }
}
