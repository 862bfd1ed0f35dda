//! Memory as it was before a segment: what the latest earlier segment that changed a line left there, or the initial image; and
//! what of a segment is known besides what replaying it shows.

use std::sync::{Arc, OnceLock};

use ktrace_format::reader::SegmentEntry;
use ktrace_format::segment::cursor::translations;
use ktrace_format::segment::{Stream, TRANSLATION_SEGMENTS};
use ktrace_format::shadow::{LINE_BYTES, PAGE_BYTES};
use ktrace_machine::Translations;

use crate::program::Program;
use crate::provenance::Provenance;
use crate::search::hunt::GiveUp;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Past {
    program: Arc<Program>,
    segment: usize,
    translations: OnceLock<Translations>,
    /// Whether nobody wants an answer any more: one may take long where indexes of segments can't be read.
    give_up: GiveUp,
}

impl Past {
    /// What there was before this segment.
    pub(crate) fn new(program: Arc<Program>, segment: usize) -> Past {
        Past::until(program, segment, GiveUp::default())
    }

    /// The same for who looks through the segment until it is time to give up. What is told then means nothing.
    pub(crate) fn until(program: Arc<Program>, segment: usize, give_up: GiveUp) -> Past {
        Past { program, segment, translations: OnceLock::new(), give_up }
    }

    pub(crate) fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// What governs the translation of addresses in the segment.
    pub(crate) fn translations(&self) -> &Translations {
        self.translations.get_or_init(|| {
            let (set, trace) = (self.program.instruction_set(), self.program.trace());
            let read = |segment: &SegmentEntry| {
                let streams = trace.read_stream(segment, Stream::Translation).ok();
                streams.and_then(|streams| translations(&streams).ok()).unwrap_or_default()
            };
            // From this segment back to one that says everything.
            let mut segments = Vec::new();
            let mut first = u64::MAX;
            for segment in trace.segments().iter().take(self.segment + 1).rev().take(TRANSLATION_SEGMENTS) {
                if !segments.is_empty() && segment.end() != first {
                    break;
                }
                first = segment.first;
                let entries = read(segment);
                let continues =
                    entries.first().is_some_and(|entry| Translations::continues(set, &entry.values));
                segments.push(entries);
                if !continues {
                    break;
                }
            }
            let mut translations = Translations::new(set);
            for entries in segments.iter().rev() {
                translations.next_segment(entries.iter().map(|entry| (entry.from, &entry.values[..])));
            }
            translations
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
            if self.give_up.now() {
                return None;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use ktrace_format::Trace;
    use ktrace_format::record::HEAD_BYTES;
    use ktrace_format::writer::TRACE_FILE;
    use std::fs;

    #[test]
    fn who_gives_up_executes_no_segments() {
        // A copy of the sample in which no index can be read.
        let copy = tempfile::tempdir().unwrap();
        let sample = crate::sample::directory().unwrap();
        for file in ["trace.json", TRACE_FILE, ktrace_format::memory::FILE_NAME] {
            fs::copy(sample.join(file), copy.path().join(file)).unwrap();
        }
        let path = copy.path().join(TRACE_FILE);
        let mut bytes = fs::read(&path).unwrap();
        for segment in Trace::open(copy.path()).unwrap().segments() {
            bytes[segment.index.unwrap() as usize + HEAD_BYTES] ^= 1;
        }
        fs::write(&path, bytes).unwrap();

        let program = Arc::new(Program::open(copy.path()).unwrap());
        // The next one touches more pages than is allowed in unit tests.
        let segment = 5;
        let give_up = GiveUp::default();
        let past = Past::until(Arc::clone(&program), segment, give_up.clone());
        let page = {
            let whole = Program::open(&sample).unwrap();
            whole.index(0).unwrap().pages.iter().find(|lines| lines.written & 1 != 0).unwrap().page
        };
        give_up.say();
        assert_eq!((past.byte(page, 0), program.executed_instead()), (None, 0));
        let past = Past::new(Arc::clone(&program), segment);
        assert!(past.byte(page, 0).is_some() && program.executed_instead() > 0);
    }
}
