//! Which guest-physical addresses show which memory: reads QEMU's `info mtree -f -o`.
//!
//! It lists the flattened address spaces of the machine, for people (`mtree_print_flatview` in QEMU's
//! `system/memory.c`). QMP's `pmemsave` copies memory out of the space named `memory`; the guest's processors have
//! spaces of their own, which may show other things at the same address (secure RAM of TrustZone). Only what all of
//! them agree on is memory of which the image can say what a processor finds there.

use std::collections::{HashMap, HashSet};

use ktrace_format::memory::{Region, RegionKind};

/// The address space that `pmemsave` copies from.
const COPIED_SPACE: &str = "memory";

/// Why the monitor's answer is of no use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MtreeError {
    /// There is no address space of the name that every machine has.
    #[error("QEMU's `info mtree -f` lists no address space named \"{COPIED_SPACE}\"")]
    NoSystemMemory,
    /// A line is not as expected: QEMU's output has changed.
    #[error("cannot read this line of QEMU's `info mtree -f`: {0:?}")]
    BadLine(String),
}

/// One flat view: what one or more address spaces show.
#[derive(Debug, Default)]
struct View {
    spaces: Vec<String>,
    ranges: Vec<Range>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    /// The last address, as a range may end with the address space.
    last: u64,
    /// `None` for everything that is not plain memory.
    kind: Option<RegionKind>,
    name: String,
    /// Whose memory it is, as QEMU names it: two devices may call theirs the same.
    owner: String,
    offset: u64,
}

impl Range {
    /// Whether both show the same bytes where they overlap.
    fn agrees_with(&self, other: &Range) -> bool {
        (self.kind, &self.name, &self.owner) == (other.kind, &other.name, &other.owner)
            && self.offset.wrapping_sub(self.start) == other.offset.wrapping_sub(other.start)
    }
}

/// The memory that all processors of the guest see alike, in ascending order of addresses.
pub fn memory_regions(listing: &str) -> Result<Vec<Region>, MtreeError> {
    let views = parse(listing)?;
    let copied = views
        .iter()
        .find(|view| view.spaces.iter().any(|space| space == COPIED_SPACE))
        .ok_or(MtreeError::NoSystemMemory)?;
    let mut ranges: Vec<Range> = copied.ranges.iter().filter(|range| range.kind.is_some()).cloned().collect();
    for view in views.iter().filter(|view| view.spaces.iter().any(|space| is_processor_space(space))) {
        for other in &view.ranges {
            ranges = ranges.into_iter().flat_map(|range| without_disagreement(range, other)).collect();
        }
    }
    Ok(name_blocks(ranges))
}

/// Processors' spaces are `cpu-memory-0`, `cpu-secure-memory-0`, …. The tag spaces hold allocation tags, not memory.
fn is_processor_space(space: &str) -> bool {
    space.starts_with("cpu-") && !space.contains("tag")
}

/// `range` without the addresses at which `other` shows something else.
fn without_disagreement(range: Range, other: &Range) -> Vec<Range> {
    if other.last < range.start || range.last < other.start || range.agrees_with(other) {
        return vec![range];
    }
    let mut rest = Vec::new();
    if range.start < other.start {
        rest.push(Range { last: other.start - 1, ..range.clone() });
    }
    if other.last < range.last {
        let start = other.last + 1;
        rest.push(Range { start, offset: range.offset + (start - range.start), ..range });
    }
    rest
}

/// Regions, whose names tell blocks of memory apart even where QEMU's do not.
fn name_blocks(ranges: Vec<Range>) -> Vec<Region> {
    let mut owners: HashMap<&str, HashSet<&str>> = HashMap::new();
    for range in &ranges {
        owners.entry(&range.name).or_default().insert(&range.owner);
    }
    ranges
        .iter()
        .filter_map(|range| {
            let ambiguous = owners.get(range.name.as_str()).is_some_and(|owners| owners.len() > 1);
            let name = if ambiguous { format!("{} {}", range.name, range.owner) } else { range.name.clone() };
            // A range that ends with the address space has no length that a region can hold; none is RAM in practice.
            let length = (range.last - range.start).checked_add(1)?;
            range.start.checked_add(length)?;
            Some(Region { start: range.start, length, kind: range.kind?, name, block_offset: range.offset })
        })
        .collect()
}

fn parse(listing: &str) -> Result<Vec<View>, MtreeError> {
    let mut views: Vec<View> = Vec::new();
    for line in listing.lines().map(str::trim_end) {
        if line.starts_with("FlatView #") {
            views.push(View::default());
        } else if let (Some(rest), Some(view)) = (line.strip_prefix(" AS \""), views.last_mut()) {
            let (name, _) = rest.split_once('"').ok_or_else(|| MtreeError::BadLine(line.to_owned()))?;
            view.spaces.push(name.to_owned());
        } else if let (Some(rest), Some(view)) = (line.strip_prefix("  "), views.last_mut())
            && rest.trim() != "No rendered FlatView"
        {
            view.ranges.push(parse_range(rest).ok_or_else(|| MtreeError::BadLine(line.to_owned()))?);
        }
    }
    Ok(views)
}

/// `START-LAST (prio N, KIND): NAME @OFFSET owner:{…} parent:{…}`; a name may hold spaces, the offset may be missing.
fn parse_range(line: &str) -> Option<Range> {
    let (addresses, rest) = line.split_once(" (prio ")?;
    let (start, last) = addresses.split_once('-')?;
    let (start, last) = (hexadecimal(start)?, hexadecimal(last)?);
    let (_, rest) = rest.split_once(", ")?;
    let (kind, rest) = rest.split_once("): ")?;
    let kind = match kind.strip_prefix("nv-").unwrap_or(kind) {
        "ram" => Some(RegionKind::Ram),
        "rom" => Some(RegionKind::Rom),
        "romd" => Some(RegionKind::RomDevice),
        // Devices ("i/o"), and RAM that a device of the host may change ("ramd").
        _ => None,
    };
    let owner_at = [" owner:{", " parent:{", " orphan"].iter().filter_map(|mark| rest.find(mark)).min();
    let (rest, owner) = rest.split_at(owner_at.unwrap_or(rest.len()));
    let (name, offset) = match rest.rsplit_once(" @") {
        Some((name, offset)) if offset.len() == 16 && hexadecimal(offset).is_some() => {
            (name, hexadecimal(offset)?)
        }
        _ => (rest, 0),
    };
    (start <= last).then(|| Range {
        start,
        last,
        kind,
        name: name.to_owned(),
        owner: owner.trim_start().to_owned(),
        offset,
    })
}

fn hexadecimal(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use RegionKind::{Ram, RomDevice};

    /// Output of QEMU 10.0.2: `virt -m 64 -bios u-boot.bin`, `versatilepb -m 64`, `vexpress-a15 -m 64`,
    /// `virt,secure=on -m 64` and `mps2-an385`.
    const VIRT: &str = include_str!("fixtures/virt.mtree");
    const VERSATILE: &str = include_str!("fixtures/versatilepb.mtree");
    const VEXPRESS: &str = include_str!("fixtures/vexpress-a15.mtree");
    const VIRT_SECURE: &str = include_str!("fixtures/virt-secure.mtree");
    const MPS2: &str = include_str!("fixtures/mps2.mtree");

    fn regions(listing: &str) -> Vec<(u64, u64, RegionKind, String, u64)> {
        memory_regions(listing)
            .unwrap()
            .into_iter()
            .map(|region| (region.start, region.length, region.kind, region.name, region.block_offset))
            .collect()
    }

    fn region(start: u64, length: u64, kind: RegionKind, name: &str) -> (u64, u64, RegionKind, String, u64) {
        (start, length, kind, name.to_owned(), 0)
    }

    #[test]
    fn virt_has_two_flashes_and_ram() {
        assert_eq!(
            regions(VIRT),
            [
                region(0, 64 << 20, RomDevice, "virt.flash0"),
                region(0x400_0000, 64 << 20, RomDevice, "virt.flash1"),
                region(0x4000_0000, 64 << 20, Ram, "mach-virt.ram"),
            ]
        );
    }

    #[test]
    fn versatile_has_ram_and_flash() {
        assert_eq!(
            regions(VERSATILE),
            [
                region(0, 64 << 20, Ram, "versatile.ram"),
                region(0x3400_0000, 64 << 20, RomDevice, "versatile.flash")
            ]
        );
    }

    #[test]
    fn vexpress_shows_its_flash_twice() {
        let regions = regions(VEXPRESS);
        assert_eq!(regions.len(), 7);
        assert_eq!(regions[0], region(0, 64 << 20, RomDevice, "vexpress.flash0"));
        assert_eq!(regions[1], region(0x800_0000, 64 << 20, RomDevice, "vexpress.flash0"));
        assert_eq!(regions[6], region(0x8000_0000, 64 << 20, Ram, "vexpress.highmem"));
    }

    #[test]
    fn memory_that_only_the_secure_world_sees_is_left_out() {
        assert_eq!(
            regions(VIRT_SECURE),
            [
                region(0x400_0000, 64 << 20, RomDevice, "virt.flash1"),
                region(0x4000_0000, 64 << 20, Ram, "mach-virt.ram")
            ]
        );
    }

    #[test]
    fn a_space_of_the_processors_own_may_show_the_same_memory() {
        let regions = regions(MPS2);
        assert_eq!(regions.len(), 9);
        assert_eq!(regions[3], region(0x100_4000, 0x4000, Ram, "mps.blockram"));
        assert_eq!(regions[8], region(0x2100_0000, 16 << 20, Ram, "mps.ram"));
    }

    #[test]
    fn addresses_on_which_spaces_disagree_are_cut_out() {
        let listing = "\
FlatView #0
 AS \"memory\", root: system
  0000000000000000-000000000000ffff (prio 0, ram): a ram @0000000000000100
FlatView #1
 AS \"cpu-secure-memory-0\", root: secure
  0000000000000000-0000000000000fff (prio 0, ram): a ram @0000000000000100
  0000000000001000-0000000000001fff (prio 0, i/o): device
  0000000000002000-0000000000002fff (prio 0, ram): a ram @0000000000002100
  0000000000003000-0000000000003fff (prio 0, ram): a ram @0000000000003000
  0000000000004000-0000000000004fff (prio 0, rom): a ram @0000000000004100
";
        let ram = |start, length| (start, length, Ram, "a ram".to_owned(), start + 0x100);
        assert_eq!(regions(listing), [ram(0, 0x1000), ram(0x2000, 0x1000), ram(0x5000, 0xb000)]);
    }

    #[test]
    fn equal_names_of_different_owners_are_told_apart() {
        let listing = "\
FlatView #0
 AS \"memory\", root: system\r
  0000000000000000-0000000000000fff (prio 0, rom): boot owner:{dev id=a}\r
  0000000000001000-0000000000001fff (prio 0, nv-ram): boot owner:{dev id=b}\r
  0000000000002000-0000000000002fff (prio 0, ramd): host orphan\r
";
        let names: Vec<String> = regions(listing).into_iter().map(|region| region.3).collect();
        assert_eq!(names, ["boot owner:{dev id=a}", "boot owner:{dev id=b}"]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert_eq!(memory_regions(""), Err(MtreeError::NoSystemMemory));
        let listing = " AS \"memory\"\nFlatView #0\n AS \"memory\", root: system\n  nonsense\n";
        assert_eq!(memory_regions(listing), Err(MtreeError::BadLine("  nonsense".to_owned())));
        let listing = "FlatView #0\n AS \"memory\"\n  0000000000000001-0000000000000000 (prio 0, ram): a\n";
        assert!(matches!(memory_regions(listing), Err(MtreeError::BadLine(_))));
    }

    #[test]
    fn ranges_that_reach_the_end_of_the_address_space_do_no_harm() {
        let listing = "\
FlatView #0
 AS \"memory\", root: system
  0000000000000000-ffffffffffffffff (prio 0, ram): all
 AS \"cpu-memory-0\", root: system
";
        assert_eq!(regions(listing), []);
    }
}
