//! Holds a recording's memory against what QEMU has.

use std::fmt;

use anyhow::Result;
use ktrace_format::Position;
use ktrace_timeline::{Recording, Replay};

/// Bytes that are compared at a time.
const PAGE: usize = 4096;

/// The outcome of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryComparison {
    /// Bytes that the recording knows and that are QEMU's.
    pub equal: u64,
    /// Bytes that it says it does not know.
    pub unknown: u64,
    /// Bytes that it has wrong.
    pub wrong: u64,
    /// Pages with wrong bytes: the virtual address of the first wrong one, and how many.
    pub wrong_pages: Vec<(u32, u64)>,
}

/// Compares the memory that the processor sees from `start` on, at a position, with `actual`.
pub fn compare(
    recording: &mut Recording,
    position: u64,
    start: u32,
    actual: &[u8],
) -> Result<MemoryComparison> {
    recording.seek(Position(position))?;
    let mut comparison = MemoryComparison::default();
    let mut shown = [None; PAGE];
    for (number, page) in actual.chunks(PAGE).enumerate() {
        let address = start.wrapping_add((number * PAGE) as u32);
        let shown = &mut shown[..page.len()];
        recording.read_memory(address, shown)?;
        let mut wrong = None;
        for (offset, (shown, actual)) in shown.iter().zip(page).enumerate() {
            match shown {
                None => comparison.unknown += 1,
                Some(shown) if shown == actual => comparison.equal += 1,
                Some(_) => {
                    comparison.wrong += 1;
                    wrong.get_or_insert((address + offset as u32, 0)).1 += 1;
                }
            }
        }
        comparison.wrong_pages.extend(wrong);
    }
    Ok(comparison)
}

impl fmt::Display for MemoryComparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MemoryComparison { equal, unknown, wrong, wrong_pages } = self;
        write!(formatter, "{equal} bytes equal, {unknown} unknown, {wrong} wrong")?;
        for (address, count) in wrong_pages.iter().take(20) {
            write!(formatter, "\n  {count} from {address:#010x}")?;
        }
        Ok(())
    }
}
