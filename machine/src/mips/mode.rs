//! What decides how code is decoded, besides the code.

/// Properties of the processor and parts of its state that decide what a block of code means.
///
/// | bit | |
/// |---|---|
/// | 0 | big-endian code and data |
/// | 1 | Status.FR: floating-point registers have 64 bits |
/// | 2 | the code is compressed (ISA mode 1) |
/// | 3 | compressed code is microMIPS, else MIPS16e |
/// | 4 | the first instruction is the delay slot of a branch, which ended the block before |
/// | 5 | likewise of a branch-likely |
/// | 6 | likewise of a branch that is not modelled |
/// | 7 | the processor is known to be of release 2 |
///
/// Bits 0, 3 and 7 never change in a processor's life. One of the bits 4, 5, 6 is set at most, and none of them with bit
/// 2. Bits 8 to 15 are zero.
///
/// Without bit 7 the encodings that release 1 executes as something else (ROTR, ROTRV) are not modelled, which is right
/// for both releases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u16);

/// Status.FR.
pub(super) const STATUS_FR: u32 = 1 << 26;

/// Whose delay slot an instruction is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slot {
    /// It is in none.
    #[default]
    None,
    /// Of a branch or jump that always executes its slot.
    Branch,
    /// Of a branch-likely: the slot is nullified where the branch is not taken.
    Likely,
    /// Of a branch that is not modelled.
    Opaque,
}

impl Mode {
    const BIG_ENDIAN: u16 = 1 << 0;
    const FPU_64: u16 = 1 << 1;
    const COMPRESSED: u16 = 1 << 2;
    const MICROMIPS: u16 = 1 << 3;
    const IN_DELAY_SLOT: u16 = 1 << 4;
    const IN_LIKELY_SLOT: u16 = 1 << 5;
    const IN_OPAQUE_SLOT: u16 = 1 << 6;
    const RELEASE_2: u16 = 1 << 7;
    const SLOTS: u16 = Self::IN_DELAY_SLOT | Self::IN_LIKELY_SLOT | Self::IN_OPAQUE_SLOT;
    const PROCESSOR: u16 = Self::BIG_ENDIAN | Self::MICROMIPS | Self::RELEASE_2;
    const DEFINED: u16 = 0x00ff;

    /// The properties of a processor, without any state: release 1 until [`Mode::with_release_2`], its compressed
    /// instruction set (if it has one) MIPS16e until [`Mode::with_micromips`].
    pub fn of_processor(big_endian: bool) -> Mode {
        Mode(if big_endian { Self::BIG_ENDIAN } else { 0 })
    }

    /// The same for a processor that is known to be of release 2 (or 3, 5).
    #[must_use]
    pub fn with_release_2(self) -> Mode {
        Mode(self.0 | Self::RELEASE_2)
    }

    /// The same for a processor whose compressed instruction set is microMIPS.
    #[must_use]
    pub fn with_micromips(self) -> Mode {
        Mode(self.0 | Self::MICROMIPS)
    }

    /// The mode of a processor with these properties (other bits of `processor` do not count) outside of a delay slot,
    /// for its Status and its program counter, whose bit 0 is the ISA mode.
    pub fn at(processor: Mode, status: u32, pc: u32) -> Mode {
        processor.in_state(status, pc & 1 != 0, Slot::None)
    }

    /// The mode of a processor with these properties (other bits of `processor` do not count) where its FPU's registers have
    /// 64 bits or not, its code is compressed or not, and an instruction is in this slot. Of compressed code the slots do not
    /// matter: all of it is opaque, and where an instruction leads is recorded with its other results.
    pub fn in_slot(processor: Mode, fpu_64: bool, compressed: bool, slot: Slot) -> Mode {
        let slot = if compressed { Slot::None } else { slot };
        processor.in_state(if fpu_64 { STATUS_FR } else { 0 }, compressed, slot)
    }

    /// The mode of a processor with these properties in a state.
    #[inline(always)]
    pub(super) fn in_state(self, status: u32, compressed: bool, slot: Slot) -> Mode {
        let fpu = if status & STATUS_FR != 0 { Self::FPU_64 } else { 0 };
        let compressed = if compressed { Self::COMPRESSED } else { 0 };
        Mode(self.0 & Self::PROCESSOR | fpu | compressed).with_slot(slot)
    }

    /// The mode with this representation, as [`Mode::bits`] gave it; `None` if it is not one.
    pub fn from_bits(bits: u16) -> Option<Mode> {
        let slots = bits & Self::SLOTS;
        let valid = bits & !Self::DEFINED == 0
            && slots.count_ones() <= 1
            && (slots == 0 || bits & Self::COMPRESSED == 0);
        valid.then_some(Mode(bits))
    }

    /// The representation that the type's documentation describes.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The properties of the processor alone.
    #[must_use]
    pub fn processor(self) -> Mode {
        Mode(self.0 & Self::PROCESSOR)
    }

    /// Code and data are big-endian.
    pub fn big_endian(self) -> bool {
        self.0 & Self::BIG_ENDIAN != 0
    }

    /// Floating-point registers have 64 bits.
    pub fn fpu_64(self) -> bool {
        self.0 & Self::FPU_64 != 0
    }

    /// The code is MIPS16e or microMIPS.
    pub fn compressed(self) -> bool {
        self.0 & Self::COMPRESSED != 0
    }

    /// Compressed code is microMIPS.
    pub fn micromips(self) -> bool {
        self.0 & Self::MICROMIPS != 0
    }

    /// The processor is known to be of release 2.
    pub fn release_2(self) -> bool {
        self.0 & Self::RELEASE_2 != 0
    }

    /// The first instruction is the delay slot of a branch, which ended the block before.
    pub fn in_delay_slot(self) -> bool {
        self.0 & Self::SLOTS != 0
    }

    /// Bits 4 to 6.
    pub(crate) fn slot_bits(self) -> u8 {
        (self.0 & Self::SLOTS) as u8
    }

    pub(super) fn slot(self) -> Slot {
        match self.0 & Self::SLOTS {
            Self::IN_DELAY_SLOT => Slot::Branch,
            Self::IN_LIKELY_SLOT => Slot::Likely,
            Self::IN_OPAQUE_SLOT => Slot::Opaque,
            _ => Slot::None,
        }
    }

    #[inline(always)]
    pub(super) fn with_slot(self, slot: Slot) -> Mode {
        let bit = match slot {
            Slot::None => 0,
            Slot::Branch => Self::IN_DELAY_SLOT,
            Slot::Likely => Self::IN_LIKELY_SLOT,
            Slot::Opaque => Self::IN_OPAQUE_SLOT,
        };
        Mode(self.0 & !Self::SLOTS | bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_representations_are_either_refused_or_kept() {
        let valid =
            (0..=u16::MAX).filter(|&bits| Mode::from_bits(bits).is_some_and(|mode| mode.bits() == bits));
        // Four independent bits, and with them: nothing, compressed, or one of three slots.
        assert_eq!(valid.count(), 16 * 5);
        assert_eq!((0..=u16::MAX).filter_map(Mode::from_bits).count(), 16 * 5);
    }

    #[test]
    fn the_state_is_found_and_the_processor_kept() {
        let processor = Mode::of_processor(true).with_release_2().with_micromips();
        let mode = Mode::at(processor, STATUS_FR, 0x8000_0001);
        assert!(
            mode.big_endian() && mode.fpu_64() && mode.compressed() && mode.micromips() && mode.release_2()
        );
        assert!(!mode.in_delay_slot());
        assert_eq!(mode.processor(), processor);
        assert_eq!(Mode::at(mode, !STATUS_FR, 0x8000_0000), processor);
        for slot in [Slot::None, Slot::Branch, Slot::Likely, Slot::Opaque] {
            let mode = processor.with_slot(slot);
            assert_eq!((mode.slot(), mode.in_delay_slot()), (slot, slot != Slot::None));
            assert_eq!(Mode::from_bits(mode.bits()), Some(mode));
            assert_eq!(Mode::in_slot(processor, false, false, slot), mode);
            assert_eq!(Mode::in_slot(processor, false, true, slot), Mode::at(processor, 0, 1));
        }
    }
}
