//! Memory as the segment under way has touched it, on the recorder's side: the hot part of recording.
//!
//! Nothing of it outlives the segment, so that segments can be encoded side by side. Pages come from a pool that every
//! segment fills anew from its start, which keeps it in the processor's cache.
//!
//! Every load and store of the guest goes through [`View::access`], some thousand million in a recording, and most of
//! them are aligned words. So a byte of state stands for each word, and a word that is known or stored to costs two
//! comparisons or two stores.

use super::page_table::PageTable;
use crate::digest::Digest;
use crate::shadow::{LINE_BYTES, PAGE_BYTES, mask_of_bytes};

const WORDS: usize = PAGE_BYTES / 4;
const LINES: usize = PAGE_BYTES / LINE_BYTES;
const LINE_WORDS: usize = LINE_BYTES / 4;
const VIRTUAL_PAGES: usize = 1 << 20;

/// Bits of a word's state.
mod state {
    /// Bits 0 to 3: its bytes are known in this segment.
    pub const KNOWN: u8 = 15;
    /// A store touched it.
    pub const STORED: u8 = 16;
    /// A load saw something of it that was not foreseen.
    pub const SEEN: u8 = 32;
    /// A load saw that it had changed.
    pub const CHANGED: u8 = 64;
}

/// One physical page that the segment has touched.
#[derive(Clone, Debug)]
pub(crate) struct LocalPage {
    /// The number of the physical page.
    pub number: u64,
    /// A device wrote to it in this segment, so that a store must be looked at.
    pub device: bool,
    /// See [`state`].
    states: [u8; WORDS],
    /// The words, little-endian. Bytes that are not known mean nothing.
    words: [u32; WORDS],
}

/// What happened to the lines of a page: one bit a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    /// A load saw something that was not foreseen.
    pub read: u64,
    /// A store touched it, or a load saw that it had changed.
    pub written: u64,
}

/// A byte of each word of a line.
const EACH: u128 = 0x0101_0101_0101_0101_0101_0101_0101_0101;

impl LocalPage {
    fn new() -> Self {
        LocalPage { number: 0, device: false, states: [0; WORDS], words: [0; WORDS] }
    }

    fn line_states(&self, line: usize) -> u128 {
        let from = line % LINES * LINE_WORDS;
        let states = self.states.get(from..from + LINE_WORDS).and_then(|states| states.first_chunk());
        states.map_or(0, |states: &[u8; LINE_WORDS]| u128::from_le_bytes(*states))
    }

    /// What happened to its lines.
    pub fn lines(&self) -> Lines {
        let mut lines = Lines::default();
        for line in 0..LINES {
            let states = self.line_states(line);
            if states & (EACH * u128::from(state::SEEN)) != 0 {
                lines.read |= 1 << line;
            }
            if states & (EACH * u128::from(state::STORED | state::CHANGED)) != 0 {
                lines.written |= 1 << line;
            }
        }
        lines
    }

    /// A word of the line has changed, which happened before the segment or is not its processor's doing.
    pub fn mark_changed(&mut self, offset: usize) {
        self.states[offset / 4 % WORDS] |= state::CHANGED;
    }

    /// Which bytes of a line are known: one bit a byte.
    pub fn known(&self, line: usize) -> u64 {
        let states = self.line_states(line) & (EACH * u128::from(state::KNOWN));
        states.to_le_bytes().into_iter().rev().fold(0, |known, state| known << 4 | u64::from(state))
    }

    /// The byte at an offset in the page.
    pub fn byte(&self, offset: usize) -> u8 {
        self.words[offset / 4 % WORDS].to_le_bytes()[offset % 4]
    }

    /// Whether the segment knows it.
    pub fn knows(&self, offset: usize) -> bool {
        self.states[offset / 4 % WORDS] >> (offset % 4) & 1 != 0
    }

    fn set_byte(&mut self, offset: usize, byte: u8, state: u8) {
        let (word, shift) = (&mut self.words[offset / 4 % WORDS], offset % 4 * 8);
        *word = *word & !(0xff << shift) | u32::from(byte) << shift;
        self.states[offset / 4 % WORDS] |= state | 1 << (offset % 4);
    }

    /// A load saw a byte that was not foreseen.
    pub fn see_byte(&mut self, offset: usize, byte: u8) {
        self.set_byte(offset, byte, state::SEEN);
    }

    /// A byte was stored.
    pub fn store_byte(&mut self, offset: usize, byte: u8) {
        self.set_byte(offset, byte, state::STORED);
    }

    /// The bytes of a line.
    pub fn line(&self, line: usize) -> [u8; LINE_BYTES] {
        let mut bytes = [0; LINE_BYTES];
        for (four, word) in bytes.chunks_exact_mut(4).zip(&self.words[line % LINES * LINE_WORDS..]) {
            four.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn reset(&mut self, number: u64) {
        self.number = number;
        self.device = false;
        self.states = [0; WORDS];
    }

    /// The bytes of an access that lies within 64 aligned bits: as a number of 64 bits, and which of these eight bytes are
    /// known.
    fn double(&self, offset: usize) -> (u64, u8) {
        let at = offset / 8 * 2 % WORDS;
        let (low, high) = (self.words[at], self.words[at + 1]);
        let states = self.states[at] & state::KNOWN | self.states[at + 1] << 4;
        (u64::from(low) | u64::from(high) << 32, states)
    }

    fn set_double(&mut self, offset: usize, value: u64, known: u8, state: u8) {
        let at = offset / 8 * 2 % WORDS;
        (self.words[at], self.words[at + 1]) = (value as u32, (value >> 32) as u32);
        for (word, known) in [(at, known & 15), (at + 1, known >> 4)] {
            if known != 0 {
                self.states[word] |= known | state;
            }
        }
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
    /// For each virtual page: bits 32 to 63 the generation, bits 24 and 25 whether loads and stores may use it, bits 0 to 23
    /// the page in the pool.
    pages: Box<[u64]>,
}

/// Where an entry of [`Context::pages`] says that loads may use it; for stores the bit above.
const ALLOWED: u32 = 24;
const POOL_MASK: u64 = (1 << ALLOWED) - 1;

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
        let fresh = u64::from(self.generation) << 32 | u64::from(page);
        let is_same = *place & !(3 << ALLOWED) == fresh;
        *place = if is_same { *place } else { fresh } | 1 << (ALLOWED + u32::from(store));
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
            Some(page) => page.reset(number),
            None => self.pages.push(LocalPage { number, ..LocalPage::new() }),
        }
        self.numbers.set(number, next as u32);
        next as u32
    }

    /// A page of the pool.
    pub fn page_mut(&mut self, page: u32) -> &mut LocalPage {
        &mut self.pages[page as usize]
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
        let translations = <&[u64; VIRTUAL_PAGES]>::try_from(&context.pages[..]).ok()?;
        // What the upper bits of a translation are for a page that both loads and stores may use.
        let plain = u64::from(self.generation) << (32 - ALLOWED) | 3;
        let pool = &mut self.pages[..];
        Some(View { translations, plain, generation: self.generation, pool, sights, values })
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
        let bytes = 1u32 << size;
        let is_allowed = (entry >> 32) as u32 == self.generation && entry >> ALLOWED & 1 != 0;
        if !is_allowed || address & (bytes - 1) != 0 {
            return None;
        }
        let number = (entry & POOL_MASK) as u32;
        let page = self.pages.get_mut(number as usize)?;
        let offset = address as usize % PAGE_BYTES;
        let (shift, mask) = (offset % 8, mask_of_bytes(bytes as usize));
        let wanted = (((1u32 << bytes) - 1) << shift) as u8;
        let (old, known) = page.double(offset);
        let new = old & !(mask << (8 * shift)) | value << (8 * shift);
        let unknown = wanted & !known;
        let mut changed = 0u8;
        for (at, _) in (new ^ old).to_le_bytes().into_iter().enumerate().filter(|(_, byte)| *byte != 0) {
            changed |= 1 << at;
        }
        changed &= wanted & known;
        page.set_double(offset, new, wanted, state::SEEN);
        if changed != 0 {
            page.mark_changed(offset);
        }
        let in_line = u64::from(changed) << (offset / 8 * 8 % LINE_BYTES);
        Some(Sight { page: number, unknown: unknown >> shift, changed: in_line })
    }
}

/// Memory as the accesses of one context meet it.
pub(crate) struct View<'a> {
    translations: &'a [u64; VIRTUAL_PAGES],
    plain: u64,
    generation: u32,
    pool: &'a mut [LocalPage],
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

/// The bits of an access's value, by [`AccessKind::size`].
const MASKS: [u32; 4] = [0xff, 0xffff, u32::MAX, u32::MAX];

impl View<'_> {
    /// Makes an access that meets what the segment knows or has not touched: a store, a load of the value that was expected,
    /// or a load of bytes none of which are known; takes it into the digest. `kind` is an [`AccessKind::number`], and bits
    /// of `value` above the access's size mean nothing. False: nothing was done, the access takes a closer look.
    #[inline(always)]
    pub fn access(&mut self, address: u32, kind: usize, value: u64, digest: &mut Digest) -> bool {
        if kind & 7 < 3 {
            let done = self.small_access(address, kind, value as u32);
            if done {
                digest.access_about(ABOUT[kind % 16], address, value as u32 & MASKS[kind % 4]);
            }
            return done;
        }
        let done = self.double_access(address, AccessKind::from_number(kind), value);
        if done {
            digest.access(address, 8, kind & 8 != 0, value);
        }
        done
    }

    /// An access of four bytes or less, as in [`access`](Self::access), but for the digest.
    #[inline(always)]
    fn small_access(&mut self, address: u32, kind: usize, value: u32) -> bool {
        let entry = self.translations[(address >> 12) as usize];
        let number = (entry & POOL_MASK) as usize;
        let Some(page) = self.pool.get_mut(number) else { return false };
        let (size, store) = (kind & 7, kind & 8 != 0);
        if entry >> ALLOWED != self.plain || address & ((1 << size) - 1) != 0 {
            return self.restricted_access(entry, address, AccessKind::from_number(kind), value);
        }
        let at = address as usize / 4 % WORDS;
        if size == 2 {
            if store {
                page.words[at] = value;
                page.states[at] |= state::KNOWN | state::STORED;
            } else if page.states[at] & state::KNOWN != state::KNOWN || page.words[at] != value {
                return self.first_sight(number, address, kind, value);
            }
            return true;
        }
        let (mask, wanted) = if size == 0 { (0xff, 1) } else { (0xffff, 3) };
        let (shift, wanted) = (address % 4 * 8, wanted << (address % 4));
        if store {
            page.words[at] = page.words[at] & !(mask << shift) | (value & mask) << shift;
            page.states[at] |= wanted | state::STORED;
        } else if page.states[at] & wanted != wanted || ((page.words[at] >> shift) ^ value) & mask != 0 {
            return self.first_sight(number, address, kind, value);
        }
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
            if !self.small_access(address, kind, value) {
                return (from + made, now);
            }
            now.access_about(ABOUT[kind], address, value & MASKS[kind % 4]);
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

    /// A load of up to four bytes that are not all known, or not the expected ones. True if none were known.
    #[inline(never)]
    fn first_sight(&mut self, number: usize, address: u32, kind: usize, value: u32) -> bool {
        let Some(page) = self.pool.get_mut(number) else { return false };
        let (at, bytes) = (address as usize / 4 % WORDS, 1usize << (kind & 3));
        let (shift, mask) = (address % 4 * 8, mask_of_bytes(bytes) as u32);
        let (value, seen) = (value & mask, ((1u32 << bytes) - 1) as u8);
        if page.states[at] & (seen << (address % 4)) != 0 {
            return false;
        }
        page.words[at] = page.words[at] & !(mask << shift) | value << shift;
        page.states[at] |= seen << (address % 4) | state::SEEN;
        let offset = (address as usize % PAGE_BYTES) as u16;
        self.sights.push(FirstSight { page: number as u32, offset, mask: seen, value: u64::from(value) });
        self.values.extend(value.to_le_bytes().iter().take(bytes));
        true
    }

    /// An access of up to four bytes that is not aligned, or to a page that not everybody may use.
    #[inline(never)]
    fn restricted_access(&mut self, entry: u64, address: u32, kind: AccessKind, value: u32) -> bool {
        let bytes = 1usize << (kind.size & 3);
        if !self.is_allowed(entry, kind.store) || address as usize & (bytes - 1) != 0 {
            return false;
        }
        let number = (entry & POOL_MASK) as usize;
        let Some(page) = self.pool.get_mut(number) else { return false };
        let at = address as usize / 4 % WORDS;
        let (shift, mask) = (address % 4 * 8, mask_of_bytes(bytes) as u32);
        let wanted = (((1u32 << bytes) - 1) << (address % 4)) as u8;
        if kind.store {
            page.words[at] = page.words[at] & !(mask << shift) | (value & mask) << shift;
            page.states[at] |= wanted | state::STORED;
        } else if page.states[at] & wanted != wanted || ((page.words[at] >> shift) ^ value) & mask != 0 {
            return self.first_sight(number, address, kind.number(), value);
        }
        true
    }

    fn is_allowed(&self, entry: u64, store: bool) -> bool {
        (entry >> 32) as u32 == self.generation && entry >> (ALLOWED + u32::from(store)) & 1 != 0
    }

    /// An access of eight bytes.
    #[inline(never)]
    fn double_access(&mut self, address: u32, kind: AccessKind, value: u64) -> bool {
        let entry = self.translations[(address >> 12) as usize];
        if !self.is_allowed(entry, kind.store) || !address.is_multiple_of(8) || kind.size != 3 {
            return false;
        }
        let Some(page) = self.pool.get_mut((entry & POOL_MASK) as usize) else { return false };
        let offset = address as usize % PAGE_BYTES;
        if kind.store {
            page.set_double(offset, value, 0xff, state::STORED);
            return true;
        }
        page.double(offset) == (value, 0xff)
    }
}

/// No page of the pool.
const NO_PAGE: u32 = u32::MAX;

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
        assert!(!memory.access(1, 0x1050, LOAD, 7), "seen first");
        assert!(!memory.access(1, 0x100a, LOAD, 0), "not aligned");
        assert!(!memory.access(2, 0x1008, LOAD, 5), "another context");
        assert!(memory.access(1, 0x1008, AccessKind { size: 3, store: false }, 0x8877_6655_0000_0005));
        assert!(memory.access(1, 0x100d, AccessKind { size: 0, store: false }, 0x66));
        assert_eq!((memory.page_mut(page).byte(0xc), memory.page_mut(page).knows(0x10)), (0x55, false));
        assert_eq!(memory.page_mut(page).lines(), Lines { read: 2, written: 1 });
        assert_eq!((memory.page_mut(page).known(0), memory.page_mut(page).known(1)), (0xff00, 0xf_0000));
        assert_eq!(
            memory.see(1, 0x1012, 1, 0x1234),
            Some(Sight { page, unknown: 3, changed: 0 }),
            "two bytes in the middle of a word"
        );
        assert_eq!(memory.see(1, 0x100a, 0, 7), Some(Sight { page, unknown: 0, changed: 1 << 10 }));
        assert_eq!(memory.page_mut(page).lines(), Lines { read: 3, written: 1 });
        assert_eq!(memory.page_mut(page).known(0), 0xc_ff00);
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
