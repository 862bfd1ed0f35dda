//! Replay of ktracer traces: seek, step, search, memory at a time.

pub mod replay;

pub use replay::{MachineDescription, Replay, ReplayError, Stop, StopAt};
