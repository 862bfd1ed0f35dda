//! Entering and leaving blocks, through discontinuities too, and what is not as expected about them.

use super::{BlockId, EncodeError, InitialMemory, LAST_STARTED, NO_BLOCK, SegmentEncoder};
use crate::segment::{CHECKPOINT_BLOCKS, Stream, control};
use crate::varint;

impl<M: InitialMemory> SegmentEncoder<M> {
    /// A block was entered. The one before it must have ended.
    #[inline(always)]
    pub fn enter_block(&mut self, id: BlockId) {
        if self.ordinal == self.next_checkpoint {
            self.checkpoint();
        }
        self.current = id.0;
        self.block_first_access = self.accesses;
        if self.blocks.get(id.0 as usize).is_none_or(|block| block.settled != self.generation) {
            self.enter_slowly(id.0);
        }
    }

    #[cold]
    #[inline(never)]
    fn checkpoint(&mut self) {
        self.next_checkpoint += CHECKPOINT_BLOCKS;
        self.streams[Stream::Checkpoints as usize].extend(self.digest.0.to_le_bytes());
    }

    #[inline(never)]
    fn enter_slowly(&mut self, id: u32) {
        let (Some(block), Some(history)) = (self.blocks.get(id as usize), self.history.get_mut(id as usize))
        else {
            self.error.get_or_insert(EncodeError::UnknownBlock(id));
            self.current = NO_BLOCK;
            return;
        };
        if history.entered != self.generation {
            history.entered = self.generation;
            history.expected_started = u32::from(block.instructions);
            self.run.push(id);
        }
        let entry = &mut self.entries[history.entry as usize];
        if entry.generation != self.generation {
            entry.generation = self.generation;
            let known = self.head.dictionary;
            entry.expected = entry.blocks.iter().rev().copied().find(|&id| id < known).unwrap_or(NO_BLOCK);
        }
        let expected = std::mem::replace(&mut entry.expected, id);
        if expected != id {
            self.flags |= control::BLOCK;
            if let Some(other) = self.blocks.get_mut(expected as usize) {
                other.settled = 0;
            }
        }
        self.settle(id);
    }

    /// Notes whether the block needs no closer look from now on.
    fn settle(&mut self, id: u32) {
        let Some(block) = self.blocks.get_mut(id as usize) else { return };
        let expected = self.history.get(id as usize).map(|history| history.expected_started);
        let is_plain = expected == Some(u32::from(block.instructions))
            && self.traits.get(id as usize).is_some_and(|traits| traits.opaque.is_empty());
        block.settled = if is_plain { self.generation } else { 0 };
    }

    /// The block under way has ended, and all of its instructions had started.
    #[inline(always)]
    pub fn end_whole_block(&mut self) {
        let Some(block) = self.blocks.get(self.current as usize) else { return };
        if block.settled == self.generation && self.flags == 0 {
            self.digest.mix(block.digest);
            self.head.instructions += u64::from(block.instructions);
            self.ordinal += 1;
            self.current = NO_BLOCK;
        } else {
            let instructions = block.instructions;
            self.end_block(u32::from(instructions));
        }
    }

    /// The block under way has ended after `started` of its instructions had started.
    #[inline(never)]
    pub fn end_block(&mut self, started: u32) {
        let current = self.current;
        let Some(history) = self.history.get_mut(current as usize) else { return };
        let Some(traits) = self.traits.get(current as usize) else { return };
        self.digest.block(traits.address, started);
        self.head.instructions += u64::from(started);
        if history.expected_started != started {
            history.expected_started = started;
            self.flags |= control::STARTED;
            self.settle(current);
        }
        if self.traits.get(current as usize).is_some_and(|traits| !traits.opaque.is_empty()) {
            self.end_opaque(started);
        }
        if self.flags != 0 {
            self.write_control(started);
        }
        self.ordinal += 1;
        self.current = NO_BLOCK;
    }

    /// The block under way was followed by a discontinuity: `cause` as `SPEC.md` defines, all registers after it.
    /// To be told before [`end_block`](Self::end_block).
    pub fn discontinuity(&mut self, cause: u8, registers: &[u32]) {
        self.flags |= control::DISCONTINUITY;
        self.discontinuities += 1;
        self.pending.push(cause);
        varint::write(&mut self.pending, self.accesses - self.block_first_access);
        let keyframes = &mut self.streams[Stream::Keyframes as usize];
        for register in registers {
            keyframes.extend(register.to_le_bytes());
        }
    }

    /// Another discontinuity followed the one just told, with no instruction between: `registers` there are those after the
    /// last one. At most 255 of them have room; what comes after is left out.
    pub fn further_discontinuity(&mut self, cause: u8) {
        if self.flags & control::DISCONTINUITY != 0 && self.further.len() < usize::from(u8::MAX) {
            self.flags |= control::FURTHER;
            self.discontinuities += 1;
            self.further.push(cause);
        }
    }

    pub(super) fn write_control(&mut self, started: u32) {
        let stream = &mut self.streams[Stream::Control as usize];
        varint::write(stream, u64::from(self.ordinal - self.next_control));
        stream.push(self.flags);
        if self.flags & control::BLOCK != 0 {
            varint::write(stream, u64::from(self.current));
        }
        if self.flags & control::STARTED != 0 {
            varint::write(stream, u64::from(started));
        }
        stream.append(&mut self.pending);
        if self.flags & control::FURTHER != 0 {
            stream.push(self.further.len() as u8);
            stream.append(&mut self.further);
        }
        if self.flags & control::DEVICE_WRITES != 0 {
            varint::write(stream, self.device_writes);
            self.device_writes = 0;
        }
        self.next_control = self.ordinal + 1;
        self.flags = 0;
    }

    fn end_opaque(&mut self, started: u32) {
        let Some(traits) = self.traits.get(self.current as usize) else { return };
        let stream = &mut self.streams[Stream::OpaqueAccesses as usize];
        let mut accesses = self.opaque.drain(..).peekable();
        for instruction in traits.opaque.iter().take_while(|opaque| u32::from(opaque.index) < started) {
            *self.opaque_counts.entry(instruction.name.0).or_default() += 1;
            if !instruction.memory {
                continue;
            }
            let last = u32::from(instruction.index) + 1 == started;
            let (mut count, mut end, start) =
                (0, None, accesses.peek().map_or(self.opaque_bytes.len(), |access| access.start));
            while let Some(access) = accesses
                .next_if(|access| access.index == instruction.index || (last && access.index == LAST_STARTED))
            {
                let _ = access;
                count += 1;
                end = Some(accesses.peek().map_or(self.opaque_bytes.len(), |next| next.start));
            }
            varint::write(stream, count);
            stream.extend(self.opaque_bytes.get(start..end.unwrap_or(start)).unwrap_or_default());
        }
        drop(accesses);
        self.opaque_bytes.clear();
    }
}
