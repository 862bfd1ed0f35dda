//! Which segments have been proved from end to end, so that whoever comes back to one need not wait for it again.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Proofs(Box<[AtomicU64]>);

impl Proofs {
    /// Of so many segments none is proved.
    pub(crate) fn new(segments: usize) -> Proofs {
        Proofs((0..segments.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// A segment has been proved.
    pub(crate) fn note(&self, segment: usize) {
        if let Some(word) = self.0.get(segment / 64) {
            word.fetch_or(1 << (segment % 64), Ordering::Relaxed);
        }
    }

    /// Whether it has.
    pub(crate) fn has(&self, segment: usize) -> bool {
        self.0.get(segment / 64).is_some_and(|word| word.load(Ordering::Relaxed) >> (segment % 64) & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_segment_has_its_own_proof() {
        let proofs = Proofs::new(130);
        for segment in [0, 63, 64, 129] {
            assert!(!proofs.has(segment));
            proofs.note(segment);
        }
        let proved: Vec<usize> = (0..200).filter(|segment| proofs.has(*segment)).collect();
        assert_eq!(proved, [0, 63, 64, 129]);
    }
}
