//! The blocks of the dictionary as the machine model wants them: decoded when they are first needed, and forgotten all at once
//! when they take too much memory. Whoever replays a segment keeps the set that there was at its start.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use ktrace_format::{Trace, header};
use ktrace_machine::{Block, InstructionSet, Mode};

/// Bytes that a decoded instruction takes, with its share of what a block has once: measured, rounded up.
const INSTRUCTION_BYTES: usize = 48;

/// Blocks that have been decoded since the set was begun.
#[derive(Debug)]
pub struct DecodedBlocks {
    blocks: Box<[OnceLock<Option<Box<Block>>>]>,
    /// What they take, about.
    bytes: AtomicUsize,
    set: InstructionSet,
}

impl DecodedBlocks {
    fn new(count: usize, set: InstructionSet) -> DecodedBlocks {
        let blocks = (0..count).map(|_| OnceLock::new()).collect();
        DecodedBlocks { blocks, bytes: AtomicUsize::new(0), set }
    }

    /// A block; `None` if the trace has no such block or its code can't be one.
    #[inline]
    pub fn get(&self, trace: &Trace, id: u32) -> Option<&Block> {
        self.blocks.get(id as usize)?.get_or_init(|| self.decode(trace, id)).as_deref()
    }

    #[cold]
    fn decode(&self, trace: &Trace, id: u32) -> Option<Box<Block>> {
        let entry = trace.block(id)?;
        let imported = trace.header().path == header::Path::Original;
        let decode = if imported { Block::decode_with_dependencies } else { Block::decode };
        let block = decode(self.set, entry.address, Mode::from_bits(entry.mode), trace.code(entry)).ok()?;
        let bytes = size_of::<Block>() + block.len() * INSTRUCTION_BYTES;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Box::new(block))
    }
}

/// The present set, see the [module](self).
#[derive(Debug)]
pub(crate) struct BlockStore {
    present: RwLock<Arc<DecodedBlocks>>,
    limit: usize,
}

impl BlockStore {
    /// For `count` blocks; a set that takes more than `limit` bytes is replaced by an empty one.
    pub(crate) fn new(count: usize, limit: usize, set: InstructionSet) -> BlockStore {
        BlockStore { present: RwLock::new(Arc::new(DecodedBlocks::new(count, set))), limit }
    }

    pub(crate) fn present(&self) -> Arc<DecodedBlocks> {
        let present = Arc::clone(&self.present.read().unwrap_or_else(|poisoned| poisoned.into_inner()));
        if present.bytes.load(Ordering::Relaxed) <= self.limit {
            return present;
        }
        let mut place = self.present.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Somebody else may have been faster.
        if Arc::ptr_eq(&place, &present) {
            *place = Arc::new(DecodedBlocks::new(present.blocks.len(), present.set));
        }
        Arc::clone(&place)
    }
}

/// One decoded block.
#[derive(Clone, Debug)]
pub struct BlockRef {
    set: Arc<DecodedBlocks>,
    id: u32,
}

impl BlockRef {
    pub(crate) fn new(set: Arc<DecodedBlocks>, trace: &Trace, id: u32) -> Option<BlockRef> {
        set.get(trace, id)?;
        Some(BlockRef { set, id })
    }
}

impl Deref for BlockRef {
    type Target = Block;

    fn deref(&self) -> &Block {
        let block = self.set.blocks.get(self.id as usize).and_then(OnceLock::get).and_then(Option::as_deref);
        block.expect("it was decoded when the reference was made")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_takes_too_much_is_replaced() {
        let store = BlockStore::new(3, 100, InstructionSet::Arm);
        let first = store.present();
        first.bytes.store(100, Ordering::Relaxed);
        assert!(Arc::ptr_eq(&first, &store.present()));
        first.bytes.store(101, Ordering::Relaxed);
        let second = store.present();
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&second, &store.present()));
    }
}
