//! Memory as a replay of one segment sees it: the mirror image of the encoder's prediction.

use std::sync::Arc;

use ktrace_format::digest::Digest;
use ktrace_format::segment::cursor::{Cursor, OpaqueAccess};
use ktrace_format::segment::{SegmentError, Stream, Streams, surprise};
use ktrace_format::shadow::{Behaviour, Guarded, Mapping, PAGE_BYTES, Shadow, known_bits, within_line};
use ktrace_machine::bus::{AccessSize, Bus, Halt};

use crate::journal::{Journal, Touch, Undo, lines_of};
use crate::search::trap::{Sighting, Trap, Trapped};
use crate::view::Stand;
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

    /// The next of the writes of devices, while the processor stands here.
    pub(crate) fn device_write(&mut self, stand: Stand) -> Result<(), SegmentError> {
        let streams = Arc::clone(&self.streams);
        let write = self.cursor.device_write(&streams)?;
        let mut done = 0;
        while let Some(rest) = write.bytes.get(done..).filter(|rest| !rest.is_empty()) {
            // The cursor has seen to it that this does not overflow.
            let here = write.physical.saturating_add(done as u64);
            let offset = here as usize % PAGE_BYTES;
            let part = rest.get(..PAGE_BYTES - offset).unwrap_or(rest);
            self.device_write_page(stand, here / PAGE_BYTES as u64, offset, part)?;
            done += part.len();
        }
        Ok(())
    }

    fn device_write_page(
        &mut self,
        stand: Stand,
        number: u64,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), SegmentError> {
        if self.shadow.touched_count() >= SEGMENT_PAGE_LIMIT && self.shadow.touched_page(number).is_none() {
            return Err(SegmentError::Stream(Stream::DeviceWrites));
        }
        if let Some(trap) = &mut self.trap {
            trap.device_write(&self.shadow, stand, number, offset, bytes);
        }
        let key = self.shadow.touch(number);
        let page = self.shadow.page_at_mut(key);
        let stretch = offset..offset + bytes.len();
        self.journal.note_stretch(key, page, stretch.clone());
        page.data[stretch.clone()].copy_from_slice(bytes);
        for line in lines_of(&stretch) {
            let from = stretch.start.max(64 * line) - 64 * line;
            let to = stretch.end.min(64 * line + 64) - 64 * line;
            page.known[line] |= u64::MAX >> (64 - (to - from)) << from;
        }
        if let Some(watch) = &mut self.watch {
            watch.changed(number, offset, bytes.len(), Change::Device, stand.executed);
        }
        Ok(())
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

    #[cold]
    #[inline(never)]
    fn load_slowly(&mut self, address: u32, bytes: usize) -> Result<u64, Halt> {
        if self.accesses >= self.limit {
            return Err(Halt);
        }
        // What nobody watches, and may be seen for the first time: some segments do little else.
        if self.accesses < self.special
            && within_line(address, bytes)
            && let Some(mapping) = self.shadow.mapping(address)
            && mapping.behaviour != Behaviour::Device
        {
            return self.load_first(mapping, address, bytes).map_err(|error| self.fail(error));
        }
        if let Some(mapping) = self.beside_the_trap(address, bytes) {
            let page = self.shadow.page(mapping);
            let offset = address as usize % PAGE_BYTES;
            let bits = known_bits(offset, bytes);
            if page.known[offset / 64] & bits == bits {
                let value = page.value(offset, bytes);
                self.digest.access(address, bytes as u8, false, value);
                self.accesses += 1;
                return Ok(value);
            }
        }
        self.try_load(address, bytes).map_err(|error| self.fail(error))
    }

    fn try_load(&mut self, address: u32, bytes: usize) -> Result<u64, SegmentError> {
        let mappings = self.mappings(address, bytes)?;
        let before = self.before(mappings, address, bytes);
        let value = if mappings.iter().any(|mapping| mapping.behaviour == Behaviour::Device) {
            let device = self.cursor.device(&self.streams)?;
            self.last_device = Some((device.name, device.physical));
            self.cursor.value(&self.streams, bytes)?
        } else {
            let (mut known, mut shown) = (true, [0; 8]);
            for (at, byte) in shown.iter_mut().take(bytes).enumerate() {
                let here = address.wrapping_add(at as u32);
                let page = self.shadow.page(mappings[usize::from(here >> 12 != address >> 12)]);
                let offset = here as usize % PAGE_BYTES;
                known &= page.known[offset / 64] >> (offset % 64) & 1 != 0;
                *byte = page.data[offset];
            }
            let surprised = self.next_surprise == self.accesses;
            if surprised {
                self.advance_surprise()?;
            }
            if known && !surprised {
                u64::from_le_bytes(shown)
            } else {
                let value = self.cursor.value(&self.streams, bytes)?;
                for (at, byte) in value.to_le_bytes().into_iter().take(bytes).enumerate() {
                    let here = address.wrapping_add(at as u32);
                    let mapping = mappings[usize::from(here >> 12 != address >> 12)];
                    self.set_byte(mapping, here as usize % PAGE_BYTES, byte, false);
                }
                value
            }
        };
        self.digest.access(address, bytes as u8, false, value);
        self.spring(before, false, &value.to_le_bytes()[..bytes], value.into());
        self.note_access(address, bytes, false, u128::from(value));
        self.accesses += 1;
        Ok(value)
    }

    #[cold]
    #[inline(never)]
    fn store_slowly(&mut self, address: u32, bytes: usize, value: u64) -> Result<(), Halt> {
        if self.accesses >= self.limit {
            return Err(Halt);
        }
        if let Some(mapping) = self.beside_the_trap(address, bytes)
            && mapping.behaviour == Behaviour::Ram
        {
            self.store_plainly(mapping, address, bytes, value);
            return Ok(());
        }
        self.try_store(address, bytes, value).map_err(|error| self.fail(error))
    }

    fn try_store(&mut self, address: u32, bytes: usize, value: u64) -> Result<(), SegmentError> {
        self.write(address, &value.to_le_bytes()[..bytes], value.into())?;
        self.digest.access(address, bytes as u8, true, value);
        self.note_access(address, bytes, true, u128::from(value));
        self.accesses += 1;
        Ok(())
    }

    fn write(&mut self, address: u32, bytes: &[u8], value: u128) -> Result<(), SegmentError> {
        let mappings = self.mappings(address, bytes.len())?;
        let before = self.before(mappings, address, bytes.len());
        if mappings.iter().any(|mapping| mapping.behaviour == Behaviour::Device) {
            let device = self.cursor.device(&self.streams)?;
            self.last_device = Some((device.name, device.physical));
        }
        for (at, byte) in bytes.iter().enumerate() {
            let here = address.wrapping_add(at as u32);
            let mapping = mappings[usize::from(here >> 12 != address >> 12)];
            if mapping.behaviour == Behaviour::Ram {
                self.set_byte(mapping, here as usize % PAGE_BYTES, *byte, true);
            }
        }
        self.spring(before, true, bytes, value);
        Ok(())
    }

    /// Makes the accesses of the opaque instruction under way.
    pub(crate) fn opaque_accesses(&mut self) -> Result<(), SegmentError> {
        for _ in 0..self.cursor.opaque_count(&self.streams)? {
            let access = self.cursor.opaque_access(&self.streams)?;
            self.opaque_access(&access)?;
        }
        Ok(())
    }

    fn opaque_access(&mut self, access: &OpaqueAccess) -> Result<(), SegmentError> {
        let OpaqueAccess { address, bytes, store, value: [low, high], .. } = *access;
        let memory = access.memory_bytes();
        let whole = u128::from(low) | u128::from(high) << 64;
        if store {
            self.write(address, &memory[..bytes], whole)?;
        } else {
            let mappings = self.mappings(address, bytes)?;
            let before = self.before(mappings, address, bytes);
            if mappings.iter().any(|mapping| mapping.behaviour == Behaviour::Device) {
                let device = self.cursor.device(&self.streams)?;
                self.last_device = Some((device.name, device.physical));
            }
            for (at, byte) in memory.into_iter().take(bytes).enumerate() {
                let here = address.wrapping_add(at as u32);
                let mapping = mappings[usize::from(here >> 12 != address >> 12)];
                if mapping.behaviour != Behaviour::Device {
                    self.set_byte(mapping, here as usize % PAGE_BYTES, byte, false);
                }
            }
            self.spring(before, false, &memory[..bytes], whole);
        }
        if bytes == 16 {
            self.digest.access(address, 8, store, low);
            self.digest.access(address.wrapping_add(8), 8, store, high);
        } else {
            self.digest.access(address, bytes as u8, store, low);
        }
        self.note_access(address, bytes, store, whole);
        self.accesses += 1;
        Ok(())
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
        {
            let page = self.shadow.page(mapping);
            let offset = address as usize % PAGE_BYTES;
            let bits = known_bits(offset, bytes);
            if page.known[offset / 64] & bits == bits {
                let value = page.value(offset, bytes);
                self.digest.access(address, bytes as u8, false, value);
                self.accesses += 1;
                return Ok(value);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{FullJournal, NoJournal};

    /// Memory of a segment with these device writes.
    fn memory<J: Journal>(writes: &[(u64, &[u8])]) -> SegmentMemory<J> {
        let mut streams = Streams::default();
        let stream = &mut streams.0[Stream::DeviceWrites as usize];
        for (physical, bytes) in writes {
            ktrace_format::varint::write(stream, *physical);
            ktrace_format::varint::write(stream, bytes.len() as u64);
            stream.extend(*bytes);
        }
        let mut memory = SegmentMemory::new();
        memory.begin(Arc::new(streams)).unwrap();
        memory
    }

    #[test]
    fn a_device_write_makes_just_its_bytes_known() {
        let mut bytes = [0u8; 5000];
        bytes.iter_mut().zip(1..).for_each(|(byte, value)| *byte = (value % 251) as u8);
        let start = 0x3f7f;
        let mut memory: SegmentMemory<FullJournal> = memory(&[(start, &bytes)]);
        memory.device_write(Stand::default()).unwrap();
        let known = |memory: &SegmentMemory<FullJournal>, address: u64| {
            let page = memory.shadow.touched_page(address >> 12)?;
            let offset = address as usize % PAGE_BYTES;
            (page.known[offset / 64] >> (offset % 64) & 1 != 0).then_some(page.data[offset])
        };
        for address in 0x3000..0x6000u64 {
            let written = address.checked_sub(start).and_then(|at| bytes.get(at as usize)).copied();
            assert_eq!(known(&memory, address), written, "{address:#x}");
        }
        let (journal, shadow) = (&mut memory.journal, &mut memory.shadow);
        journal.undo_to(0, shadow, &mut [], &mut []);
        assert!((0x3000..0x6000).all(|address| known(&memory, address).is_none()));
    }

    #[test]
    fn devices_can_not_fill_memory_with_pages() {
        let writes: Vec<(u64, &[u8])> = (0..66).map(|page| (page << 12, &[1][..])).collect();
        let mut memory: SegmentMemory<NoJournal> = memory(&writes);
        for _ in 0..SEGMENT_PAGE_LIMIT {
            memory.device_write(Stand::default()).unwrap();
        }
        assert_eq!(memory.device_write(Stand::default()), Err(SegmentError::Stream(Stream::DeviceWrites)));
        // Pages that are there already can be written to.
        memory.device_write_page(Stand::default(), 0, 5, &[1]).unwrap();
    }
}
