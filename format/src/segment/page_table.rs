//! A map from physical pages to something: a table for those below 4 GiB, where nearly all memory of 32-bit guests is.

use std::collections::HashMap;

const LOW_PAGES: u64 = 1 << 20;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct PageTable<T> {
    low: Vec<Option<T>>,
    high: HashMap<u64, T>,
}

impl<T> PageTable<T> {
    /// An empty one.
    pub fn new() -> Self {
        PageTable { low: Vec::new(), high: HashMap::new() }
    }

    /// What a page has.
    pub fn get(&self, page: u64) -> Option<&T> {
        if page < LOW_PAGES { self.low.get(page as usize)?.as_ref() } else { self.high.get(&page) }
    }

    /// Gives a page something.
    pub fn set(&mut self, page: u64, value: T) {
        if page < LOW_PAGES {
            *self.low_slot(page) = Some(value);
        } else {
            self.high.insert(page, value);
        }
    }

    /// What a page has, or else is given now.
    pub fn get_or_insert_with(&mut self, page: u64, value: impl FnOnce() -> T) -> &mut T {
        if page < LOW_PAGES {
            self.low_slot(page).get_or_insert_with(value)
        } else {
            self.high.entry(page).or_insert_with(value)
        }
    }

    fn low_slot(&mut self, page: u64) -> &mut Option<T> {
        if self.low.len() <= page as usize {
            self.low.resize_with(page as usize + 1, || None);
        }
        &mut self.low[page as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_anywhere_have_what_they_were_given() {
        let mut table = PageTable::new();
        for (page, value) in [(0, 1), (LOW_PAGES - 1, 2), (LOW_PAGES, 3), (u64::MAX, 4)] {
            assert_eq!(table.get(page), None);
            table.set(page, value);
            assert_eq!(table.get(page), Some(&value));
            assert_eq!(*table.get_or_insert_with(page, || 9), value);
        }
        assert_eq!(*table.get_or_insert_with(77, || 9), 9);
    }
}
