//! What a replay overwrites, so that it can go back without starting its segment again.

use ktrace_format::shadow::{Mapping, Shadow};

/// One thing that a replay overwrote.
#[derive(Clone, Copy, Debug)]
pub enum Undo {
    /// Bytes within one line of a page: what they were, and which bytes of the line were known.
    Bytes {
        /// The page.
        page: u32,
        /// Offset of the first byte in the page.
        offset: u16,
        /// How many, at most 8.
        bytes: u8,
        /// The old bytes.
        value: u64,
        /// The line's old set of known bytes.
        known: u64,
    },
    /// What was behind a virtual page.
    Mapping {
        /// An address in it.
        address: u32,
        /// The old entry.
        mapping: Mapping,
    },
    /// What was expected at an entry point.
    Entry {
        /// Its number.
        entry: u32,
        /// The old slot.
        slot: Slot,
    },
    /// How many instructions a block was expected to start.
    Started {
        /// The block's number.
        block: u32,
        /// The old slot.
        slot: Slot,
    },
}

/// A prediction that is valid in one segment only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The segment's generation.
    pub generation: u32,
    /// A block's number, or a count of instructions.
    pub value: u32,
}

/// Keeps what is overwritten, or not.
pub trait Journal: Default {
    /// Notes one old value.
    fn note(&mut self, undo: impl FnOnce() -> Undo);
}

/// Nothing is kept: for replays that only go forward.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoJournal;

impl Journal for NoJournal {
    #[inline]
    fn note(&mut self, _: impl FnOnce() -> Undo) {}
}

/// Everything is kept.
#[derive(Clone, Debug, Default)]
pub struct FullJournal(Vec<Undo>);

impl Journal for FullJournal {
    #[inline]
    fn note(&mut self, undo: impl FnOnce() -> Undo) {
        self.0.push(undo());
    }
}

impl FullJournal {
    /// How much has been noted.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Undoes everything that was noted after the first `length` entries.
    pub fn undo_to(
        &mut self,
        length: usize,
        shadow: &mut Shadow,
        entries: &mut [Slot],
        started: &mut [Slot],
    ) {
        while self.0.len() > length {
            match self.0.pop() {
                Some(Undo::Bytes { page, offset, bytes, value, known }) => {
                    let page = shadow.page_at_mut(page);
                    page.set_value(usize::from(offset), usize::from(bytes), value);
                    if let Some(word) = page.known.get_mut(usize::from(offset) / 64) {
                        *word = known;
                    }
                }
                Some(Undo::Mapping { address, mapping }) => shadow.restore_mapping(address, mapping),
                Some(Undo::Entry { entry, slot }) => {
                    if let Some(place) = entries.get_mut(entry as usize) {
                        *place = slot;
                    }
                }
                Some(Undo::Started { block, slot }) => {
                    if let Some(place) = started.get_mut(block as usize) {
                        *place = slot;
                    }
                }
                None => break,
            }
        }
    }
}
