//! The words that pass from the vCPU's thread to the encoder's: one to three per event, more for registers.
//!
//! The first word of an event has its [`Tag`] in bits 56 to 63.

/// What an event is. The comments say what the first word holds below the tag, and which words follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// A block is entered. Bits 0–31 its serial number, bits 32–47 how many instructions of the block before it started.
    Block = 1,
    /// A modelled load. Bits 0–31 the address, bits 32–39 the bytes; then the value.
    Load = 2,
    /// A modelled store, likewise.
    Store = 3,
    /// A virtual page shows something else. Bits 0–31 an address in it; then the physical page + 1, or 0 for a device.
    Map = 4,
    /// The next access is to a device. Bits 0–31 the number of its name; then the physical address.
    Device = 5,
    /// An access of an opaque instruction. Bits 0–31 the address, 32–39 flags, 40–55 the instruction's index; then the
    /// value's two halves.
    OpaqueAccess = 6,
    /// Results of an opaque instruction. Bits 0–31 their number; then one word each.
    Results = 7,
    /// A discontinuity before the next block. Bits 0–7 its cause; then all registers, one word each.
    Discontinuity = 8,
    /// A new segment starts with the next block. Bits 32–47 as in `Block`; then all registers.
    Cut = 9,
    /// The recording ends. Bits 0–7 the reason, bit 8 set if the last instruction may not have completed,
    /// bits 32–47 as in `Block`.
    End = 10,
    /// System registers that govern translation. Bits 0–31 how many words follow, bits 32–47 how many instructions of the
    /// present block are done.
    Translation = 11,
}

impl Tag {
    /// The tag's place in an event's first word.
    #[inline]
    pub const fn word(self) -> u64 {
        (self as u64) << 56
    }

    /// The tag of a first word.
    #[inline]
    pub fn of(word: u64) -> Option<Tag> {
        const TAGS: [Tag; 11] = [
            Tag::Block,
            Tag::Load,
            Tag::Store,
            Tag::Map,
            Tag::Device,
            Tag::OpaqueAccess,
            Tag::Results,
            Tag::Discontinuity,
            Tag::Cut,
            Tag::End,
            Tag::Translation,
        ];
        TAGS.get((word >> 56).wrapping_sub(1) as usize).copied()
    }
}

/// Why a recording ends, in [`Tag::End`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndReason {
    /// QEMU exits.
    Exit = 0,
    /// As many instructions as were asked for.
    StopAfter = 1,
    /// Something on the vCPU's side went wrong; the message is kept beside the ring.
    Error = 2,
}

impl EndReason {
    /// How the trace and `ktracer record` call it.
    pub fn name(self) -> &'static str {
        match self {
            EndReason::Exit => "exit",
            EndReason::StopAfter => "stop-after",
            EndReason::Error => "error",
        }
    }
}

/// Registers in a keyframe of ARM: r0 to r15 and CPSR.
pub const REGISTERS: usize = 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_is_found_in_its_word() {
        for tag in (0..=255u64).filter_map(|byte| Tag::of(byte << 56)) {
            assert_eq!(Tag::of(tag.word() | 0xff_ffff_ffff), Some(tag));
        }
        assert_eq!((0..=255u64).filter_map(|byte| Tag::of(byte << 56)).count(), 11);
        assert_eq!(Tag::of(0), None);
    }
}
