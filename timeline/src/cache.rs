//! What has been unpacked from a trace and may be needed again: kept as long as it fits.

use std::str::FromStr;
use std::sync::Arc;

use ktrace_format::group::{BlockUse, Marks, PageUse, VirtualUse};
use ktrace_format::segment::index::Index;
use ktrace_format::segment::{Head, Streams};
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};

use crate::rebuilt::Rebuilt;

/// How much memory may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes for everything that is kept only to be faster: unpacked segments, indexes and groups, decoded blocks, what a
    /// segment has overwritten.
    pub cache: usize,
}

impl Default for Limits {
    /// 256 MiB.
    fn default() -> Limits {
        Limits { cache: 256 << 20 }
    }
}

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no size: write a number of bytes, or of kilobytes, megabytes or gigabytes with k, M or G (1024 times)"
)]
pub struct BadSize(String);

impl FromStr for Limits {
    type Err = BadSize;

    /// Reads a size as people write it: `256M`.
    fn from_str(text: &str) -> Result<Limits, BadSize> {
        let trimmed = text.trim();
        let unit = trimmed.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(unit);
        let shift = match unit.trim_end_matches("iB").trim_end_matches('B') {
            "" => 0,
            "k" | "K" => 10,
            "M" => 20,
            "G" => 30,
            _ => return Err(BadSize(text.to_owned())),
        };
        let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.map(|cache| Limits { cache }).ok_or_else(|| BadSize(text.to_owned()))
    }
}

impl Limits {
    /// Less than this is not enough for anything.
    pub const SMALLEST: usize = 16 << 20;

    fn parts(self, parts: usize) -> usize {
        self.cache.max(Self::SMALLEST) / 16 * parts
    }

    /// Bytes for what this module keeps.
    pub(crate) fn unpacked(self) -> usize {
        self.parts(5)
    }

    /// Bytes for decoded blocks.
    pub(crate) fn blocks(self) -> usize {
        self.parts(2)
    }

    /// Bytes for what one segment has overwritten.
    pub(crate) fn journal(self) -> usize {
        self.parts(3)
    }
}

/// What is kept, by the number of the segment or group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Segment(usize),
    Index(usize),
    Contents(usize),
    Rebuilt(usize),
    Marks(usize),
    Blocks(usize),
    Pages(usize),
    VirtualPages(usize),
}

#[derive(Clone)]
enum Kept {
    Segment(Arc<(Head, Arc<Streams>)>),
    Index(Option<Arc<Index>>),
    Contents(Option<Arc<Vec<u8>>>),
    Rebuilt(Option<Arc<Rebuilt>>),
    Marks(Marks),
    Blocks(Arc<Vec<BlockUse>>),
    Pages(Arc<Vec<PageUse>>),
    VirtualPages(Arc<Vec<VirtualUse>>),
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Kept> for Weight {
    fn weight(&self, _: &Key, kept: &Kept) -> u64 {
        let bytes = match kept {
            Kept::Segment(segment) => segment.1.0.iter().map(Vec::len).sum(),
            Kept::Index(index) => index.as_ref().map_or(0, |index| {
                let lines: usize = index.pages.iter().map(|page| 8 * page.known.len() + 64).sum();
                4 * index.blocks.len() + lines + 24 * index.mappings.len() + 16 * index.opaque.len()
            }),
            Kept::Contents(contents) => contents.as_ref().map_or(0, |contents| contents.len()),
            Kept::Rebuilt(rebuilt) => rebuilt.as_ref().map_or(0, |rebuilt| rebuilt.bytes()),
            Kept::Marks(_) => 0,
            Kept::Blocks(blocks) => size_of::<BlockUse>() * blocks.len(),
            Kept::Pages(pages) => size_of::<PageUse>() * pages.len(),
            Kept::VirtualPages(pages) => pages.iter().map(|page| 32 + 24 * page.targets.len()).sum(),
        };
        bytes as u64 + 128
    }
}

/// See the [module](self).
pub(crate) struct Unpacked(Cache<Key, Kept, Weight>);

impl std::fmt::Debug for Unpacked {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(text, "{} things of {} bytes", self.0.len(), self.0.weight())
    }
}

/// Asks for one kind of thing, or makes it.
macro_rules! kept {
    ($($name:ident, $kind:ident: $type:ty;)*) => {
        $(
            pub(crate) fn $name<E>(&self, number: usize, make: impl FnOnce() -> Result<$type, E>) -> Result<$type, E> {
                let key = Key::$kind(number);
                if let Some(Kept::$kind(kept)) = self.0.get(&key) {
                    return Ok(kept);
                }
                // Two threads may make the same thing; it is the same.
                let made = make()?;
                self.0.insert(key, Kept::$kind(made.clone()));
                Ok(made)
            }
        )*
    };
}

impl Unpacked {
    pub(crate) fn new(limits: Limits) -> Unpacked {
        let bytes = limits.unpacked() as u64;
        let options = OptionsBuilder::new()
            .estimated_items_capacity(4096)
            .weight_capacity(bytes)
            // Each shard has its part of the capacity, and keeps nothing larger than that.
            .shards(1)
            .build()
            .expect("the capacities are given");
        Unpacked(Cache::with_options(options, Weight, Default::default(), Default::default()))
    }

    kept! {
        segment, Segment: Arc<(Head, Arc<Streams>)>;
        index, Index: Option<Arc<Index>>;
        contents, Contents: Option<Arc<Vec<u8>>>;
        rebuilt, Rebuilt: Option<Arc<Rebuilt>>;
        marks, Marks: Marks;
        blocks, Blocks: Arc<Vec<BlockUse>>;
        pages, Pages: Arc<Vec<PageUse>>;
        virtual_pages, VirtualPages: Arc<Vec<VirtualUse>>;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("0", 0), ("1000", 1000), ("64k", 64 << 10), ("256M", 256 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(text.parse(), Ok(Limits { cache: bytes }));
        }
        for text in ["", "M", "-1", "1.5G", "5T", "99999999999999999999", "17179869184G"] {
            assert!(text.parse::<Limits>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let limits = Limits { cache: Limits::SMALLEST };
        let cache = Unpacked::new(limits);
        let mut made = 0;
        for number in 0..1000 {
            let contents = cache.contents(number, || {
                made += 1;
                Ok::<_, ()>(Some(Arc::new(vec![0; 1 << 16])))
            });
            assert!(contents.is_ok());
        }
        assert_eq!(made, 1000);
        assert!(cache.0.weight() <= limits.unpacked() as u64);
        let again = cache.contents(999, || Err(()));
        assert!(again.is_ok(), "the latest is still there");
    }

    #[test]
    fn the_parts_are_not_more_than_the_whole() {
        for cache in [0, Limits::SMALLEST, 256 << 20, usize::MAX] {
            let limits = Limits { cache };
            let parts = limits.unpacked() + limits.blocks() + limits.journal();
            assert!(parts <= cache.max(Limits::SMALLEST));
        }
    }
}
