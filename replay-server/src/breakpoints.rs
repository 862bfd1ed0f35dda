//! Software and hardware breakpoints. In a recording both are the same thing, an address to stop at; they are kept
//! apart because a client expects to hear which kind it hit.

use std::collections::BTreeMap;

use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpointOps, SwBreakpoint, SwBreakpointOps,
};
use gdbstub::target::{TargetError, TargetResult};

use crate::expression::Condition;
use crate::target::Guest;

/// More breakpoints than any client uses; a bound, since they come from outside.
const MOST_BREAKPOINTS: usize = 0x10000;
/// More than all conditions of any client take, in instructions; a bound likewise.
const LARGEST_CONDITIONS: usize = 0x10_0000;

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
    software: BTreeMap<u32, Condition>,
    hardware: BTreeMap<u32, Condition>,
    /// What all conditions take.
    size: usize,
}

impl BreakpointTable {
    /// Sets a breakpoint; set twice it is there once, with the later condition. Returns false if that is too much to keep.
    pub fn insert(&mut self, kind: BreakpointKind, address: u32, condition: Condition) -> bool {
        let breakpoints = self.of_kind(kind);
        let before = breakpoints.get(&address).map(Condition::size);
        if breakpoints.len() >= MOST_BREAKPOINTS && before.is_none() {
            return false;
        }
        let size = self.size - before.unwrap_or(0) + condition.size();
        if size > LARGEST_CONDITIONS {
            return false;
        }
        self.size = size;
        self.of_kind(kind).insert(address, condition);
        true
    }

    /// Removes a breakpoint if it is there.
    pub fn remove(&mut self, kind: BreakpointKind, address: u32) {
        if let Some(condition) = self.of_kind(kind).remove(&address) {
            self.size -= condition.size();
        }
    }

    /// The breakpoints at an address, and when each counts.
    pub fn at(&self, address: u32) -> impl Iterator<Item = (BreakpointKind, &Condition)> {
        let software = self.software.get(&address).map(|condition| (BreakpointKind::Software, condition));
        let hardware = self.hardware.get(&address).map(|condition| (BreakpointKind::Hardware, condition));
        software.into_iter().chain(hardware)
    }

    /// Some of them count only under a condition.
    pub fn has_conditions(&self) -> bool {
        self.size > 0
    }

    /// All addresses, sorted, no duplicates.
    pub fn addresses(&self) -> Vec<u32> {
        let mut addresses: Vec<u32> = self.software.keys().chain(self.hardware.keys()).copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    fn of_kind(&mut self, kind: BreakpointKind) -> &mut BTreeMap<u32, Condition> {
        match kind {
            BreakpointKind::Software => &mut self.software,
            BreakpointKind::Hardware => &mut self.hardware,
        }
    }
}

impl Guest {
    fn insert_breakpoint(&mut self, kind: BreakpointKind, address: u64) -> TargetResult<bool, Self> {
        let address = u32::try_from(address).map_err(|_| TargetError::NonFatal)?;
        Ok(self.breakpoints.insert(kind, address, Condition::default()))
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

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
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
    use crate::expression::Expression;

    #[test]
    fn kinds_are_separate_and_addresses_are_merged() {
        let mut table = BreakpointTable::default();
        for (kind, address) in [
            (BreakpointKind::Hardware, 8),
            (BreakpointKind::Software, 8),
            (BreakpointKind::Software, 4),
            (BreakpointKind::Software, 4),
        ] {
            assert!(table.insert(kind, address, Condition::default()));
        }
        assert_eq!(table.addresses(), [4, 8]);
        table.remove(BreakpointKind::Software, 8);
        table.remove(BreakpointKind::Software, 100);
        let kinds = |address| table.at(address).map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kinds(8), [BreakpointKind::Hardware]);
        assert_eq!(kinds(4), [BreakpointKind::Software]);
        assert_eq!(kinds(100), []);
    }

    #[test]
    fn their_number_is_bounded() {
        let mut table = BreakpointTable::default();
        for address in 0..MOST_BREAKPOINTS as u32 {
            assert!(table.insert(BreakpointKind::Software, address, Condition::default()));
        }
        assert!(!table.insert(BreakpointKind::Software, u32::MAX, Condition::default()));
        assert!(table.insert(BreakpointKind::Software, 0, Condition::default()), "already there");
    }

    #[test]
    fn what_conditions_take_is_bounded_and_given_back() {
        let long = Expression::decode(&[&[0x22, 1][..], &[0x12; 0x3000], &[0x27]].concat());
        let condition = Condition::any_of(vec![long.expect("well-formed")]);
        let mut table = BreakpointTable::default();
        let mut fill = |address| table.insert(BreakpointKind::Software, address, condition.clone());
        let kept = (0..).take_while(|address| fill(*address)).count();
        assert_eq!(kept, LARGEST_CONDITIONS / condition.size());
        assert!(table.insert(BreakpointKind::Software, 0, condition.clone()), "it replaces an equal one");
        assert!(!table.insert(BreakpointKind::Hardware, 0, condition.clone()));
        table.remove(BreakpointKind::Software, 1);
        assert!(table.insert(BreakpointKind::Hardware, 0, condition.clone()));
        assert!(table.insert(BreakpointKind::Hardware, 0, Condition::default()));
        assert!(table.insert(BreakpointKind::Hardware, 1, condition));
    }
}
