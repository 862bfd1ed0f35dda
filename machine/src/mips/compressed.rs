//! The lengths of compressed instructions, which are all that is known of them.

use super::mode::Mode;

/// The length in bytes of the compressed instruction that begins with this halfword.
pub(super) fn length(first: u16, mode: Mode) -> usize {
    let long = if mode.micromips() {
        // The low three bits of the major opcode tell (MD00582; `decode_isa_micromips`).
        !matches!(first >> 10 & 7, 1..=3)
    } else {
        // JAL and JALX, and EXTEND with what it extends (MD00076; `decode_ase_mips16e`).
        matches!(first >> 11, 0b00011 | 0b11110)
    };
    if long { 4 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hand-assembled after the manuals.
    #[test]
    fn lengths() {
        let mips16 = Mode::of_processor(false);
        let micromips = mips16.with_micromips();
        // jal, li 1 extended, jr ra, li 1.
        assert_eq!([0x1800, 0xf000, 0xe820, 0x6a01].map(|first| length(first, mips16)), [4, 4, 2, 2]);
        // addiu32 v0,zero,1; lw32; nop32; move16; li16; jr16 (POOL16C).
        let first = [0x3040, 0xfc42, 0x0000, 0x0c00, 0xed01, 0x459f];
        assert_eq!(first.map(|first| length(first, micromips)), [4, 4, 4, 2, 2, 2]);
    }
}
