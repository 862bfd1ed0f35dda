//! Replay of ktracer traces: seek, step, search, memory at a time.

pub mod engine;
pub mod journal;
pub mod program;
pub mod replay;
pub mod segment_memory;
pub mod verify;

pub use program::Program;
pub use replay::{MachineDescription, Replay, ReplayError, Stop, StopAt};
