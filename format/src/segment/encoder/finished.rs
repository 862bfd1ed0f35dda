//! A segment's end: what an encoder has made of it, and the two records that become of that.

use std::collections::HashMap;
use std::sync::Arc;

use super::{InitialMemory, SegmentEncoder, VIRTUAL_PAGES};
use crate::segment::commit::Committer;
use crate::segment::device_bytes::DeviceBytes;
use crate::segment::local_memory::FirstSight;
use crate::segment::pool::Pool;
use crate::segment::{FLAG_OPEN_END, Head, Stream, control, write_payload};
use crate::shadow::Target;

/// An encoded segment, before its place in the recording is known.
#[derive(Debug, Default)]
pub struct Encoded {
    /// The segment record's payload; the position of the first instruction in it is 0.
    pub(in crate::segment) payload: Vec<u8>,
    pub(in crate::segment) head: Head,
    pub(in crate::segment) discontinuities: u64,
    /// Blocks that were entered, rising.
    pub(in crate::segment) run: Vec<u32>,
    /// What was behind the virtual pages that were accessed, by rising page.
    pub(in crate::segment) mapped: Vec<(u32, Target)>,
    pub(in crate::segment) opaque_counts: HashMap<u32, u64>,
    pub(in crate::segment) pages: Pool,
    pub(in crate::segment) sights: Vec<FirstSight>,
    pub(in crate::segment) device_bytes: DeviceBytes,
}

impl Encoded {
    /// What the segment says of itself; the position of its first instruction is not known yet.
    pub fn head(&self) -> &Head {
        &self.head
    }
}

/// A finished segment with its index, ready to be written as two records.
#[derive(Debug, Default)]
pub struct Finished {
    /// The segment record's payload.
    pub segment: Vec<u8>,
    /// The index record's payload.
    pub index: Vec<u8>,
    /// A copy of the segment's head.
    pub head: Head,
    /// Discontinuities in it.
    pub discontinuities: u64,
}

impl<M: InitialMemory> SegmentEncoder<M> {
    /// Ends the segment. With `open_end` the last instruction may not have completed.
    pub fn finish(&mut self, open_end: bool, into: &mut Encoded) -> std::io::Result<()> {
        if let Some(error) = self.error.take() {
            return Err(std::io::Error::other(error));
        }
        if self.device_writes > 0 {
            // An entry of its own, behind the last block.
            self.flags = control::DEVICE_WRITES;
            self.write_control(0);
        }
        self.streams[Stream::Checkpoints as usize].extend(self.digest.0.to_le_bytes());
        self.head.blocks = self.ordinal;
        self.head.accesses = self.accesses;
        self.head.flags = if open_end { FLAG_OPEN_END } else { 0 };
        write_payload(&self.head, &self.streams, &mut self.compressor, &mut into.payload)?;
        self.run.sort_unstable();
        self.mapped.sort_unstable();
        into.mapped.clear();
        for at in 0..self.mapped.len() {
            let page = self.mapped[at];
            // What accesses met. Should it have changed since the last of them, that is for the segment that sees it.
            into.mapped.push((page, self.shown[page as usize % VIRTUAL_PAGES].1));
        }
        std::mem::swap(&mut self.run, &mut into.run);
        std::mem::swap(&mut self.opaque_counts, &mut into.opaque_counts);
        std::mem::swap(&mut self.sights, &mut into.sights);
        std::mem::swap(&mut self.device_bytes, &mut into.device_bytes);
        self.memory.exchange(&mut into.pages);
        into.head.clone_from(&self.head);
        into.discontinuities = self.discontinuities;
        Ok(())
    }
}

/// A [`SegmentEncoder`] and its [`Committer`], for one segment after the other.
pub struct Encoder<M> {
    segment: SegmentEncoder<M>,
    committer: Committer<M>,
    encoded: Encoded,
    first: u64,
}

impl<M: InitialMemory> Encoder<M> {
    /// An encoder with an empty dictionary.
    pub fn new(memory: M) -> std::io::Result<Self> {
        let memory = Arc::new(memory);
        Ok(Encoder {
            segment: SegmentEncoder::new(Arc::clone(&memory))?,
            committer: Committer::new(memory)?,
            encoded: Encoded::default(),
            first: 0,
        })
    }

    /// Starts a segment at position `first` with all registers. Blocks entered so far must have ended.
    pub fn begin_segment(&mut self, first: u64, vcpu: u32, registers: &[u32]) {
        self.first = first;
        let dictionary = self.segment.block_count() as u32;
        self.segment.begin(dictionary, vcpu, registers);
    }

    /// Ends the segment. With `open_end` the last instruction may not have completed.
    pub fn finish_segment(&mut self, open_end: bool, into: &mut Finished) -> std::io::Result<()> {
        self.segment.finish(open_end, &mut self.encoded)?;
        self.committer.commit(self.first, &mut self.encoded, into)
    }
}

impl<M> std::ops::Deref for Encoder<M> {
    type Target = SegmentEncoder<M>;

    fn deref(&self) -> &Self::Target {
        &self.segment
    }
}

impl<M> std::ops::DerefMut for Encoder<M> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.segment
    }
}
