//! What a replay overwrites, so that it can go back without starting its segment again.

use std::ops::Range;

use ktrace_format::shadow::{LINE_BYTES, Mapping, Page, Shadow};

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
    /// A stretch of bytes of one page; what they were is kept apart, as it can be any number.
    Stretch {
        /// The page.
        page: u32,
        /// Offset of the first byte in the page.
        offset: u16,
        /// How many, at most a page.
        bytes: u16,
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

/// Bytes within one line of memory that a load saw or a store wrote.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    /// The page's key.
    pub key: u32,
    /// The page's number.
    pub page: u64,
    /// Offset of the first byte in the page.
    pub offset: u16,
    /// How many, at most 8.
    pub bytes: u8,
    /// A store.
    pub store: bool,
    /// Bytes of the line that were known before.
    pub known: u64,
    /// What they were, the first in bits 0 to 7; those that were not known mean nothing.
    pub old: u64,
    /// What they are now.
    pub new: u64,
}

/// Keeps what is overwritten, or something else of what a replay does, or nothing.
pub trait Journal: Default {
    /// Notes one old value.
    fn note(&mut self, undo: impl FnOnce() -> Undo);
    /// Notes a stretch of bytes of the page with a key, and which bytes of their lines are known.
    fn note_stretch(&mut self, key: u32, page: &Page, stretch: Range<usize>);
    /// Bytes were touched, not all of which were known to be what they are now, or are stored to.
    #[inline]
    fn touched(&mut self, _: impl FnOnce() -> Touch) {}
    /// An opaque instruction of this mnemonic started.
    #[inline]
    fn opaque(&mut self, _: &'static str) {}
    /// It holds as much as can be kept.
    fn is_full(&self) -> bool;
}

/// Changes that are kept, some 24 bytes each: many times what a recorder's segment makes.
const LIMIT: usize = 1 << 24;
/// Bytes of stretches that are kept.
const STRETCH_LIMIT: usize = 1 << 28;

/// Nothing is kept: for replays that only go forward.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoJournal;

impl Journal for NoJournal {
    #[inline]
    fn note(&mut self, _: impl FnOnce() -> Undo) {}

    fn note_stretch(&mut self, _: u32, _: &Page, _: Range<usize>) {}

    fn is_full(&self) -> bool {
        false
    }
}

/// Everything is kept.
#[derive(Clone, Debug, Default)]
pub struct FullJournal {
    entries: Vec<Undo>,
    /// What stretches held, oldest first: the bytes, then the known set of each line.
    stretches: Vec<u8>,
}

impl Journal for FullJournal {
    #[inline]
    fn note(&mut self, undo: impl FnOnce() -> Undo) {
        self.entries.push(undo());
    }

    fn note_stretch(&mut self, key: u32, page: &Page, stretch: Range<usize>) {
        let Some(bytes) = page.data.get(stretch.clone()).filter(|bytes| !bytes.is_empty()) else { return };
        self.stretches.extend(bytes);
        for known in page.known.get(lines_of(&stretch)).unwrap_or_default() {
            self.stretches.extend(known.to_le_bytes());
        }
        let (offset, bytes) = (stretch.start as u16, stretch.len() as u16);
        self.entries.push(Undo::Stretch { page: key, offset, bytes });
    }

    fn is_full(&self) -> bool {
        self.entries.len() > LIMIT || self.stretches.len() > STRETCH_LIMIT
    }
}

/// The lines of a page that a stretch, which is not empty, touches.
pub(crate) fn lines_of(stretch: &Range<usize>) -> Range<usize> {
    stretch.start / LINE_BYTES..(stretch.end - 1) / LINE_BYTES + 1
}

impl FullJournal {
    /// What it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.len() * size_of::<Undo>() + self.stretches.len()
    }

    /// How much has been noted.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.stretches.clear();
    }

    /// Undoes everything that was noted after the first `length` entries.
    pub fn undo_to(
        &mut self,
        length: usize,
        shadow: &mut Shadow,
        entries: &mut [Slot],
        started: &mut [Slot],
    ) {
        while self.entries.len() > length {
            match self.entries.pop() {
                Some(Undo::Bytes { page, offset, bytes, value, known }) => {
                    let page = shadow.page_at_mut(page);
                    page.set_value(usize::from(offset), usize::from(bytes), value);
                    if let Some(word) = page.known.get_mut(usize::from(offset) / 64) {
                        *word = known;
                    }
                }
                Some(Undo::Stretch { page, offset, bytes }) => {
                    let stretch = usize::from(offset)..usize::from(offset) + usize::from(bytes);
                    self.undo_stretch(shadow.page_at_mut(page), stretch);
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

    fn undo_stretch(&mut self, page: &mut Page, stretch: Range<usize>) {
        let lines = lines_of(&stretch);
        let known = self.stretches.len().saturating_sub(8 * lines.len());
        let start = known.saturating_sub(stretch.len());
        let words = self.stretches.get(known..).unwrap_or_default().chunks_exact(8);
        for (word, old) in page.known.get_mut(lines).unwrap_or_default().iter_mut().zip(words) {
            *word = u64::from_le_bytes(old.try_into().unwrap_or_default());
        }
        if let (Some(bytes), Some(old)) = (page.data.get_mut(stretch), self.stretches.get(start..known)) {
            bytes.copy_from_slice(old);
        }
        self.stretches.truncate(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_undone_in_reverse_order() {
        let mut shadow = Shadow::new(usize::MAX);
        let key = shadow.touch(5);
        let mut journal = FullJournal::default();
        let mut states = Vec::new();
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..50 {
            let page = shadow.page_at_mut(key);
            states.push((journal.len(), page.data, page.known));
            let start = random.usize(..4096);
            let stretch = start..random.usize(start + 1..=4096);
            journal.note_stretch(key, page, stretch.clone());
            page.data[stretch.clone()].fill_with(|| random.u8(..));
            page.known[lines_of(&stretch)].fill_with(|| random.u64(..));
        }
        while let Some((length, data, known)) = states.pop() {
            journal.undo_to(length, &mut shadow, &mut [], &mut []);
            let page = shadow.page_at_mut(key);
            assert_eq!((&page.data, &page.known), (&data, &known));
        }
        assert!(journal.stretches.is_empty());
    }

    #[test]
    fn a_journal_is_full_some_time() {
        let mut journal = FullJournal::default();
        journal.stretches.resize(STRETCH_LIMIT, 0);
        assert!(!journal.is_full());
        journal.stretches.push(0);
        assert!(journal.is_full());
        journal.clear();
        assert!(!journal.is_full());
    }
}
