//! Makes a trace's `index.kt` anew: indexes of segments whose own are damaged or missing, by executing these, and groups of all
//! segments.
//!
//! What an index says of memory depends on all segments before. So the segments are executed in parallel, and then committed one
//! after the other, as the recorder does it, from indexes where those can be read. That keeps as much memory as the guest has
//! touched.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ktrace_format::group::PackedGroup;
use ktrace_format::index_file::{self, INDEX_FILE, IndexFileWriter};
use ktrace_format::segment::Committer;
use ktrace_format::segment::encoder::{Encoded, Finished, InitialMemory};
use ktrace_format::segment::index::{Index, PackedIndex};
use ktrace_format::shadow::{LINE_BYTES, PAGE_BYTES};
use rayon::prelude::*;

use crate::catalogue;
use crate::engine::Engine;
use crate::index_replay::{self, Events};
use crate::program::Program;

/// Why no index was written. The one that was there, if any, is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The file can't be written.
    #[error("{path} can't be written", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was cancelled.
    #[error("interrupted: the index was left as it was")]
    Cancelled,
}

/// What became of an index that was made anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexOutcome {
    /// Groups of segments that were written.
    pub groups: usize,
    /// Segments whose own index can't be read and for which another was made by executing them.
    pub executed: usize,
    /// Segments for which the file that was there had one already.
    pub kept: usize,
    /// Segments of which nothing is known, since they are damaged, or not proved.
    pub unknown: usize,
}

/// How far the making of an index has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexProgress {
    /// Instructions of segments that were executed.
    pub executed: u64,
    /// Instructions of all that must be.
    pub of: u64,
}

/// Makes `index.kt` anew, on rayon's current thread pool. `progress` is told as segments are executed, those whose index can't
/// be read; once `cancelled` is true no further one is begun and nothing is written.
pub fn write_index(
    program: &Arc<Program>,
    directory: &Path,
    progress: &(dyn Fn(IndexProgress) + Sync),
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<IndexOutcome, IndexError> {
    let failed = |source| IndexError::Io { path: directory.join(INDEX_FILE), source };
    let unless_cancelled = || if cancelled() { Err(IndexError::Cancelled) } else { Ok(()) };
    let segments = 0..program.trace().segments().len();
    let lacking: Vec<usize> =
        segments.into_par_iter().filter(|number| !cancelled() && own(program, *number).is_none()).collect();
    unless_cancelled()?;
    let mut outcome = IndexOutcome::default();
    let mut file = IndexFileWriter::create(directory, program.trace()).map_err(failed)?;
    let replaced = if lacking.is_empty() {
        None
    } else {
        replace(program, &lacking, &mut file, &mut outcome, progress, cancelled).map_err(failed)?;
        unless_cancelled()?;
        Some(file.written().map_err(failed)?)
    };
    let index = |number: usize| {
        let replaced = replaced.as_ref().and_then(|file| file.replacement(number));
        replaced.or_else(|| program.own_index(number))?.index().ok().map(Arc::new)
    };
    outcome.groups = index_file::group_count(program.trace());
    let groups: Vec<Vec<u8>> = (0..outcome.groups)
        .into_par_iter()
        .map(|group| {
            unless_cancelled()?;
            catalogue::build(program, group, &index).map_err(failed)
        })
        .collect::<Result<_, IndexError>>()?;
    for (number, group) in groups.iter().enumerate() {
        file.group(number, group).map_err(failed)?;
        let marks = PackedGroup::new(group).and_then(|group| group.marks());
        outcome.unknown += marks.map_or(0, |marks| marks.unknown.count_ones() as usize);
    }
    unless_cancelled()?;
    file.finish().map_err(failed)?;
    Ok(outcome)
}

/// An index, unpacked, and the contents of its lines. `None`: something of it can't be read.
fn unpacked(packed: &PackedIndex<'_>) -> Option<(Index, Vec<u8>)> {
    let (index, contents) = (packed.index().ok()?, packed.contents().ok()?);
    let lines: usize = index.pages.iter().map(|page| page.known.len()).sum();
    (contents.len() == lines * LINE_BYTES).then_some((index, contents))
}

/// A segment's own index.
fn own(program: &Program, segment: usize) -> Option<(Index, Vec<u8>)> {
    unpacked(&program.own_index(segment)?)
}

/// What a segment has left.
enum Left {
    /// Its own index says it.
    Own(Index, Vec<u8>),
    /// The index says it that stood in for its own before.
    Kept(Index, Vec<u8>),
    /// It was executed.
    Replayed(Box<Encoded>),
    /// It can't be told.
    Unknown,
}

/// Writes an index for each segment that lacks one; `lacking` is not empty, and rising.
fn replace(
    program: &Arc<Program>,
    lacking: &[usize],
    file: &mut IndexFileWriter<'_>,
    outcome: &mut IndexOutcome,
    progress: &(dyn Fn(IndexProgress) + Sync),
    cancelled: &(dyn Fn() -> bool + Sync),
) -> io::Result<()> {
    let segments = program.trace().segments();
    let kept = |number: usize| program.index_file().and_then(|file| file.replacement_bytes(number));
    let is_kept =
        |number: usize| program.replacement(number).is_some_and(|packed| unpacked(&packed).is_some());
    let to_execute = lacking.iter().filter(|number| !is_kept(**number));
    let instructions = |number: usize| segments.get(number).map_or(0, |segment| segment.instructions);
    let of = to_execute.map(|number| instructions(*number)).sum();
    let executed = Mutex::new(0);
    progress(IndexProgress { executed: 0, of });

    let engines: Mutex<Vec<Engine<Events>>> = Mutex::default();
    let left = |number: usize| {
        if cancelled() {
            return Left::Unknown;
        }
        if lacking.binary_search(&number).is_err() {
            return own(program, number)
                .map_or(Left::Unknown, |(index, contents)| Left::Own(index, contents));
        }
        if let Some((index, contents)) = program.replacement(number).and_then(|packed| unpacked(&packed)) {
            return Left::Kept(index, contents);
        }
        let idle = engines.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut engine = idle.unwrap_or_else(|| Engine::new(Arc::clone(program)));
        let replayed = index_replay::replay(&mut engine, number);
        engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine);
        let mut executed = executed.lock().unwrap_or_else(PoisonError::into_inner);
        *executed += instructions(number);
        progress(IndexProgress { executed: *executed, of });
        replayed.map_or(Left::Unknown, |replayed| Left::Replayed(Box::new(replayed)))
    };

    let mut committer = Committer::new(Arc::new(Before(Arc::clone(program))))?;
    let mut finished = Finished::default();
    let mut end = 0;
    // What follows the last of them does not matter.
    let numbers: Vec<usize> = (0..lacking.last().map_or(0, |last| last + 1)).collect();
    for window in numbers.chunks(4 * rayon::current_num_threads()) {
        let window: Vec<(usize, Left)> = window.par_iter().map(|number| (*number, left(*number))).collect();
        if cancelled() {
            return Ok(());
        }
        for (number, left) in window {
            let Some(segment) = segments.get(number) else { continue };
            if segment.first != end {
                committer.forget();
            }
            end = segment.end();
            match left {
                Left::Own(index, contents) => committer.take(&index, &contents),
                Left::Kept(index, contents) => {
                    committer.take(&index, &contents);
                    if let Some(bytes) = kept(number) {
                        file.replacement(number, bytes)?;
                        outcome.kept += 1;
                    }
                }
                Left::Replayed(mut encoded) => {
                    committer.commit(segment.first, &mut encoded, &mut finished)?;
                    file.replacement(number, &finished.index)?;
                    outcome.executed += 1;
                }
                Left::Unknown => committer.forget(),
            }
        }
    }
    Ok(())
}

/// The memory before the first instruction, as far as it was captured.
struct Before(Arc<Program>);

impl InitialMemory for Before {
    fn fill(&self, page: u64, data: &mut [u8; PAGE_BYTES], known: &mut [u64; 64]) {
        if let Some(image) = self.0.image() {
            image.fill(page, data, known);
        }
    }

    fn is_read_only(&self, page: u64) -> bool {
        self.0.image().is_some_and(|image| image.is_read_only(page))
    }

    fn canonical(&self, page: u64) -> u64 {
        self.0.image().map_or(page, |image| InitialMemory::canonical(image, page))
    }
}
