//! What is behind each virtual page as the recorder was last told, in all of the recording: by translation context, since a
//! processor can see different memory at one address in its different modes.

use crate::shadow::Target;

const VIRTUAL_PAGES: usize = 1 << 20;

/// What answers an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Answer {
    /// Memory.
    Memory = 0,
    /// A device.
    Device = 1,
    /// Nothing: a store has no effect.
    Nothing = 2,
}

/// What is behind a virtual page: the physical page in bits 0 to 51, what answers loads in bit 60, what answers stores
/// in bits 61 and 62, and bit 63 set. Where the encoder keeps it the page is the canonical one, and bit 59 is set if it is
/// read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind(u64);

const PAGE_BITS: u64 = (1 << 52) - 1;

impl Behind {
    /// A physical page (physical address / 4096), whether a device answers loads, and what answers stores.
    pub fn new(page: u64, load_device: bool, store: Answer) -> Self {
        Behind(1 << 63 | page & PAGE_BITS | u64::from(load_device) << 60 | (store as u64) << 61)
    }

    /// The same for loads and stores.
    pub fn both(target: Target) -> Self {
        match target {
            Target::Ram(page) => Behind::new(page, false, Answer::Memory),
            Target::Rom(page) => Behind::new(page, false, Answer::Nothing),
            Target::Device => Behind::new(0, true, Answer::Device),
        }
    }

    /// As a number that is never 0.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// From such a number.
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits >> 63 != 0).then_some(Behind(bits))
    }

    /// The physical page.
    pub fn page(self) -> u64 {
        self.0 & PAGE_BITS
    }

    fn store(self) -> Answer {
        match self.0 >> 61 & 3 {
            0 => Answer::Memory,
            1 => Answer::Device,
            _ => Answer::Nothing,
        }
    }

    /// The same with the canonical number of its physical page, which is read-only or not.
    pub(super) fn resolved(self, page: u64, is_read_only: bool) -> Self {
        Behind(self.0 & !PAGE_BITS | page & PAGE_BITS | u64::from(is_read_only) << 59)
    }

    /// The target that a load or a store finds.
    pub(super) fn target(self, store: bool) -> Target {
        let is_device = if store { self.store() == Answer::Device } else { self.0 >> 60 & 1 != 0 };
        if is_device {
            Target::Device
        } else if self.store() == Answer::Nothing || self.0 >> 59 & 1 != 0 {
            Target::Rom(self.page())
        } else {
            Target::Ram(self.page())
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Translations(Vec<Option<Box<[u64]>>>);

impl Translations {
    /// Sets what is behind a page; true if that is news.
    pub fn set(&mut self, context: u8, address: u32, behind: Behind) -> bool {
        let number = usize::from(context);
        if self.0.len() <= number {
            self.0.resize_with(number + 1, || None);
        }
        let pages = self.0[number].get_or_insert_with(|| vec![0; VIRTUAL_PAGES].into_boxed_slice());
        let place = &mut pages[(address >> 12) as usize % VIRTUAL_PAGES];
        std::mem::replace(place, behind.0) != behind.0
    }

    /// What was last told; `None` if nothing ever was.
    pub fn get(&self, context: u8, address: u32) -> Option<Behind> {
        let pages = self.0.get(usize::from(context))?.as_ref()?;
        pages.get((address >> 12) as usize).copied().and_then(Behind::from_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_stores_can_meet_different_things() {
        let flash = Behind::new(5, false, Answer::Device);
        assert_eq!((flash.target(false), flash.target(true)), (Target::Ram(5), Target::Device));
        assert_eq!(Behind::both(Target::Rom(7)).target(false), Target::Rom(7));
        assert_eq!(Behind::both(Target::Ram(7)).resolved(9, true).target(true), Target::Rom(9));
        assert_eq!(Behind::both(Target::Ram(7)).resolved(9, false).target(true), Target::Ram(9));
        assert_eq!(Behind::both(Target::Device).target(false), Target::Device);
        assert_eq!(Behind::from_bits(flash.bits()), Some(flash));
        assert_eq!(Behind::from_bits(0), None);
    }

    #[test]
    fn contexts_are_apart() {
        let mut translations = Translations::default();
        let (one, two) = (Behind::both(Target::Ram(1)), Behind::both(Target::Ram(2)));
        assert!(translations.set(3, 0x8000_1000, one) && !translations.set(3, 0x8000_1fff, one));
        assert!(translations.set(3, 0x8000_1000, two));
        assert_eq!(translations.get(3, 0x8000_1234), Some(two));
        assert_eq!((translations.get(2, 0x8000_1234), translations.get(3, 0x8000_2000)), (None, None));
    }
}
