//! What every client of a recording can ask of it, whatever the guest's processor: the contract between the timeline
//! and the programs above it.

use ktrace_format::Position;
pub use ktrace_machine::RegisterDescription;

use crate::events::Kinds;
use crate::events::nearest::FoundEvents;
use crate::provenance::Provenance;
use crate::search::{Condition, Watchpoint, Who};

/// The guest processor as a debugger needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineDescription {
    /// `arm` or `mips`.
    pub architecture: &'static str,
    /// The guest's data are big-endian.
    pub big_endian: bool,
    /// gdb's name of the architecture for target.xml, for example `armv7`.
    pub gdb_architecture: &'static str,
    /// The core registers in the order in which [`Replay::registers`] returns them.
    pub registers: &'static [RegisterDescription],
    /// Index of the program counter in `registers`.
    pub program_counter: usize,
}

/// Where a run stops, besides the ends of the recording and cancellation.
#[derive(Clone, Debug, Default)]
pub struct StopAt {
    /// Virtual addresses of instructions: stop at a position whose instruction is there. Sorted, no duplicates.
    pub addresses: Vec<u32>,
    /// Which of these positions count; all, if there is no condition.
    pub condition: Option<Condition>,
    /// Accesses of memory: forward stop before the instruction that makes one, backward behind it.
    pub watchpoints: Vec<Watchpoint>,
    /// Stop also when this position is reached.
    pub position: Option<Position>,
}

/// Why a run stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At an instruction of [`StopAt::addresses`].
    Address,
    /// At an access of [`StopAt::watchpoints`]. It may be where the run began: the access is the next thing to happen, in the
    /// direction of the run.
    Watchpoint {
        /// Which of them.
        number: usize,
        /// The first address in the watchpoint's range that is accessed.
        address: u64,
        /// Who accesses it.
        who: Who,
    },
    /// At [`StopAt::position`].
    Position,
    /// At the start of the recording.
    Start,
    /// At the end of the recording.
    End,
    /// `cancelled` said so; the position is where the run had got to, or where it started if nothing between is
    /// known to be free of hits.
    Cancelled,
}

/// A question that the recording can't answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// Outside the recording.
    #[error("position {position} is outside the recording, which ends at {end}")]
    OutOfRange {
        /// What was asked for.
        position: Position,
        /// The last position.
        end: Position,
    },
    /// The recording has nothing of this kind: it was imported.
    #[error("{0} were not recorded: this is an imported recording")]
    NotRecorded(&'static str),
    /// The trace is damaged or does not prove what it should at some place.
    #[error("{0}")]
    Trace(String),
}

/// One independent view of a recording, standing at one position. Cheap to make; many can exist over one trace.
pub trait Replay {
    /// The guest processor.
    fn description(&self) -> &MachineDescription;
    /// Where this view stands.
    fn position(&self) -> Position;
    /// The position after the last instruction.
    fn end(&self) -> Position;
    /// Moves to a position. After an error the view stands where it stood.
    fn seek(&mut self, to: Position) -> Result<(), ReplayError>;
    /// The core registers here, in the order of [`MachineDescription::registers`]; `None` is a register that the
    /// trace does not prove.
    fn registers(&mut self) -> Result<Vec<Option<u32>>, ReplayError>;
    /// Memory here at a virtual address, as the processor would see it; `None` is a byte that the trace does not prove.
    fn read_memory(&mut self, address: u32, into: &mut [Option<u8>]) -> Result<(), ReplayError>;
    /// Memory here at a physical address.
    fn read_physical_memory(&mut self, address: u64, into: &mut [Option<u8>]) -> Result<(), ReplayError>;
    /// Where the bytes of memory here come from, at a virtual address on. It executes the segment again, so it takes some
    /// ten milliseconds; ask for many bytes at once.
    fn provenance(&mut self, address: u32, into: &mut [Provenance]) -> Result<(), ReplayError>;
    /// The first `count` events of some kinds from position `from` on, unless `cancelled` returns true; it is asked every 10 ms or
    /// so.
    fn first_events(
        &self,
        kinds: Kinds,
        from: Position,
        count: usize,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> FoundEvents;
    /// The last `count` events of some kinds up to position `to`, likewise.
    fn last_events(
        &self,
        kinds: Kinds,
        to: Position,
        count: usize,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> FoundEvents;
    /// Runs forward from the next position on (an instruction at the present position does not count, its accesses do) until
    /// something of `stop` is met, the end is reached, or `cancelled` returns true; it is asked at least every 10 ms.
    fn run_forward(
        &mut self,
        stop: &StopAt,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, ReplayError>;
    /// Runs backward: to the latest earlier position that `stop` names, or the start.
    fn run_backward(
        &mut self,
        stop: &StopAt,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, ReplayError>;
    /// Several lines for a person about the recording: length, machine, QEMU, gaps.
    fn summary(&self) -> String;
}
