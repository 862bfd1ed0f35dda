//! Events that need no closer look, in bulk: nearly all of them.

use super::{InitialMemory, SegmentEncoder};
use crate::segment::Stream;
use crate::segment::local_memory::{AccessKind, memory_order};
use crate::shadow::mask_of_bytes;

/// So many words ahead of the present ones are fetched into the cache: they were written by another core.
const AHEAD: usize = 64;

/// How the words of [`SegmentEncoder::plain_events`] are understood.
pub trait Words {
    /// Values are numbers of a big-endian guest, of which the lowest address holds the most significant byte. Else it holds
    /// the least significant one.
    const BIG_ENDIAN: bool;
    /// The block that was entered after all instructions of the one before had started, and whose accesses, if it makes any,
    /// follow in words of their own.
    fn whole_block(&self, word: u64) -> Option<u32>;
    /// The [`AccessKind::number`] of an access by a modelled instruction, if this is the first word of one. It has the
    /// virtual address in bits 0 to 31. A second word has the value, of which bits above the size mean nothing.
    fn access(&self, word: u64) -> Option<usize>;
    /// The block that was entered, whose accesses follow packed: one word for each that
    /// [`define_accesses`](SegmentEncoder::define_accesses) has told, with the virtual address in bits 0 to 31 and the value
    /// above. If the access is of 8 bytes or conditional, bits 32 to 63 are 0 if it did not happen, and a second word has
    /// the value. All instructions of the block have started if another block follows at once.
    fn packed_block(&self, word: u64) -> Option<u32>;
    /// Whether it is the first word of a block, in whatever form or context.
    fn enters_block(&self, word: u64) -> bool;
    /// The number of the block, if it is one's first word. Anything else is as good: it only says what is looked at next.
    fn block_ahead(&self, word: u64) -> u32 {
        word as u32
    }
    /// Has the processor fetch this into its cache.
    fn prefetch<T>(&self, _: &T) {}
}

/// How far [`SegmentEncoder::plain_events`] has got: words, and words of the packed accesses of the block there.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    word: usize,
    packed: usize,
}

impl<M: InitialMemory> SegmentEncoder<M> {
    /// Takes blocks and accesses that need no closer look, from words that [`Words`] understands: those of whole blocks, of
    /// accesses by modelled instructions in `context`, and of blocks in it whose accesses are packed. Stops at the first
    /// word that is none of these, or that is to be told with other functions. Returns how many words were taken.
    #[inline(always)]
    pub fn plain_events<W: Words>(&mut self, context: u8, words: &[u64], understood: &W) -> usize {
        let mut at = Place::default();
        while let Some((address, kind, value)) = self.plain_run(context, words, understood, &mut at) {
            let kind = AccessKind::from_number(kind);
            let value = memory_order(W::BIG_ENDIAN, value, kind.number());
            self.access(context, address, kind, value & mask_of_bytes(1 << kind.size));
        }
        at.word
    }

    /// As [`plain_events`](Self::plain_events), up to an access that takes a closer look: its address, kind and value.
    #[inline(always)]
    fn plain_run<W: Words>(
        &mut self,
        context: u8,
        words: &[u64],
        understood: &W,
        place: &mut Place,
    ) -> Option<(u32, usize, u64)> {
        let generation = self.generation;
        let settled = self.blocks.get(self.current as usize).filter(|block| block.settled == generation);
        let mut now = settled.filter(|_| self.flags == 0)?;
        let values = &mut self.streams[Stream::Values as usize];
        let mut view = self.memory.view(context, &mut self.sights, values)?;
        let (mut digest, mut instructions) = (self.digest, self.head.instructions);
        let (mut ordinal, mut current) = (self.ordinal, self.current);
        let (mut accesses, mut first_access) = (self.accesses, self.block_first_access);
        let last = self.next_checkpoint - 1;
        let (mut at, mut done) = (place.word, place.packed);
        let mut unforeseen = None;
        macro_rules! enter {
            ($id:expr, $next:expr) => {
                if $next.settled != generation || ordinal == last {
                    break;
                }
                digest.mix(now.digest);
                instructions += u64::from(now.instructions);
                ordinal += 1;
                (now, current, first_access) = ($next, $id, accesses);
            };
        }
        while let Some(&first) = words.get(at) {
            if let Some(id) = understood.packed_block(first) {
                let Some(next) = self.blocks.get(id as usize) else { break };
                let end = at + 1 + next.packed_words as usize;
                // All of it happened if the next block follows at once.
                let Some(&following) = words.get(end) else { break };
                if !understood.enters_block(following) {
                    break;
                }
                if let Some(ahead) = self.blocks.get(understood.block_ahead(following) as usize) {
                    understood.prefetch(ahead);
                }
                if let Some(ahead) = words.get(end + AHEAD) {
                    understood.prefetch(ahead);
                }
                let Some(record) = words.get(at + 1..end) else { break };
                if done == 0 {
                    enter!(id, next);
                }
                if record.is_empty() {
                } else if next.listed == 0 {
                    let (made, now) = view.accesses(W::BIG_ENDIAN, record, next.kinds, done, digest);
                    digest = now;
                    accesses += (made - done) as u64;
                    if let Some(word) = record.get(made) {
                        let kind = (next.kinds >> (4 * made % 64)) as usize % 16;
                        (done, unforeseen) = (made + 1, Some((*word as u32, kind, word >> 32)));
                        accesses += 1;
                        break;
                    }
                } else {
                    let start = next.kinds as usize;
                    let Some(kinds) = self.kinds.get(start..start + usize::from(next.listed)) else { break };
                    let made = view.listed_accesses(W::BIG_ENDIAN, record, kinds, done, &mut digest);
                    accesses += made.happened;
                    if let Some(access) = made.unforeseen {
                        (done, unforeseen) = (made.words, Some(access));
                        accesses += 1;
                        break;
                    }
                }
                done = 0;
                at = end;
            } else if let Some(kind) = understood.access(first) {
                let Some(&value) = words.get(at + 1) else { break };
                accesses += 1;
                at += 2;
                let stored = memory_order(W::BIG_ENDIAN, value, kind);
                if !view.access(first as u32, kind, stored, &mut digest) {
                    unforeseen = Some((first as u32, kind, value));
                    break;
                }
            } else if let Some(id) = understood.whole_block(first) {
                let Some(next) = self.blocks.get(id as usize) else { break };
                enter!(id, next);
                at += 1;
            } else {
                break;
            }
        }
        *place = Place { word: at, packed: done };
        (self.digest, self.head.instructions) = (digest, instructions);
        (self.ordinal, self.current) = (ordinal, current);
        // The one that takes a closer look is counted there.
        (self.accesses, self.block_first_access) = (accesses - u64::from(unforeseen.is_some()), first_access);
        unforeseen
    }
}
