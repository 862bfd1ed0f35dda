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
    pub(crate) stand: Stand,
}

/// Where the processor stands in a segment, as far as that decides what is behind a virtual address.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stand {
    /// Instructions of the segment that have been executed.
    pub(crate) executed: u64,
    /// The processor's status register.
    pub(crate) status: u32,
    /// One of those instructions, or a discontinuity, may have changed the mapping ([`Opaque::remaps`](ktrace_machine::Opaque::remaps),
    /// [`Cause::remaps`](ktrace_machine::Cause::remaps),
    /// [`translates_otherwise`](ktrace_machine::InstructionSet::translates_otherwise)).
    pub(crate) remapped: bool,
}

/// What is behind a virtual page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// This physical page.
    Page(u64),
    /// No memory, or nothing that is known.
    Nothing,
    /// One of these, if any: nothing proves which.
    Either([Option<u64>; 2]),
}

impl Behind {
    /// By an access of this segment, which has shown a page or no memory, and by the translation tables, if they can be walked. If
    /// they differ the mapping was changed since the access, or the processor has not taken notice of a change yet.
    fn by(shown: Option<Option<u64>>, tables: Option<Option<u64>>) -> Behind {
        match (shown, tables) {
            (Some(shown), Some(tables)) if shown != tables => Behind::Either([shown, tables]),
            (Some(page), _) | (None, Some(page)) => page.map_or(Behind::Nothing, Behind::Page),
            (None, None) => Behind::Nothing,
        }
    }
}

impl View<'_> {
    /// What is behind the virtual page of `address`, as far as this segment has seen up to here.
    pub(crate) fn target(&self, address: u32) -> Option<Target> {
        self.shadow.any_mapping(address).map(|mapping| self.shadow.target(mapping))
    }

    /// The physical page behind a virtual one here, if that is certain. An access of an earlier segment would prove nothing,
    /// since the mapping may have changed.
    pub(crate) fn physical_page(&self, address: u32) -> Option<u64> {
        match self.behind(address) {
            Behind::Page(page) => Some(page),
            Behind::Nothing | Behind::Either(_) => None,
        }
    }

    /// Whether a physical page may be behind a virtual one here.
    pub(crate) fn may_show(&self, address: u32, page: u64) -> bool {
        match self.behind(address) {
            Behind::Page(behind) => behind == page,
            Behind::Nothing => false,
            Behind::Either(pages) => pages.contains(&Some(page)),
        }
    }

    fn behind(&self, address: u32) -> Behind {
        let translations = self.past.translations();
        let Stand { executed, status, remapped } = self.stand;
        let shown = self.target(address);
        let page = |physical: u64| self.canonical(physical) / PAGE_BYTES as u64;
        match translations.certain(executed, status, address) {
            // Once it has been sent a command, such a device is not read as memory.
            Mapped::To(physical) if shown == Some(Target::Device) && self.is_rom_device(physical) => {
                Behind::Nothing
            }
            Mapped::To(physical) => Behind::Page(page(physical)),
            Mapped::Nothing => Behind::Nothing,
            Mapped::Unknown => {
                let tables =
                    translations.by_tables(executed, address, &mut |at, bytes| self.number(at, bytes));
                let tables = match tables {
                    Mapped::To(physical) => Some(Some(page(physical))),
                    Mapped::Nothing => Some(None),
                    // Of a mapping that was shown with other registers, or other tables, nothing is certain.
                    Mapped::Unknown => {
                        (remapped || translations.tables_have_changed(executed)).then_some(None)
                    }
                };
                Behind::by(shown.map(Target::physical_page), tables)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_and_the_tables_must_agree() {
        let (none, device) = (None, Some(None));
        let page = |number| Some(Some(number));
        for (shown, tables, expected) in [
            (none, none, Behind::Nothing),
            (page(1), none, Behind::Page(1)),
            (device, none, Behind::Nothing),
            (none, page(1), Behind::Page(1)),
            (page(1), page(1), Behind::Page(1)),
            (page(1), page(2), Behind::Either([Some(1), Some(2)])),
            // The tables map nothing; a device, where they have an address.
            (page(1), Some(None), Behind::Either([Some(1), None])),
            (device, page(2), Behind::Either([None, Some(2)])),
        ] {
            assert_eq!(Behind::by(shown, tables), expected, "{shown:?} {tables:?}");
        }
    }
}
