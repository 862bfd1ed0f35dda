//! Which bytes of memory a device wrote last in a segment, for its index: kept by the recorder, and only as long as a
//! segment has device writes at all.

use std::collections::BTreeMap;

use crate::shadow::{LINE_BYTES, PAGE_BYTES};

const LINES: usize = PAGE_BYTES / LINE_BYTES;

/// By physical page: for each line the bytes that a device wrote and nothing has changed since.
#[derive(Clone, Debug, Default)]
pub struct DeviceBytes(BTreeMap<u64, Box<[u64; LINES]>>);

impl DeviceBytes {
    /// No device has written anything in the segment: no store needs to be told.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Another segment begins.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// A device wrote `length` bytes from `offset` on, all within the page.
    pub fn written(&mut self, page: u64, offset: usize, length: usize) {
        let lines = self.0.entry(page).or_insert_with(|| Box::new([0; LINES]));
        for byte in offset..(offset + length).min(PAGE_BYTES) {
            lines[byte / LINE_BYTES] |= 1 << (byte % LINE_BYTES);
        }
    }

    /// Something else changed these bytes (bit n for byte n) of a line of the page, or showed that something had.
    pub fn changed(&mut self, page: u64, line: usize, bytes: u64) {
        if let Some(word) = self.0.get_mut(&page).and_then(|lines| lines.get_mut(line)) {
            *word &= !bytes;
        }
    }

    /// The pages that have such bytes, rising.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[u64; LINES])> {
        let pages = self.0.iter().map(|(&page, lines)| (page, &**lines));
        pages.filter(|(_, lines)| lines.iter().any(|word| *word != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_a_devices_until_something_else_changes_it() {
        let mut bytes = DeviceBytes::default();
        assert!(bytes.is_empty());
        bytes.written(7, 62, 4);
        bytes.written(5, 4095, 1);
        assert!(!bytes.is_empty());
        let words = |bytes: &DeviceBytes, page: u64, line: usize| {
            bytes.pages().find(|(number, _)| *number == page).map(|(_, lines)| lines[line])
        };
        assert_eq!(bytes.pages().map(|(page, _)| page).collect::<Vec<_>>(), [5, 7]);
        assert_eq!((words(&bytes, 7, 0), words(&bytes, 7, 1)), (Some(3 << 62), Some(3)));
        assert_eq!(words(&bytes, 5, 63), Some(1 << 63));
        bytes.changed(7, 0, 1 << 63);
        bytes.changed(6, 0, u64::MAX);
        assert_eq!(words(&bytes, 7, 0), Some(1 << 62));
        bytes.changed(5, 63, 1 << 63);
        assert_eq!(words(&bytes, 5, 63), None, "a page without such bytes is not listed");
        bytes.forget();
        assert!(bytes.is_empty());
    }
}
