//! What a replay of a segment has found, in the form in which the recorder's encoder leaves it: the [`Committer`] makes of both
//! the same index.
//!
//! [`Committer`]: super::Committer

use std::collections::HashMap;

use super::Head;
use super::device_bytes::DeviceBytes;
use super::encoder::Encoded;
use super::local_memory::FirstSight;
use super::pool::Pool;
use crate::shadow::{LINE_BYTES, PAGE_BYTES, Target};

const LINES: usize = PAGE_BYTES / LINE_BYTES;

/// What happened to the lines of a physical page in a segment: one bit a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineEvents {
    /// A load saw a byte that was not known, or was other than known.
    pub seen: u64,
    /// A load saw a byte that was other than known.
    pub changed: u64,
    /// A store touched it, or a device's write.
    pub stored: u64,
}

/// A physical page as a segment has left it.
#[derive(Clone, Copy, Debug)]
pub struct ReplayedPage<'a> {
    /// The page's number.
    pub number: u64,
    /// What happened to its lines.
    pub events: LineEvents,
    /// Bytes that the segment knows at its end: one bit a byte, one word a line.
    pub known: &'a [u64; LINES],
    /// The bytes; those that are not known mean nothing.
    pub data: &'a [u8; PAGE_BYTES],
}

/// Bytes that a load saw before the segment knew them. They lie within one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayedSight {
    /// Offset of the load's first byte in the page.
    pub offset: u16,
    /// Which of the eight bytes from there are meant: bit n for byte n.
    pub mask: u8,
    /// The bytes, the first in bits 0 to 7.
    pub value: u64,
}

/// What a segment did, but for its memory.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Blocks that were entered, rising.
    pub blocks: Vec<u32>,
    /// What was behind the virtual pages that were accessed, by rising page.
    pub mapped: Vec<(u32, Target)>,
    /// How often opaque instructions started, by the number of the mnemonic.
    pub opaque: HashMap<u32, u64>,
    /// Bytes whose last change was a device's write.
    pub device_bytes: DeviceBytes,
}

impl Encoded {
    /// A segment that has been replayed; [`add_page`](Self::add_page) adds its pages.
    pub fn replayed(replayed: Replayed) -> Encoded {
        let Replayed { blocks, mapped, opaque, device_bytes } = replayed;
        let mut pages = Pool::default();
        pages.begin();
        let head = Head::default();
        Encoded {
            head,
            run: blocks,
            mapped,
            opaque_counts: opaque,
            device_bytes,
            pages,
            ..Encoded::default()
        }
    }

    /// Adds a physical page, which must not have been added yet, and what loads saw first of it.
    pub fn add_page(&mut self, page: &ReplayedPage<'_>, sights: impl Iterator<Item = ReplayedSight>) {
        let key = self.pages.add(page.number);
        self.pages.page_mut(key).set(page);
        self.sights.extend(sights.map(|ReplayedSight { offset, mask, value }| FirstSight {
            page: key,
            offset,
            mask,
            value,
        }));
    }
}
