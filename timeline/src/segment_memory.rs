//! Memory as a replay of one segment sees it: the mirror image of the encoder's prediction.

mod closely;
mod devices;

use std::sync::Arc;

use ktrace_format::digest::Digest;
use ktrace_format::segment::cursor::Cursor;
use ktrace_format::segment::{SegmentError, Stream, Streams, surprise};
use ktrace_format::shadow::{Behaviour, Guarded, Mapping, PAGE_BYTES, Shadow, known_bits, within_line};
use ktrace_machine::bus::{AccessSize, Bus, Halt};

use crate::journal::{Journal, Touch, Undo};
use crate::search::trap::{Sighting, Trap, Trapped};
use crate::watch::{Change, Watch};

/// Pages that a replay keeps from one segment to the next: 10 MiB.
const PAGE_LIMIT: usize = 2_000;

/// Physical pages that one segment may touch: 1 GiB. A test would not want to fill that.
const SEGMENT_PAGE_LIMIT: usize = if cfg!(test) { 64 } else { 1 << 18 };

/// A memory access, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Virtual address.
    pub address: u32,
    /// Size in bytes.
    pub bytes: u8,
    /// A store.
    pub store: bool,
    /// Value, zero-extended.
    pub value: u128,
    /// Physical address, if the page is memory.
    pub physical: Option<u64>,
    /// Number of the device's name, and the physical address there.
    pub device: Option<(u32, u64)>,
}

/// See the [module](self).
pub struct SegmentMemory<J> {
    /// What the segment has seen.
    pub shadow: Shadow,
    pub(crate) streams: Arc<Streams>,
    pub(crate) cursor: Cursor,
    pub(crate) digest: Digest,
    pub(crate) journal: J,
    /// Accesses made so far.
    pub(crate) accesses: u64,
    /// The access at which something special happens: the smaller of the two below.
    special: u64,
    pub(crate) next_surprise: u64,
    pub(crate) surprise_kind: u64,
    /// The access that is not made any more: the instruction faulted there.
    pub(crate) limit: u64,
    /// What is wrong with the streams, once something is.
    pub(crate) error: Option<SegmentError>,
    /// Accesses, kept if somebody asked with `set_log`.
    log: Option<Vec<Access>>,
    /// How many accesses went to devices.
    pub(crate) device_accesses: u64,
    /// What changes memory, if somebody asked with `set_watch`.
    watch: Option<Watch>,
    /// What accesses memory, if somebody asked with `set_trap`.
    trap: Option<Box<Trap>>,
    last_device: Option<(u32, u64)>,
    /// Which instruction of the block is under way.
    index: u32,
    /// How many instructions of the segment had been executed when the block began.
    block_start: u64,
}

impl<J: Journal> SegmentMemory<J> {
    pub(crate) fn new() -> Self {
        SegmentMemory {
            shadow: Shadow::new(PAGE_LIMIT),
            streams: Arc::default(),
            cursor: Cursor::default(),
            digest: Digest::default(),
            journal: J::default(),
            accesses: 0,
            special: u64::MAX,
            next_surprise: u64::MAX,
            surprise_kind: 0,
            limit: u64::MAX,
            error: None,
            log: None,
            device_accesses: 0,
            watch: None,
            trap: None,
            last_device: None,
            index: 0,
            block_start: 0,
        }
    }

    pub(crate) fn begin(&mut self, streams: Arc<Streams>) -> Result<(), SegmentError> {
        self.shadow.begin_segment();
        self.streams = streams;
        self.cursor = Cursor::default();
        self.digest = Digest::default();
        self.journal = J::default();
        self.accesses = 0;
        self.device_accesses = 0;
        self.limit = u64::MAX;
        self.error = None;
        self.next_surprise = 0;
        self.advance_surprise()
    }

    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        self.update_special();
    }

    /// Keeps a log of accesses from now on, or no longer; returns the one so far.
    pub(crate) fn set_log(&mut self, log: Option<Vec<Access>>) -> Option<Vec<Access>> {
        let old = std::mem::replace(&mut self.log, log);
        self.update_special();
        old
    }

    /// What was logged since somebody last looked.
    pub(crate) fn logged(&mut self) -> impl Iterator<Item = Access> {
        self.log.iter_mut().flat_map(|log| log.drain(..))
    }

    /// Watches what changes memory from the start of the next segment on, or no longer; returns what has been seen so far.
    pub(crate) fn set_watch(&mut self, watch: Option<Watch>) -> Option<Watch> {
        let pages = watch.iter().flat_map(Watch::pages);
        let physical_pages = pages.map(|page| page..=page).collect();
        self.shadow.guard(Guarded { physical_pages, ..Guarded::default() });
        std::mem::replace(&mut self.watch, watch)
    }

    /// Waits for accesses from the start of the next segment on, or no longer.
    pub(crate) fn set_trap(&mut self, trap: Option<Trap>) {
        self.shadow.guard(trap.as_ref().map(Trap::guarded).unwrap_or_default());
        self.trap = trap.map(Box::new);
    }

    /// What the trap has seen since somebody last asked.
    pub(crate) fn sightings(&mut self) -> Vec<Sighting> {
        self.trap.as_mut().map(|trap| trap.sightings()).unwrap_or_default()
    }

    /// The block whose instructions come next, counted from its first, began after so many instructions of the segment.
    #[inline]
    pub(crate) fn block_begins_at(&mut self, executed: u64) {
        self.block_start = executed;
    }

    /// Which instruction of the segment is under way.
    fn now(&self) -> u64 {
        self.block_start.wrapping_add(u64::from(self.index))
    }

    /// After the cursor and counters were put back.
    pub(crate) fn resume(&mut self) {
        self.update_special();
        self.error = None;
    }

    fn update_special(&mut self) {
        // With a log every access takes the slow way, which writes it.
        self.special = if self.log.is_some() { 0 } else { self.next_surprise.min(self.limit) };
    }

    fn advance_surprise(&mut self) -> Result<(), SegmentError> {
        match self.cursor.next_surprise(&self.streams)? {
            Some((gap, kind)) => {
                self.next_surprise = self.next_surprise.saturating_add(gap);
                self.surprise_kind = kind;
            }
            None => self.next_surprise = u64::MAX,
        }
        self.update_special();
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn fail(&mut self, error: SegmentError) -> Halt {
        self.error.get_or_insert(error);
        Halt
    }

    fn set_mapping(&mut self, address: u32) -> Result<Mapping, SegmentError> {
        let target = self.cursor.target(&self.streams)?;
        if self.shadow.touched_count() >= SEGMENT_PAGE_LIMIT {
            return Err(SegmentError::Stream(Stream::Mappings));
        }
        let old = self.shadow.raw_mapping(address);
        self.journal.note(|| Undo::Mapping { address, mapping: old });
        Ok(self.shadow.map(address, target))
    }

    fn mapping(&mut self, address: u32) -> Result<Mapping, SegmentError> {
        while self.next_surprise == self.accesses && self.surprise_kind == surprise::REMAP {
            // Each page that shows something else is named; it need not be the page of this byte of the access.
            let page = self.cursor.remapped_page(&self.streams)?;
            self.set_mapping(page << 12)?;
            self.advance_surprise()?;
        }
        match self.shadow.any_mapping(address) {
            Some(mapping) => Ok(mapping),
            None => self.set_mapping(address),
        }
    }

    fn mappings(&mut self, address: u32, bytes: usize) -> Result<[Mapping; 2], SegmentError> {
        let first = self.mapping(address)?;
        Ok([first, self.mapping(address.wrapping_add(bytes as u32 - 1))?])
    }

    fn set_byte(&mut self, mapping: Mapping, offset: usize, byte: u8, store: bool) {
        let now = self.now();
        let key = self.shadow.page_key(mapping);
        let page = self.shadow.page_at_mut(key);
        let (line, bit) = (offset / 64, 1 << (offset % 64));
        let (value, known) = (u64::from(page.data[offset]), page.known[line]);
        self.journal.note(|| Undo::Bytes { page: key, offset: offset as u16, bytes: 1, value, known });
        self.journal.touched(|| Touch {
            key,
            page: page.number,
            offset: offset as u16,
            bytes: 1,
            store,
            known,
            old: value,
            new: byte.into(),
        });
        page.known[line] |= bit;
        page.data[offset] = byte;
        if let Some(watch) = &mut self.watch {
            let change = match store {
                true => Change::Store,
                false if known & bit == 0 => Change::FirstLoad,
                false if value != u64::from(byte) => Change::Load,
                false => return,
            };
            watch.changed(page.number, offset, 1, change, now);
        }
    }

    /// Bytes of memory before an access, if a trap wants to know; those of devices are not.
    fn before(&self, mappings: [Mapping; 2], address: u32, bytes: usize) -> Option<Trapped> {
        self.trap.as_ref()?;
        let mut trapped = Trapped { address, bytes, ..Trapped::default() };
        for (at, place) in trapped.places.iter_mut().take(bytes).enumerate() {
            let here = address.wrapping_add(at as u32);
            let mapping = mappings[usize::from(here >> 12 != address >> 12)];
            if mapping.behaviour != Behaviour::Device {
                let (page, offset) = (self.shadow.page(mapping), here as usize % PAGE_BYTES);
                let known = page.known[offset / 64] >> (offset % 64) & 1 != 0;
                place.physical = Some(page.number << 12 | offset as u64);
                place.before = known.then_some(page.data[offset]);
                place.writable = mapping.behaviour == Behaviour::Ram;
            }
        }
        Some(trapped)
    }

    /// Tells the trap of an access that was made. `memory` are its bytes at rising addresses.
    fn spring(&mut self, trapped: Option<Trapped>, store: bool, memory: &[u8], value: u128) {
        let Some(mut trapped) = trapped else { return };
        trapped.device = self.last_device;
        let now = self.now();
        if let Some(trap) = &mut self.trap {
            trap.access(now, &trapped, store, memory, value);
        }
    }

    fn note_access(&mut self, address: u32, bytes: usize, store: bool, value: u128) {
        // Accesses to devices never take the fast way.
        self.device_accesses += u64::from(self.last_device.is_some());
        if self.log.is_some() {
            let mapping =
                self.shadow.any_mapping(address).filter(|mapping| mapping.behaviour != Behaviour::Device);
            let page = mapping.map(|mapping| self.shadow.page(mapping).number);
            let physical = page.map(|page| page << 12 | u64::from(address & 0xfff));
            let device = self.last_device;
            if let Some(log) = &mut self.log {
                log.push(Access { address, bytes: bytes as u8, store, value, physical, device });
            }
        }
        self.last_device = None;
    }

    /// The mapping of an access that goes to guarded memory, but not to what the trap waits for: nothing else is special
    /// about it.
    fn beside_the_trap(&self, address: u32, bytes: usize) -> Option<Mapping> {
        let trap = self.trap.as_ref()?;
        if self.accesses >= self.special || !within_line(address, bytes) {
            return None;
        }
        let mapping = self.shadow.any_mapping(address)?;
        if mapping.behaviour == Behaviour::Device {
            return None;
        }
        let physical = self.shadow.page(mapping).number << 12 | u64::from(address & 0xfff);
        (!trap.may_see(address, physical, bytes)).then_some(mapping)
    }

    /// Makes bytes within a line of memory known to be those of `value`, from the lowest on.
    #[inline(always)]
    fn put(&mut self, mapping: Mapping, address: u32, bytes: usize, value: u64, store: bool) {
        let key = self.shadow.page_key(mapping);
        let page = self.shadow.page_at_mut(key);
        let offset = address as usize % PAGE_BYTES;
        let line = offset / 64;
        self.journal.note(|| Undo::Bytes {
            page: key,
            offset: offset as u16,
            bytes: bytes as u8,
            value: page.value(offset, bytes),
            known: page.known[line],
        });
        self.journal.touched(|| Touch {
            key,
            page: page.number,
            offset: offset as u16,
            bytes: bytes as u8,
            store,
            known: page.known[line],
            old: page.value(offset, bytes),
            new: value,
        });
        page.known[line] |= known_bits(offset, bytes);
        page.set_value(offset, bytes, value);
    }

    /// A load within a line of memory about which nothing is special, if all bytes of it are known.
    #[inline(always)]
    fn load_known(&mut self, mapping: Mapping, address: u32, bytes: usize) -> Option<u64> {
        let page = self.shadow.page(mapping);
        let offset = address as usize % PAGE_BYTES;
        let bits = known_bits(offset, bytes);
        if page.known[offset / 64] & bits != bits {
            return None;
        }
        let value = page.value(offset, bytes);
        self.digest.access(address, bytes as u8, false, value);
        self.accesses += 1;
        Some(value)
    }

    /// A store within a line of memory about which nothing is special.
    #[inline(always)]
    fn store_plainly(&mut self, mapping: Mapping, address: u32, bytes: usize, value: u64) {
        self.put(mapping, address, bytes, value, true);
        self.digest.access(address, bytes as u8, true, value);
        self.accesses += 1;
    }

    /// A load within a line of memory, not all bytes of which are known, about which nothing is special.
    #[inline]
    fn load_first(&mut self, mapping: Mapping, address: u32, bytes: usize) -> Result<u64, SegmentError> {
        let value = self.cursor.value(&self.streams, bytes)?;
        self.put(mapping, address, bytes, value, false);
        self.digest.access(address, bytes as u8, false, value);
        self.accesses += 1;
        Ok(value)
    }
}

impl<J: Journal> Bus for SegmentMemory<J> {
    #[inline(always)]
    fn at_instruction(&mut self, index: usize) {
        self.index = index as u32;
    }

    #[inline]
    fn load(&mut self, address: u32, size: AccessSize) -> Result<u64, Halt> {
        let bytes = size as usize;
        if self.accesses < self.special
            && within_line(address, bytes)
            && let Some(mapping) = self.shadow.mapping(address)
            && mapping.behaviour != Behaviour::Device
            && let Some(value) = self.load_known(mapping, address, bytes)
        {
            return Ok(value);
        }
        self.load_slowly(address, bytes)
    }

    #[inline]
    fn store(&mut self, address: u32, size: AccessSize, value: u64) -> Result<(), Halt> {
        let bytes = size as usize;
        // Bits above the size mean nothing, but must not reach the digest.
        let value = value & ktrace_format::shadow::mask_of_bytes(bytes);
        if self.accesses < self.special
            && within_line(address, bytes)
            && let Some(mapping) = self.shadow.mapping(address)
            && mapping.behaviour == Behaviour::Ram
        {
            self.store_plainly(mapping, address, bytes, value);
            return Ok(());
        }
        self.store_slowly(address, bytes, value)
    }
}
