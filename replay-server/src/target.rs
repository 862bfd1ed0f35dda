//! The recording as gdbstub's target: registers, memory, and which optional parts of the protocol there are.

use std::convert::Infallible;

use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{SingleThreadBase, SingleThreadResumeOps};
use gdbstub::target::ext::breakpoints::BreakpointsOps;
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use ktrace_format::Position;
use ktrace_timeline::search::{Condition, Moment};
use ktrace_timeline::{Replay, ReplayError};

use crate::architecture::{GuestArchitecture, RegisterBytes};
use crate::breakpoints::{BreakpointKind, BreakpointTable};
use crate::description::{self, RegisterLayout, RegisterValue};
use crate::executable::Executable;
use crate::expression::State;
use crate::resume::ResumeRequest;
use crate::watchpoints::WatchpointTable;

/// "E14", nothing known there, and "E30", read-only, as QEMU's stub writes them; gdbstub prints the number in
/// hexadecimal.
const NOTHING_KNOWN: u8 = 0x14;
const READ_ONLY: u8 = 0x30;

/// A recorded guest, standing at one position, and what clients have asked of it.
///
/// It outlives clients: the next one finds it where the last one left it.
pub struct Guest {
    /// The recording.
    pub replay: Box<dyn Replay>,
    /// The present client's breakpoints.
    pub breakpoints: BreakpointTable,
    /// The present client's watchpoints.
    pub watchpoints: WatchpointTable,
    /// How the client wants it to run, until that is done.
    pub request: Option<ResumeRequest>,
    /// What gdb is given for an executable, if it needs one.
    pub executable: Option<Executable>,
    layout: RegisterLayout,
    target_xml: String,
    /// Only for reads, to spare an allocation for each.
    memory: Vec<Option<u8>>,
}

impl Guest {
    /// A guest that stands where `replay` stands.
    pub fn new(replay: Box<dyn Replay>) -> Self {
        let machine = replay.description();
        let (layout, target_xml) = (RegisterLayout::new(machine), description::target_xml(machine));
        let executable = Executable::new(machine);
        Self {
            replay,
            breakpoints: BreakpointTable::default(),
            watchpoints: WatchpointTable::default(),
            request: None,
            executable,
            layout,
            target_xml,
            memory: Vec::new(),
        }
    }

    /// The core registers; all unknown, with a warning in the log, where the recording can't tell them.
    pub fn core_registers(&mut self) -> Vec<Option<u32>> {
        self.replay.registers().unwrap_or_else(|error| {
            log::warn!("registers at position {}: {error}", self.replay.position());
            Vec::new()
        })
    }

    /// All registers with the position, in the order of the `g` packet.
    pub fn register_values(&mut self) -> Vec<RegisterValue> {
        let core = self.core_registers();
        self.layout.values(&core, self.replay.position())
    }

    /// The program counter here, if it is known.
    pub fn program_counter(&mut self) -> Option<u32> {
        let core = self.core_registers();
        self.program_counter_of(&core)
    }

    /// The program counter among core registers, without the bit that says on MIPS that the code is compressed.
    pub fn program_counter_of(&self, core: &[Option<u32>]) -> Option<u32> {
        core.get(self.replay.description().program_counter).copied().flatten().map(|address| address & !1)
    }

    /// Whether a breakpoint at the program counter counts here.
    pub fn breakpoint_here(&mut self) -> BreakpointHere {
        let Some(address) = self.program_counter() else { return BreakpointHere::None };
        let mut here = Here { replay: self.replay.as_mut(), layout: &self.layout, core: None };
        let mut found = BreakpointHere::None;
        for (kind, condition) in self.breakpoints.at(address) {
            if condition.holds(&mut here) {
                return BreakpointHere::Hit(kind);
            }
            found = BreakpointHere::ConditionFalse;
        }
        found
    }

    /// Reads known memory from `address` on, up to the first unknown byte; returns how much there is.
    pub fn read_known(&mut self, address: u32, into: &mut [u8]) -> Result<usize, ReplayError> {
        // The address space ends; a read does not go on at its start.
        let until_end = usize::try_from(u64::from(u32::MAX) - u64::from(address) + 1).unwrap_or(usize::MAX);
        self.memory.clear();
        self.memory.resize(into.len().min(until_end), None);
        self.replay.read_memory(address, &mut self.memory)?;
        let mut length = 0;
        for (byte, known) in into.iter_mut().zip(&self.memory) {
            let Some(known) = known else { break };
            *byte = *known;
            length += 1;
        }
        Ok(length)
    }
}

impl Guest {
    /// Which breakpoints count, for a run that comes to many that don't; `None`: all do.
    pub fn condition(&self) -> Option<Condition> {
        if !self.breakpoints.has_conditions() {
            return None;
        }
        let (breakpoints, layout) = (self.breakpoints.clone(), self.layout.clone());
        let program_counter = self.replay.description().program_counter;
        Some(Condition::new(move |moment| {
            let mut then = Then { moment, layout: &layout };
            // Where the program counter is not known, nothing tells which breakpoint it is.
            moment.register(program_counter).is_none_or(|address| {
                let mut here = breakpoints.at(address & !1).peekable();
                here.peek().is_none() || here.any(|(_, condition)| condition.holds(&mut then))
            })
        }))
    }
}

/// A moment that a run comes to, as conditions see it.
struct Then<'a> {
    moment: &'a dyn Moment,
    layout: &'a RegisterLayout,
}

impl State for Then<'_> {
    fn register(&mut self, number: u16) -> Option<u64> {
        let core = |index| self.moment.register(index);
        self.layout.value(number.into(), core, Position(self.moment.position()))
    }

    fn memory(&mut self, address: u64, size: usize) -> Option<u64> {
        number_at(address, size, self.layout, |address, into| {
            self.moment.read_memory(address, into);
            Some(())
        })
    }
}

/// A number of `size` bytes in memory, which `read` reads.
fn number_at(
    address: u64,
    size: usize,
    layout: &RegisterLayout,
    read: impl FnOnce(u32, &mut [Option<u8>]) -> Option<()>,
) -> Option<u64> {
    // gdb extends some 32-bit addresses to 64 bits, and sums may exceed them.
    let address = address as u32;
    // The address space does not go on at its start.
    address.checked_add(u32::try_from(size).ok()?.checked_sub(1)?)?;
    let mut bytes = [None; 8];
    let bytes = bytes.get_mut(..size)?;
    read(address, bytes)?;
    let join = |value: u64, byte: &Option<u8>| Some(value << 8 | u64::from((*byte)?));
    if layout.big_endian() { bytes.iter().try_fold(0, join) } else { bytes.iter().rev().try_fold(0, join) }
}

/// What there is at the program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakpointHere {
    /// No breakpoint.
    None,
    /// Breakpoints, none of which counts.
    ConditionFalse,
    /// A breakpoint that counts.
    Hit(BreakpointKind),
}

/// The present position, as conditions see it.
struct Here<'a> {
    replay: &'a mut dyn Replay,
    layout: &'a RegisterLayout,
    /// The core registers, once a condition has asked for one.
    core: Option<Vec<Option<u32>>>,
}

impl State for Here<'_> {
    fn register(&mut self, number: u16) -> Option<u64> {
        let replay = &mut self.replay;
        let core = self.core.get_or_insert_with(|| replay.registers().unwrap_or_default());
        let core = |index: usize| core.get(index).copied().flatten();
        self.layout.value(number.into(), core, replay.position())
    }

    fn memory(&mut self, address: u64, size: usize) -> Option<u64> {
        number_at(address, size, self.layout, |address, into| self.replay.read_memory(address, into).ok())
    }
}

impl Target for Guest {
    type Arch = GuestArchitecture;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, GuestArchitecture, Infallible> {
        BaseOps::SingleThread(self)
    }

    // The session reads gdbstub's replies; over a local socket the encoding would save nothing.
    fn use_rle(&self) -> bool {
        false
    }

    fn use_x_upcase_packet(&self) -> bool {
        false
    }

    fn use_fork_stop_reason(&self) -> bool {
        false
    }

    fn use_vfork_stop_reason(&self) -> bool {
        false
    }

    fn use_vforkdone_stop_reason(&self) -> bool {
        false
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Guest {
    fn read_registers(&mut self, registers: &mut RegisterBytes) -> TargetResult<(), Self> {
        let core = self.core_registers();
        registers.program_counter = self.program_counter_of(&core);
        registers.bytes.clear();
        for RegisterValue { width, bytes, .. } in self.layout.values(&core, self.replay.position()) {
            match bytes {
                Some(bytes) => registers.bytes.extend(bytes.into_iter().map(Some)),
                None => registers.bytes.resize(registers.bytes.len() + width, None),
            }
        }
        Ok(())
    }

    // Admission refuses writes with a reason; these two are here because gdbstub requires them.
    fn write_registers(&mut self, _registers: &RegisterBytes) -> TargetResult<(), Self> {
        Err(TargetError::Errno(READ_ONLY))
    }

    fn read_addrs(&mut self, address: u64, into: &mut [u8]) -> TargetResult<usize, Self> {
        let address = u32::try_from(address).map_err(|_| TargetError::Errno(NOTHING_KNOWN))?;
        match self.read_known(address, into) {
            Ok(0) if !into.is_empty() => Err(TargetError::Errno(NOTHING_KNOWN)),
            Ok(length) => Ok(length),
            Err(error) => {
                log::warn!("memory at {address:#010x}, position {}: {error}", self.replay.position());
                Err(TargetError::Errno(NOTHING_KNOWN))
            }
        }
    }

    fn write_addrs(&mut self, _address: u64, _data: &[u8]) -> TargetResult<(), Self> {
        Err(TargetError::Errno(READ_ONLY))
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl TargetDescriptionXmlOverride for Guest {
    fn target_description_xml(
        &self,
        _annex: &[u8],
        offset: u64,
        length: usize,
        into: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.target_xml.as_bytes().get(offset..));
        let rest = rest.unwrap_or_default();
        // Escaping may double what is sent, and a client counts what it is sent.
        let count = rest.len().min(length).min(into.len() / 2);
        into.iter_mut().zip(rest).take(count).for_each(|(into, from)| *into = *from);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{self, SyntheticRecording};

    #[test]
    fn memory_reads_end_at_the_first_unknown_byte() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        let mut into = [0; 64];
        let code = recording::PROGRAM_ADDRESS;
        assert_eq!(guest.read_known(code, &mut into).expect("readable"), 32);
        assert_eq!(into[..4], 0xe3a0_0000_u32.to_le_bytes());
        assert_eq!(guest.read_known(code + 30, &mut into).expect("readable"), 2);
        assert_eq!(guest.read_known(0, &mut into).expect("readable"), 0);
        assert!(matches!(guest.read_addrs(0, &mut into), Err(TargetError::Errno(0x14))));
    }

    #[test]
    fn a_read_does_not_wrap_around_the_address_space() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        assert_eq!(guest.read_known(u32::MAX - 1, &mut [0; 64]).expect("readable"), 2);
    }

    #[test]
    fn registers_that_the_trace_does_not_prove_stay_unknown() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short().without_register(12)));
        let mut registers = RegisterBytes::default();
        assert!(guest.read_registers(&mut registers).is_ok());
        assert_eq!(registers.bytes.len(), 17 * 4 + 8);
        assert!(registers.bytes[48..52].iter().all(Option::is_none));
        assert_eq!(registers.bytes.iter().filter(|byte| byte.is_none()).count(), 4);
    }
}
