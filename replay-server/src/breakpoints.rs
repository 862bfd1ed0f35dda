//! Software and hardware breakpoints. In a recording both are the same thing, an address to stop at; they are kept
//! apart because a client expects to hear which kind it hit.

use std::collections::BTreeSet;

use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, SwBreakpoint, SwBreakpointOps,
};
use gdbstub::target::{TargetError, TargetResult};

use crate::target::Guest;

/// More breakpoints than any client uses; a bound, since they come from outside.
const MOST_BREAKPOINTS: usize = 0x10000;

/// The kinds of breakpoints that a client can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakpointKind {
    /// `Z0`.
    Software,
    /// `Z1`.
    Hardware,
}

/// The breakpoints that the present client has set.
#[derive(Clone, Debug, Default)]
pub struct BreakpointTable {
    software: BTreeSet<u32>,
    hardware: BTreeSet<u32>,
}

impl BreakpointTable {
    /// Sets a breakpoint; setting it twice is setting it once. Returns false if there are too many.
    pub fn insert(&mut self, kind: BreakpointKind, address: u32) -> bool {
        let addresses = self.addresses_of(kind);
        if addresses.len() >= MOST_BREAKPOINTS && !addresses.contains(&address) {
            return false;
        }
        addresses.insert(address);
        true
    }

    /// Removes a breakpoint if it is there.
    pub fn remove(&mut self, kind: BreakpointKind, address: u32) {
        self.addresses_of(kind).remove(&address);
    }

    /// The kind of breakpoint at an address.
    pub fn at(&self, address: u32) -> Option<BreakpointKind> {
        if self.software.contains(&address) {
            Some(BreakpointKind::Software)
        } else if self.hardware.contains(&address) {
            Some(BreakpointKind::Hardware)
        } else {
            None
        }
    }

    /// All addresses, sorted, no duplicates.
    pub fn addresses(&self) -> Vec<u32> {
        self.software.union(&self.hardware).copied().collect()
    }

    fn addresses_of(&mut self, kind: BreakpointKind) -> &mut BTreeSet<u32> {
        match kind {
            BreakpointKind::Software => &mut self.software,
            BreakpointKind::Hardware => &mut self.hardware,
        }
    }
}

impl Guest {
    fn insert_breakpoint(&mut self, kind: BreakpointKind, address: u64) -> TargetResult<bool, Self> {
        let address = u32::try_from(address).map_err(|_| TargetError::NonFatal)?;
        Ok(self.breakpoints.insert(kind, address))
    }

    fn remove_breakpoint(&mut self, kind: BreakpointKind, address: u64) -> TargetResult<bool, Self> {
        let address = u32::try_from(address).map_err(|_| TargetError::NonFatal)?;
        self.breakpoints.remove(kind, address);
        Ok(true)
    }
}

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, address: u64, _size: usize) -> TargetResult<bool, Self> {
        self.insert_breakpoint(BreakpointKind::Software, address)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _size: usize) -> TargetResult<bool, Self> {
        self.remove_breakpoint(BreakpointKind::Software, address)
    }
}

impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, address: u64, _size: usize) -> TargetResult<bool, Self> {
        self.insert_breakpoint(BreakpointKind::Hardware, address)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _size: usize) -> TargetResult<bool, Self> {
        self.remove_breakpoint(BreakpointKind::Hardware, address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_separate_and_addresses_are_merged() {
        let mut table = BreakpointTable::default();
        for (kind, address) in [
            (BreakpointKind::Hardware, 8),
            (BreakpointKind::Software, 8),
            (BreakpointKind::Software, 4),
            (BreakpointKind::Software, 4),
        ] {
            assert!(table.insert(kind, address));
        }
        assert_eq!(table.addresses(), [4, 8]);
        table.remove(BreakpointKind::Software, 8);
        table.remove(BreakpointKind::Software, 100);
        assert_eq!(table.at(8), Some(BreakpointKind::Hardware));
        assert_eq!(table.at(4), Some(BreakpointKind::Software));
        assert_eq!(table.at(100), None);
    }

    #[test]
    fn their_number_is_bounded() {
        let mut table = BreakpointTable::default();
        for address in 0..MOST_BREAKPOINTS as u32 {
            assert!(table.insert(BreakpointKind::Software, address));
        }
        assert!(!table.insert(BreakpointKind::Software, u32::MAX));
        assert!(table.insert(BreakpointKind::Software, 0), "already there");
    }
}
