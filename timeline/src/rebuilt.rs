//! What a segment has left in memory, found by executing it again: for a look at memory where no index of the segment can be
//! read, until `ktracer index` makes one ([`indexing`](crate::indexing)).

use std::collections::BTreeMap;
use std::sync::Arc;

use ktrace_format::shadow::{LINE_BYTES, PAGE_BYTES};

use crate::engine::Engine;
use crate::journal::NoJournal;
use crate::program::Program;
use crate::verify;

const LINES: usize = PAGE_BYTES / LINE_BYTES;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Rebuilt {
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
        let pages = engine.memory.shadow.touched_pages();
        let seen = |page: &ktrace_format::shadow::Page| Box::new(Seen { known: page.known, data: page.data });
        Some(Rebuilt { pages: pages.map(|(_, page)| (page.number, seen(page))).collect() })
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
    }
}
