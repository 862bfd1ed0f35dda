//! Watchpoints: ranges of memory whose accesses stop the run.
//!
//! `watch` stops where a byte of the range changes its value, as gdb shows only those writes anyway. An access is told before it
//! is made, in the direction of the run; gdb, which expects that of ARM and MIPS targets, then makes one more step that way
//! without watchpoints (`gdb-notes.md`, finding 1).

use gdbstub::target::TargetResult;
use gdbstub::target::ext::breakpoints::{HwWatchpoint, WatchKind};
use ktrace_timeline::search::{AddressSpace, MemoryRange, Watched, Watchpoint};
use ktrace_timeline::{ReplayError, Stop, StopAt};

use crate::resume::Direction;
use crate::target::Guest;
use ktrace_format::Position;

/// More watchpoints than any client uses; a bound, since they come from outside.
const MOST_WATCHPOINTS: usize = 1024;
/// How many positions are looked through at once for steps that a client makes one by one.
const AHEAD: u64 = 1 << 20;

/// The watchpoints that the present client has set.
#[derive(Clone, Debug, Default)]
pub struct WatchpointTable {
    watchpoints: Vec<Watchpoint>,
    /// What is known of the accesses around the present position, for each direction.
    known: [Option<Known>; 2],
}

/// The next access in one direction.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Seen from here; nothing is between this and the access.
    from: u64,
    /// Where one stops before it, or where nothing more is known.
    to: u64,
    access: Option<Stop>,
}

fn watched(kind: WatchKind) -> Watched {
    match kind {
        WatchKind::Write => Watched::Change,
        WatchKind::Read => Watched::Read,
        WatchKind::ReadWrite => Watched::Access,
    }
}

impl WatchpointTable {
    fn insert(&mut self, watchpoint: Watchpoint) -> bool {
        self.known = [None; 2];
        let there = self.watchpoints.contains(&watchpoint);
        if !there && self.watchpoints.len() < MOST_WATCHPOINTS {
            self.watchpoints.push(watchpoint);
            return true;
        }
        there
    }

    fn remove(&mut self, watchpoint: &Watchpoint) {
        self.known = [None; 2];
        self.watchpoints.retain(|known| known != watchpoint);
    }

    /// All of them.
    pub fn watchpoints(&self) -> &[Watchpoint] {
        &self.watchpoints
    }

    /// What a client calls a watchpoint.
    pub fn kind(&self, number: usize) -> WatchKind {
        match self.watchpoints.get(number).map(|watchpoint| watchpoint.watched) {
            Some(Watched::Read) => WatchKind::Read,
            Some(Watched::Access) => WatchKind::ReadWrite,
            Some(Watched::Write | Watched::Change) | None => WatchKind::Write,
        }
    }
}

impl Guest {
    /// The access of watched memory that is the next thing to happen in a direction, if it is one. The guest stays where it is.
    pub fn access_here(
        &mut self,
        direction: Direction,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Stop>, ReplayError> {
        if self.watchpoints.watchpoints.is_empty() {
            return Ok(None);
        }
        let here = self.replay.position();
        let slot = direction as usize;
        let covers = |known: &Known| match direction {
            Direction::Forward => (known.from..=known.to).contains(&here.0),
            Direction::Backward => (known.to..=known.from).contains(&here.0),
        };
        let known = self.watchpoints.known.get(slot).copied().flatten().filter(covers);
        // Where it ends without an access it says nothing of what follows.
        let known = match known.filter(|known| known.access.is_some() || known.to != here.0) {
            Some(known) => known,
            None => {
                let limit = match direction {
                    Direction::Forward => here.0.saturating_add(AHEAD).min(self.replay.end().0),
                    Direction::Backward => here.0.saturating_sub(AHEAD),
                };
                let watchpoints = self.watchpoints.watchpoints.clone();
                let stop = StopAt { watchpoints, position: Some(Position(limit)), ..StopAt::default() };
                let stopped = match direction {
                    Direction::Forward => self.replay.run_forward(&stop, cancelled),
                    Direction::Backward => self.replay.run_backward(&stop, cancelled),
                };
                let to = self.replay.position().0;
                self.replay.seek(here)?;
                let access = Some(stopped?).filter(|stop| matches!(stop, Stop::Watchpoint { .. }));
                let known = Known { from: here.0, to, access };
                if let Some(place) = self.watchpoints.known.get_mut(slot) {
                    *place = Some(known);
                }
                known
            }
        };
        Ok(known.access.filter(|_| known.to == here.0))
    }

    fn watchpoint(&self, address: u64, length: u64, kind: WatchKind) -> Option<Watchpoint> {
        let range = MemoryRange::new(AddressSpace::Virtual, address, length)?;
        Some(Watchpoint { range, watched: watched(kind) })
    }
}

impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let watchpoint = self.watchpoint(address, length, kind);
        Ok(watchpoint.is_some_and(|watchpoint| self.watchpoints.insert(watchpoint)))
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let watchpoint = self.watchpoint(address, length, kind);
        watchpoint.iter().for_each(|watchpoint| self.watchpoints.remove(watchpoint));
        Ok(watchpoint.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{COUNTER_ADDRESS, SyntheticRecording};

    #[test]
    fn accesses_are_told_where_they_are_the_next_thing() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        let counter = u64::from(COUNTER_ADDRESS);
        assert_eq!(guest.add_hw_watchpoint(counter, 4, WatchKind::Write).ok(), Some(true));
        // The loop stores at positions 3, 7, 11, 15 and 19.
        for direction in [Direction::Forward, Direction::Backward] {
            for position in 0..=26 {
                guest.replay.seek(Position(position)).expect("in the recording");
                let told = guest.access_here(direction, &mut || false).expect("no error").is_some();
                let expected = match direction {
                    Direction::Forward => (3..=19).contains(&position) && position % 4 == 3,
                    Direction::Backward => (4..=20).contains(&position) && position % 4 == 0,
                };
                assert_eq!((told, guest.replay.position().0), (expected, position));
            }
        }
        assert_eq!(guest.remove_hw_watchpoint(counter, 4, WatchKind::Write).ok(), Some(true));
        guest.replay.seek(Position(3)).expect("in the recording");
        assert_eq!(guest.access_here(Direction::Forward, &mut || false).expect("no error"), None);
    }

    #[test]
    fn ranges_that_can_not_be_are_refused_and_their_number_is_bounded() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        assert_eq!(guest.add_hw_watchpoint(0, 0, WatchKind::Read).ok(), Some(false));
        assert_eq!(guest.add_hw_watchpoint(u32::MAX.into(), 2, WatchKind::Read).ok(), Some(false));
        for address in 0..MOST_WATCHPOINTS as u64 {
            assert_eq!(guest.add_hw_watchpoint(address, 4, WatchKind::ReadWrite).ok(), Some(true));
        }
        assert_eq!(guest.add_hw_watchpoint(1 << 20, 4, WatchKind::Read).ok(), Some(false));
        assert_eq!(guest.add_hw_watchpoint(7, 4, WatchKind::ReadWrite).ok(), Some(true), "already there");
    }
}
