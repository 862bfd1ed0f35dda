//! Accesses that take a closer look: of devices, across lines and pages, with values that the segment has not seen, watched, or made
//! by opaque instructions.

use ktrace_format::segment::SegmentError;
use ktrace_format::segment::cursor::OpaqueAccess;
use ktrace_format::shadow::{Behaviour, PAGE_BYTES, within_line};
use ktrace_machine::bus::Halt;

use super::SegmentMemory;
use crate::journal::Journal;

impl<J: Journal> SegmentMemory<J> {
    #[cold]
    #[inline(never)]
    pub(super) fn load_slowly(&mut self, address: u32, bytes: usize) -> Result<u64, Halt> {
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
        if let Some(mapping) = self.beside_the_trap(address, bytes)
            && let Some(value) = self.load_known(mapping, address, bytes)
        {
            return Ok(value);
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
    pub(super) fn store_slowly(&mut self, address: u32, bytes: usize, value: u64) -> Result<(), Halt> {
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
