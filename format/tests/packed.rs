//! Blocks whose accesses come packed make the same segment as when each access is told by itself.

use ktrace_format::segment::AccessKind;
use ktrace_format::segment::encoder::{
    BlockId, BlockTraits, Encoder, Finished, PackedAccess, UnknownMemory, Words,
};
use ktrace_format::shadow::Target;

/// A block's word has this in its upper half; another one ends what is packed.
const HEAD: u64 = 0x8100_0000 << 32;

struct Plain<const BIG_ENDIAN: bool>;

impl<const BIG_ENDIAN: bool> Words for Plain<BIG_ENDIAN> {
    const BIG_ENDIAN: bool = BIG_ENDIAN;

    fn whole_block(&self, _: u64) -> Option<u32> {
        None
    }

    fn access(&self, _: u64) -> Option<usize> {
        None
    }

    fn packed_block(&self, word: u64) -> Option<u32> {
        (word & HEAD == HEAD).then_some(word as u32)
    }

    fn enters_block(&self, word: u64) -> bool {
        word & HEAD == HEAD
    }
}

/// Sizes and directions of the block's accesses, and whether each may not happen.
const ACCESSES: [(u32, bool, bool); 6] = [
    (2, true, false),
    (2, false, false),
    (0, false, false),
    (1, true, true),
    (3, false, false),
    (3, true, true),
];

fn encoder() -> (Encoder<UnknownMemory>, BlockId) {
    let mut encoder = Encoder::new(UnknownMemory).unwrap();
    let traits = BlockTraits { address: 0x8000, mode: 0, instructions: 6, opaque: [].into() };
    let block = encoder.define_block(traits);
    let packed = |(size, store, conditional)| PackedAccess { kind: AccessKind { size, store }, conditional };
    encoder.define_accesses(block, ACCESSES.into_iter().map(packed));
    encoder.begin_segment(0, 0, &[0; 17]);
    encoder.map(0x1000, Target::Ram(5));
    (encoder, block)
}

/// The word of a block, and of each of its accesses; the accesses that happen go to `each` with their values as memory has them.
fn run<const BIG_ENDIAN: bool>(
    block: BlockId,
    random: &mut fastrand::Rng,
    each: &mut dyn FnMut(u32, AccessKind, u64),
) -> Vec<u64> {
    let mut words = vec![HEAD | u64::from(block.0)];
    for (size, store, conditional) in ACCESSES {
        let bytes = 1u32 << size;
        let address = 0x1000 + random.u32(..16) * bytes;
        // Loads of what is not known, or is something else, are among them.
        let value = u64::from(random.u8(..3)) * 0x0102_0304_0506_0708;
        let happened = !conditional || random.bool();
        if size == 3 || conditional {
            words.extend([u64::from(address) | u64::from(happened) << 32, value]);
        } else {
            words.push(u64::from(address) | value << 32);
        }
        let unused = 64 - 8 * bytes;
        let value = if BIG_ENDIAN { value.swap_bytes() >> unused } else { value << unused >> unused };
        if happened {
            each(address, AccessKind { size, store }, value);
        }
    }
    words
}

fn compare<const BIG_ENDIAN: bool>() {
    let ((mut one, block), (mut other, _)) = (encoder(), encoder());
    let mut random = fastrand::Rng::with_seed(7);
    let mut packed = Vec::new();
    for round in 0..1000 {
        one.enter_block(block);
        if round < 2 {
            other.enter_block(block);
        }
        let words = run::<BIG_ENDIAN>(block, &mut random, &mut |address, kind, value| {
            one.access(0, address, kind, value);
            if round < 2 {
                other.access(0, address, kind, value);
            }
        });
        one.end_block(6);
        match round {
            0 => other.end_block(6),
            // It stays under way, and the next one ends it.
            1 => {}
            _ => packed.extend(words),
        }
    }
    // The word behind the last block, which says that it ran to its end.
    let words = packed.len();
    packed.push(HEAD);
    assert_eq!(other.plain_events(0, &packed, &Plain::<BIG_ENDIAN>), words);
    other.end_whole_block();
    let [mut expected, mut found] = [Finished::default(), Finished::default()];
    one.finish_segment(false, &mut expected).unwrap();
    other.finish_segment(false, &mut found).unwrap();
    assert!(found.head.accesses > 4000 && found.head == expected.head);
    assert!(found.segment == expected.segment && found.index == expected.index);
}

#[test]
fn packed_accesses_make_the_same_segment() {
    compare::<false>();
    compare::<true>();
}

#[test]
fn a_block_that_nothing_follows_is_left_to_be_looked_at() {
    let (mut encoder, block) = encoder();
    for _ in 0..2 {
        encoder.enter_block(block);
        encoder.end_block(6);
    }
    encoder.enter_block(block);
    let words = run::<false>(block, &mut fastrand::Rng::with_seed(1), &mut |_, _, _| {});
    assert_eq!(encoder.plain_events(0, &words, &Plain::<false>), 0);
}
