//! What changed bytes of memory last: kept while a segment is executed again for somebody who asks.

use std::collections::HashMap;

use ktrace_format::shadow::PAGE_BYTES;

/// How a byte came to be what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The processor stored it.
    Store,
    /// A load showed it, the first in its segment to touch it.
    FirstLoad,
    /// A load showed that it is not what it was.
    Load,
    /// A device wrote it.
    Device,
}

/// A change, and when it was, in instructions of the segment: for a device's write how many had been executed, else which
/// one it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) change: Change,
    pub(crate) at: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pages: HashMap<u64, Vec<Option<Origin>>>,
}

impl Watch {
    /// Watches these physical pages.
    pub(crate) fn new(pages: impl Iterator<Item = u64>) -> Watch {
        Watch { pages: pages.map(|page| (page, vec![None; PAGE_BYTES])).collect() }
    }

    /// The pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }

    /// Bytes of a page were changed at a place, see [`Origin`].
    pub(crate) fn changed(&mut self, page: u64, offset: usize, length: usize, change: Change, at: u64) {
        let origin = Some(Origin { change, at });
        let bytes = self.pages.get_mut(&page).and_then(|page| page.get_mut(offset..offset + length));
        bytes.unwrap_or_default().fill(origin);
    }

    /// What changed a byte last; `None`: nothing has.
    pub(crate) fn origin(&self, page: u64, offset: usize) -> Option<Origin> {
        self.pages.get(&page)?.get(offset).copied().flatten()
    }
}
