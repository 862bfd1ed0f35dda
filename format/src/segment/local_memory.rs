//! Memory as the segment under way has touched it, on the recorder's side: the hot part of recording.
//!
//! Nothing of it outlives the segment, so that segments can be encoded side by side. Pages come from a pool that every
//! segment fills anew from its start, which keeps it in the processor's cache.
//!
//! Every load and store of the guest goes through [`LocalMemory::run`], some thousand million in a recording. It handles
//! loads and stores of all sizes alike, without a branch on what they are: which comes next is what a processor can't guess.

use super::page_table::PageTable;
use crate::digest::Digest;
use crate::shadow::{LINE_BYTES, PAGE_BYTES, mask_of_bytes};

const LINES: usize = PAGE_BYTES / LINE_BYTES;
const WORDS: usize = PAGE_BYTES / 8;
const VIRTUAL_PAGES: usize = 1 << 20;

/// Bits of [`LocalPage::lines`].
pub(crate) mod line {
    /// A load touched the line.
    pub const READ: u8 = 1;
    /// A store touched the line, or a load saw that it had changed.
    pub const WRITTEN: u8 = 2;
}

/// One physical page that the segment has touched.
#[derive(Clone, Debug)]
pub(crate) struct LocalPage {
    /// The number of the physical page.
    pub number: u64,
    /// What happened to each line, see [`line`].
    pub lines: [u8; LINES],
    /// Bytes known in this segment: one bit a byte, one word a line.
    pub known: [u64; LINES],
    /// The bytes, as little-endian words. Those that are not known mean nothing.
    words: [u64; WORDS],
    /// A device wrote to it in this segment, so that a store must be looked at.
    pub device: bool,
}

impl LocalPage {
    fn new() -> Self {
        LocalPage { number: 0, lines: [0; LINES], known: [0; LINES], words: [0; WORDS], device: false }
    }

    /// The byte at an offset in the page.
    pub fn byte(&self, offset: usize) -> u8 {
        self.words[offset / 8 % WORDS].to_le_bytes()[offset % 8]
    }

    /// Whether the segment knows it.
    pub fn knows(&self, offset: usize) -> bool {
        self.known[offset / LINE_BYTES % LINES] >> (offset % LINE_BYTES) & 1 != 0
    }

    /// Sets one byte, which is known from now on.
    pub fn set_byte(&mut self, offset: usize, byte: u8) {
        let word = &mut self.words[offset / 8 % WORDS];
        let shift = offset % 8 * 8;
        *word = *word & !(0xff << shift) | u64::from(byte) << shift;
        self.known[offset / LINE_BYTES % LINES] |= 1 << (offset % LINE_BYTES);
    }

    /// The bytes of a line.
    pub fn line(&self, line: usize) -> [u8; LINE_BYTES] {
        let mut bytes = [0; LINE_BYTES];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(&self.words[line % LINES * 8..]) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

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
    /// For each virtual page: bits 32 to 63 the generation, bits 8 to 31 the page in the pool, bit 0 for loads, bit 1 for
    /// stores: the access may use it.
    pages: Box<[u64]>,
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
    pub fn number(self) -> usize {
        self.size as usize & 7 | usize::from(self.store) << 3
    }
}

/// What an access of one kind does.
struct Action {
    /// The value's bits.
    value: u64,
    /// One bit for each byte.
    known: u64,
    /// What the digest takes in besides address and value.
    digest: u64,
    /// The bit that a page must have for it.
    allowed: u64,
    /// Address bits that must not be set; for sizes that there are not, one always is.
    aligned: u32,
    /// Bits of the value that may be other than they were.
    free: u64,
    /// Bytes that may be unknown, one bit each.
    free_known: u64,
    /// What the line becomes.
    line: u8,
}

const ACTIONS: [Action; 16] = {
    const NONE: Action = Action {
        value: 0,
        known: 0,
        digest: 0,
        allowed: 0,
        aligned: u32::MAX,
        free: 0,
        free_known: 0,
        line: 0,
    };
    let mut actions = [NONE; 16];
    let mut number = 0;
    while number < 16 {
        let (size, store) = (number as u32 & 7, number >= 8);
        if size <= 3 {
            let bytes = 1u32 << size;
            let value = u64::MAX >> (64 - 8 * bytes);
            let known = (1 << bytes) - 1;
            actions[number] = Action {
                value,
                known,
                digest: Digest::about(0, bytes as u8, store),
                allowed: 1 << (store as u32),
                aligned: bytes - 1,
                free: if store { u64::MAX } else { 0 },
                free_known: if store { u64::MAX } else { 0 },
                line: if store { line::WRITTEN } else { line::READ },
            };
        }
        number += 1;
    }
    actions
};

/// See the [module](self).
pub(crate) struct LocalMemory {
    generation: u32,
    contexts: Vec<Option<Context>>,
    pages: Vec<LocalPage>,
    used: usize,
    numbers: PageTable<u32>,
}

/// Pages and their count, handed over when a segment ends.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pages: Vec<LocalPage>,
    used: usize,
}

impl Pages {
    /// Those that the segment touched.
    pub fn touched(&self) -> &[LocalPage] {
        self.pages.get(..self.used).unwrap_or_default()
    }
}

impl Pages {
    /// Those that the segment touched.
    pub fn touched_mut(&mut self) -> &mut [LocalPage] {
        self.pages.get_mut(..self.used).unwrap_or_default()
    }
}

impl LocalMemory {
    pub fn new() -> Self {
        LocalMemory {
            generation: 1,
            contexts: Vec::new(),
            pages: Vec::new(),
            used: 0,
            numbers: PageTable::new(),
        }
    }

    /// Nothing is known any more.
    pub fn begin_segment(&mut self) {
        for page in self.pages.iter().take(self.used) {
            self.numbers.set(page.number, NO_PAGE);
        }
        self.used = 0;
        self.forget_contexts();
    }

    /// What contexts have found must be looked up again.
    pub fn forget_contexts(&mut self) {
        self.generation = match self.generation.checked_add(1) {
            Some(next) => next,
            None => {
                self.contexts.iter_mut().flatten().for_each(|context| context.pages.fill(0));
                1
            }
        };
    }

    /// Gives the touched pages away, and takes other ones for the next segment.
    pub fn exchange(&mut self, pages: &mut Pages) {
        for page in self.pages.iter().take(self.used) {
            self.numbers.set(page.number, NO_PAGE);
        }
        std::mem::swap(&mut self.pages, &mut pages.pages);
        pages.used = self.used;
        self.used = 0;
    }

    /// Notes that accesses of a kind in `context` to the virtual page of `address` meet a page of the pool.
    pub fn allow(&mut self, context: u8, address: u32, page: u32, store: bool) {
        let number = usize::from(context);
        if self.contexts.len() <= number {
            self.contexts.resize_with(number + 1, || None);
        }
        let context = self.contexts[number]
            .get_or_insert_with(|| Context { pages: vec![0; VIRTUAL_PAGES].into_boxed_slice() });
        let place = &mut context.pages[(address >> 12) as usize % VIRTUAL_PAGES];
        let fresh = u64::from(self.generation) << 32 | u64::from(page) << 8;
        let old = if *place >> 8 == fresh >> 8 { *place } else { 0 };
        *place = old | fresh | 1 << u32::from(store);
    }

    /// Forgets what is behind a virtual page, in all contexts.
    pub fn unmap(&mut self, address: u32) {
        for context in self.contexts.iter_mut().flatten() {
            context.pages[(address >> 12) as usize % VIRTUAL_PAGES] = 0;
        }
    }

    /// The page of the pool for a physical page, fresh if the segment has not touched it yet.
    pub fn touch(&mut self, number: u64) -> u32 {
        if let Some(page) = self.numbers.get(number).copied().filter(|page| *page != NO_PAGE) {
            return page;
        }
        let next = self.used;
        self.used += 1;
        match self.pages.get_mut(next) {
            Some(page) => {
                page.number = number;
                page.lines = [0; LINES];
                page.known = [0; LINES];
                page.device = false;
            }
            None => self.pages.push(LocalPage { number, ..LocalPage::new() }),
        }
        self.numbers.set(number, next as u32);
        next as u32
    }

    /// A page of the pool.
    pub fn page_mut(&mut self, page: u32) -> &mut LocalPage {
        &mut self.pages[page as usize]
    }

    /// Makes accesses that are aligned and meet what the segment knows: stores, and loads of the values that were
    /// expected; takes them into the digest. Each is two words, of which the first has the virtual address in bits 0 to 31
    /// and is understood by `kind`, as an [`AccessKind::number`], and the second is the value, above whose size bits mean
    /// nothing. Stops at the first word that `kind` does not understand, and at the first access that takes a closer look.
    /// Returns how many were made.
    #[inline(always)]
    pub fn run(
        &mut self,
        context: u8,
        words: &[u64],
        kind: impl Fn(u64) -> Option<usize>,
        digest: &mut Digest,
    ) -> usize {
        let Some(Some(context)) = self.contexts.get(usize::from(context)) else { return 0 };
        let Ok(translations) = <&[u64; VIRTUAL_PAGES]>::try_from(&context.pages[..]) else { return 0 };
        let (generation, pool) = (u64::from(self.generation), &mut self.pages[..]);
        let mut now = *digest;
        let (pairs, _) = words.as_chunks::<2>();
        let mut count = 0;
        for &[first, value] in pairs {
            let Some(kind) = kind(first) else { break };
            let action = &ACTIONS[kind & 15];
            let address = first as u32;
            let entry = translations[(address >> 12) as usize];
            if entry >> 32 != generation || entry & action.allowed == 0 || address & action.aligned != 0 {
                break;
            }
            let Some(page) = pool.get_mut((entry >> 8) as usize & 0xff_ffff) else { break };
            let value = value & action.value;
            let offset = address as usize % PAGE_BYTES;
            let (shift, line) = (offset % 8 * 8, offset / LINE_BYTES);
            let known = action.known << (offset % LINE_BYTES);
            let (old_word, old_known) = (page.words[offset / 8], page.known[line]);
            let word = old_word & !(action.value << shift) | value << shift;
            // A load of known bytes that have the value expected changes neither; a store may do as it likes.
            if (word ^ old_word) & !action.free | known & !old_known & !action.free_known != 0 {
                break;
            }
            page.words[offset / 8] = word;
            page.known[line] = old_known | known;
            page.lines[line] |= action.line;
            now.access_about(u64::from(address) | action.digest, value);
            count += 1;
        }
        *digest = now;
        count
    }

    /// Makes one access as [`run`](Self::run) does, which is not taken into a digest.
    #[cfg(test)]
    fn access(&mut self, context: u8, address: u32, kind: AccessKind, value: u64) -> bool {
        let words = [u64::from(address), value];
        self.run(context, &words, |_| Some(kind.number()), &mut Digest::default()) == 1
    }
}

/// No page of the pool.
const NO_PAGE: u32 = u32::MAX;

impl LocalMemory {
    /// What a load that was not foreseen meets, if it is aligned and what is behind its page is known to be memory. All its
    /// bytes are known afterwards.
    pub fn see(&mut self, context: u8, address: u32, size: u32, value: u64) -> Option<Sight> {
        let context = self.contexts.get(usize::from(context))?.as_ref()?;
        let entry = context.pages[(address >> 12) as usize % VIRTUAL_PAGES];
        let bytes = 1u32 << size;
        if (entry >> 32) as u32 != self.generation || entry & 1 == 0 || address & (bytes - 1) != 0 {
            return None;
        }
        let number = (entry >> 8) as u32 & 0xff_ffff;
        let page = self.pages.get_mut(number as usize)?;
        let offset = address as usize % PAGE_BYTES;
        let (shift, line) = (offset % 8 * 8, offset / LINE_BYTES);
        let mask = mask_of_bytes(bytes as usize) << shift;
        let known = ((1u64 << bytes) - 1) << (offset % LINE_BYTES);
        let old_word = page.words[offset / 8];
        let word = old_word & !mask | value << shift;
        let unknown = known & !page.known[line];
        let mut changed = 0;
        if word != old_word && unknown != known {
            let differs = (word ^ old_word).to_le_bytes();
            for (at, _) in differs.into_iter().enumerate().filter(|(_, byte)| *byte != 0) {
                changed |= 1 << (offset / 8 * 8 % LINE_BYTES + at);
            }
            changed &= known & !unknown;
        }
        page.words[offset / 8] = word;
        page.known[line] |= known;
        page.lines[line] |= line::READ;
        if changed != 0 {
            page.lines[line] |= line::WRITTEN;
        }
        Some(Sight { page: number, unknown: (unknown >> (offset % LINE_BYTES)) as u8, changed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: AccessKind = AccessKind { size: 2, store: false };
    const STORE: AccessKind = AccessKind { size: 2, store: true };

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
        assert!(!memory.access(1, 0x1010, LOAD, 0), "not known");
        assert!(!memory.access(1, 0x100a, LOAD, 0), "not aligned");
        assert!(!memory.access(2, 0x1008, LOAD, 5), "another context");
        assert!(memory.access(1, 0x1008, AccessKind { size: 3, store: false }, 0x8877_6655_0000_0005));
        assert!(memory.access(1, 0x100d, AccessKind { size: 0, store: false }, 0x66));
        assert_eq!((memory.page_mut(page).byte(0xc), memory.page_mut(page).knows(0x10)), (0x55, false));
        assert_eq!(memory.page_mut(page).lines[0], line::READ | line::WRITTEN);
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
        let mut pages = Pages::default();
        memory.exchange(&mut pages);
        assert_eq!(pages.touched().iter().map(|page| page.number).collect::<Vec<_>>(), [8]);
    }
}
