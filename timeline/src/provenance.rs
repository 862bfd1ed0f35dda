//! Where the value of a byte of memory at a position comes from: what [`Replay::read_memory`](crate::Replay) relies on.
//!
//! What changed memory in the segment at hand is found by executing it again up to the position, with a
//! [watch](crate::watch). So those who do not ask pay nothing for the answer.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ktrace_format::shadow::PAGE_BYTES;

use crate::engine::{Divergence, Engine};
use crate::journal::NoJournal;
use crate::recording::Recording;
use crate::replay::ReplayError;
use crate::watch::{Change, Origin, Watch};

/// What proves a byte of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The processor stored it.
    Store {
        /// Position of the instruction.
        at: u64,
    },
    /// A load showed it, and it was not known before, or was something else: whatever wrote it was not seen.
    Load {
        /// Position of the instruction.
        at: u64,
    },
    /// A device wrote it.
    Device {
        /// The first position at which it is there.
        at: u64,
    },
    /// It is as the segment that ends at `by` left it, the last one before the segment at hand that changed a byte of its
    /// line of 64 bytes.
    LeftBy {
        /// Position after that segment's last instruction.
        by: u64,
        /// The last change of the byte in that segment was a device's write. Otherwise a store, or a load that found it
        /// changed; or that segment changed only other bytes of the line.
        device: bool,
    },
    /// The initial memory; nothing that the recording saw has changed it.
    Initial,
    /// It is code of the block that executes here.
    Executing,
    /// Nothing.
    Unknown,
}

impl fmt::Display for Provenance {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Provenance::Store { at } => write!(text, "stored by the instruction at position {at}"),
            Provenance::Load { at } => {
                write!(text, "seen by the load at position {at}; what wrote it was not recorded")
            }
            Provenance::Device { at } => write!(text, "written by a device just before position {at}"),
            Provenance::LeftBy { by, device: false } => write!(text, "there since position {by} or earlier"),
            Provenance::LeftBy { by, device: true } => {
                write!(text, "there since position {by} or earlier, written by a device")
            }
            Provenance::Initial => text.write_str("from the initial memory"),
            Provenance::Executing => text.write_str("code of the block that executes here"),
            Provenance::Unknown => text.write_str("not known"),
        }
    }
}

/// Neighbours with the same provenance, as ranges of indexes.
pub fn runs(bytes: &[Provenance]) -> impl Iterator<Item = (Range<usize>, Provenance)> {
    let mut start = 0;
    bytes.chunk_by(|one, next| one == next).filter_map(move |run| {
        let range = start..start + run.len();
        start = range.end;
        run.first().map(|provenance| (range, *provenance))
    })
}

/// A part of what is asked for that lies in one page.
struct Piece {
    address: u32,
    /// The physical page, if it is known.
    page: Option<u64>,
    /// Offset of the first byte in the page.
    offset: usize,
    /// Which of the bytes asked for.
    range: Range<usize>,
}

impl Recording {
    /// See [`Replay::provenance`](crate::Replay::provenance).
    pub(crate) fn find_provenance(
        &mut self,
        address: u32,
        into: &mut [Provenance],
    ) -> Result<(), ReplayError> {
        into.fill(Provenance::Unknown);
        if !self.show()? {
            return Ok(());
        }
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < into.len() {
            let here = address.wrapping_add(done as u32);
            let offset = here as usize % PAGE_BYTES;
            let range = done..(done + PAGE_BYTES - offset).min(into.len());
            done = range.end;
            pieces.push(Piece { address: here, page: self.window.view().physical_page(here), offset, range });
        }
        let seen = |piece: &Piece| {
            let mut offsets = piece.offset..piece.offset + piece.range.len();
            piece.page.filter(|page| offsets.any(|offset| self.window.view().seen(*page, offset).is_some()))
        };
        let pages: BTreeSet<u64> = pieces.iter().filter_map(seen).collect();
        let watch = if pages.is_empty() { Watch::default() } else { self.watched(pages)? };
        for Piece { address, page, offset, range } in pieces {
            let into = into.get_mut(range).unwrap_or_default();
            if let Some(page) = page {
                self.piece_provenance(&watch, page, offset, into);
            }
            if into.contains(&Provenance::Unknown) {
                let mut code = vec![None; into.len()];
                self.read_code(address, &mut code);
                let code = into.iter_mut().zip(code).filter(|(_, code)| code.is_some());
                code.filter(|(into, _)| **into == Provenance::Unknown)
                    .for_each(|(into, _)| *into = Provenance::Executing);
            }
        }
        Ok(())
    }

    /// Executes the present segment again up to the present position, which is proved, and watches some pages.
    fn watched(&mut self, pages: BTreeSet<u64>) -> Result<Watch, ReplayError> {
        let program = Arc::clone(self.program());
        let segment = program.segment(self.window.segment());
        let segment = segment.map_err(|error| ReplayError::Trace(error.to_string()))?;
        let offset = self.position - segment.0.first;
        let execute = |engine: &mut Engine<NoJournal>| -> Result<Watch, Divergence> {
            engine.memory.set_watch(Some(Watch::new(pages.into_iter())));
            let begun = engine.begin(segment.0.clone(), Arc::clone(&segment.1));
            let outcome = begun.and_then(|()| engine.run_to(offset)).and_then(|()| engine.settle());
            let watch = engine.memory.set_watch(None).unwrap_or_default();
            outcome.map(|()| watch)
        };
        self.scouts.with(execute).map_err(|divergence| ReplayError::Trace(divergence.to_string()))
    }

    fn piece_provenance(&self, watch: &Watch, page: u64, offset: usize, into: &mut [Provenance]) {
        let view = self.window.view();
        let value = |at: usize| view.seen(page, offset + at);
        let first = self.window.first();
        let mut wanted = vec![true; into.len()];
        for (at, (into, wanted)) in
            into.iter_mut().zip(&mut wanted).enumerate().filter(|(at, _)| value(*at).is_some())
        {
            let Some(Origin { change, at }) = watch.origin(page, offset + at) else { continue };
            // What a load was the first to show may well have been known before the segment.
            *wanted = change == Change::FirstLoad;
            let at = first + at;
            *into = match change {
                Change::Store => Provenance::Store { at },
                Change::FirstLoad | Change::Load => Provenance::Load { at },
                Change::Device => Provenance::Device { at },
            };
        }
        view.past.older(page, offset, &mut wanted, &mut |at, older, provenance| {
            if let Some(into) = into.get_mut(at).filter(|_| value(at).is_none_or(|value| value == older)) {
                *into = provenance;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_the_same_provenance_are_one_run() {
        let (one, other) = (Provenance::Initial, Provenance::Device { at: 3 });
        let found: Vec<_> = runs(&[one, one, other, one]).collect();
        assert_eq!(found, [(0..2, one), (2..3, other), (3..4, one)]);
        assert_eq!(runs(&[]).count(), 0);
    }
}
