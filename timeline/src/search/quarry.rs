//! What a search looks for, in the form in which it is looked for.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ktrace_format::memory::Image;
use ktrace_format::shadow::PAGE_BYTES;

use super::Condition;
use crate::program::Program;

/// Which accesses of a range of memory count. Writes of devices are writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Watched {
    /// Loads.
    Read,
    /// Stores, whatever becomes of them, and writes of devices.
    Write,
    /// All of these.
    Access,
    /// Those after which a byte of the range is another than before. A store to a byte that was not known counts; a load
    /// counts if it shows that memory is not what was known.
    Change,
}

/// Addresses as who sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressSpace {
    /// As the access names them. What devices write counts if it is, or may be, behind the address at the time.
    Virtual,
    /// As the memory has them, whatever virtual addresses show them. An access to a device has the address that the recording
    /// has for it.
    Physical,
}

/// A range of memory, not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryRange {
    space: AddressSpace,
    first: u64,
    last: u64,
}

impl MemoryRange {
    /// The longest range: 4 GiB.
    pub const LONGEST: u64 = 1 << 32;

    /// A range of `length` bytes. `None`: it is empty, longer than [`LONGEST`](Self::LONGEST), or goes beyond the last
    /// address.
    pub fn new(space: AddressSpace, first: u64, length: u64) -> Option<MemoryRange> {
        let last = first.checked_add(length.checked_sub(1)?)?;
        let limit = match space {
            AddressSpace::Virtual => u64::from(u32::MAX),
            AddressSpace::Physical => u64::MAX,
        };
        (last <= limit && length <= Self::LONGEST).then_some(MemoryRange { space, first, last })
    }

    /// Whose addresses.
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// The first address.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The last address.
    pub fn last(&self) -> u64 {
        self.last
    }
}

/// Accesses to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watchpoint {
    /// Where.
    pub range: MemoryRange,
    /// Which.
    pub watched: Watched,
}

/// Where a watchpoint's memory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    Virtual(RangeInclusive<u32>),
    /// Canonical addresses, rising.
    Physical(Vec<RangeInclusive<u64>>),
}

impl Area {
    fn new(range: &MemoryRange, image: Option<&Image>) -> Area {
        match range.space {
            AddressSpace::Virtual => Area::Virtual(range.first as u32..=range.last as u32),
            AddressSpace::Physical => Area::Physical(canonical(range, image)),
        }
    }
}

/// The canonical addresses of a physical range.
fn canonical(range: &MemoryRange, image: Option<&Image>) -> Vec<RangeInclusive<u64>> {
    let Some(image) = image else { return vec![range.first..=range.last] };
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    let mut here = range.first;
    loop {
        let end = (here | (PAGE_BYTES as u64 - 1)).min(range.last);
        let start = image.canonical(here);
        let part = start..=start + (end - here);
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(*part.start()) => {
                *last = *last.start()..=*part.end();
            }
            _ => ranges.push(part),
        }
        if end == range.last {
            break;
        }
        here = end + 1;
    }
    ranges.sort_unstable_by_key(|range| *range.start());
    ranges
}

/// A watchpoint, ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) area: Area,
    pub(crate) watched: Watched,
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(crate) struct Quarry {
    /// Bit *n* is set if block *n* has an instruction that is looked for.
    marked: Vec<u64>,
    /// By block: the indices of these instructions, rising.
    indices: BTreeMap<u32, Box<[u32]>>,
    pub(crate) condition: Option<Condition>,
    pub(crate) watches: Arc<[Watch]>,
}

impl Quarry {
    pub(crate) fn new(
        program: &Program,
        addresses: &[u32],
        watchpoints: &[Watchpoint],
        condition: Option<Condition>,
    ) -> Quarry {
        let mut quarry = Quarry {
            condition,
            watches: watchpoints
                .iter()
                .map(|watchpoint| Watch {
                    area: Area::new(&watchpoint.range, program.image()),
                    watched: watchpoint.watched,
                })
                .collect(),
            ..Quarry::default()
        };
        addresses.iter().for_each(|address| quarry.add_address(program, *address));
        quarry
    }

    /// Looks for blocks, whatever is in them.
    pub(crate) fn of_blocks(program: &Program, blocks: impl Iterator<Item = u32>) -> Quarry {
        let mut quarry = Quarry::default();
        for id in blocks {
            quarry.mark(program, id);
            quarry.indices.insert(id, Box::default());
        }
        quarry
    }

    fn mark(&mut self, program: &Program, block: u32) {
        self.marked.resize(program.trace().block_count().div_ceil(64), 0);
        if let Some(word) = self.marked.get_mut(block as usize / 64) {
            *word |= 1 << (block % 64);
        }
    }

    /// Looks for the instructions at an address, too.
    pub(crate) fn add_address(&mut self, program: &Program, address: u32) {
        for id in program.blocks_with(address) {
            let Some(block) = program.block(id) else { continue };
            let Some(index) = (0..block.len()).find(|index| block.address_of(*index) == address) else {
                continue;
            };
            self.mark(program, id);
            let indices = self.indices.entry(id).or_default();
            let mut all: Vec<u32> = indices.iter().copied().chain([index as u32]).collect();
            all.sort_unstable();
            all.dedup();
            *indices = all.into();
        }
    }

    /// Whether a block has an instruction that is looked for.
    #[inline]
    pub(crate) fn marks(&self, block: u32) -> bool {
        self.marked.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 != 0)
    }

    /// The indices of a block's instructions that are looked for, rising.
    pub(crate) fn indices(&self, block: u32) -> &[u32] {
        self.indices.get(&block).map_or(&[], |indices| indices)
    }

    /// All blocks that have one.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = u32> {
        self.indices.keys().copied()
    }

    /// Nothing can be found.
    pub(crate) fn is_empty(&self) -> bool {
        self.indices.is_empty() && self.watches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_their_space() {
        let new = MemoryRange::new;
        assert!(new(AddressSpace::Virtual, 0, 0).is_none());
        assert!(new(AddressSpace::Virtual, 0, 1 << 32).is_some());
        assert!(new(AddressSpace::Virtual, 1, 1 << 32).is_none());
        assert!(new(AddressSpace::Physical, u64::MAX, 1).is_some());
        assert!(new(AddressSpace::Physical, u64::MAX, 2).is_none());
        assert!(new(AddressSpace::Physical, 0, (1 << 32) + 1).is_none());
    }
}
