//! Memory as far as one segment has seen it, on the replay's side: the load predictor that the recorder and the replay
//! share. The recorder's half is `segment/local_memory.rs`, which does the same with nothing but speed in mind.
//!
//! Both keep, for the segment under way, which virtual page shows which physical page, and the bytes of physical
//! memory that a load or a store of this segment has touched. A load of bytes that are all known, and unchanged,
//! costs nothing in the trace. Both start every segment with nothing known, so that each can be read alone.

use std::collections::HashMap;
use std::ops::RangeInclusive;

/// Bytes in a page, the unit of mappings.
pub const PAGE_BYTES: usize = 4096;
/// Bytes in a line, the unit of the indexes.
pub const LINE_BYTES: usize = 64;
const LINES: usize = PAGE_BYTES / LINE_BYTES;
const VIRTUAL_PAGES: usize = 1 << 20;

/// What is behind a virtual page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Memory: the number of the physical page (physical address / 4096).
    Ram(u64),
    /// A device: loads are never predicted, stores change no memory that is known here.
    Device,
    /// Loads see memory, stores are dropped.
    Rom(u64),
}

impl Target {
    /// The physical page that loads see.
    pub fn physical_page(self) -> Option<u64> {
        match self {
            Target::Ram(page) | Target::Rom(page) => Some(page),
            Target::Device => None,
        }
    }
}

/// What an access to a mapped page does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Behaviour {
    /// See [`Target::Ram`].
    Ram,
    /// See [`Target::Device`].
    Device,
    /// See [`Target::Rom`].
    Rom,
}

/// A virtual page's entry in the segment under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    generation: u32,
    page: u32,
    /// How accesses behave.
    pub behaviour: Behaviour,
}

/// Pages whose accesses somebody wants to see: [`Shadow::mapping`] does not find what shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Numbers of virtual pages.
    pub virtual_pages: Vec<RangeInclusive<u32>>,
    /// Numbers of physical pages.
    pub physical_pages: Vec<RangeInclusive<u64>>,
}

impl Guarded {
    fn contains(&self, address: u32, target: Target) -> bool {
        self.virtual_pages.iter().any(|pages| pages.contains(&(address >> 12)))
            || target
                .physical_page()
                .is_some_and(|page| self.physical_pages.iter().any(|pages| pages.contains(&page)))
    }
}

/// One physical page.
#[derive(Clone, Debug)]
pub struct Page {
    generation: u32,
    /// The number of the physical page.
    pub number: u64,
    /// Bytes known in this segment: one bit a byte, one word a line.
    pub known: [u64; LINES],
    /// The bytes; those that are not known mean nothing.
    pub data: [u8; PAGE_BYTES],
}

impl Page {
    fn new(number: u64) -> Box<Page> {
        Box::new(Page { generation: 0, number, known: [0; LINES], data: [0; PAGE_BYTES] })
    }

    /// The value of `bytes` (at most 8) bytes at `offset`, little-endian; they lie within one line.
    #[inline]
    pub fn value(&self, offset: usize, bytes: usize) -> u64 {
        // Eight bytes at once where they are within the page, which spares a copy of variable length.
        if let Some(eight) =
            self.data.get(offset..offset + 8).and_then(|slice| <[u8; 8]>::try_from(slice).ok())
        {
            u64::from_le_bytes(eight) & mask_of_bytes(bytes)
        } else {
            let mut value = [0; 8];
            let end = (offset + bytes).min(PAGE_BYTES);
            value[..end - offset].copy_from_slice(&self.data[offset..end]);
            u64::from_le_bytes(value)
        }
    }

    /// Writes the low `bytes` bytes of `value` at `offset`, within one line.
    #[inline]
    pub fn set_value(&mut self, offset: usize, bytes: usize, value: u64) {
        let source = value.to_le_bytes();
        match bytes {
            4 => self.data[offset..offset + 4].copy_from_slice(&source[..4]),
            1 => self.data[offset] = source[0],
            2 => self.data[offset..offset + 2].copy_from_slice(&source[..2]),
            _ => self.data[offset..offset + bytes].copy_from_slice(&source[..bytes]),
        }
    }
}

/// The low `bytes` (1 to 8) bytes set.
#[inline]
pub fn mask_of_bytes(bytes: usize) -> u64 {
    u64::MAX >> (64 - 8 * bytes as u32)
}

/// The bits of a line's known word for `bytes` bytes at `offset` in the page.
#[inline]
pub fn known_bits(offset: usize, bytes: usize) -> u64 {
    ((1 << bytes) - 1) << (offset % LINE_BYTES)
}

/// An access lies within one line: nothing special about it.
#[inline]
pub fn within_line(address: u32, bytes: usize) -> bool {
    address as usize % LINE_BYTES + bytes <= LINE_BYTES
}

/// See the [module](self).
#[derive(Debug)]
pub struct Shadow {
    generation: u32,
    mappings: Box<[Mapping]>,
    pages: Vec<Box<Page>>,
    numbers: HashMap<u64, u32>,
    touched: Vec<u32>,
    /// Pages kept before the next segment starts afresh; bounds the memory of a long replay.
    page_limit: usize,
    guarded: Guarded,
}

/// In the generation of a mapping: it shows a guarded page. Generations themselves are even.
const GUARD: u32 = 1;

impl Shadow {
    /// Nothing is known. With `page_limit`, all pages are forgotten at the start of a segment once there are more.
    pub fn new(page_limit: usize) -> Self {
        Shadow {
            generation: 2,
            mappings: vec![Mapping { generation: 0, page: 0, behaviour: Behaviour::Device }; VIRTUAL_PAGES]
                .into_boxed_slice(),
            pages: Vec::new(),
            numbers: HashMap::new(),
            touched: Vec::new(),
            page_limit,
            guarded: Guarded::default(),
        }
    }

    /// Forgets what this segment knew: all mappings, all known bytes. (The bytes stay.)
    pub fn begin_segment(&mut self) {
        self.touched.clear();
        if self.pages.len() > self.page_limit {
            self.pages.clear();
            self.numbers.clear();
        }
        self.generation = match self.generation.checked_add(2) {
            Some(next) => next,
            None => {
                // After two thousand million segments the old marks would look fresh again.
                self.mappings.iter_mut().for_each(|mapping| mapping.generation = 0);
                self.pages.iter_mut().for_each(|page| page.generation = 0);
                2
            }
        };
    }

    /// Guards pages, instead of those before, from the next segment on.
    pub fn guard(&mut self, guarded: Guarded) {
        self.guarded = guarded;
    }

    /// The mapping of the virtual page `address / 4096`, if this segment has one.
    #[inline]
    pub fn any_mapping(&self, address: u32) -> Option<Mapping> {
        let mapping = self.mappings[(address >> 12) as usize & (VIRTUAL_PAGES - 1)];
        (mapping.generation & !GUARD == self.generation).then_some(mapping)
    }

    /// The same, unless the page is guarded: for accesses that nobody wants to see. It costs no more for the guards.
    #[inline]
    pub fn mapping(&self, address: u32) -> Option<Mapping> {
        let mapping = self.mappings[(address >> 12) as usize & (VIRTUAL_PAGES - 1)];
        (mapping.generation == self.generation).then_some(mapping)
    }

    /// The raw entry of a virtual page, to be put back with [`restore_mapping`](Self::restore_mapping).
    pub fn raw_mapping(&self, address: u32) -> Mapping {
        self.mappings[(address >> 12) as usize & (VIRTUAL_PAGES - 1)]
    }

    /// Puts back what [`raw_mapping`](Self::raw_mapping) returned.
    pub fn restore_mapping(&mut self, address: u32, mapping: Mapping) {
        self.mappings[(address >> 12) as usize & (VIRTUAL_PAGES - 1)] = mapping;
    }

    /// Forgets the mapping of one virtual page.
    pub fn unmap(&mut self, address: u32) {
        self.mappings[(address >> 12) as usize & (VIRTUAL_PAGES - 1)].generation = 0;
    }

    /// Sets the mapping of the virtual page that `address` lies in.
    pub fn map(&mut self, address: u32, target: Target) -> Mapping {
        let behaviour = match target {
            Target::Ram(_) => Behaviour::Ram,
            Target::Device => Behaviour::Device,
            Target::Rom(_) => Behaviour::Rom,
        };
        let page = target.physical_page().map_or(0, |number| self.touch(number));
        let guard = if self.guarded.contains(address, target) { GUARD } else { 0 };
        let mapping = Mapping { generation: self.generation | guard, page, behaviour };
        self.mappings[(address >> 12) as usize & (VIRTUAL_PAGES - 1)] = mapping;
        mapping
    }

    /// Makes the physical page `number` one that this segment has touched, without a virtual page that shows it, and
    /// returns its key.
    pub fn touch(&mut self, number: u64) -> u32 {
        let index = *self.numbers.entry(number).or_insert_with(|| {
            self.pages.push(Page::new(number));
            (self.pages.len() - 1) as u32
        });
        let page = &mut self.pages[index as usize];
        if page.generation != self.generation {
            page.generation = self.generation;
            page.known = [0; LINES];
            self.touched.push(index);
        }
        index
    }

    /// The page behind a mapping that is not a device.
    #[inline]
    pub fn page(&self, mapping: Mapping) -> &Page {
        &self.pages[mapping.page as usize]
    }

    /// The page behind a mapping that is not a device.
    #[inline]
    pub fn page_mut(&mut self, mapping: Mapping) -> &mut Page {
        &mut self.pages[mapping.page as usize]
    }

    /// The number by which [`page_at_mut`](Self::page_at_mut) finds a mapping's page again, until the next segment.
    #[inline]
    pub fn page_key(&self, mapping: Mapping) -> u32 {
        mapping.page
    }

    /// The page with a key that [`page_key`](Self::page_key) gave.
    #[inline]
    pub fn page_at_mut(&mut self, key: u32) -> &mut Page {
        &mut self.pages[key as usize]
    }

    /// The physical page `number` if this segment has touched it.
    pub fn touched_page(&self, number: u64) -> Option<&Page> {
        let page = &self.pages[*self.numbers.get(&number)? as usize];
        (page.generation == self.generation).then_some(page)
    }

    /// All pages that this segment touched, each with its key.
    pub fn touched_pages(&self) -> impl Iterator<Item = (u32, &Page)> {
        self.touched.iter().filter_map(|key| Some((*key, &**self.pages.get(*key as usize)?)))
    }

    /// What is behind each virtual page of which this segment knows: the page's number and the target, rising.
    pub fn targets(&self) -> impl Iterator<Item = (u32, Target)> {
        (0..VIRTUAL_PAGES as u32).filter_map(|page| Some((page, self.target(self.any_mapping(page << 12)?))))
    }

    /// What a mapping shows.
    pub fn target(&self, mapping: Mapping) -> Target {
        match mapping.behaviour {
            Behaviour::Device => Target::Device,
            Behaviour::Ram => Target::Ram(self.page(mapping).number),
            Behaviour::Rom => Target::Rom(self.page(mapping).number),
        }
    }

    /// How many pages this segment mapped.
    pub fn touched_count(&self) -> usize {
        self.touched.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_forgets_what_it_knew() {
        let mut shadow = Shadow::new(usize::MAX);
        assert_eq!(shadow.mapping(0x8000_1234), None);
        let mapping = shadow.map(0x8000_1234, Target::Ram(0x40000));
        shadow.page_mut(mapping).known[3] = u64::MAX;
        assert_eq!(shadow.mapping(0x8000_1fff), Some(mapping));
        shadow.begin_segment();
        assert_eq!(shadow.mapping(0x8000_1fff), None);
        assert!(shadow.touched_page(0x40000).is_none());
        let mapping = shadow.map(0, Target::Ram(0x40000));
        assert_eq!(shadow.page(mapping).known[3], 0);
    }

    #[test]
    fn guarded_pages_are_not_found_in_passing() {
        let mut shadow = Shadow::new(usize::MAX);
        shadow.guard(Guarded { virtual_pages: vec![1..=1], physical_pages: vec![7..=8] });
        shadow.begin_segment();
        for (page, target, guarded) in
            [(0, Target::Ram(5), false), (1, Target::Device, true), (2, Target::Rom(8), true)]
        {
            let mapping = shadow.map(page << 12, target);
            assert_eq!(shadow.any_mapping(page << 12), Some(mapping));
            assert_eq!(shadow.mapping(page << 12), (!guarded).then_some(mapping), "{page}");
        }
        shadow.begin_segment();
        assert_eq!(shadow.any_mapping(0x1000), None);
    }

    #[test]
    fn two_virtual_pages_share_one_physical_page() {
        let mut shadow = Shadow::new(usize::MAX);
        let one = shadow.map(0x1000, Target::Ram(5));
        let two = shadow.map(0x2000, Target::Ram(5));
        shadow.page_mut(one).set_value(8, 4, 0x1122_3344);
        assert_eq!(shadow.page(two).value(8, 4), 0x1122_3344);
        assert_eq!(shadow.touched_count(), 1);
    }

    #[test]
    fn values_are_little_endian_up_to_the_end_of_the_page() {
        let mut page = Page::new(0);
        for bytes in [1, 2, 4, 8] {
            for offset in [0, 100, PAGE_BYTES - bytes] {
                let value = 0x8877_6655_4433_2211 & mask_of_bytes(bytes);
                page.set_value(offset, bytes, value);
                assert_eq!(page.value(offset, bytes), value);
                assert_eq!(page.data[offset], 0x11);
            }
        }
    }
}
