//! The running digest over everything that an execution did to memory and over the blocks that it entered.
//!
//! The recorder computes it over what QEMU did, the replay over what the model did; equal digests prove equal
//! executions, but for a chance of 2⁻⁶⁴ or so. It is a chain of multiplications, since it runs on every access of both.

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const ADDRESS_MULTIPLIER: u64 = 0xd6e8_feb8_6659_fd93;

/// The state of the digest. It starts at zero with every segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// Takes in one input.
    #[inline]
    pub(crate) fn mix(&mut self, input: u64) {
        self.0 = (self.0.rotate_left(29) ^ input).wrapping_mul(MULTIPLIER);
    }

    /// One access: the value is zero-extended to 64 bits; a value of 16 bytes is two accesses of 8.
    #[inline]
    pub fn access(&mut self, address: u32, bytes: u8, store: bool, value: u64) {
        self.access_about(Self::about(address, bytes, store), value);
    }

    /// What is taken in of an access besides its value.
    #[inline]
    pub(crate) const fn about(address: u32, bytes: u8, store: bool) -> u64 {
        address as u64 | (bytes as u64) << 32 | (store as u64) << 40
    }

    /// An access of which [`about`](Self::about) is known.
    #[inline]
    pub(crate) fn access_about(&mut self, about: u64, value: u64) {
        self.mix(value ^ about.wrapping_mul(ADDRESS_MULTIPLIER));
    }

    /// One block that was entered at `address`, and how many of its instructions started.
    #[inline]
    pub fn block(&mut self, address: u32, started: u32) {
        self.mix(Self::of_block(address, started));
    }

    /// The input that stands for a block.
    #[inline]
    pub(crate) fn of_block(address: u32, started: u32) -> u64 {
        (u64::from(address) | u64::from(started) << 32).wrapping_mul(ADDRESS_MULTIPLIER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_counts() {
        let base = (0x1000, 4, false, 7);
        let digest = |(address, bytes, store, value): (u32, u8, bool, u64)| {
            let mut digest = Digest(0x1234_5678_9abc_def0);
            digest.access(address, bytes, store, value);
            digest.0
        };
        let all =
            [base, (0x1001, 4, false, 7), (0x1000, 2, false, 7), (0x1000, 4, true, 7), (0x1000, 4, false, 6)];
        let mut seen: Vec<_> = all.into_iter().map(digest).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all.len());
    }

    #[test]
    fn order_counts() {
        let (mut one, mut two) = (Digest::default(), Digest::default());
        one.block(0x8000, 3);
        one.block(0x9000, 3);
        two.block(0x9000, 3);
        two.block(0x8000, 3);
        assert_ne!(one, two);
    }
}
