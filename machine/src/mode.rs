//! What decides, besides its bytes, what a block of code means.

/// What of the processor's state decides how code is decoded, as the trace has it. Which bits there are and what they
/// mean is the instruction set's: see [`arm::Mode`](crate::arm::Mode) and [`mips::Mode`](crate::mips::Mode).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u16);

impl Mode {
    /// The mode with this representation, which may mean nothing in the guest's instruction set.
    #[inline]
    pub const fn from_bits(bits: u16) -> Mode {
        Mode(bits)
    }

    /// The representation.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl From<crate::arm::Mode> for Mode {
    #[inline]
    fn from(mode: crate::arm::Mode) -> Mode {
        Mode(mode.bits())
    }
}

impl From<crate::mips::Mode> for Mode {
    #[inline]
    fn from(mode: crate::mips::Mode) -> Mode {
        Mode(mode.bits())
    }
}
