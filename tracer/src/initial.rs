//! The memory that the guest had before the first instruction, for the encoders.

use std::path::Path;

use ktrace_format::memory::Image;
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
        if let Some(image) = &self.0 {
            image.fill(page, data, known);
        }
    }

    fn is_read_only(&self, page: u64) -> bool {
        self.0.as_ref().is_some_and(|image| image.is_read_only(page))
    }

    fn canonical(&self, page: u64) -> u64 {
        self.0.as_ref().map_or(page, |image| InitialMemory::canonical(image, page))
    }
}
