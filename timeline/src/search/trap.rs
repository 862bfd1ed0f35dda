//! Sees the accesses of watched memory while a segment executes. The pages are guarded ([`Guarded`]), so that only accesses to
//! them take the slow way that leads here.

use std::sync::Arc;

use ktrace_format::shadow::{Guarded, PAGE_BYTES, Shadow};

use super::quarry::{Area, Watch, Watched};
use crate::past::Past;
use crate::view::{Stand, View};

/// Who made an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// An instruction loaded.
    Load,
    /// An instruction stored.
    Store,
    /// A device wrote.
    Device,
}

/// An access of watched memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Which watchpoint.
    pub watchpoint: usize,
    /// Who made it.
    pub who: Who,
    /// Instructions of the segment before it; for a device's write also the one that it follows.
    pub(crate) executed: u64,
    /// Virtual address of its first byte; for a device's write to a virtual range, of the first byte in the range.
    pub address: Option<u32>,
    /// Physical address of its first byte, if it is known.
    pub physical: Option<u64>,
    /// How many bytes; of a device's write, those on one page.
    pub bytes: u64,
    /// Value of a load or store, zero-extended.
    pub value: u128,
    /// Address of the first byte that is in the watched range, in the range's address space.
    pub within: u64,
    /// Number of the device's name, if it is a device's register.
    pub device: Option<u32>,
}

/// A byte of an access.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// Where it is, if it is memory.
    pub(crate) physical: Option<u64>,
    /// What it was, if the segment knew it.
    pub(crate) before: Option<u8>,
    /// A store changes it.
    pub(crate) writable: bool,
}

/// An access as it was before it was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trapped {
    pub(crate) address: u32,
    pub(crate) bytes: usize,
    pub(crate) places: [Place; 16],
    /// Number of the device's name, and the physical address there.
    pub(crate) device: Option<(u32, u64)>,
}

impl Trapped {
    /// Physical address of a byte.
    fn physical(&self, at: usize) -> Option<u64> {
        let device = self.device.filter(|(_, physical)| *physical != u64::MAX);
        match self.places.get(at)?.physical {
            Some(physical) => Some(physical),
            None => device.and_then(|(_, physical)| physical.checked_add(at as u64)),
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Trap {
    watches: Arc<[Watch]>,
    past: Arc<Past>,
    sightings: Vec<Sighting>,
}

fn pages<T: Copy + Into<u64>>(range: &std::ops::RangeInclusive<T>) -> std::ops::RangeInclusive<u64> {
    let page = |address: T| address.into() / PAGE_BYTES as u64;
    page(*range.start())..=page(*range.end())
}

impl Trap {
    /// Waits in a segment whose past this is.
    pub(crate) fn new(watches: Arc<[Watch]>, past: Arc<Past>) -> Trap {
        Trap { watches, past, sightings: Vec::new() }
    }

    /// The pages to guard.
    pub(crate) fn guarded(&self) -> Guarded {
        let mut guarded = Guarded::default();
        for watch in &*self.watches {
            match &watch.area {
                Area::Virtual(range) => {
                    guarded.virtual_pages.push(range.start() >> 12..=range.end() >> 12);
                }
                Area::Physical(ranges) => guarded.physical_pages.extend(ranges.iter().map(pages)),
            }
        }
        guarded
    }

    /// What was seen since somebody last asked.
    pub(crate) fn sightings(&mut self) -> Vec<Sighting> {
        std::mem::take(&mut self.sightings)
    }

    /// Whether an access of so many bytes of memory, on one page, may be one that is waited for.
    pub(crate) fn may_see(&self, address: u32, physical: u64, bytes: usize) -> bool {
        self.watches.iter().any(|watch| match &watch.area {
            Area::Virtual(range) => {
                let (first, last) = (u64::from(*range.start()), u64::from(*range.end()));
                u64::from(address) <= last && u64::from(address) + bytes as u64 > first
            }
            Area::Physical(ranges) => ranges
                .iter()
                .any(|range| physical <= *range.end() && physical + bytes as u64 > *range.start()),
        })
    }

    /// An instruction made an access. `memory` are its bytes at rising addresses.
    pub(crate) fn access(&mut self, now: u64, trapped: &Trapped, store: bool, memory: &[u8], value: u128) {
        for (number, watch) in self.watches.iter().enumerate() {
            if matches!((watch.watched, store), (Watched::Read, true) | (Watched::Write, false)) {
                continue;
            }
            let within = |at: usize| -> Option<u64> {
                match &watch.area {
                    Area::Virtual(range) => {
                        let address = trapped.address.wrapping_add(at as u32);
                        range.contains(&address).then_some(address.into())
                    }
                    Area::Physical(ranges) => {
                        let physical = trapped.physical(at)?;
                        ranges.iter().any(|range| range.contains(&physical)).then_some(physical)
                    }
                }
            };
            let counts = |at: &usize| {
                within(*at).is_some()
                    && (watch.watched != Watched::Change || self.changes(trapped, store, memory, *at))
            };
            let Some(first) = (0..trapped.bytes).find(counts) else { continue };
            self.sightings.push(Sighting {
                watchpoint: number,
                who: if store { Who::Store } else { Who::Load },
                executed: now,
                address: Some(trapped.address),
                physical: trapped.physical(0),
                bytes: trapped.bytes as u64,
                value,
                within: within(first).unwrap_or_default(),
                device: trapped.device.map(|(name, _)| name),
            });
        }
    }

    /// Whether a byte of an access is another than before.
    fn changes(&self, trapped: &Trapped, store: bool, memory: &[u8], at: usize) -> bool {
        let (Some(place), Some(after)) = (trapped.places.get(at), memory.get(at)) else { return false };
        let Some(physical) = place.physical.filter(|_| place.writable || !store) else { return false };
        if trapped.device.is_some() && !store {
            // A load that also touches a device shows nothing of memory.
            return false;
        }
        let before = place.before.or_else(|| self.older(physical));
        before.map_or(store, |before| before != *after)
    }

    fn older(&self, physical: u64) -> Option<u8> {
        self.past.byte(physical / PAGE_BYTES as u64, physical as usize % PAGE_BYTES)
    }

    /// A device is about to write to a physical page while the processor stands here.
    pub(crate) fn device_write(
        &mut self,
        shadow: &Shadow,
        stand: Stand,
        page: u64,
        offset: usize,
        bytes: &[u8],
    ) {
        let Trap { watches, past, sightings } = self;
        let view = View { shadow, past, stand };
        let start = page * PAGE_BYTES as u64 + offset as u64;
        let changes = |at: usize| {
            let before = view.seen(page, offset + at).or_else(|| past.byte(page, offset + at));
            before != bytes.get(at).copied()
        };
        for (number, watch) in watches.iter().enumerate() {
            let first = |range: std::ops::Range<usize>| {
                let mut range = range;
                range.find(|at| watch.watched != Watched::Change || changes(*at))
            };
            let found = match &watch.area {
                _ if watch.watched == Watched::Read => None,
                Area::Physical(ranges) => ranges.iter().find_map(|range| {
                    let from = range.start().saturating_sub(start).min(bytes.len() as u64) as usize;
                    let to =
                        range.end().checked_sub(start)?.saturating_add(1).min(bytes.len() as u64) as usize;
                    let at = first(from..to)?;
                    Some((None, start + at as u64))
                }),
                Area::Virtual(range) => {
                    let mut pages = range.start() >> 12..=range.end() >> 12;
                    pages.find_map(|virtual_page| {
                        let base = virtual_page << 12;
                        // Offsets in the page of what of it is watched.
                        let low = range.start().saturating_sub(base) as usize;
                        let high = ((range.end() - base) as usize).min(PAGE_BYTES - 1);
                        let from = low.saturating_sub(offset).min(bytes.len());
                        let to = (high + 1).saturating_sub(offset).min(bytes.len());
                        if from >= to || !view.may_show(base, page) {
                            return None;
                        }
                        let at = first(from..to)?;
                        let address = base + (offset + at) as u32;
                        Some((Some(address), u64::from(address)))
                    })
                }
            };
            if let Some((address, within)) = found {
                sightings.push(Sighting {
                    watchpoint: number,
                    who: Who::Device,
                    executed: stand.executed,
                    address,
                    physical: Some(start),
                    bytes: bytes.len() as u64,
                    value: 0,
                    within,
                    device: None,
                });
            }
        }
    }
}
