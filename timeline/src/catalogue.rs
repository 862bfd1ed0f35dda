//! Which segments may have what somebody looks for, and which changed a page of memory: from the groups in `index.kt`
//! ([`ktrace_format::group`]), or, where there is none, from groups that are put together from the segments' indexes when they
//! are first needed. Who has to wait for that is told why.

use std::sync::{Arc, Once, OnceLock};

use ktrace_format::group::{
    BlockUse, Facts, GROUP_SEGMENTS, GroupBuilder, Marks, Members, PackedGroup, PageUse, VirtualUse,
};
use ktrace_format::index_file;
use ktrace_format::reader::SegmentEntry;
use ktrace_format::segment::cursor::Cursor;
use ktrace_format::segment::index::Index;
use ktrace_format::segment::{SegmentError, Stream, surprise};
use ktrace_format::{Trace, TraceError};
use rayon::prelude::*;

use crate::program::Program;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Catalogue {
    /// Those that `index.kt` does not have, once they are needed.
    groups: Box<[OnceLock<Box<[u8]>>]>,
    /// Segments before which others are missing, rising.
    gaps: Vec<usize>,
    told_of: ToldOf,
}

/// What people have been told once, which is enough.
#[derive(Debug)]
struct ToldOf {
    /// `index.kt` lacks groups.
    groups: Once,
    /// Indexes of segments can't be read.
    indexes: Once,
    /// Nothing can be known of a segment.
    unknown: Once,
}

impl Catalogue {
    pub(crate) fn new(trace: &Trace) -> Catalogue {
        let mut gaps = Vec::new();
        let mut end = 0;
        for (number, segment) in trace.segments().iter().enumerate() {
            if segment.first != end {
                gaps.push(number);
            }
            end = segment.end();
        }
        Catalogue {
            groups: (0..index_file::group_count(trace)).map(|_| OnceLock::new()).collect(),
            gaps,
            told_of: ToldOf { groups: Once::new(), indexes: Once::new(), unknown: Once::new() },
        }
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// A group that `index.kt` does not have.
    fn built(&self, program: &Program, group: usize) -> Option<&[u8]> {
        let built = self.groups.get(group)?.get_or_init(|| {
            // With one group there is nothing to be spared.
            if self.len() > 1 {
                self.told_of.groups.call_once(|| {
                    log::warn!(
                        "{} is missing, damaged or of another trace, so that searches read the index of each segment and take \
                         longer; `ktracer index {}` makes it again",
                        index_file::INDEX_FILE,
                        program.directory().display()
                    );
                });
            }
            build(program, group, &|number| program.read_index(number)).unwrap_or_default().into()
        });
        Some(built)
    }

    /// Asks the group for a part of it.
    fn part<T>(
        &self,
        program: &Program,
        group: usize,
        part: impl Fn(&PackedGroup<'_>) -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        let in_file = program.index_file().and_then(|file| file.group(group));
        if let Some(Ok(part)) = in_file.map(|packed| part(&packed)) {
            return Ok(part);
        }
        part(&PackedGroup::new(self.built(program, group).ok_or(SegmentError::Head)?)?)
    }

    /// Makes sure that groups are there, in parallel where they must be put together first.
    pub(crate) fn prepare(&self, program: &Program, groups: std::ops::Range<usize>) {
        groups.into_par_iter().for_each(|group| {
            if program.index_file().and_then(|file| file.group(group)).is_none() {
                self.built(program, group);
            }
        });
    }

    /// What is told of all members of a group. Of a group that can't be read nothing is known.
    pub(crate) fn marks(&self, program: &Program, group: usize) -> Marks {
        let marks = program.unpacked().marks(group, || self.part(program, group, |packed| packed.marks()));
        let marks = marks.unwrap_or(Marks { unknown: Members::MAX, ..Marks::default() });
        if marks.unknown != 0 {
            self.tell_of_unknown(program, group);
        }
        marks
    }

    /// A segment's index can't be read: tells people what to do about it.
    pub(crate) fn tell_of_lacking(&self, program: &Program, segment: usize) {
        let (group, member) = (segment / GROUP_SEGMENTS, segment % GROUP_SEGMENTS);
        if self.marks(program, group).unknown >> member & 1 == 0 {
            self.tell_to_index(program);
        }
    }

    fn tell_to_index(&self, program: &Program) {
        self.told_of.indexes.call_once(|| {
            log::warn!(
                "{}: the indexes of some segments are damaged or missing, so that searches execute these segments and take \
                 longer; `ktracer index {}` makes them again",
                program.trace().path().display(),
                program.directory().display()
            );
        });
    }

    /// Nothing is known of a member of a group.
    fn tell_of_unknown(&self, program: &Program, group: usize) {
        // What `index.kt` says is unknown could not be found by executing it.
        if program.index_file().and_then(|file| file.group(group)).is_none() {
            return self.tell_to_index(program);
        }
        self.told_of.unknown.call_once(|| {
            log::warn!(
                "{}: some segments are damaged, or not proved, so that what they did is not known: searches look into each of \
                 them, and take longer; `ktracer verify {}` tells which",
                program.trace().path().display(),
                program.directory().display()
            );
        });
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

/// Puts a group together from the indexes of its segments.
pub(crate) fn build(
    program: &Program,
    group: usize,
    index: &dyn Fn(usize) -> Option<Arc<Index>>,
) -> std::io::Result<Vec<u8>> {
    let trace = program.trace();
    let mut builder = GroupBuilder::default();
    for (member, segment) in index_file::members(trace, group).iter().enumerate() {
        let index = index(group * GROUP_SEGMENTS + member);
        let lengths = trace.read_stream_lengths(segment);
        let facts = match (&index, remapped(trace, segment), lengths) {
            (Some(index), Ok(remapped), Ok(lengths)) => {
                let index = &**index;
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
