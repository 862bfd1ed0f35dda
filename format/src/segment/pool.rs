//! The physical pages that a segment touches, on the recorder's side: what is known of each word, in a *cell* of 64 bits.
//!
//! One pool is filled by one segment after the other from its start, which keeps it in the processor's cache. A cell says in
//! which of them it was written, so nothing need be cleared between two.

use super::replayed::ReplayedPage;
use crate::shadow::{LINE_BYTES, PAGE_BYTES};

/// Words in a page, and so cells.
pub(super) const WORDS: usize = PAGE_BYTES / 4;
const LINES: usize = PAGE_BYTES / LINE_BYTES;
const LINE_WORDS: usize = LINE_BYTES / 4;

/// The fields of a cell. Bits 0 to 31 are the word, little-endian; bytes that are not known mean nothing.
pub(super) mod cell {
    /// Bits 32 to 35: which bytes of the word are known in this segment.
    pub const KNOWN_SHIFT: u32 = 32;
    /// All bytes are known.
    pub const KNOWN: u64 = 15 << KNOWN_SHIFT;
    /// A store touched the word.
    pub const STORED: u64 = 1 << 36;
    /// Bits 37 to 63: the pool's stamp when the cell was written. In a cell with another one nothing is known.
    pub const STAMP: u64 = u64::MAX << STAMP_SHIFT;
    pub const STAMP_SHIFT: u32 = 37;
}

/// What a page is and what happened to its lines, one bit a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageState {
    /// The number of the physical page.
    pub number: u64,
    /// A device wrote to it in this segment, so that a store must be looked at.
    pub device: bool,
    /// A load saw something that was not foreseen.
    pub seen: u64,
    /// A load saw that something had changed.
    pub changed: u64,
}

/// What happened to the lines of a page: one bit a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    /// A load saw something that was not foreseen.
    pub read: u64,
    /// A store touched it, or a load saw that it had changed.
    pub written: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Pool {
    cells: Vec<u64>,
    states: Vec<PageState>,
    used: usize,
    stamp: u64,
}

/// The pool's parts, for accesses.
pub(super) struct Parts<'a> {
    /// [`WORDS`] cells a page.
    pub cells: &'a mut [u64],
    /// One a page.
    pub states: &'a mut [PageState],
    /// [`cell::STAMP`] of the segment under way.
    pub stamp: u64,
}

impl Default for Pool {
    fn default() -> Self {
        // Not 0: a cell that nobody has written is not this segment's.
        Pool { cells: Vec::new(), states: Vec::new(), used: 0, stamp: 1 << cell::STAMP_SHIFT }
    }
}

impl Pool {
    /// Nothing is known any more, of no page.
    pub fn begin(&mut self) {
        self.used = 0;
        self.stamp = match self.stamp.checked_add(1 << cell::STAMP_SHIFT) {
            Some(next) => next,
            None => {
                // After a hundred million segments the old stamps would look fresh again.
                self.cells.fill(0);
                1 << cell::STAMP_SHIFT
            }
        };
    }

    /// The key of a page that the segment has not touched yet.
    pub fn add(&mut self, number: u64) -> u32 {
        let key = self.used;
        self.used += 1;
        let state = PageState { number, ..PageState::default() };
        match self.states.get_mut(key) {
            Some(old) => *old = state,
            None => {
                self.states.push(state);
                self.cells.resize(self.states.len() * WORDS, 0);
            }
        }
        key as u32
    }

    /// The numbers of the pages that the segment has touched.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.states.iter().take(self.used).map(|state| state.number)
    }

    /// What accesses are made with.
    #[inline(always)]
    pub fn parts(&mut self) -> Parts<'_> {
        Parts { cells: &mut self.cells, states: &mut self.states, stamp: self.stamp }
    }

    /// A page with a key that [`add`](Self::add) gave since the segment began.
    pub fn page_mut(&mut self, key: u32) -> PageMut<'_> {
        let from = key as usize * WORDS;
        PageMut {
            state: &mut self.states[key as usize],
            cells: &mut self.cells[from..from + WORDS],
            stamp: self.stamp,
        }
    }

    /// The state of a page with a key, which may be any.
    pub fn state_mut(&mut self, key: u32) -> Option<&mut PageState> {
        self.states.get_mut(..self.used)?.get_mut(key as usize)
    }

    /// All pages that the segment has touched.
    pub fn pages(&self) -> impl Iterator<Item = Page<'_>> {
        let pages = self.states.iter().zip(self.cells.chunks_exact(WORDS)).take(self.used);
        pages.map(|(state, cells)| Page { state, cells, stamp: self.stamp })
    }
}

/// Whether this segment has written a cell.
#[inline(always)]
fn is_fresh(cell: u64, stamp: u64) -> bool {
    // Of the upper halves, which all processors can compare several at a time.
    ((cell ^ stamp) >> 32) as u32 & (cell::STAMP >> 32) as u32 == 0
}

/// What is known of a word, in a cell's form; a cell of another segment has nothing.
fn fresh(cell: u64, stamp: u64) -> u64 {
    if is_fresh(cell, stamp) { cell } else { 0 }
}

/// One physical page that the segment has touched.
pub(crate) struct Page<'a> {
    /// What it is.
    pub state: &'a PageState,
    cells: &'a [u64],
    stamp: u64,
}

/// What a segment has left in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Bytes that it knows: bit n for byte n.
    pub known: u64,
    /// A store touched it.
    pub stored: bool,
    /// The bytes; those that are not known mean nothing.
    pub bytes: [u8; LINE_BYTES],
}

impl Page<'_> {
    /// Its lines that the segment has touched, and their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (usize, Line)> {
        let lines = self.cells.chunks_exact(LINE_WORDS).enumerate();
        // Most lines of most pages were not touched, so that is looked at first, in a form that compilers make vectors of.
        let touched = lines.filter(|(_, cells)| {
            cells.iter().fold(false, |touched, cell| touched | is_fresh(*cell, self.stamp))
        });
        touched.map(|(number, cells)| {
            let mut line = Line { known: 0, stored: false, bytes: [0; LINE_BYTES] };
            let mut all = 0;
            for (at, (cell, bytes)) in cells.iter().zip(line.bytes.chunks_exact_mut(4)).enumerate() {
                let cell = fresh(*cell, self.stamp);
                all |= cell;
                line.known |= (cell >> cell::KNOWN_SHIFT & 15) << (4 * at);
                bytes.copy_from_slice(&(cell as u32).to_le_bytes());
            }
            line.stored = all & cell::STORED != 0;
            (number, line)
        })
    }
}

/// As [`Page`], to be changed.
pub(crate) struct PageMut<'a> {
    /// What it is, and what happened to it.
    pub state: &'a mut PageState,
    cells: &'a mut [u64],
    stamp: u64,
}

impl PageMut<'_> {
    fn cell(&self, offset: usize) -> u64 {
        fresh(self.cells[offset / 4 % WORDS], self.stamp)
    }

    /// A byte of the line has changed, which happened before the segment or is not its processor's doing.
    pub fn mark_changed(&mut self, offset: usize) {
        self.state.changed |= 1 << (offset / LINE_BYTES % LINES);
    }

    /// The byte at an offset in the page.
    pub fn byte(&self, offset: usize) -> u8 {
        (self.cell(offset) as u32).to_le_bytes()[offset % 4]
    }

    /// Whether the segment knows it.
    pub fn knows(&self, offset: usize) -> bool {
        self.cell(offset) >> (cell::KNOWN_SHIFT + offset as u32 % 4) & 1 != 0
    }

    fn set_byte(&mut self, offset: usize, byte: u8, flags: u64) {
        let (old, shift) = (self.cell(offset), offset as u32 % 4 * 8);
        let known = 1 << (cell::KNOWN_SHIFT + offset as u32 % 4);
        self.cells[offset / 4 % WORDS] =
            old & !(0xff << shift) | u64::from(byte) << shift | known | flags | self.stamp;
    }

    /// A load saw a byte that was not foreseen.
    pub fn see_byte(&mut self, offset: usize, byte: u8) {
        self.set_byte(offset, byte, 0);
        self.state.seen |= 1 << (offset / LINE_BYTES % LINES);
    }

    /// Takes what a replay has found of the page, of which nothing is known yet.
    pub fn set(&mut self, page: &ReplayedPage<'_>) {
        (self.state.seen, self.state.changed) = (page.events.seen, page.events.changed);
        let words = page.data.chunks_exact(4).zip(self.cells.iter_mut());
        for (number, (bytes, cell)) in words.enumerate() {
            let (line, in_line) = (number / LINE_WORDS, number % LINE_WORDS);
            let known = page.known.get(line).map_or(0, |known| known >> (4 * in_line) & 15);
            let stored = if page.events.stored >> line & 1 != 0 { cell::STORED } else { 0 };
            let word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            *cell = self.stamp | stored | known << cell::KNOWN_SHIFT | word;
        }
    }

    /// A byte was stored.
    pub fn store_byte(&mut self, offset: usize, byte: u8) {
        self.set_byte(offset, byte, cell::STORED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_segment_has_left_is_its_own() {
        let mut pool = Pool::default();
        pool.begin();
        let (one, other) = (pool.add(7), pool.add(9));
        pool.page_mut(one).store_byte(66, 5);
        pool.page_mut(other).see_byte(0, 6);
        pool.page_mut(other).mark_changed(4095);
        let only_line = |pool: &Pool, number: u64, at: usize| -> Line {
            let page = pool.pages().find(|page| page.state.number == number).unwrap();
            let lines: Vec<_> = page.lines().collect();
            assert_eq!(lines.len(), 1);
            assert_eq!(lines[0].0, at);
            lines[0].1
        };
        let line = only_line(&pool, 7, 1);
        assert_eq!((line.known, line.stored, line.bytes[2]), (1 << 2, true, 5));
        let line = only_line(&pool, 9, 0);
        assert_eq!((line.known, line.stored, line.bytes[0]), (1, false, 6));
        assert_eq!((pool.page_mut(other).state.seen, pool.page_mut(other).state.changed), (1, 1 << 63));
        assert_eq!(pool.numbers().collect::<Vec<_>>(), [7, 9]);
        pool.begin();
        let again = pool.add(8);
        assert_eq!(again, one, "from the start");
        assert!(!pool.page_mut(again).knows(66), "what another segment has left");
        pool.page_mut(again).store_byte(65, 1);
        assert_eq!(only_line(&pool, 8, 1).known, 1 << 1);
        assert_eq!(pool.numbers().collect::<Vec<_>>(), [8]);
        assert!(pool.state_mut(other).is_none());
    }

    #[test]
    fn old_stamps_do_not_come_back() {
        let mut pool = Pool { stamp: cell::STAMP, ..Pool::default() };
        let page = pool.add(1);
        pool.page_mut(page).store_byte(0, 1);
        pool.begin();
        assert_eq!(pool.stamp, 1 << cell::STAMP_SHIFT);
        pool.stamp = cell::STAMP;
        assert!(!pool.page_mut(page).knows(0));
    }
}
