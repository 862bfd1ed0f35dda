//! What changed bytes of memory last: kept while a segment is executed again for somebody who asks, and never otherwise,
//! since it costs far more than executing does.

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

/// A change, and when it was: for a device's write the position that first shows it, else that of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) change: Change,
    pub(crate) at: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pages: HashMap<u64, Vec<Option<Origin>>>,
    /// Where the execution stands.
    now: u64,
}

impl Watch {
    /// Watches these physical pages.
    pub(crate) fn new(pages: impl Iterator<Item = u64>) -> Watch {
        Watch { pages: pages.map(|page| (page, vec![None; PAGE_BYTES])).collect(), now: 0 }
    }

    /// What happens next happens at this position.
    pub(crate) fn stand_at(&mut self, position: u64) {
        self.now = position;
    }

    /// Bytes of a page were changed.
    pub(crate) fn changed(&mut self, page: u64, offset: usize, length: usize, change: Change) {
        let origin = Some(Origin { change, at: self.now });
        let bytes = self.pages.get_mut(&page).and_then(|page| page.get_mut(offset..offset + length));
        bytes.unwrap_or_default().fill(origin);
    }

    /// What changed a byte last; `None`: nothing has.
    pub(crate) fn origin(&self, page: u64, offset: usize) -> Option<Origin> {
        self.pages.get(&page)?.get(offset).copied().flatten()
    }
}
