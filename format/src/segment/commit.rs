//! Gives encoded segments their place, one after the other, and their indexes: what depends on everything before.

use std::sync::Arc;

use super::Head;
use super::encoder::{Encoded, Finished, InitialMemory};
use super::index::{Index, IndexPage, IndexWriter};
use super::local_memory::FirstSight;
use super::page_table::PageTable;
use super::pool::{Lines, Page};
use crate::shadow::{LINE_BYTES, PAGE_BYTES};

const LINES: usize = PAGE_BYTES / LINE_BYTES;

/// One physical page as the recording has left it.
pub(super) struct KnownPage {
    /// Bytes that are known: one bit a byte, one word a line.
    pub known: [u64; LINES],
    /// The bytes.
    pub data: [u8; PAGE_BYTES],
}

/// See the [module](self).
pub struct Committer<M> {
    /// `None`: nothing is known from before the first segment.
    initial: Option<Arc<M>>,
    pages: PageTable<Box<KnownPage>>,
    index: IndexWriter,
}

impl<M: InitialMemory> Committer<M> {
    /// One that knows nothing but the initial memory.
    pub fn new(initial: Arc<M>) -> std::io::Result<Self> {
        Ok(Committer { initial: Some(initial), pages: PageTable::new(), index: IndexWriter::new()? })
    }

    /// Finishes the segment that follows those committed before; its first instruction is at position `first`.
    pub fn commit(&mut self, first: u64, encoded: &mut Encoded, into: &mut Finished) -> std::io::Result<()> {
        encoded.head.first = first;
        if let Some(place) = encoded.payload.get_mut(Head::FIRST_BYTES) {
            place.copy_from_slice(&first.to_le_bytes());
        }
        self.mark_changes(encoded);
        let mut touched = Vec::new();
        for page in encoded.pages.pages() {
            touched.push((page.state.number, self.merge(&page)));
        }
        let mut touched: Vec<_> = (touched.into_iter().filter(|(_, lines)| lines.read | lines.written != 0))
            .filter_map(|(number, Lines { read, written })| {
                Some(IndexPage { number, read, written, known: self.pages.get(number)? })
            })
            .collect();
        touched.sort_unstable_by_key(|page| page.number);
        let Encoded { run, mapped, opaque_counts, device_bytes, .. } = &*encoded;
        self.index.write(run, mapped, opaque_counts, &touched, device_bytes, &mut into.index)?;
        std::mem::swap(&mut into.segment, &mut encoded.payload);
        into.head.clone_from(&encoded.head);
        into.discontinuities = encoded.discontinuities;
        Ok(())
    }

    /// Takes what the segment that follows those committed before has left from its index, instead of the segment itself.
    /// `contents` are those of the index.
    pub fn take(&mut self, index: &Index, contents: &[u8]) {
        for page in &index.pages {
            let into = known_page(&mut self.pages, self.initial.as_deref(), page.page);
            let written = (0..LINES).filter(|line| page.written >> line & 1 != 0);
            let left = contents.chunks_exact(LINE_BYTES).skip(page.first_content).zip(&page.known);
            for (line, (bytes, known)) in written.zip(left) {
                let places = into.known.get_mut(line).zip(into.data.chunks_exact_mut(LINE_BYTES).nth(line));
                if let Some((place, data)) = places {
                    // All of the line: of bytes that the index does not know nothing is known.
                    *place = *known;
                    data.copy_from_slice(bytes);
                }
            }
        }
    }

    /// A segment follows of which it can't be told what it left: from there on nothing is known of memory.
    pub fn forget(&mut self) {
        self.initial = None;
        self.pages = PageTable::new();
    }

    /// Marks lines of which a load saw a byte that was never seen before, or was other than last seen: something other
    /// than a store of this processor changed them, at the latest in this segment.
    fn mark_changes(&mut self, encoded: &mut Encoded) {
        let Encoded { sights, pages, .. } = encoded;
        for FirstSight { page, offset, mask, value } in sights.drain(..) {
            let Some(page) = pages.state_mut(page) else { continue };
            let line = usize::from(offset) / LINE_BYTES % LINES;
            let known = known_page(&mut self.pages, self.initial.as_deref(), page.number);
            let at = usize::from(offset) % PAGE_BYTES;
            let unknown = mask & !((known.known[line] >> (at % LINE_BYTES)) as u8);
            let mut bytes = [0; 8];
            for (byte, known) in bytes.iter_mut().zip(&known.data[at..]) {
                *byte = *known;
            }
            let differs = (u64::from_le_bytes(bytes) ^ value) & bytes_of_mask(mask);
            let is_news = unknown != 0 || differs != 0;
            if is_news {
                page.changed |= 1 << line;
            }
        }
    }

    /// Takes what a segment has left in a page. Returns what happened to its lines.
    fn merge(&mut self, page: &Page<'_>) -> Lines {
        let into = known_page(&mut self.pages, self.initial.as_deref(), page.state.number);
        let mut stored = 0;
        for (number, line) in page.lines() {
            stored |= u64::from(line.stored) << number;
            into.known[number] |= line.known;
            let place = &mut into.data[number * LINE_BYTES..][..LINE_BYTES];
            if line.known == u64::MAX {
                place.copy_from_slice(&line.bytes);
            } else {
                for (at, (place, byte)) in place.iter_mut().zip(line.bytes).enumerate() {
                    if line.known >> at & 1 != 0 {
                        *place = byte;
                    }
                }
            }
        }
        Lines { read: page.state.seen, written: stored | page.state.changed }
    }
}

/// 64 bits of which byte n is 0xff if bit n of the mask is set.
fn bytes_of_mask(mask: u8) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let bits = (u64::from(mask) * EACH) & 0x8040_2010_0804_0201;
    // A byte that is not 0 carries into its highest bit.
    let carried = (bits & 0x7f7f_7f7f_7f7f_7f7f) + 0x7f7f_7f7f_7f7f_7f7f;
    let highest = (carried | bits) & (EACH << 7);
    (highest >> 7) * 0xff
}

fn known_page<'a, M: InitialMemory>(
    pages: &'a mut PageTable<Box<KnownPage>>,
    initial: Option<&M>,
    number: u64,
) -> &'a mut KnownPage {
    pages.get_or_insert_with(number, || {
        let mut page = Box::new(KnownPage { known: [0; LINES], data: [0; PAGE_BYTES] });
        if let Some(initial) = initial {
            initial.fill(number, &mut page.data, &mut page.known);
        }
        page
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_of_a_mask_stands_for_a_byte() {
        for mask in 0..=255u8 {
            let expected =
                (0..8).filter(|bit| mask >> bit & 1 != 0).map(|bit| 0xff << (8 * bit)).sum::<u64>();
            assert_eq!(bytes_of_mask(mask), expected, "{mask:#x}");
        }
    }
}
