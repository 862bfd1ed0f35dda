//! From virtual to physical addresses where that needs no TLB: the fixed segments (MD00090, "Virtual Memory").
//!
//! Processors with segmentation control (Config3.SC: release 3 and later) can change the segments; they start like this.

/// What a virtual address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// It is this physical address.
    Fixed(u32),
    /// The TLB says.
    Mapped,
}

const STATUS_ERL: u32 = 1 << 2;

/// Where a virtual address is, with this Status. Whether the processor may access it is not looked at.
pub fn segment(address: u32, status: u32) -> Segment {
    match address >> 29 {
        // kseg0 and kseg1.
        0b100 | 0b101 => Segment::Fixed(address & 0x1fff_ffff),
        // kuseg is unmapped while there is an error.
        0b000..=0b011 if status & STATUS_ERL != 0 => Segment::Fixed(address),
        // kuseg, kseg2, kseg3.
        _ => Segment::Mapped,
    }
}

/// A 32-bit address that a debugger may have sign-extended to 64 bits, as gdb does with those of the kernel's segments;
/// `None` if it is not one.
pub fn normalise(address: u64) -> Option<u32> {
    let low = address as u32;
    let extended = i64::from(low as i32) as u64;
    (address == u64::from(low) || address == extended).then_some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments() {
        for (address, expected) in [
            (0, Segment::Mapped),
            (0x7fff_ffff, Segment::Mapped),
            (0x8000_0000, Segment::Fixed(0)),
            (0x9fff_ffff, Segment::Fixed(0x1fff_ffff)),
            (0xa000_0000, Segment::Fixed(0)),
            (0xbfc0_0000, Segment::Fixed(0x1fc0_0000)),
            (0xc000_0000, Segment::Mapped),
            (0xe000_0000, Segment::Mapped),
            (0xffff_ffff, Segment::Mapped),
        ] {
            assert_eq!(segment(address, !STATUS_ERL), expected, "{address:#x}");
            if address >= 0x8000_0000 {
                assert_eq!(segment(address, STATUS_ERL), expected, "{address:#x}");
            }
        }
        assert_eq!(segment(0x7fff_ffff, STATUS_ERL), Segment::Fixed(0x7fff_ffff));
    }

    #[test]
    fn sign_extended_addresses() {
        assert_eq!(normalise(0xffff_ffff_8000_1118), Some(0x8000_1118));
        assert_eq!(normalise(0x8000_1118), Some(0x8000_1118));
        assert_eq!(normalise(0x7fff_ffff), Some(0x7fff_ffff));
        assert_eq!(normalise(0xffff_ffff_7fff_ffff), None);
        assert_eq!(normalise(0x1_0000_0000), None);
    }
}
