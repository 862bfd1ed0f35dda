//! Memory at a place in a segment that is being replayed: what the segment has seen so far, else what there was before it.

use ktrace_format::memory::RegionKind;
use ktrace_format::shadow::{PAGE_BYTES, Shadow, Target};
use ktrace_machine::Mapped;

use crate::past::Past;

/// See the [module](self).
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) shadow: &'a Shadow,
    pub(crate) past: &'a Past,
    /// Instructions of the segment that have been executed.
    pub(crate) executed: u64,
    /// The processor's status register.
    pub(crate) status: u32,
}

impl View<'_> {
    /// What is behind the virtual page of `address`, as far as this segment has seen up to here.
    pub(crate) fn target(&self, address: u32) -> Option<Target> {
        self.shadow.any_mapping(address).map(|mapping| self.shadow.target(mapping))
    }

    /// The physical page behind a virtual one here. What translates addresses says so for certain, or else an access of this
    /// segment has shown it and the translation tables, if they can be walked, say the same: if they do not, the mapping was changed
    /// since, or the processor has not taken notice of a change yet, and nothing proves which. Without an access the tables
    /// count. An access of an earlier segment would prove nothing, since the mapping may have changed.
    pub(crate) fn physical_page(&self, address: u32) -> Option<u64> {
        let translations = self.past.translations();
        let shown = self.target(address);
        match translations.certain(self.executed, self.status, address) {
            // Once it has been sent a command, such a device is not read as memory.
            Mapped::To(physical) if shown == Some(Target::Device) && self.is_rom_device(physical) => None,
            Mapped::To(physical) => Some(self.canonical(physical) / PAGE_BYTES as u64),
            Mapped::Nothing => None,
            Mapped::Unknown => {
                let tables =
                    translations.by_tables(self.executed, address, &mut |at, bytes| self.number(at, bytes));
                let by_tables = match tables {
                    Mapped::To(physical) => Some(self.canonical(physical) / PAGE_BYTES as u64),
                    Mapped::Nothing => None,
                    // Only while the registers are those with which it was shown.
                    Mapped::Unknown if translations.tables_have_changed(self.executed) => None,
                    Mapped::Unknown => return shown?.physical_page(),
                };
                match shown {
                    Some(target) => target.physical_page().filter(|page| by_tables == Some(*page)),
                    None => by_tables,
                }
            }
        }
    }

    fn is_rom_device(&self, physical: u64) -> bool {
        let region = self.past.program().image().and_then(|image| image.region(physical));
        region.is_some_and(|region| region.kind == RegionKind::RomDevice)
    }

    fn canonical(&self, physical: u64) -> u64 {
        self.past.program().image().map_or(physical, |image| image.canonical(physical))
    }

    /// A little-endian number in physical memory, if all its bytes are known.
    fn number(&self, physical: u64, bytes: usize) -> Option<u64> {
        let mut read = [None; 8];
        let part = read.get_mut(..bytes)?;
        self.read_physical(physical, part);
        part.iter().rev().try_fold(0, |number, byte| Some(number << 8 | u64::from((*byte)?)))
    }

    /// A byte of physical memory, if this segment has seen it up to here.
    pub(crate) fn seen(&self, page: u64, offset: usize) -> Option<u8> {
        let page = self.shadow.touched_page(page)?;
        let known = page.known.get(offset / 64)? >> (offset % 64) & 1 != 0;
        page.data.get(offset).copied().filter(|_| known)
    }

    /// Bytes of one physical page from `offset` on.
    fn read_page(&self, page: u64, offset: usize, into: &mut [Option<u8>]) {
        into.fill(None);
        if let Some(seen) = self.shadow.touched_page(page) {
            for ((at, byte), value) in
                (offset..).zip(&mut *into).zip(seen.data.get(offset..).unwrap_or_default())
            {
                let known = seen.known.get(at / 64).is_some_and(|known| known >> (at % 64) & 1 != 0);
                *byte = known.then_some(*value);
            }
        }
        let mut wanted: Vec<bool> = into.iter().map(Option::is_none).collect();
        self.past.older(page, offset, &mut wanted, &mut |at, value, _| {
            if let Some(byte) = into.get_mut(at) {
                *byte = Some(value);
            }
        });
    }

    /// Physical memory; behind the last address nothing is known.
    pub(crate) fn read_physical(&self, physical: u64, into: &mut [Option<u8>]) {
        into.fill(None);
        let mut rest = into;
        let mut here = Some(physical);
        while let (Some(address), false) = (here, rest.is_empty()) {
            let canonical = self.canonical(address);
            let offset = canonical as usize % PAGE_BYTES;
            let length = (PAGE_BYTES - offset).min(rest.len());
            let (part, after) = rest.split_at_mut(length);
            self.read_page(canonical / PAGE_BYTES as u64, offset, part);
            rest = after;
            here = address.checked_add(length as u64);
        }
    }

    /// Memory at virtual addresses, which wrap around.
    pub(crate) fn read_virtual(&self, address: u32, into: &mut [Option<u8>]) {
        into.fill(None);
        let mut rest = into;
        let mut here = address;
        while !rest.is_empty() {
            let offset = here as usize % PAGE_BYTES;
            let length = (PAGE_BYTES - offset).min(rest.len());
            let (part, after) = rest.split_at_mut(length);
            if let Some(page) = self.physical_page(here) {
                self.read_page(page, offset, part);
            }
            rest = after;
            here = here.wrapping_add(length as u32);
        }
    }
}
