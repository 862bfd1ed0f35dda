//! Which device answers at which physical addresses, for recorders that are told of pages and not of accesses.

use std::collections::BTreeMap;

use super::encoder::NameId;

/// Ranges that do not overlap: first address to last address and name.
#[derive(Debug, Default)]
pub(super) struct Devices {
    ranges: BTreeMap<u64, (u64, NameId)>,
}

/// The name of a device that is not known: every recorder's first name.
pub const UNKNOWN_DEVICE: NameId = NameId(0);

impl Devices {
    /// `name` answers from `first` to `last`, whatever did before.
    pub fn set(&mut self, first: u64, last: u64, name: NameId) {
        let overlapping: Vec<_> = self
            .ranges
            .range(..=last)
            .rev()
            .take_while(|(_, (end, _))| *end >= first)
            .map(|(&start, &range)| (start, range))
            .collect();
        for (start, (end, other)) in overlapping {
            self.ranges.remove(&start);
            if start < first {
                self.ranges.insert(start, (first - 1, other));
            }
            if end > last {
                self.ranges.insert(last + 1, (end, other));
            }
        }
        self.ranges.insert(first, (last, name));
    }

    /// Who answers at an address.
    pub fn at(&self, physical: u64) -> NameId {
        let below = self.ranges.range(..=physical).next_back();
        below.filter(|(_, (last, _))| *last >= physical).map_or(UNKNOWN_DEVICE, |(_, (_, name))| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_word_counts() {
        let mut devices = Devices::default();
        devices.set(0x1000, 0x1fff, NameId(1));
        devices.set(0x1200, 0x13ff, NameId(2));
        devices.set(0x0, 0x10ff, NameId(3));
        let names = [0x0, 0x10ff, 0x1100, 0x11ff, 0x1200, 0x13ff, 0x1400, 0x1fff, 0x2000];
        assert_eq!(names.map(|at| devices.at(at).0), [3, 3, 1, 1, 2, 2, 1, 1, 0]);
        devices.set(0x0, u64::MAX, NameId(4));
        assert_eq!(devices.ranges.len(), 1);
    }
}
