//! Memory as it was before a segment: what the latest earlier segment that changed a line left there, or the initial image.

use ktrace_format::shadow::{LINE_BYTES, PAGE_BYTES};

use crate::provenance::Provenance;
use crate::recording::Recording;

impl Recording {
    /// Looks bytes of a physical page up, from `offset` on: those that are `wanted`, as they were when the segment at hand
    /// began. Tells `found` each that is known: which of them it is, its value, and where it comes from.
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
        let (writers, blind) = self.history().writers(page, self.window.segment() as u32);
        for writer in writers {
            let Some(()) = self.left_by(writer, page, offset, wanted, found) else { return };
            if !wanted.contains(&true) {
                return;
            }
        }
        let Some(image) = self.program().image().filter(|_| !blind) else { return };
        let mut bytes = vec![0; wanted.len()];
        for range in image.read(page * PAGE_BYTES as u64 + offset as u64, &mut bytes) {
            for at in range.filter(|at| wanted.get(*at) == Some(&true)) {
                if let Some(value) = bytes.get(at) {
                    found(at, *value, Provenance::Initial);
                }
            }
        }
    }

    /// What one segment left. Lines that it changed are wanted no longer. `None`: its index can't be read, so nothing older
    /// is known either.
    fn left_by(
        &self,
        writer: u32,
        page: u64,
        offset: usize,
        wanted: &mut [bool],
        found: &mut dyn FnMut(usize, u8, Provenance),
    ) -> Option<()> {
        let segment = self.program().trace().segments().get(writer as usize)?;
        let packed = self.program().trace().read_index(segment).ok()??;
        let index = packed.index().ok()?;
        let lines = index.page(page)?;
        let contents = packed.contents().ok()?;
        for (at, wanted) in wanted.iter_mut().enumerate().filter(|(_, wanted)| **wanted) {
            let (line, in_line) = ((offset + at) / LINE_BYTES, (offset + at) % LINE_BYTES);
            if lines.written >> line & 1 == 0 {
                continue;
            }
            *wanted = false;
            let rank = (lines.written & ((1 << line) - 1)).count_ones() as usize;
            let value = contents.get((lines.first_content + rank) * LINE_BYTES + in_line);
            if let Some(value) =
                value.filter(|_| lines.known.get(rank).is_some_and(|known| known >> in_line & 1 != 0))
            {
                let device = index.written_by_device(page, offset + at);
                found(at, *value, Provenance::LeftBy { by: segment.end(), device });
            }
        }
        Some(())
    }
}
