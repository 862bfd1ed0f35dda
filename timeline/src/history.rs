//! Which segments changed which physical pages, from the indexes of all segments. It is built once, when memory is first
//! asked for that the segment at hand has not seen.

use std::collections::HashMap;

use ktrace_format::segment::index::Index;
use rayon::prelude::*;

use crate::program::Program;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct History {
    /// For each physical page the segments that wrote to it, rising.
    written: HashMap<u64, Vec<u32>>,
    /// Where memory may have changed in ways that are not known, rising.
    blind: Vec<Blind>,
}

/// Something that is not known: what a memory held before it says nothing of what it holds after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blind {
    /// Segments are missing before this one.
    Before(u32),
    /// This segment has no readable index.
    During(u32),
}

impl Blind {
    /// The first segment of which everything is known again.
    fn end(self) -> u32 {
        match self {
            Blind::Before(segment) => segment,
            Blind::During(segment) => segment.saturating_add(1),
        }
    }
}

impl History {
    pub(crate) fn build(program: &Program) -> History {
        let segments = program.trace().segments();
        let indexes: Vec<Option<Index>> = segments
            .par_iter()
            .map(|segment| program.trace().read_index(segment).ok().flatten()?.index().ok())
            .collect();
        let mut history = History::default();
        let mut end = 0;
        for ((number, index), segment) in (0u32..).zip(&indexes).zip(segments) {
            if segment.first != end {
                history.blind.push(Blind::Before(number));
            }
            end = segment.end();
            let Some(index) = index else {
                history.blind.push(Blind::During(number));
                continue;
            };
            for page in index.pages.iter().filter(|page| page.written != 0) {
                history.written.entry(page.page).or_default().push(number);
            }
        }
        history
    }

    /// Segments before `segment` that wrote to a physical page, latest first, and whether the walk ends at a segment
    /// of which nothing is known, rather than at the start of the recording.
    pub(crate) fn writers(&self, page: u64, segment: u32) -> (impl Iterator<Item = u32>, bool) {
        let floor = self.known_from(segment);
        let all = self.written.get(&page).map_or(&[][..], Vec::as_slice);
        let before = all.get(..all.partition_point(|writer| *writer < segment)).unwrap_or_default();
        (
            before.iter().rev().copied().take_while(move |writer| floor.is_none_or(|floor| *writer >= floor)),
            floor.is_some(),
        )
    }

    /// The first segment from which on everything up to the start of `segment` is known; `None`: from the start of the
    /// recording on.
    fn known_from(&self, segment: u32) -> Option<u32> {
        let before = self.blind.partition_point(|blind| blind.end() <= segment);
        self.blind.get(before.checked_sub(1)?).map(|blind| blind.end())
    }
}
