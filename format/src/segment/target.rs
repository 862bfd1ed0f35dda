//! How a trace says what is behind a virtual page: one byte, and the number of the physical page if there is one.

use crate::shadow::Target;
use crate::varint;

/// Physical addresses have at most 64 bits.
const PAGE_LIMIT: u64 = 1 << 52;

pub(crate) fn write_target(into: &mut Vec<u8>, target: Target) {
    match target {
        Target::Ram(page) => {
            into.push(0);
            varint::write(into, page);
        }
        Target::Rom(page) => {
            into.push(1);
            varint::write(into, page);
        }
        Target::Device => into.push(2),
    }
}

pub(crate) fn read_target(from: &[u8], at: &mut usize) -> Option<Target> {
    let kind = *from.get(*at)?;
    *at += 1;
    let mut page = || varint::read(from, at).ok().filter(|page| *page < PAGE_LIMIT);
    match kind {
        0 => page().map(Target::Ram),
        1 => page().map(Target::Rom),
        2 => Some(Target::Device),
        _ => None,
    }
}
