//! What devices write to memory.

use std::sync::Arc;

use ktrace_format::segment::{SegmentError, Stream};
use ktrace_format::shadow::PAGE_BYTES;

use super::{SEGMENT_PAGE_LIMIT, SegmentMemory};
use crate::journal::{Journal, lines_of};
use crate::view::Stand;
use crate::watch::Change;

impl<J: Journal> SegmentMemory<J> {
    /// The next of the writes of devices, while the processor stands here.
    pub(crate) fn device_write(&mut self, stand: Stand) -> Result<(), SegmentError> {
        let streams = Arc::clone(&self.streams);
        let write = self.cursor.device_write(&streams)?;
        let mut done = 0;
        while let Some(rest) = write.bytes.get(done..).filter(|rest| !rest.is_empty()) {
            // The cursor has seen to it that this does not overflow.
            let here = write.physical.saturating_add(done as u64);
            let offset = here as usize % PAGE_BYTES;
            let part = rest.get(..PAGE_BYTES - offset).unwrap_or(rest);
            self.device_write_page(stand, here / PAGE_BYTES as u64, offset, part)?;
            done += part.len();
        }
        Ok(())
    }

    fn device_write_page(
        &mut self,
        stand: Stand,
        number: u64,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), SegmentError> {
        if self.shadow.touched_count() >= SEGMENT_PAGE_LIMIT && self.shadow.touched_page(number).is_none() {
            return Err(SegmentError::Stream(Stream::DeviceWrites));
        }
        if let Some(trap) = &mut self.trap {
            trap.device_write(&self.shadow, stand, number, offset, bytes);
        }
        let key = self.shadow.touch(number);
        let page = self.shadow.page_at_mut(key);
        let stretch = offset..offset + bytes.len();
        self.journal.note_stretch(key, page, stretch.clone());
        page.data[stretch.clone()].copy_from_slice(bytes);
        for line in lines_of(&stretch) {
            let from = stretch.start.max(64 * line) - 64 * line;
            let to = stretch.end.min(64 * line + 64) - 64 * line;
            page.known[line] |= u64::MAX >> (64 - (to - from)) << from;
        }
        if let Some(watch) = &mut self.watch {
            watch.changed(number, offset, bytes.len(), Change::Device, stand.executed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{FullJournal, NoJournal};
    use ktrace_format::segment::Streams;

    /// Memory of a segment with these device writes.
    fn memory<J: Journal>(writes: &[(u64, &[u8])]) -> SegmentMemory<J> {
        let mut streams = Streams::default();
        let stream = &mut streams.0[Stream::DeviceWrites as usize];
        for (physical, bytes) in writes {
            ktrace_format::varint::write(stream, *physical);
            ktrace_format::varint::write(stream, bytes.len() as u64);
            stream.extend(*bytes);
        }
        let mut memory = SegmentMemory::new();
        memory.begin(Arc::new(streams)).unwrap();
        memory
    }

    #[test]
    fn a_device_write_makes_just_its_bytes_known() {
        let mut bytes = [0u8; 5000];
        bytes.iter_mut().zip(1..).for_each(|(byte, value)| *byte = (value % 251) as u8);
        let start = 0x3f7f;
        let mut memory: SegmentMemory<FullJournal> = memory(&[(start, &bytes)]);
        memory.device_write(Stand::default()).unwrap();
        let known = |memory: &SegmentMemory<FullJournal>, address: u64| {
            let page = memory.shadow.touched_page(address >> 12)?;
            let offset = address as usize % PAGE_BYTES;
            (page.known[offset / 64] >> (offset % 64) & 1 != 0).then_some(page.data[offset])
        };
        for address in 0x3000..0x6000u64 {
            let written = address.checked_sub(start).and_then(|at| bytes.get(at as usize)).copied();
            assert_eq!(known(&memory, address), written, "{address:#x}");
        }
        let (journal, shadow) = (&mut memory.journal, &mut memory.shadow);
        journal.undo_to(0, shadow, &mut [], &mut []);
        assert!((0x3000..0x6000).all(|address| known(&memory, address).is_none()));
    }

    #[test]
    fn devices_can_not_fill_memory_with_pages() {
        let writes: Vec<(u64, &[u8])> = (0..66).map(|page| (page << 12, &[1][..])).collect();
        let mut memory: SegmentMemory<NoJournal> = memory(&writes);
        for _ in 0..SEGMENT_PAGE_LIMIT {
            memory.device_write(Stand::default()).unwrap();
        }
        assert_eq!(memory.device_write(Stand::default()), Err(SegmentError::Stream(Stream::DeviceWrites)));
        // Pages that are there already can be written to.
        memory.device_write_page(Stand::default(), 0, 5, &[1]).unwrap();
    }
}
