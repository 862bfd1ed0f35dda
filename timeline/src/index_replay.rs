//! What the index of a segment says, found by executing the segment: all that the recorder's encoder notes of it.

use std::collections::HashMap;
use std::ops::Range;

use ktrace_format::segment::device_bytes::DeviceBytes;
use ktrace_format::segment::encoder::Encoded;
use ktrace_format::segment::replayed::{LineEvents, Replayed, ReplayedPage, ReplayedSight};
use ktrace_format::shadow::{LINE_BYTES, Page, known_bits};

use crate::engine::Engine;
use crate::journal::{Journal, Touch, Undo, lines_of};
use crate::verify;

/// What happens to memory in a segment, and how often opaque instructions start.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// By the key of the page.
    pages: Vec<PageEvents>,
    device_bytes: DeviceBytes,
    opaque: HashMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct PageEvents {
    lines: LineEvents,
    sights: Vec<ReplayedSight>,
}

impl Events {
    fn page(&mut self, key: u32) -> &mut PageEvents {
        let key = key as usize;
        if self.pages.len() <= key {
            self.pages.resize_with(key + 1, PageEvents::default);
        }
        &mut self.pages[key]
    }

    #[inline(never)]
    fn loaded(&mut self, touch: &Touch) {
        let offset = usize::from(touch.offset);
        let (line, in_line) = (offset / LINE_BYTES, offset % LINE_BYTES);
        let mask = ((1u16 << touch.bytes) - 1) as u8;
        let known = (touch.known >> in_line) as u8 & mask;
        let others = touch.old.to_le_bytes().into_iter().zip(touch.new.to_le_bytes());
        let differs = (0..8).zip(others).fold(0u8, |set, (at, (old, new))| set | u8::from(old != new) << at);
        let (unknown, changed) = (mask & !known, known & differs);
        if unknown | changed == 0 {
            return;
        }
        let page = self.page(touch.key);
        page.lines.seen |= 1 << line;
        if unknown != 0 {
            page.sights.push(ReplayedSight { offset: touch.offset, mask: unknown, value: touch.new });
        }
        if changed != 0 {
            page.lines.changed |= 1 << line;
            self.device_bytes.changed(touch.page, line, u64::from(changed) << in_line);
        }
    }
}

impl Journal for Events {
    #[inline]
    fn note(&mut self, _: impl FnOnce() -> Undo) {}

    /// Only devices write stretches.
    fn note_stretch(&mut self, key: u32, page: &Page, stretch: Range<usize>) {
        let lines = lines_of(&stretch).fold(0, |set, line| set | 1u64 << line);
        self.page(key).lines.stored |= lines;
        self.device_bytes.written(page.number, stretch.start, stretch.len());
    }

    #[inline]
    fn touched(&mut self, touch: impl FnOnce() -> Touch) {
        let touch = touch();
        if !touch.store {
            return self.loaded(&touch);
        }
        let offset = usize::from(touch.offset);
        self.page(touch.key).lines.stored |= 1 << (offset / LINE_BYTES);
        if !self.device_bytes.is_empty() {
            let bytes = known_bits(offset, touch.bytes.into());
            self.device_bytes.changed(touch.page, offset / LINE_BYTES, bytes);
        }
    }

    fn opaque(&mut self, mnemonic: &'static str) {
        *self.opaque.entry(mnemonic).or_default() += 1;
    }

    fn is_full(&self) -> bool {
        false
    }
}

/// Executes a segment. `None`: not all of it is proved, or it is not there.
pub(crate) fn replay(engine: &mut Engine<Events>, segment: usize) -> Option<Encoded> {
    let program = std::sync::Arc::clone(engine.program());
    let trace = program.trace();
    verify::segment(engine, trace.segments().get(segment)?, trace.segments().get(segment + 1)).ok()?;
    let Events { pages, device_bytes, opaque } = std::mem::take(&mut engine.memory.journal);
    let opaque = opaque.into_iter().filter_map(|(name, count)| Some((trace.name_number(name)?, count)));
    let mut encoded = Encoded::replayed(Replayed {
        blocks: engine.entered_blocks().collect(),
        mapped: engine.memory.shadow.targets().collect(),
        opaque: opaque.collect(),
        device_bytes,
    });
    let nothing = PageEvents::default();
    for (key, page) in engine.memory.shadow.touched_pages() {
        let PageEvents { lines, sights } = pages.get(key as usize).unwrap_or(&nothing);
        let page = ReplayedPage { number: page.number, events: *lines, known: &page.known, data: &page.data };
        encoded.add_page(&page, sights.iter().copied());
    }
    Some(encoded)
}
