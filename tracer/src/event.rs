//! The words that pass from the vCPU's thread to the encoders'.
//!
//! An access is two words, three if it has 16 bytes. Bits 0 to 31 of the first are the virtual address, bits 32 to 49
//! QEMU's `qemu_plugin_meminfo_t`, bits 50 to 62 say whose access it is (0: a modelled instruction's; [`ALONE`]: an opaque
//! instruction that QEMU ran in a block of its own; else 1 + the index of an opaque instruction), and bit 63 is 0. The
//! others are the value, of which bits above its size mean nothing. On a patched QEMU generated code writes them.
//!
//! All other events begin with a word that has its [`Tag`] in bits 56 to 63, of which bit 63 is set.

/// What an event is. The comments say what the first word holds below the tag, and which words follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// A block is entered. Bits 0–31 its serial number, bits 32–47 how many instructions of the block before started,
    /// [`ALL_STARTED`] for all of them unless other events say more. On a patched QEMU generated code writes it.
    Block = 0x80,
    /// A block is entered, and its accesses follow, packed: generated code writes all of it. Bits 0–31 the serial number,
    /// bits 32–47 [`ALL_STARTED`], bits 48–51 the translation context. Then one word for each of [`Block::accesses`], with
    /// the virtual address in bits 0–31 and the value in bits 32–63; for one of 8 bytes a word with the value follows, and
    /// bits 32–63 mean nothing. If other events say that not all instructions of the block started, the words of what did
    /// not happen mean nothing.
    ///
    /// [`Block::accesses`]: crate::block::Block::accesses
    Packed = 0x81,
    /// What is behind a virtual page. Bits 0–31 an address in it, bits 32–35 the translation context; then
    /// `Behind::bits`.
    Map,
    /// The next access is to a device. Bits 0–31 the number of its name; then the physical address.
    Device,
    /// A device that answers at physical addresses. Bits 0–31 the number of its name; then the first and the last address.
    DeviceRange,
    /// Results of an opaque instruction. Bits 0–31 their number; then one word each.
    Results,
    /// The block under way was left with an instruction that QEMU runs again in the place of the rest of the block: bits
    /// 0–31 its address. An access that it makes there follows.
    Again,
    /// How many instructions of the block under way started: bits 0–31.
    Started,
    /// The recording starts in the middle of the next block: accesses name its instructions by numbers that are too high
    /// by bits 0–31.
    Skipped,
    /// Discontinuities before the next block. Bits 0–7 the cause of the first, bits 8–15 how many words with further causes
    /// follow the registers, bits 16–17 a [`From`]; then all registers, one word each, then those causes, then, unless it is
    /// `From::Between`, the program counter and how many accesses of the block under way happened, which counts only if
    /// the accesses are packed and the instruction makes more than one.
    Discontinuity,
    /// A device wrote to memory. Bits 0–31 the bytes; then the physical address, and the bytes, eight a word.
    DeviceWrite,
    /// The recording ends. Bits 0–7 the reason, bit 8 set if the last instruction may not have completed, bits 9–10 an
    /// [`Under`], bits 32–47 as in `Block`.
    End,
    /// What governs translation, in the trace's values. Bits 0–31 how many words follow, bits 32–47 how many instructions of the
    /// present block are done; [`ALL_STARTED`]: all.
    Translation,
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
        const TAGS: [Tag; 13] = [
            Tag::Block,
            Tag::Packed,
            Tag::Map,
            Tag::Device,
            Tag::DeviceRange,
            Tag::Results,
            Tag::Again,
            Tag::Started,
            Tag::Skipped,
            Tag::Discontinuity,
            Tag::DeviceWrite,
            Tag::End,
            Tag::Translation,
        ];
        TAGS.get((word >> 56).wrapping_sub(0x80) as usize).copied()
    }
}

/// All instructions of a block started.
pub const ALL_STARTED: u32 = 0xffff;

/// Fields of an access's first word.
pub mod access {
    use super::super::block::OpaqueSite;

    /// QEMU's number for translation contexts: bits 32–35.
    pub fn context(word: u64) -> u8 {
        (word >> 32) as u8 & 15
    }

    /// The logarithm of the size: the lowest bits of QEMU's `MemOp`.
    pub fn size(word: u64) -> u32 {
        (word >> 36) as u32 & 7
    }

    /// The bytes lie in the order that is not the host's (`MO_BSWAP`).
    pub fn swapped(word: u64) -> bool {
        word >> 40 & 1 != 0
    }

    /// A store (`QEMU_PLUGIN_MEM_W`).
    pub fn store(word: u64) -> bool {
        word >> 49 & 1 != 0
    }

    /// Whose it is.
    pub fn owner(word: u64) -> u32 {
        (word >> 50) as u32
    }

    /// Bits 36–38 the size, bits 32–35 the context, bit 49 a store; these others must be as [`plain`] says.
    const CHECKED: u64 = 0xfffc_000f_0000_0000;

    /// What [`CHECKED`] bits are for a modelled instruction's accesses in a context.
    pub fn plain(context: u8) -> u64 {
        u64::from(context & 15) << 32
    }

    /// The `AccessKind::number` of a modelled instruction's access in the context that `plain` is of; `None` for all other
    /// words.
    #[inline(always)]
    pub fn kind(word: u64, plain: u64) -> Option<usize> {
        (word & CHECKED == plain).then_some((word >> 36 & 7 | word >> 46 & 8) as usize)
    }

    /// Where `owner` is.
    pub const OWNER_SHIFT: u32 = 50;
    /// A modelled instruction.
    pub const MODELLED: u32 = 0;
    /// An opaque instruction in a block of its own.
    pub const ALONE: u32 = 0x1fff;

    /// The owner for accesses of an opaque instruction, `skipped` instructions of whose block are not recorded.
    pub fn owner_of(site: &OpaqueSite, skipped: u32) -> u32 {
        if site.alone { ALONE } else { u32::from(site.index).saturating_sub(skipped) + 1 }
    }
}

/// Which instructions of the block under way started before a discontinuity, in [`Tag::Discontinuity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum From {
    /// Those that were told, or else all of them.
    Between = 0,
    /// Those up to the one at the program counter that follows the registers and causes, if it is one of the block: that
    /// one faulted. Else all.
    At = 1,
    /// As `At`, but the instruction has started only if it is opaque: others can't have been fetched. (Of ARM, where BKPT
    /// raises the exception of a fetch.)
    Fetch = 2,
}

/// What of a block with packed accesses has happened when the recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Under {
    /// All that is known otherwise.
    Way = 0,
    /// Its last instruction has not made its accesses.
    Last = 1,
    /// That is not known: the block is left out.
    Unknown = 2,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_is_found_in_its_word() {
        for tag in (0..=255u64).filter_map(|byte| Tag::of(byte << 56)) {
            assert_eq!(Tag::of(tag.word() | 0xff_ffff_ffff), Some(tag));
        }
        assert_eq!((0..=255u64).filter_map(|byte| Tag::of(byte << 56)).count(), 13);
        assert_eq!(Tag::of(0), None);
    }
}
