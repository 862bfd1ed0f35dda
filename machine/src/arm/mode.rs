//! The part of CPSR that decides how code is decoded and how data is accessed.

use super::instruction::Condition;

/// CPSR bits that decide what a block of code means: T, E and the IT state.
///
/// Bit 0 is CPSR.T (the code is T32), bit 1 is CPSR.E (data accesses are big-endian), bits 8 to 15 are ITSTATE in the
/// order of DDI 0406C, A2.5.2 (base condition and mask). Bits 2 to 7 are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u16);

/// CPSR.T.
pub(super) const CPSR_THUMB: u32 = 1 << 5;
/// CPSR.E.
pub(super) const CPSR_BIG_ENDIAN: u32 = 1 << 9;
/// The two pieces of ITSTATE in CPSR.
pub(super) const CPSR_IT: u32 = 0x0600_fc00;

impl Mode {
    const THUMB: u16 = 1 << 0;
    const BIG_ENDIAN: u16 = 1 << 1;
    const DEFINED: u16 = 0xff00 | Self::THUMB | Self::BIG_ENDIAN;

    /// The mode that a CPSR value selects.
    pub fn from_cpsr(cpsr: u32) -> Mode {
        let it = (cpsr >> 8 & 0xfc | cpsr >> 25 & 3) as u16;
        let thumb = if cpsr & CPSR_THUMB != 0 { Self::THUMB } else { 0 };
        let big_endian = if cpsr & CPSR_BIG_ENDIAN != 0 { Self::BIG_ENDIAN } else { 0 };
        Mode(it << 8 | thumb | big_endian)
    }

    /// This mode where control goes to other code.
    #[inline(always)]
    pub(super) fn moved_to(self, thumb: bool, it: u8) -> Mode {
        Mode(u16::from(it) << 8 | self.0 & Self::BIG_ENDIAN | u16::from(thumb))
    }

    /// The mode with this representation, as [`Mode::bits`] gave it; `None` if an undefined bit is set.
    pub fn from_bits(bits: u16) -> Option<Mode> {
        (bits & !Self::DEFINED == 0).then_some(Mode(bits))
    }

    /// The representation that the type's documentation describes.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The code is T32.
    pub fn thumb(self) -> bool {
        self.0 & Self::THUMB != 0
    }

    /// Data accesses are big-endian.
    pub fn big_endian(self) -> bool {
        self.0 & Self::BIG_ENDIAN != 0
    }

    /// ITSTATE.
    pub fn it(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The instruction here is inside an IT block. (In A32 the IT bits mean nothing.)
    pub fn in_it_block(self) -> bool {
        self.thumb() && self.it() & 0xf != 0
    }

    /// The condition that the IT block gives the instruction here, if it is inside one. QEMU executes the reserved
    /// condition 15 like 14.
    pub(super) fn it_condition(self) -> Option<Condition> {
        self.in_it_block().then(|| Condition((self.it() >> 4).min(Condition::ALWAYS.0)))
    }

    /// A CPSR value with this mode's ITSTATE in the place of its own.
    pub fn put_it_into(self, cpsr: u32) -> u32 {
        cpsr & !CPSR_IT | it_in_cpsr(self.it())
    }

    /// This mode with another ITSTATE.
    pub(super) fn with_it(self, it: u8) -> Mode {
        Mode(self.0 & 0xff | u16::from(it) << 8)
    }

    /// The mode after an instruction other than IT (ITAdvance).
    pub(super) fn advance(self) -> Mode {
        if !self.in_it_block() {
            self
        } else if self.it() & 7 == 0 {
            self.with_it(0)
        } else {
            self.with_it(self.it() & 0xe0 | self.it() << 1 & 0x1f)
        }
    }
}

/// ITSTATE where CPSR has it.
pub(super) fn it_in_cpsr(it: u8) -> u32 {
    let it = u32::from(it);
    (it & 0xfc) << 8 | (it & 3) << 25
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_it_state_is_found_in_cpsr_and_put_back() {
        for it in 0..=255u8 {
            let mode = Mode::from_cpsr(it_in_cpsr(it) | CPSR_THUMB);
            assert_eq!((mode.it(), mode.thumb(), mode.big_endian()), (it, true, false));
            assert_eq!(Mode::from_bits(mode.bits()), Some(mode));
            assert_eq!(mode.put_it_into(0x6600_fd73), 0x6000_0173 | it_in_cpsr(it));
        }
        assert_eq!(Mode::from_cpsr(!CPSR_IT), Mode(3));
        assert_eq!(Mode::from_bits(4), None);
    }

    /// ITTET EQ: then, then, else, then (DDI 0406C, A8.8.54 gives the mask for firstcond<0> = 0 as 0b0101 after the
    /// first condition).
    #[test]
    fn an_it_block_advances_through_its_conditions() {
        let mut mode = Mode::from_cpsr(CPSR_THUMB).with_it(0b0000_0101);
        let mut conditions = Vec::new();
        while let Some(condition) = mode.it_condition() {
            conditions.push(condition.0);
            mode = mode.advance();
        }
        assert_eq!(conditions, [0, 0, 1, 0]);
        assert_eq!(mode.it(), 0);
    }
}
