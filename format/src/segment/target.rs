//! How a trace says what is behind a virtual page: one byte, and the number of the physical page if there is one.

use crate::shadow::Target;
use crate::varint;

pub(super) fn write_target(into: &mut Vec<u8>, target: Target) {
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

pub(super) fn read_target(from: &[u8], at: &mut usize) -> Option<Target> {
    let kind = *from.get(*at)?;
    *at += 1;
    match kind {
        0 => varint::read(from, at).ok().map(Target::Ram),
        1 => varint::read(from, at).ok().map(Target::Rom),
        2 => Some(Target::Device),
        _ => None,
    }
}
