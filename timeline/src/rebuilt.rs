//! What an index would say of a segment whose own can't be read, found by executing the segment again.
//!
//! It says too much rather than too little: every line of which the segment saw a byte counts as read and written. What it
//! says of the memory at the segment's end is right, but only for bytes that the segment saw: see [`Rebuilt::byte`].

use std::collections::BTreeMap;
use std::sync::Arc;

use ktrace_format::segment::index::{Index, PageLines};
use ktrace_format::shadow::{LINE_BYTES, PAGE_BYTES};

use crate::engine::Engine;
use crate::journal::NoJournal;
use crate::program::Program;
use crate::verify;

const LINES: usize = PAGE_BYTES / LINE_BYTES;

/// See the [module](self).
#[derive(Debug)]
pub struct Rebuilt {
    index: Index,
    pages: BTreeMap<u64, Box<Seen>>,
}

/// A physical page at the segment's end.
#[derive(Debug)]
struct Seen {
    known: [u64; LINES],
    data: [u8; PAGE_BYTES],
}

impl Rebuilt {
    /// Executes a segment. `None`: not all of it is proved, or it is not there.
    pub(crate) fn new(program: &Arc<Program>, segment: usize) -> Option<Rebuilt> {
        let segments = program.trace().segments();
        let mut engine: Engine<NoJournal> = Engine::new(Arc::clone(program));
        verify::segment(&mut engine, segments.get(segment)?, segments.get(segment + 1)).ok()?;
        let shadow = &engine.memory.shadow;
        let pages: BTreeMap<u64, Box<Seen>> = shadow
            .touched_pages()
            .map(|(_, page)| (page.number, Box::new(Seen { known: page.known, data: page.data })))
            .collect();
        let mut first_content = 0;
        let lines = pages.iter().map(|(&page, seen)| {
            let known: Vec<u64> = seen.known.iter().copied().filter(|known| *known != 0).collect();
            let lines = (0..LINES)
                .filter(|line| seen.known.get(*line).is_some_and(|known| *known != 0))
                .fold(0, |set, line| set | 1u64 << line);
            let first = first_content;
            first_content += known.len();
            PageLines { page, read: lines, written: lines, known, first_content: first }
        });
        let index = Index {
            blocks: engine.entered_blocks().collect(),
            pages: lines.collect(),
            mappings: shadow.targets().collect(),
            ..Index::default()
        };
        Some(Rebuilt { index, pages })
    }

    /// What an index would say.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// A byte of physical memory at the segment's end; `None`: the segment did not see it, so it is what it was before.
    pub(crate) fn byte(&self, page: u64, offset: usize) -> Option<u8> {
        let seen = self.pages.get(&page)?;
        let known = seen.known.get(offset / LINE_BYTES)? >> (offset % LINE_BYTES) & 1 != 0;
        seen.data.get(offset).copied().filter(|_| known)
    }

    /// What it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.len() * (size_of::<Seen>() + 256)
            + 4 * self.index.blocks.len()
            + 24 * self.index.mappings.len()
    }
}
