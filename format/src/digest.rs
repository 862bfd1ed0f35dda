//! The running digest over everything that an execution did to memory and over the blocks that it entered.
//!
//! The recorder computes it over what QEMU did, the replay over what the model did; equal digests prove equal
//! executions, but for a chance of 2⁻⁶⁴ or so. It runs on every access of both, so only blocks are a chain of multiplications:
//! an access is multiplied by itself, and rotated and added, which keeps equal differences in a loop from cancelling out.

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
        let about = Self::about(bytes, store);
        self.access_about(about, address, value as u32);
        if bytes == 8 {
            self.access_about(about, address.wrapping_add(4), (value >> 32) as u32);
        }
    }

    /// What is taken in of an access besides its address and value.
    #[inline]
    pub(crate) const fn about(bytes: u8, store: bool) -> u64 {
        (bytes as u64 | (store as u64) << 8).wrapping_mul(ADDRESS_MULTIPLIER)
    }

    /// Up to four bytes of an access of which [`about`](Self::about) is known. Nothing here waits for the multiplication of
    /// the access before.
    #[inline(always)]
    pub(crate) fn access_about(&mut self, about: u64, address: u32, value: u32) {
        let input = (u64::from(address) | u64::from(value) << 32) ^ about;
        self.0 = self.0.rotate_left(29).wrapping_add(input.wrapping_mul(MULTIPLIER));
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
        seen.extend([digest((0x1000, 8, false, 7)), digest((0x1000, 8, false, 7 | 1 << 32))]);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all.len() + 2);
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
