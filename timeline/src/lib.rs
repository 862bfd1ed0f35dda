//! Replay of ktracer traces: seek, step, search, memory at a time.

pub mod blocks;
pub mod cache;
mod catalogue;
pub mod counts;
pub mod destination;
pub mod engine;
pub mod events;
mod imported;
mod index_replay;
mod indexing;
pub mod journal;
mod past;
pub mod program;
mod proofs;
pub mod provenance;
mod rebuilt;
pub mod recording;
pub mod replay;
pub mod sample;
pub mod search;
pub mod segment_memory;
pub mod verify;
mod view;
pub mod walk;
mod watch;
mod window;

pub use indexing::{IndexError, IndexOutcome, IndexProgress, write_index};
pub use ktrace_machine::{InstructionSet, guest_address};
pub use program::Program;
pub use recording::Recording;
pub use replay::{MachineDescription, Replay, ReplayError, Stop, StopAt};
