//! A memory image as what encoders and committers know of memory before the first instruction.

use super::{Image, RegionKind};
use crate::segment::encoder::InitialMemory;
use crate::shadow::PAGE_BYTES;

impl InitialMemory for Image {
    fn fill(&self, page: u64, data: &mut [u8; PAGE_BYTES], known: &mut [u64; 64]) {
        for offset in self.read(page * PAGE_BYTES as u64, data).into_iter().flatten() {
            if let Some(word) = known.get_mut(offset / 64) {
                *word |= 1 << (offset % 64);
            }
        }
    }

    fn is_read_only(&self, page: u64) -> bool {
        self.region(page * PAGE_BYTES as u64).is_some_and(|region| region.kind == RegionKind::Rom)
    }

    fn canonical(&self, page: u64) -> u64 {
        Image::canonical(self, page * PAGE_BYTES as u64) / PAGE_BYTES as u64
    }
}
