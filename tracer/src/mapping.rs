//! What is behind each virtual page, asked of QEMU no more often than it can have changed.
//!
//! An access to a page that was looked at since the last event that can change mappings costs one comparison. Pages
//! that show a device are looked at on each access, since each is recorded with the device's name.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};

use crate::names::Names;
use qemu_plugin_sys::{
    qemu_plugin_get_hwaddr, qemu_plugin_hwaddr_device_name, qemu_plugin_hwaddr_is_io,
    qemu_plugin_hwaddr_phys_addr, qemu_plugin_meminfo_t,
};

const PAGES: usize = 1 << 20;

/// The direction of an access: a page of flash memory is memory to loads and a device to stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Direction {
    /// A load.
    Load,
    /// A store.
    Store,
}

/// What one access met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Memory: the physical page.
    Memory(u64),
    /// A device: the number of its name, the physical address.
    Device(u32, u64),
}

/// See the [module](self).
pub struct Mappings {
    /// For each direction and page, the generation in which it was last looked at.
    seen: [Box<[u8]>; 2],
    generation: u8,
    /// Physical page + 1 as last told, 0 for a device, `UNTOLD` for none.
    told: Box<[u64]>,
    names: Names,
    numbers: HashMap<*const c_char, u32>,
}

const UNTOLD: u64 = u64::MAX;
/// The physical address of a device access that QEMU could not tell.
const UNKNOWN_PHYSICAL: u64 = u64::MAX;

impl Mappings {
    /// Nothing was looked at.
    pub fn new(names: Names) -> Self {
        let table = || vec![0; PAGES].into_boxed_slice();
        Mappings {
            seen: [table(), table()],
            generation: 1,
            told: vec![UNTOLD; PAGES].into_boxed_slice(),
            names,
            numbers: HashMap::new(),
        }
    }

    /// The access lies in one page, which is known to show memory, the same as last told.
    #[inline]
    pub fn is_settled(&self, address: u32, bytes: u32, direction: Direction) -> bool {
        // In range by construction: a page number has 20 bits.
        let seen = self.seen[direction as usize].get((address >> 12) as usize).copied();
        seen == Some(self.generation) && (address & 0xfff) + bytes <= 0x1000
    }

    /// Something happened that can change mappings.
    pub fn may_have_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.seen.iter_mut().for_each(|table| table.fill(0));
            self.generation = 1;
        }
    }

    /// Asks QEMU what is at `address`, which the access under way has just touched.
    pub fn look(&mut self, info: qemu_plugin_meminfo_t, address: u32) -> Seen {
        // SAFETY: this is a memory callback's thread and time, and `info` is what it was given. The handle is used
        // at once; the name is interned by QEMU for ever.
        unsafe {
            let hardware = qemu_plugin_get_hwaddr(info, u64::from(address));
            if hardware.is_null() {
                // A device's answer threw the TLB entry away. Memory does not do that.
                return Seen::Device(self.number(c"unknown".as_ptr()), UNKNOWN_PHYSICAL);
            }
            let physical = qemu_plugin_hwaddr_phys_addr(hardware);
            if qemu_plugin_hwaddr_is_io(hardware) {
                Seen::Device(self.number(qemu_plugin_hwaddr_device_name(hardware)), physical)
            } else {
                Seen::Memory(physical >> 12)
            }
        }
    }

    fn number(&mut self, name: *const c_char) -> u32 {
        let names = &self.names;
        *self.numbers.entry(name).or_insert_with(|| {
            let text = if name.is_null() {
                "unknown".into()
            } else {
                // SAFETY: QEMU returns a string that ends with NUL and lives for ever.
                unsafe { CStr::from_ptr(name) }.to_string_lossy()
            };
            names.number(&text)
        })
    }

    /// Notes what a look found. True if it is not what was last told.
    pub fn note(&mut self, address: u32, direction: Direction, behind: Seen) -> bool {
        let page = (address >> 12) as usize;
        let word = match behind {
            Seen::Memory(page) => page + 1,
            Seen::Device(..) => 0,
        };
        let Some(told) = self.told.get_mut(page) else { return false };
        let news = *told != word;
        if news {
            *told = word;
            self.seen.iter_mut().filter_map(|table| table.get_mut(page)).for_each(|seen| *seen = 0);
        }
        if let (Seen::Memory(_), Some(seen)) = (behind, self.seen[direction as usize].get_mut(page)) {
            *seen = self.generation;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_told_once_until_it_changes() {
        let mut mappings = Mappings::new(Names::new());
        let address = 0xc000_1000;
        assert!(!mappings.is_settled(address, 4, Direction::Load));
        assert!(mappings.note(address, Direction::Load, Seen::Memory(0x40001)));
        assert!(mappings.is_settled(address, 4, Direction::Load));
        assert!(!mappings.is_settled(address, 4, Direction::Store));
        assert!(!mappings.is_settled(address + 0xffe, 4, Direction::Load), "it reaches into the next page");
        assert!(mappings.note(address, Direction::Store, Seen::Device(0, 0)));
        assert!(!mappings.is_settled(address, 4, Direction::Load), "the encoder now believes in a device");
        for _ in 0..600 {
            mappings.note(address, Direction::Load, Seen::Memory(7));
            assert!(mappings.is_settled(address, 4, Direction::Load));
            mappings.may_have_changed();
            assert!(!mappings.is_settled(address, 4, Direction::Load));
        }
    }
}
