//! Memory as it was before a segment: what the latest earlier segment that changed a line left there, or the initial image; and
//! what of a segment is known besides what replaying it shows.

use std::sync::{Arc, OnceLock};

use ktrace_format::segment::cursor::translations;
use ktrace_format::shadow::{LINE_BYTES, PAGE_BYTES};
use ktrace_machine::Translations;

use crate::program::Program;
use crate::provenance::Provenance;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Past {
    program: Arc<Program>,
    segment: usize,
    translations: OnceLock<Translations>,
}

impl Past {
    /// What there was before this segment.
    pub(crate) fn new(program: Arc<Program>, segment: usize) -> Past {
        Past { program, segment, translations: OnceLock::new() }
    }

    pub(crate) fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// What governs the translation of addresses in the segment.
    pub(crate) fn translations(&self) -> &Translations {
        self.translations.get_or_init(|| {
            let segment = self.program.segment(self.segment).ok();
            let entries = segment.and_then(|segment| translations(&segment.1).ok()).unwrap_or_default();
            let entries = entries.iter().map(|entry| (entry.from, &entry.values[..]));
            Translations::new(self.program.instruction_set(), entries)
        })
    }

    /// Looks bytes of a physical page up, from `offset` on: those that are `wanted`, as they were when the segment began.
    /// Tells `found` each that is known: which of them it is, its value, and where it comes from.
    pub(crate) fn older(
        &self,
        page: u64,
        offset: usize,
        wanted: &mut [bool],
        found: &mut dyn FnMut(usize, u8, Provenance),
    ) {
        if !wanted.contains(&true) {
            return;
        }
        let program = &self.program;
        for writer in program.catalogue().writers(program, page, self.segment) {
            let Some(()) = self.left_by(writer, page, offset, wanted, found) else { return };
            if !wanted.contains(&true) {
                return;
            }
        }
        let whole = program.catalogue().known_from(self.segment).is_none();
        let Some(image) = program.image().filter(|_| whole) else { return };
        let mut bytes = vec![0; wanted.len()];
        for range in image.read(page * PAGE_BYTES as u64 + offset as u64, &mut bytes) {
            for at in range.filter(|at| wanted.get(*at) == Some(&true)) {
                if let Some(value) = bytes.get(at) {
                    found(at, *value, Provenance::Initial);
                }
            }
        }
    }

    /// One byte of a physical page as it was when the segment began.
    pub(crate) fn byte(&self, page: u64, offset: usize) -> Option<u8> {
        let mut byte = None;
        self.older(page, offset, &mut [true], &mut |_, value, _| byte = Some(value));
        byte
    }

    /// What one segment left. Lines that it changed are wanted no longer. `None`: it can't be told, so nothing older is known
    /// either.
    fn left_by(
        &self,
        writer: usize,
        page: u64,
        offset: usize,
        wanted: &mut [bool],
        found: &mut dyn FnMut(usize, u8, Provenance),
    ) -> Option<()> {
        let by = self.program.trace().segments().get(writer)?.end();
        let Some((index, contents)) = self.program.index(writer).zip(self.program.contents(writer)) else {
            let rebuilt = self.program.rebuilt(writer)?;
            for (at, wanted) in wanted.iter_mut().enumerate().filter(|(_, wanted)| **wanted) {
                if let Some(value) = rebuilt.byte(page, offset + at) {
                    *wanted = false;
                    found(at, value, Provenance::LeftBy { by, device: false });
                }
            }
            return Some(());
        };
        let Some(lines) = index.page(page) else { return Some(()) };
        let written = (0..PAGE_BYTES / LINE_BYTES).filter(|line| lines.written >> line & 1 != 0);
        for (rank, line) in written.enumerate() {
            let known = lines.known.get(rank).copied().unwrap_or_default();
            // The bytes of the line that are among those asked for.
            let start = (line * LINE_BYTES).max(offset);
            let end = ((line + 1) * LINE_BYTES).min(offset + wanted.len());
            for place in start..end {
                let (at, in_line) = (place - offset, place % LINE_BYTES);
                if !wanted.get_mut(at).is_some_and(std::mem::take) {
                    continue;
                }
                let value = contents.get((lines.first_content + rank) * LINE_BYTES + in_line);
                if let Some(value) = value.filter(|_| known >> in_line & 1 != 0) {
                    let device = index.written_by_device(page, place);
                    found(at, *value, Provenance::LeftBy { by, device });
                }
            }
        }
        Some(())
    }
}
