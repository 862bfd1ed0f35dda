//! Which segments may have what is looked for, nearest first.

use std::ops::{Range, RangeInclusive};

use ktrace_format::group::{GROUP_SEGMENTS, Marks, Members, PageUse, VirtualUse};
use ktrace_format::segment::index::Index;
use ktrace_format::shadow::{LINE_BYTES, PAGE_BYTES, Target};

use super::quarry::{Area, Quarry, Watch, Watched};
use crate::program::Program;

/// The way a search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// Segments of a range that may have something, in the order in which a search comes to them.
pub(crate) struct Candidates<'a> {
    program: &'a Program,
    quarry: &'a Quarry,
    direction: Direction,
    /// Segments that have not been looked at.
    rest: Range<usize>,
    /// The group at hand and which of its members may have something.
    group: Option<(usize, Members)>,
    /// Groups that need not be put together any more.
    prepared: Range<usize>,
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(
        program: &'a Program,
        quarry: &'a Quarry,
        direction: Direction,
        segments: Range<usize>,
    ) -> Candidates<'a> {
        Candidates { program, quarry, direction, rest: segments, group: None, prepared: 0..0 }
    }

    fn members_of(&mut self, group: usize) -> Members {
        if let Some((_, members)) = self.group.filter(|(number, _)| *number == group) {
            return members;
        }
        if !self.prepared.contains(&group) {
            // Where there is no `index.kt` they are put together, one on each thread: more would keep Ctrl-C waiting.
            let ahead = rayon::current_num_threads();
            self.prepared = match self.direction {
                Direction::Forward => group..(group + ahead).min(self.program.catalogue().len()),
                Direction::Backward => (group + 1).saturating_sub(ahead)..group + 1,
            };
            self.program.catalogue().prepare(self.program, self.prepared.clone());
        }
        let members = members(self.program, self.quarry, group);
        self.group = Some((group, members));
        members
    }

    /// Whether a segment that may have something may only because nothing is known of it.
    fn is_unknown(&self, segment: usize) -> bool {
        let marks = self.program.catalogue().marks(self.program, segment / GROUP_SEGMENTS);
        marks.unknown >> (segment % GROUP_SEGMENTS) & 1 != 0
            || !self.quarry.watches.is_empty() && self.program.index(segment).is_none()
    }
}

/// `Some(None)` says that some were ruled out and the next is still to be found, so that nobody waits for long.
impl Iterator for Candidates<'_> {
    type Item = Option<usize>;

    fn next(&mut self) -> Option<Option<usize>> {
        if self.rest.is_empty() {
            None
        } else {
            let number = match self.direction {
                Direction::Forward => self.rest.start,
                Direction::Backward => self.rest.end - 1,
            };
            let (group, member) = (number / GROUP_SEGMENTS, number % GROUP_SEGMENTS);
            let first = group * GROUP_SEGMENTS;
            let members = self.members_of(group);
            let found = match self.direction {
                Direction::Forward => {
                    let members = members & Members::MAX << member;
                    let next = first + members.trailing_zeros() as usize;
                    self.rest.start = (next + usize::from(members != 0)).min(self.rest.end);
                    (members != 0 && next < self.rest.end).then_some(next)
                }
                Direction::Backward => {
                    let members = members & Members::MAX >> (GROUP_SEGMENTS - 1 - member);
                    let next = first + (GROUP_SEGMENTS - 1).saturating_sub(members.leading_zeros() as usize);
                    let left = if members == 0 { first } else { next };
                    self.rest.end = left.max(self.rest.start);
                    (members != 0 && next >= self.rest.start).then_some(next)
                }
            };
            let found = found.filter(|number| may_have(self.program, self.quarry, *number));
            if found.is_some_and(|number| self.is_unknown(number)) {
                self.program.note_executed_instead();
            }
            Some(found)
        }
    }
}

/// Members of a group that may have something, as far as the group tells.
pub(super) fn members(program: &Program, quarry: &Quarry, group: usize) -> Members {
    let catalogue = program.catalogue();
    let marks = catalogue.marks(program, group);
    let mut members = marks.unknown;
    let mut wanted = quarry.blocks().peekable();
    if wanted.peek().is_some() {
        let blocks = catalogue.blocks(program, group);
        for wanted in wanted {
            let found = blocks.binary_search_by_key(&wanted, |block| block.block).ok();
            members |= found.and_then(|at| blocks.get(at)).map_or(0, |block| block.members);
        }
    }
    if !quarry.watches.is_empty() {
        let pages = catalogue.pages(program, group);
        let virtual_pages = catalogue.virtual_pages(program, group);
        for watch in &*quarry.watches {
            members |= of_watch(watch, program, marks, &pages, &virtual_pages);
        }
    }
    members
}

/// The lines of a page that a range of bytes of the address space touches.
fn lines(page: u64, range: &RangeInclusive<u64>) -> u64 {
    let base = page * PAGE_BYTES as u64;
    let first = range.start().saturating_sub(base) / LINE_BYTES as u64;
    let last = ((range.end() - base) / LINE_BYTES as u64).min(63);
    u64::MAX >> (63 - last) & u64::MAX << first.min(63)
}

/// Who touched these lines of a page in the way that is watched.
fn users(page: &PageUse, lines: u64, watched: Watched) -> Members {
    let written = if page.written & lines != 0 { page.writers } else { 0 };
    // A load from a line that the segment has written does not count the line as read.
    if sees_reads(watched) && page.read & lines != 0 { written | page.readers } else { written }
}

fn find(pages: &[PageUse], page: u64) -> Option<&PageUse> {
    pages.binary_search_by_key(&page, |page| page.page).ok().and_then(|at| pages.get(at))
}

fn of_watch(
    watch: &Watch,
    program: &Program,
    marks: Marks,
    pages: &[PageUse],
    virtual_pages: &[VirtualUse],
) -> Members {
    let watched = watch.watched;
    let mut members = 0;
    match &watch.area {
        Area::Physical(ranges) => {
            for range in ranges {
                let (first, last) = (range.start() / PAGE_BYTES as u64, range.end() / PAGE_BYTES as u64);
                let from = pages.partition_point(|page| page.page < first);
                for page in pages.get(from..).unwrap_or_default().iter().take_while(|page| page.page <= last)
                {
                    members |= users(page, lines(page.page, range), watched);
                }
                if stores_may_be_lost(watched) {
                    let shown = virtual_pages.iter().flat_map(|page| &page.targets);
                    for (_, shown) in shown
                        .filter(|(target, _)| matches!(target, Target::Rom(number) if (first..=last).contains(number)))
                    {
                        members |= shown;
                    }
                    // ROM may also have been shown for a while only.
                    members |= marks.remapped & if may_be_rom(program, range) { Members::MAX } else { 0 };
                }
                let beside = reached(range) != (first..=last);
                if !is_memory(program, range) && watched != Watched::Change || beside && sees_reads(watched) {
                    members |= marks.device_accesses;
                }
            }
        }
        Area::Virtual(range) => {
            let wide = u64::from(*range.start())..=u64::from(*range.end());
            let (first, last) = (range.start() >> 12, range.end() >> 12);
            let from = virtual_pages.partition_point(|page| page.page < first);
            let these = virtual_pages.get(from..).unwrap_or_default();
            for page in these.iter().take_while(|page| page.page <= last) {
                let lines = lines(page.page.into(), &wide);
                for (target, shown) in &page.targets {
                    let users =
                        |number: &u64| find(pages, *number).map_or(0, |page| users(page, lines, watched));
                    members |= match target {
                        Target::Ram(number) => shown & users(number),
                        Target::Rom(_) if stores_may_be_lost(watched) => *shown,
                        Target::Rom(number) => shown & users(number),
                        Target::Device if watched == Watched::Change => 0,
                        Target::Device => *shown,
                    } | shown & marks.remapped;
                }
            }
            if sees_reads(watched) {
                let near = reached(&wide);
                let neighbours = virtual_pages.iter().filter(|page| near.contains(&page.page.into()));
                for (_, shown) in neighbours
                    .flat_map(|page| &page.targets)
                    .filter(|(target, _)| matches!(target, Target::Device))
                {
                    members |= shown;
                }
            }
            if watched != Watched::Read {
                // What devices wrote may be behind the range at that time, whether an access shows that or not.
                let written = pages.iter().filter(|page| {
                    (first..=last).any(|virtual_page| page.written & lines(virtual_page.into(), &wide) != 0)
                });
                members |= marks.device_writes & written.fold(0, |members, page| members | page.writers);
            }
        }
    }
    members
}

/// The longest access, in bytes.
const LONGEST_ACCESS: u64 = 16;

/// The pages from which one access reaches into a range. A load that reaches from a device's page into memory is the device's as a
/// whole, so that no index counts a line of memory as read.
fn reached(range: &RangeInclusive<u64>) -> RangeInclusive<u64> {
    let page = PAGE_BYTES as u64;
    let last = range.end().saturating_add(LONGEST_ACCESS - 1);
    range.start().saturating_sub(LONGEST_ACCESS - 1) / page..=last / page
}

fn sees_reads(watched: Watched) -> bool {
    matches!(watched, Watched::Read | Watched::Access)
}

/// Stores to ROM count, although they change nothing, which an index does not tell.
fn stores_may_be_lost(watched: Watched) -> bool {
    matches!(watched, Watched::Write | Watched::Access)
}

/// Whether all of a physical range is memory, so that accesses of devices can't lie in it.
fn is_memory(program: &Program, range: &RangeInclusive<u64>) -> bool {
    let region = program.image().and_then(|image| image.region(*range.start()));
    region.is_some_and(|region| *range.end() - region.start < region.length)
}

fn may_be_rom(program: &Program, range: &RangeInclusive<u64>) -> bool {
    let Some(image) = program.image() else { return true };
    let ram = |address: u64| {
        image.region(address).is_some_and(|region| region.kind == ktrace_format::memory::RegionKind::Ram)
    };
    !(is_memory(program, range) && ram(*range.start()))
}

/// Whether a segment may have something, as far as its own index tells.
fn may_have(program: &Program, quarry: &Quarry, segment: usize) -> bool {
    // The group is certain of blocks.
    if quarry.watches.is_empty() {
        return true;
    }
    let Some(index) = program.index(segment) else { return true };
    if quarry.blocks().any(|block| index.blocks.binary_search(&block).is_ok()) {
        return true;
    }
    let member = 1 << (segment % GROUP_SEGMENTS);
    let marks = program.catalogue().marks(program, segment / GROUP_SEGMENTS);
    if marks.unknown & member != 0 {
        return true;
    }
    let (pages, virtual_pages) = uses(&index, member);
    quarry.watches.iter().any(|watch| of_watch(watch, program, marks, &pages, &virtual_pages) & member != 0)
}

/// An index as a group of one.
fn uses(index: &Index, member: Members) -> (Vec<PageUse>, Vec<VirtualUse>) {
    let flag = |lines: u64| if lines == 0 { 0 } else { member };
    let pages = index.pages.iter().map(|lines| PageUse {
        page: lines.page,
        read: lines.read,
        written: lines.written,
        readers: flag(lines.read),
        writers: flag(lines.written),
    });
    let virtual_pages = index
        .mappings
        .iter()
        .map(|(page, target)| VirtualUse { page: *page, targets: vec![(*target, member)] });
    (pages.collect(), virtual_pages.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segment 0 shows memory at 0x4000 and a device behind it, segment 1 only the memory; neither has read a line of it.
    #[test]
    fn a_load_that_reaches_into_a_device_leaves_no_line() {
        let program = Program::open(&crate::sample::directory().unwrap()).unwrap();
        let pages = [PageUse { page: 0x40004, read: 0, written: 0, readers: 0, writers: 0 }];
        let virtual_pages = [
            VirtualUse { page: 4, targets: vec![(Target::Ram(0x40004), 3)] },
            VirtualUse { page: 5, targets: vec![(Target::Device, 1)] },
        ];
        let marks = Marks { device_accesses: 1, ..Marks::default() };
        let members =
            |area, watched| of_watch(&Watch { area, watched }, &program, marks, &pages, &virtual_pages);
        for (first, watched, expected) in [
            (0x4ffa, Watched::Read, 1),
            (0x4ff1, Watched::Access, 1),
            (0x4fed, Watched::Read, 0),
            (0x4ffa, Watched::Write, 0),
            (0x4ffa, Watched::Change, 0),
        ] {
            assert_eq!(
                members(Area::Virtual(first..=first + 3), watched),
                expected,
                "{first:#x} {watched:?}"
            );
            let physical = 0x4000_0000 + u64::from(first);
            let area = Area::Physical(vec![physical..=physical + 3]);
            assert_eq!(members(area, watched), expected, "{physical:#x} {watched:?}");
        }
    }
}
