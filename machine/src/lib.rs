//! Guest processors: registers, decoders and executors.
//!
//! An instruction is *modelled* (the executor computes its result exactly as QEMU does) or *opaque* (the recorder
//! reads its results right after it ran). Both sides of ktracer ask this crate which it is, so a recorder and a
//! replay never disagree. Nothing outside this crate knows an instruction set.
//!
//! This crate relies on nothing of ktracer's: it knows neither traces nor QEMU nor gdb.

pub mod arm;
pub mod bus;
pub mod mips;
