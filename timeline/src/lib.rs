//! Replay of ktracer traces: seek, step, search, memory at a time.

pub mod counts;
pub mod destination;
pub mod engine;
pub mod events;
mod history;
mod imported;
pub mod journal;
mod older;
pub mod program;
pub mod provenance;
pub mod recording;
pub mod replay;
pub mod sample;
pub mod segment_memory;
mod stops;
pub mod verify;
pub mod walk;
mod watch;
mod window;

pub use ktrace_machine::{InstructionSet, guest_address};
pub use program::Program;
pub use recording::Recording;
pub use replay::{MachineDescription, Replay, ReplayError, Stop, StopAt};
