//! The part of a [`SegmentEncoder`] that deals with memory: what accesses meet, and what the trace has to say of it.

use super::{
    EncodeError, FirstSight, InitialMemory, NameId, OpaqueAccess, SegmentEncoder, UNKNOWN_PHYSICAL,
    VIRTUAL_PAGES,
};
use crate::segment::local_memory::{AccessKind, Sight};
use crate::segment::target::write_target;
use crate::segment::translations::Behind;
use crate::segment::{Stream, access, control, surprise};
use crate::shadow::{PAGE_BYTES, Target, mask_of_bytes};
use crate::varint;

/// What an access meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Memory: a page of the pool.
    Ram(u32),
    /// Memory in which stores are dropped.
    Rom(u32),
    Device,
}

impl Place {
    /// The page that a load sees.
    fn page(self) -> Option<u32> {
        match self {
            Place::Ram(page) | Place::Rom(page) => Some(page),
            Place::Device => None,
        }
    }
}

impl<M: InitialMemory> SegmentEncoder<M> {
    /// A device wrote `bytes` to memory at a physical address: to be told between two blocks, or at either end of the
    /// segment.
    pub fn device_write(&mut self, physical: u64, bytes: &[u8]) {
        // A run of pages that follow one another is one write: its canonical address, its first byte, its length.
        let mut run: Option<(u64, usize, usize)> = None;
        let mut done = 0;
        while let Some(here) = physical.checked_add(done as u64).filter(|_| done < bytes.len()) {
            let offset = here as usize % PAGE_BYTES;
            let length = (PAGE_BYTES - offset).min(bytes.len() - done);
            let page = self.canonical_page(here / PAGE_BYTES as u64);
            let address = page * PAGE_BYTES as u64 + offset as u64;
            self.device_write_page(page, offset, &bytes[done..done + length]);
            run = match run {
                Some((start, from, before)) if start + before as u64 == address => {
                    Some((start, from, before + length))
                }
                other => {
                    self.note_device_write(other, bytes);
                    Some((address, done, length))
                }
            };
            done += length;
        }
        self.note_device_write(run, bytes);
        // A store to one of these bytes makes them the processor's again, so each takes a closer look from now on.
        self.memory.forget_contexts();
        if self.device_writes > 0 {
            self.flags |= control::DEVICE_WRITES;
        }
    }

    fn device_write_page(&mut self, number: u64, offset: usize, bytes: &[u8]) {
        let key = self.memory.touch(number);
        let mut page = self.memory.page_mut(key);
        page.state.device = true;
        for (at, byte) in (offset..).zip(bytes) {
            page.store_byte(at, *byte);
        }
        self.device_bytes.written(number, offset, bytes.len());
    }

    fn note_device_write(&mut self, run: Option<(u64, usize, usize)>, bytes: &[u8]) {
        let Some((physical, from, length)) = run else { return };
        let stream = &mut self.streams[Stream::DeviceWrites as usize];
        varint::write(stream, physical);
        varint::write(stream, length as u64);
        stream.extend(&bytes[from..from + length]);
        self.device_writes += 1;
    }

    fn canonical_page(&self, page: u64) -> u64 {
        self.initial.canonical(page)
    }

    /// What is behind the virtual page of `address` is `target` from the next access on, for loads and stores alike.
    pub fn map(&mut self, address: u32, target: Target) {
        self.translate(0, address, Behind::both(target));
    }

    /// What is behind the virtual page of `address` for accesses of a translation context (at most 15) is this from the next
    /// access on.
    pub fn translate(&mut self, context: u8, address: u32, behind: Behind) {
        let page = self.canonical_page(behind.page());
        let behind = behind.resolved(page, self.initial.is_read_only(page));
        if self.translations.set(context, address, behind) {
            self.memory.unmap(address);
        }
    }

    /// A device that answers at some physical addresses, for device accesses of which [`device`](Self::device) is not told.
    pub fn device_range(&mut self, first: u64, last: u64, name: NameId) {
        self.devices.set(first, last, name);
    }

    /// The target of an access in the context under way.
    pub(super) fn target(&self, address: u32, store: bool) -> Option<Target> {
        self.translations.get(self.context, address).map(|behind| behind.target(store))
    }

    /// The places of an access's first and last byte. Pages that changed are named before those that are new: a replay
    /// meets them in this order.
    fn places(&mut self, address: u32, bytes: usize, store: bool) -> [Place; 2] {
        let last = address.wrapping_add(bytes as u32 - 1);
        let mut targets = [Target::Device; 2];
        for (target, address) in targets.iter_mut().zip([address, last]) {
            match self.target(address, store) {
                Some(known) => *target = known,
                None => {
                    self.error.get_or_insert(EncodeError::Unmapped { address });
                }
            }
        }
        for (target, address) in targets.into_iter().zip([address, last]) {
            let shown = &mut self.shown[(address >> 12) as usize % VIRTUAL_PAGES];
            if shown.0 == self.generation && shown.1 != target {
                *shown = (self.generation, target);
                self.memory.unmap(address);
                self.surprise(surprise::REMAP);
                varint::write(&mut self.streams[Stream::Mappings as usize], u64::from(address >> 12));
                write_target(&mut self.streams[Stream::Mappings as usize], target);
            }
        }
        for (target, address) in targets.into_iter().zip([address, last]) {
            let shown = &mut self.shown[(address >> 12) as usize % VIRTUAL_PAGES];
            if shown.0 != self.generation {
                *shown = (self.generation, target);
                self.mapped.push(address >> 12);
                write_target(&mut self.streams[Stream::Mappings as usize], target);
            }
        }
        let mut places = [Place::Device; 2];
        for ((place, target), address) in places.iter_mut().zip(targets).zip([address, last]) {
            let Some(number) = target.physical_page() else { continue };
            let page = self.memory.touch(number);
            let is_ram = matches!(target, Target::Ram(_));
            *place = if is_ram { Place::Ram(page) } else { Place::Rom(page) };
            let is_plain = is_ram && !self.memory.page_mut(page).state.device;
            if !store || is_plain {
                self.memory.allow(self.context, address, page, store);
            }
            if is_plain && self.target(address, !store) == Some(target) {
                self.memory.allow(self.context, address, page, !store);
            }
        }
        places
    }

    fn surprise(&mut self, kind: u64) {
        let gap = self.accesses - self.last_surprise;
        varint::write(&mut self.streams[Stream::Surprises as usize], gap << 1 | kind);
        self.last_surprise = self.accesses;
    }

    /// The next access, which must follow at once, is one to device `name` at a physical address.
    pub fn device(&mut self, name: NameId, physical: u64) {
        self.next_device = Some((name, physical));
    }

    /// Names the device of the access at hand, if one of its places is one.
    fn note_device(&mut self, address: u32, bytes: usize, places: [Place; 2]) -> bool {
        let Some(which) = places.iter().position(|place| *place == Place::Device) else { return false };
        let (name, physical) = match self.next_device.take() {
            Some(told) => told,
            None => {
                let address =
                    if which == 0 { address } else { address.wrapping_add(bytes as u32 - 1) & !0xfff };
                let behind = self.translations.get(self.context, address);
                let physical = behind
                    .map_or(UNKNOWN_PHYSICAL, |behind| behind.page() << 12 | u64::from(address & 0xfff));
                let name = self.devices.at(physical);
                (name, physical)
            }
        };
        let stream = &mut self.streams[Stream::Devices as usize];
        varint::write(stream, u64::from(name.0));
        varint::write(stream, physical);
        true
    }

    /// A modelled instruction loaded `value` (zero-extended) of `bytes` bytes (1, 2, 4, 8) at `address`.
    pub fn load(&mut self, address: u32, bytes: u8, value: u64) {
        self.access(0, address, AccessKind { size: u32::from(bytes).trailing_zeros(), store: false }, value);
    }

    /// A modelled instruction stored `value` (zero-extended) of `bytes` bytes (1, 2, 4, 8) at `address`.
    pub fn store(&mut self, address: u32, bytes: u8, value: u64) {
        self.access(0, address, AccessKind { size: u32::from(bytes).trailing_zeros(), store: true }, value);
    }

    /// A modelled instruction made an access in a translation context; `value` is zero-extended.
    pub fn access(&mut self, context: u8, address: u32, kind: AccessKind, value: u64) {
        let values = &mut self.streams[Stream::Values as usize];
        let view = self.memory.view(context, &mut self.sights, values);
        let done = view.is_some_and(|mut view| view.access(address, kind.number(), value, &mut self.digest));
        if !done {
            self.digest.access(address, 1 << kind.size, kind.store, value);
            self.access_slowly(context, address, kind, value);
        }
        self.accesses += 1;
    }

    #[cold]
    #[inline(never)]
    fn access_slowly(&mut self, context: u8, address: u32, kind: AccessKind, value: u64) {
        let bytes = 1 << kind.size;
        if !kind.store
            && let Some(sight) = self.memory.see(context, address, kind.size, value)
        {
            return self.note_sight(address, sight, &value.to_le_bytes()[..bytes]);
        }
        self.context = context;
        if kind.store {
            self.write_bytes(address, &value.to_le_bytes()[..bytes]);
        } else {
            self.load_slowly(address, bytes, value);
        }
    }

    /// A load of memory was not foreseen.
    fn note_sight(&mut self, address: u32, sight: Sight, bytes: &[u8]) {
        let Sight { page, unknown, changed } = sight;
        if unknown == 0 {
            self.surprise(surprise::VALUE);
        } else {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            self.sights.push(FirstSight {
                page,
                offset: (address as usize % PAGE_BYTES) as u16,
                mask: unknown,
                value: u64::from_le_bytes(value),
            });
        }
        if changed != 0 {
            let page = self.memory.page_mut(page);
            if page.state.device {
                let line = address as usize % PAGE_BYTES / 64;
                self.device_bytes.changed(page.state.number, line, changed);
            }
        }
        self.streams[Stream::Values as usize].extend(bytes);
    }

    fn load_slowly(&mut self, address: u32, bytes: usize, value: u64) {
        let places = self.places(address, bytes, false);
        let device = self.note_device(address, bytes, places);
        let (mut known, mut same) = (true, true);
        if !device {
            (known, same) = self.see_bytes(address, &value.to_le_bytes()[..bytes], places);
        }
        if device || !known || !same {
            if !device && known {
                self.surprise(surprise::VALUE);
            }
            self.streams[Stream::Values as usize].extend(&value.to_le_bytes()[..bytes]);
        }
    }

    /// A load saw these bytes. Returns whether the segment knew all of them, and whether those that it knew are the same.
    fn see_bytes(&mut self, address: u32, bytes: &[u8], places: [Place; 2]) -> (bool, bool) {
        let (mut known, mut same) = (true, true);
        for (at, byte) in bytes.iter().enumerate() {
            let here = address.wrapping_add(at as u32);
            let Some(key) = places[usize::from(here >> 12 != address >> 12)].page() else { continue };
            let offset = here as usize % PAGE_BYTES;
            let mut page = self.memory.page_mut(key);
            let line = offset / 64;
            if !page.knows(offset) {
                known = false;
                let value = u64::from(*byte);
                self.sights.push(FirstSight { page: key, offset: offset as u16, mask: 1, value });
            } else if page.byte(offset) != *byte {
                // Something other than a store of this processor changed it.
                same = false;
                page.mark_changed(offset);
                if page.state.device {
                    self.device_bytes.changed(page.state.number, line, 1 << (offset % 64));
                }
            } else {
                // It was foreseen, so its line does not count as read: which way an access takes here is not in the trace.
                continue;
            }
            page.see_byte(offset, *byte);
        }
        (known, same)
    }

    /// A store wrote these bytes.
    fn write_bytes(&mut self, address: u32, bytes: &[u8]) {
        let places = self.places(address, bytes.len(), true);
        self.note_device(address, bytes.len(), places);
        for (at, byte) in bytes.iter().enumerate() {
            let here = address.wrapping_add(at as u32);
            if let Place::Ram(page) = places[usize::from(here >> 12 != address >> 12)] {
                let offset = here as usize % PAGE_BYTES;
                let mut page = self.memory.page_mut(page);
                page.store_byte(offset, *byte);
                if page.state.device {
                    self.device_bytes.changed(page.state.number, offset / 64, 1 << (offset % 64));
                }
            }
        }
    }

    /// Instruction `index` of the block (or [`LAST_STARTED`](super::LAST_STARTED)), which is opaque, made an access of `2^size` bytes, at
    /// most 16, in a translation context. Bits 64 and up of the value are in `high`.
    pub fn opaque_access_in(
        &mut self,
        context: u8,
        index: u16,
        address: u32,
        flags: u8,
        value: u64,
        high: u64,
    ) {
        self.context = context;
        let size = 1usize << (flags & access::SIZE).min(4);
        let store = flags & access::STORE != 0;
        let value = value & mask_of_bytes(size.min(8));
        if size == 16 {
            self.digest.access(address, 8, store, value);
            self.digest.access(address.wrapping_add(8), 8, store, high);
        } else {
            self.digest.access(address, size as u8, store, value);
        }
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        self.opaque.push(OpaqueAccess { index, start: self.opaque_bytes.len() });
        self.opaque_bytes.push(flags);
        self.opaque_bytes.extend(address.to_le_bytes());
        self.opaque_bytes.extend(&bytes[..size]);
        let memory = &mut bytes[..size];
        if flags & access::BIG_ENDIAN != 0 {
            memory.reverse();
        }
        if store {
            self.write_bytes(address, &bytes[..size]);
        } else {
            let places = self.places(address, size, false);
            self.note_device(address, size, places);
            self.see_bytes(address, &bytes[..size], places);
        }
        self.accesses += 1;
    }

    /// As [`opaque_access_in`](Self::opaque_access_in) in the only context.
    pub fn opaque_access(&mut self, index: u16, address: u32, flags: u8, value: u64, high: u64) {
        self.opaque_access_in(0, index, address, flags, value, high);
    }
}
