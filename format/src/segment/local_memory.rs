//! Memory as the segment under way has touched it, on the recorder's side: the hot part of recording.
//!
//! Nothing of it outlives the segment, so that segments can be encoded side by side. What is known of each page's words is in
//! a [`Pool`].
//!
//! Every load and store of the guest goes through [`View::access`], some thousand million in a recording, and most of
//! them are aligned words. So for a virtual page that loads and stores may use alike a table says where its cells begin, and
//! then a load of a word that is known costs a comparison, and a store to one costs a store.

use super::page_table::PageTable;
use super::pool::{PageMut, PageState, Parts, Pool, WORDS, cell};
use crate::digest::Digest;
use crate::shadow::{LINE_BYTES, PAGE_BYTES, mask_of_bytes};

const LINES: usize = PAGE_BYTES / LINE_BYTES;
const VIRTUAL_PAGES: usize = 1 << 20;

/// A load that saw bytes first: before, they were not known to the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstSight {
    /// Which page, in the pool.
    pub page: u32,
    /// Offset of the load's first byte in the page.
    pub offset: u16,
    /// Which of the eight bytes from there are meant: bit n for byte n. They lie within one line.
    pub mask: u8,
    /// The bytes, the first in bits 0 to 7.
    pub value: u64,
}

/// What a load met that was not foreseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Which page, in the pool.
    pub page: u32,
    /// Bytes of it that the segment had not known, as in [`FirstSight::mask`].
    pub unknown: u8,
    /// Bytes of the line that were known and are other than they were; for the line's device writes.
    pub changed: u64,
}

/// What a translation context (an MMU index of QEMU's) has found behind virtual pages.
struct Context {
    /// For each virtual page that both loads and stores may use: the number of its first cell, else [`NOT_PLAIN`].
    plain: Box<[u32]>,
    /// The virtual pages of which `plain` says something, and maybe others.
    plain_pages: Vec<u32>,
    /// For each virtual page: bits 32 to 63 the generation, bits 24 and 25 whether loads and stores may use it, bits 0 to 23
    /// the page in the pool.
    pages: Box<[u64]>,
}

/// Where an entry of [`Context::pages`] says that loads may use it; for stores the bit above.
const ALLOWED: u32 = 24;
const POOL_MASK: u64 = (1 << ALLOWED) - 1;
/// No cell has this number, nor one up to a page's cells above.
const NOT_PLAIN: u32 = u32::MAX;
/// The last virtual page is never plain: [`NOTHING`] looks like an access to it.
const LAST_PAGE: u32 = VIRTUAL_PAGES as u32 - 1;

impl Context {
    fn new() -> Self {
        Context {
            plain: vec![NOT_PLAIN; VIRTUAL_PAGES].into_boxed_slice(),
            plain_pages: Vec::new(),
            pages: vec![0; VIRTUAL_PAGES].into_boxed_slice(),
        }
    }

    fn forget_plain(&mut self) {
        for page in self.plain_pages.drain(..) {
            self.plain[page as usize % VIRTUAL_PAGES] = NOT_PLAIN;
        }
    }
}

/// How an access is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessKind {
    /// The logarithm of its size in bytes, 0 to 3.
    pub size: u32,
    /// A store.
    pub store: bool,
}

impl AccessKind {
    /// A number below 16.
    #[inline]
    pub const fn number(self) -> usize {
        self.size as usize & 7 | (self.store as usize) << 3
    }

    /// The kind with a number.
    #[inline]
    pub(crate) fn from_number(number: usize) -> Self {
        AccessKind { size: number as u32 & 7, store: number & 8 != 0 }
    }
}

/// See the [module](self).
pub(crate) struct LocalMemory {
    generation: u32,
    contexts: Vec<Option<Context>>,
    pool: Pool,
    numbers: PageTable<u32>,
}

impl LocalMemory {
    pub fn new() -> Self {
        LocalMemory { generation: 1, contexts: Vec::new(), pool: Pool::default(), numbers: PageTable::new() }
    }

    /// Nothing is known any more.
    pub fn begin_segment(&mut self) {
        for number in self.pool.numbers() {
            self.numbers.set(number, NO_PAGE);
        }
        self.pool.begin();
        self.forget_contexts();
    }

    /// What contexts have found must be looked up again.
    pub fn forget_contexts(&mut self) {
        self.contexts.iter_mut().flatten().for_each(Context::forget_plain);
        self.generation = match self.generation.checked_add(1) {
            Some(next) => next,
            None => {
                self.contexts.iter_mut().flatten().for_each(|context| context.pages.fill(0));
                1
            }
        };
    }

    /// Gives the touched pages away, and takes a pool of other ones, which the next segment may fill.
    pub fn exchange(&mut self, pool: &mut Pool) {
        for number in self.pool.numbers() {
            self.numbers.set(number, NO_PAGE);
        }
        std::mem::swap(&mut self.pool, pool);
        self.pool.begin();
        self.forget_contexts();
    }

    /// Notes that accesses of a kind in `context` to the virtual page of `address` meet a page of the pool.
    pub fn allow(&mut self, context: u8, address: u32, page: u32, store: bool) {
        let number = usize::from(context);
        if self.contexts.len() <= number {
            self.contexts.resize_with(number + 1, || None);
        }
        let context = self.contexts[number].get_or_insert_with(Context::new);
        let virtual_page = address >> 12;
        let place = &mut context.pages[virtual_page as usize % VIRTUAL_PAGES];
        let fresh = u64::from(self.generation) << 32 | u64::from(page);
        let is_same = *place & !(3 << ALLOWED) == fresh;
        *place = if is_same { *place } else { fresh } | 1 << (ALLOWED + u32::from(store));
        let is_plain = *place >> ALLOWED & 3 == 3 && virtual_page != LAST_PAGE;
        let cells = (page as usize).checked_mul(WORDS).and_then(|cells| u32::try_from(cells).ok());
        let plain = &mut context.plain[virtual_page as usize % VIRTUAL_PAGES];
        *plain = cells.filter(|_| is_plain).unwrap_or(NOT_PLAIN);
        if *plain != NOT_PLAIN {
            context.plain_pages.push(virtual_page);
        }
    }

    /// Forgets what is behind a virtual page, in all contexts.
    pub fn unmap(&mut self, address: u32) {
        for context in self.contexts.iter_mut().flatten() {
            context.pages[(address >> 12) as usize % VIRTUAL_PAGES] = 0;
            context.plain[(address >> 12) as usize % VIRTUAL_PAGES] = NOT_PLAIN;
        }
    }

    /// The page of the pool for a physical page, fresh if the segment has not touched it yet.
    pub fn touch(&mut self, number: u64) -> u32 {
        if let Some(page) = self.numbers.get(number).copied().filter(|page| *page != NO_PAGE) {
            return page;
        }
        let page = self.pool.add(number);
        self.numbers.set(number, page);
        page
    }

    /// A page of the pool.
    pub fn page_mut(&mut self, page: u32) -> PageMut<'_> {
        self.pool.page_mut(page)
    }

    /// What accesses in a context are made with; `None` if nothing is known of the context.
    #[inline(always)]
    pub fn view<'a>(
        &'a mut self,
        context: u8,
        sights: &'a mut Vec<FirstSight>,
        values: &'a mut Vec<u8>,
    ) -> Option<View<'a>> {
        let context = self.contexts.get(usize::from(context))?.as_ref()?;
        let plain = <&[u32; VIRTUAL_PAGES]>::try_from(&context.plain[..]).ok()?;
        let pages = <&[u64; VIRTUAL_PAGES]>::try_from(&context.pages[..]).ok()?;
        let Parts { cells, states, stamp } = self.pool.parts();
        let known = stamp | cell::KNOWN;
        Some(View { plain, cells, known, pages, generation: self.generation, states, sights, values })
    }

    /// Makes one access as [`View::access`] does, which is not taken into a digest.
    #[cfg(test)]
    fn access(&mut self, context: u8, address: u32, kind: AccessKind, value: u64) -> bool {
        let (mut digest, mut sights, mut values) = (Digest::default(), Vec::new(), Vec::new());
        let view = self.view(context, &mut sights, &mut values);
        let done = view.is_some_and(|mut view| view.access(address, kind.number(), value, &mut digest));
        done && sights.is_empty()
    }

    /// What a load that was not foreseen meets, if it is aligned and what is behind its page is known to be memory. All its
    /// bytes are known afterwards.
    pub fn see(&mut self, context: u8, address: u32, size: u32, value: u64) -> Option<Sight> {
        let context = self.contexts.get(usize::from(context))?.as_ref()?;
        let entry = context.pages[(address >> 12) as usize % VIRTUAL_PAGES];
        let bytes = 1usize << (size & 3);
        let is_allowed = (entry >> 32) as u32 == self.generation && entry >> ALLOWED & 1 != 0;
        if !is_allowed || !(address as usize).is_multiple_of(bytes) {
            return None;
        }
        let number = (entry & POOL_MASK) as u32;
        let mut page = self.pool.page_mut(number);
        let from = address as usize % PAGE_BYTES;
        let mut sight = Sight { page: number, unknown: 0, changed: 0 };
        for (at, (offset, byte)) in (from..from + bytes).zip(value.to_le_bytes()).enumerate() {
            if !page.knows(offset) {
                sight.unknown |= 1 << at;
            } else if page.byte(offset) != byte {
                sight.changed |= 1 << (offset % LINE_BYTES);
                page.mark_changed(offset);
            }
            page.see_byte(offset, byte);
        }
        Some(sight)
    }
}

/// Memory as the accesses of one context meet it.
pub(crate) struct View<'a> {
    plain: &'a [u32; VIRTUAL_PAGES],
    cells: &'a mut [u64],
    /// A cell's stamp, and that all of its bytes are known.
    known: u64,
    pages: &'a [u64; VIRTUAL_PAGES],
    generation: u32,
    states: &'a mut [PageState],
    /// Bytes that loads saw first.
    sights: &'a mut Vec<FirstSight>,
    /// What the trace says that they saw.
    values: &'a mut Vec<u8>,
}

/// In the numbers of packed accesses beside [`AccessKind::number`]: two words stand for it.
pub(crate) const WIDE: u8 = 16;
/// As [`WIDE`]: it may not happen, and did only if bits 32 to 63 of the first word are not 0.
pub(crate) const CONDITIONAL: u8 = 32;

/// What became of packed accesses.
pub(crate) struct Made {
    /// How many happened, without an unforeseen one.
    pub happened: u64,
    /// How many words were taken, with those of an unforeseen one.
    pub words: usize,
    /// An access that takes a closer look: its address, kind and value.
    pub unforeseen: Option<(u32, usize, u64)>,
}

/// What the digest takes in of an access besides address and value, by [`AccessKind::number`].
const ABOUT: [u64; 16] = {
    let mut about = [0; 16];
    let mut number = 0;
    while number < 16 {
        about[number] = Digest::about(1 << (number & 7), number & 8 != 0);
        number += 1;
    }
    about
};

/// The value of an access as a number of which the lowest address holds the least significant byte. Bits of `value` above the
/// size, which is that of an [`AccessKind::number`], mean nothing; on little-endian guests they stay.
#[inline(always)]
pub(crate) fn memory_order(big_endian: bool, value: u64, kind: usize) -> u64 {
    if big_endian { value.swap_bytes() >> (64 - (8 << (kind & 3))) } else { value }
}

/// The number of a load of a word; with [`STORE`] of a store.
const WORD: usize = AccessKind { size: 2, store: false }.number();
/// In an [`AccessKind::number`].
const STORE: usize = AccessKind { size: 0, store: true }.number();

impl View<'_> {
    /// Makes an access that meets what the segment knows or has not touched: a store, a load of the value that was expected,
    /// or a load of bytes none of which are known; takes it into the digest. `kind` is an [`AccessKind::number`], and bits
    /// of `value` above the access's size mean nothing. False: nothing was done, the access takes a closer look.
    #[inline(always)]
    pub fn access(&mut self, address: u32, kind: usize, value: u64, digest: &mut Digest) -> bool {
        if kind & 7 < 3 {
            return self.small_access(address, kind, value as u32, digest);
        }
        let done = self.double_access(address, AccessKind::from_number(kind), value);
        if done {
            digest.access(address, 8, kind & STORE != 0, value);
        }
        done
    }

    /// An access of four bytes or less, as in [`access`](Self::access).
    #[inline(always)]
    fn small_access(&mut self, address: u32, kind: usize, value: u32, digest: &mut Digest) -> bool {
        let first = self.plain[(address >> 12) as usize] as usize;
        // A page that is not plain has no cells.
        let Some(cell) = self.cells.get_mut(first + address as usize / 4 % WORDS) else {
            return self.restricted_access(address, kind, value, digest);
        };
        if kind & 3 == WORD {
            if !address.is_multiple_of(4) {
                return self.restricted_access(address, kind, value, digest);
            }
            let known = self.known | u64::from(value);
            if kind & STORE != 0 {
                *cell = known | cell::STORED;
                digest.access_about(const { ABOUT[WORD | STORE] }, address, value);
            } else if (*cell ^ known) & !cell::STORED == 0 {
                digest.access_about(const { ABOUT[WORD] }, address, value);
            } else {
                return self.first_sight(first / WORDS, address, kind, value, digest);
            }
            return true;
        }
        let (mask, bytes) = if kind & 3 == 0 { (0xff, 1) } else { (0xffff, 3) };
        let (shift, at) = (address % 4 * 8, address % 4);
        if kind & 3 != 0 && !address.is_multiple_of(2) {
            return self.restricted_access(address, kind, value, digest);
        }
        let value = value & mask;
        let meant = u64::from(mask) << shift | bytes << (cell::KNOWN_SHIFT + at);
        let new = self.known & cell::STAMP | u64::from(value) << shift | bytes << (cell::KNOWN_SHIFT + at);
        if kind & STORE != 0 {
            let old = if (*cell ^ new) & cell::STAMP == 0 { *cell } else { 0 };
            *cell = old & !meant | new | cell::STORED;
        } else if (*cell ^ new) & (meant | cell::STAMP) != 0 {
            return self.first_sight(first / WORDS, address, kind, value, digest);
        }
        digest.access_about(ABOUT[kind % 16], address, value);
        true
    }

    /// Makes packed accesses of which one word each is in `record`, from the word `from` on, as [`access`](Self::access)
    /// makes each, up to one that takes a closer look. `kinds` has their [`AccessKind::number`]s, four bits each. Their values
    /// are those of a big-endian guest, or of a little-endian one. Returns up to which word.
    #[inline(always)]
    pub fn accesses(
        &mut self,
        big_endian: bool,
        record: &[u64],
        kinds: u64,
        from: usize,
        digest: Digest,
    ) -> (usize, Digest) {
        if big_endian {
            self.accesses_in::<true>(record, kinds, from, digest)
        } else {
            self.accesses_in::<false>(record, kinds, from, digest)
        }
    }

    #[inline(never)]
    fn accesses_in<const BIG_ENDIAN: bool>(
        &mut self,
        record: &[u64],
        kinds: u64,
        from: usize,
        digest: Digest,
    ) -> (usize, Digest) {
        let (mut now, mut kinds) = (digest, kinds >> (4 * from % 64));
        let words = record.get(from..).unwrap_or_default();
        for (made, word) in words.iter().enumerate() {
            let (address, kind) = (*word as u32, kinds as usize % 16);
            let value = memory_order(BIG_ENDIAN, word >> 32, kind) as u32;
            if !self.small_access(address, kind, value, &mut now) {
                return (from + made, now);
            }
            kinds >>= 4;
        }
        (record.len(), now)
    }

    /// As [`accesses`](Self::accesses), with a number for each access that has [`WIDE`] and [`CONDITIONAL`] too.
    #[inline(never)]
    pub fn listed_accesses(
        &mut self,
        big_endian: bool,
        record: &[u64],
        kinds: &[u8],
        from: usize,
        digest: &mut Digest,
    ) -> Made {
        let mut now = *digest;
        let mut made = Made { happened: 0, words: 0, unforeseen: None };
        for kind in kinds {
            let Some(&first) = record.get(made.words) else { break };
            let (address, mut value) = (first as u32, first >> 32);
            made.words += 1;
            let mut happened = made.words > from;
            if kind & WIDE != 0 {
                happened &= kind & CONDITIONAL == 0 || value != 0;
                value = record.get(made.words).copied().unwrap_or_default();
                made.words += 1;
            }
            if happened {
                let kind = usize::from(kind % 16);
                if !self.access(address, kind, memory_order(big_endian, value, kind), &mut now) {
                    made.unforeseen = Some((address, kind, value));
                    break;
                }
                made.happened += 1;
            }
        }
        *digest = now;
        made
    }

    /// A load of up to four bytes that are not all known, or not the expected ones, from a page of the pool. True if none
    /// were known.
    #[inline(never)]
    fn first_sight(
        &mut self,
        page: usize,
        address: u32,
        kind: usize,
        value: u32,
        digest: &mut Digest,
    ) -> bool {
        let (bytes, at) = (1usize << (kind & 3), address as usize / 4 % WORDS);
        let (Some(state), Some(cell)) = (self.states.get_mut(page), self.cells.get_mut(page * WORDS + at))
        else {
            return false;
        };
        let (shift, mask) = (address % 4 * 8, mask_of_bytes(bytes));
        let (value, seen) = (u64::from(value) & mask, ((1u32 << bytes) - 1) as u8);
        let known = u64::from(seen) << (cell::KNOWN_SHIFT + address % 4);
        let old = if (*cell ^ self.known) & cell::STAMP == 0 { *cell } else { self.known & cell::STAMP };
        if old & known != 0 {
            return false;
        }
        *cell = old & !(mask << shift) | value << shift | known;
        let offset = address as usize % PAGE_BYTES;
        state.seen |= 1 << (offset / LINE_BYTES % LINES);
        self.sights.push(FirstSight { page: page as u32, offset: offset as u16, mask: seen, value });
        self.values.extend(value.to_le_bytes().iter().take(bytes));
        digest.access_about(ABOUT[kind % 16], address, value as u32);
        true
    }

    /// An access of up to four bytes that is not aligned, or to a page that not everybody may use.
    #[inline(never)]
    fn restricted_access(&mut self, address: u32, kind: usize, value: u32, digest: &mut Digest) -> bool {
        let (entry, store) = (self.pages[(address >> 12) as usize % VIRTUAL_PAGES], kind & STORE != 0);
        let bytes = 1usize << (kind & 3);
        if !self.is_allowed(entry, store) || !(address as usize).is_multiple_of(bytes) {
            return false;
        }
        let (page, at) = ((entry & POOL_MASK) as usize, address as usize / 4 % WORDS);
        let Some(cell) = self.cells.get_mut(page * WORDS + at) else { return false };
        let (shift, mask) = (address % 4 * 8, mask_of_bytes(bytes));
        let value = u64::from(value) & mask;
        let known = ((1u64 << bytes) - 1) << (cell::KNOWN_SHIFT + address % 4);
        let new = self.known & cell::STAMP | value << shift | known;
        let meant = mask << shift | known;
        if store {
            let old = if (*cell ^ new) & cell::STAMP == 0 { *cell } else { 0 };
            *cell = old & !meant | new | cell::STORED;
        } else if (*cell ^ new) & (meant | cell::STAMP) != 0 {
            return self.first_sight(page, address, kind, value as u32, digest);
        }
        digest.access_about(ABOUT[kind % 16], address, value as u32);
        true
    }

    fn is_allowed(&self, entry: u64, store: bool) -> bool {
        (entry >> 32) as u32 == self.generation && entry >> (ALLOWED + u32::from(store)) & 1 != 0
    }

    /// An access of eight bytes, but for the digest.
    #[inline(always)]
    fn double_access(&mut self, address: u32, kind: AccessKind, value: u64) -> bool {
        let entry = self.pages[(address >> 12) as usize % VIRTUAL_PAGES];
        if !self.is_allowed(entry, kind.store) || !address.is_multiple_of(8) || kind.size != 3 {
            return false;
        }
        let from = (entry & POOL_MASK) as usize * WORDS + address as usize / 4 % WORDS;
        let Some([low, high]) = self.cells.get_mut(from..from + 2) else { return false };
        let new = [self.known | value & 0xffff_ffff, self.known | value >> 32];
        if kind.store {
            [*low, *high] = new.map(|new| new | cell::STORED);
            return true;
        }
        (*low ^ new[0] | *high ^ new[1]) & !cell::STORED == 0
    }
}

/// No page of the pool.
const NO_PAGE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: AccessKind = AccessKind { size: 2, store: false };
    const STORE: AccessKind = AccessKind { size: 2, store: true };

    /// Which lines of the only page that was touched were read and stored to, and which bytes of the first two are known.
    fn left(memory: &LocalMemory) -> (u64, u64, [u64; 2]) {
        let page = memory.pool.pages().next().unwrap();
        let (mut stored, mut known) = (0, [0; 2]);
        for (at, line) in page.lines() {
            stored |= u64::from(line.stored) << at;
            known[at] = line.known;
        }
        (page.state.seen, stored, known)
    }

    #[test]
    fn only_what_was_allowed_and_is_known_is_foreseen() {
        let mut memory = LocalMemory::new();
        assert!(!memory.access(1, 0x1000, STORE, 5), "no context");
        let page = memory.touch(0x40000);
        memory.allow(1, 0x1000, page, true);
        assert!(memory.access(1, 0x1008, STORE, 5));
        assert!(!memory.access(1, 0x1008, LOAD, 5), "not allowed");
        memory.allow(1, 0x1000, page, false);
        assert!(memory.access(1, 0x1008, LOAD, 5));
        assert!(memory.access(1, 0x100c, STORE, 0x8877_6655));
        assert!(!memory.access(1, 0x1008, LOAD, 6), "another value");
        assert!(!memory.access(1, 0x1050, LOAD, 7), "seen first");
        assert!(!memory.access(1, 0x100a, LOAD, 0), "not aligned");
        assert!(!memory.access(2, 0x1008, LOAD, 5), "another context");
        assert!(memory.access(1, 0x1008, AccessKind { size: 3, store: false }, 0x8877_6655_0000_0005));
        assert!(memory.access(1, 0x100d, AccessKind { size: 0, store: false }, 0x66));
        assert_eq!((memory.page_mut(page).byte(0xc), memory.page_mut(page).knows(0x10)), (0x55, false));
        assert_eq!(left(&memory), (2, 1, [0xff00, 0xf_0000]));
        assert_eq!(
            memory.see(1, 0x1012, 1, 0x1234),
            Some(Sight { page, unknown: 3, changed: 0 }),
            "two bytes in the middle of a word"
        );
        assert_eq!(memory.see(1, 0x100a, 0, 7), Some(Sight { page, unknown: 0, changed: 1 << 10 }));
        assert_eq!(left(&memory), (3, 1, [0xc_ff00, 0xf_0000]));
        memory.unmap(0x1ffc);
        assert!(!memory.access(1, 0x1008, LOAD, 5));
    }

    #[test]
    fn a_segment_begins_with_nothing() {
        let mut memory = LocalMemory::new();
        let page = memory.touch(7);
        memory.allow(0, 0, page, true);
        assert!(memory.access(0, 0, STORE, 1));
        memory.begin_segment();
        assert!(!memory.access(0, 0, STORE, 1));
        let page = memory.touch(8);
        memory.allow(0, 0, page, false);
        assert!(!memory.access(0, 0, LOAD, 1), "the pool's old bytes are not known");
        let mut pool = Pool::default();
        memory.exchange(&mut pool);
        assert_eq!(pool.numbers().collect::<Vec<_>>(), [8]);
    }
}
