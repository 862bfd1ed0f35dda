//! Which segments may have what somebody looks for, and which changed a page of memory: from the groups in `index.kt`
//! ([`ktrace_format::group`]), or, where there is none, from groups that are put together from the segments' indexes when they
//! are first needed.

use std::path::Path;
use std::sync::{Arc, Once, OnceLock};

use ktrace_format::group::{
    BlockUse, Facts, GROUP_SEGMENTS, GroupBuilder, Marks, Members, PackedGroup, PageUse, VirtualUse,
};
use ktrace_format::index_file::{self, IndexFile};
use ktrace_format::reader::SegmentEntry;
use ktrace_format::segment::cursor::Cursor;
use ktrace_format::segment::index::Index;
use ktrace_format::segment::{SegmentError, Stream, surprise};
use ktrace_format::{Trace, TraceError};
use rayon::prelude::*;

use crate::program::Program;
use crate::rebuilt::Rebuilt;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Catalogue {
    file: Option<IndexFile>,
    /// Those that the file does not have, once they are needed.
    groups: Box<[OnceLock<Box<[u8]>>]>,
    /// Segments before which others are missing, rising.
    gaps: Vec<usize>,
    told: Once,
}

impl Catalogue {
    pub(crate) fn open(directory: &Path, trace: &Trace) -> Catalogue {
        let mut gaps = Vec::new();
        let mut end = 0;
        for (number, segment) in trace.segments().iter().enumerate() {
            if segment.first != end {
                gaps.push(number);
            }
            end = segment.end();
        }
        Catalogue {
            file: IndexFile::open(directory, trace),
            groups: (0..index_file::group_count(trace)).map(|_| OnceLock::new()).collect(),
            gaps,
            told: Once::new(),
        }
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Asks the group for a part of it.
    fn part<T>(
        &self,
        program: &Program,
        group: usize,
        part: impl Fn(&PackedGroup<'_>) -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        let in_file = self.file.as_ref().and_then(|file| file.group(group));
        if let Some(Ok(part)) = in_file.map(|packed| part(&packed)) {
            return Ok(part);
        }
        let place = self.groups.get(group).ok_or(SegmentError::Head)?;
        let built = place.get_or_init(|| {
            let build = |group: usize| build(program, group, &|_| None);
            build(group).unwrap_or_default().into()
        });
        part(&PackedGroup::new(built)?)
    }

    /// Makes sure that groups are there, in parallel where they must be put together first.
    pub(crate) fn prepare(&self, program: &Program, groups: std::ops::Range<usize>) {
        groups.into_par_iter().for_each(|group| {
            let missing = self.file.as_ref().and_then(|file| file.group(group)).is_none();
            if let Some(place) = self.groups.get(group).filter(|_| missing) {
                place.get_or_init(|| build(program, group, &|_| None).unwrap_or_default().into());
            }
        });
    }

    /// What is told of all members of a group. Of a group that can't be read nothing is known.
    pub(crate) fn marks(&self, program: &Program, group: usize) -> Marks {
        let marks = program.unpacked().marks(group, || self.part(program, group, |packed| packed.marks()));
        let marks = marks.unwrap_or(Marks { unknown: Members::MAX, ..Marks::default() });
        if marks.unknown != 0 {
            self.told.call_once(|| {
                log::warn!(
                    "{}: parts of the index are damaged or missing, so that searches take longer; `ktracer index` makes them again",
                    program.trace().path().display()
                );
            });
        }
        marks
    }

    /// The blocks that a group's members ran.
    pub(crate) fn blocks(&self, program: &Program, group: usize) -> Arc<Vec<BlockUse>> {
        let blocks = || self.part(program, group, |packed| packed.blocks()).map(Arc::new);
        program.unpacked().blocks(group, blocks).unwrap_or_default()
    }

    /// The physical pages that they touched.
    pub(crate) fn pages(&self, program: &Program, group: usize) -> Arc<Vec<PageUse>> {
        let pages = || self.part(program, group, |packed| packed.pages()).map(Arc::new);
        program.unpacked().pages(group, pages).unwrap_or_default()
    }

    /// The virtual pages that they accessed.
    pub(crate) fn virtual_pages(&self, program: &Program, group: usize) -> Arc<Vec<VirtualUse>> {
        let pages = || self.part(program, group, |packed| packed.virtual_pages()).map(Arc::new);
        program.unpacked().virtual_pages(group, pages).unwrap_or_default()
    }

    /// Segments before `segment` that may have changed a physical page, latest first, up to the start of the recording or to
    /// where segments are missing.
    pub(crate) fn writers<'a>(
        &'a self,
        program: &'a Program,
        page: u64,
        segment: usize,
    ) -> impl Iterator<Item = usize> + 'a {
        let floor = self.known_from(segment).unwrap_or(0);
        let groups = (floor / GROUP_SEGMENTS..segment.div_ceil(GROUP_SEGMENTS)).rev();
        groups.flat_map(move |group| {
            let pages = self.pages(program, group);
            let found = pages.binary_search_by_key(&page, |page| page.page).ok();
            let writers = found.and_then(|at| pages.get(at)).map_or(0, |page| page.writers);
            let members = writers | self.marks(program, group).unknown;
            let numbers = (0..GROUP_SEGMENTS).rev().filter(move |member| members >> member & 1 != 0);
            numbers
                .map(move |member| group * GROUP_SEGMENTS + member)
                .filter(move |number| (floor..segment).contains(number))
        })
    }

    /// The first segment from which on none is missing up to the start of `segment`; `None`: none is missing from the start of
    /// the recording on.
    pub(crate) fn known_from(&self, segment: usize) -> Option<usize> {
        let before = self.gaps.partition_point(|gap| *gap <= segment);
        self.gaps.get(before.checked_sub(1)?).copied()
    }
}

/// Whether a virtual page came to show something else in the middle of a segment.
fn remapped(trace: &Trace, segment: &SegmentEntry) -> Result<bool, TraceError> {
    let streams = trace.read_stream(segment, Stream::Surprises)?;
    let mut cursor = Cursor::default();
    while let Ok(Some((_, kind))) = cursor.next_surprise(&streams) {
        if kind == surprise::REMAP {
            return Ok(true);
        }
    }
    // What can't be read may have been one.
    Ok(!cursor.at_end(&streams, Stream::Surprises))
}

/// Puts a group together. `rebuild` is asked about segments whose index can't be read.
pub(crate) fn build(
    program: &Program,
    group: usize,
    rebuild: &dyn Fn(usize) -> Option<Arc<Rebuilt>>,
) -> std::io::Result<Vec<u8>> {
    let trace = program.trace();
    let mut builder = GroupBuilder::default();
    for (member, segment) in index_file::members(trace, group).iter().enumerate() {
        let index = trace.read_index(segment).ok().flatten().and_then(|packed| packed.index().ok());
        let rebuilt = if index.is_none() { rebuild(group * GROUP_SEGMENTS + member) } else { None };
        let index: Option<&Index> = index.as_ref().or(rebuilt.as_deref().map(Rebuilt::index));
        let lengths = trace.read_stream_lengths(segment);
        let facts = match (index, remapped(trace, segment), lengths) {
            (Some(index), Ok(remapped), Ok(lengths)) => {
                let has = |stream: Stream| lengths.get(stream as usize).is_some_and(|length| *length > 0);
                let (device_writes, device_accesses) = (has(Stream::DeviceWrites), has(Stream::Devices));
                Some(Facts { index, remapped, device_writes, device_accesses })
            }
            _ => None,
        };
        builder.add(member, facts);
    }
    builder.finish()
}

/// What became of an index that was made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Groups of segments that were written.
    pub groups: usize,
    /// Segments whose own index can't be read and which were executed instead.
    pub executed: usize,
    /// Segments of which nothing is known, since they are damaged, or not proved.
    pub unknown: usize,
}

/// Makes `index.kt` anew, on rayon's current thread pool. Segments whose index can't be read are executed.
pub fn write_index(program: &Arc<Program>, directory: &Path) -> std::io::Result<Outcome> {
    let count = index_file::group_count(program.trace());
    let executed = std::sync::atomic::AtomicUsize::new(0);
    let rebuild = |segment: usize| {
        let rebuilt = program.rebuilt(segment);
        executed.fetch_add(usize::from(rebuilt.is_some()), std::sync::atomic::Ordering::Relaxed);
        rebuilt
    };
    let groups: Vec<Vec<u8>> = (0..count)
        .into_par_iter()
        .map(|group| build(program, group, &rebuild))
        .collect::<std::io::Result<_>>()?;
    let unknown = groups.iter().map(|group| {
        let marks = PackedGroup::new(group).and_then(|group| group.marks());
        marks.map_or(0, |marks| marks.unknown.count_ones() as usize)
    });
    let outcome = Outcome { groups: count, executed: executed.into_inner(), unknown: unknown.sum() };
    index_file::write(directory, program.trace(), &groups)?;
    Ok(outcome)
}
