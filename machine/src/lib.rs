//! Guest processors: registers, decoders and executors.
//!
//! An instruction is *modelled* (the executor computes its result exactly as QEMU does) or *opaque* (the recorder
//! reads its results right after it ran). Both sides of ktracer ask this crate which it is, so a recorder and a
//! replay never disagree. Nothing outside this crate knows an instruction set: [`Cpu`] and [`Block`] are a processor
//! and code of whichever the guest has, [`InstructionSet`] answers all other questions about it.
//!
//! This crate relies on nothing of ktracer's: it knows neither traces nor QEMU nor gdb.

pub mod arm;
mod block;
pub mod bus;
mod calling;
mod cause;
mod cpu;
mod dependencies;
mod description;
mod flow;
mod instruction_set;
pub mod mips;
mod mode;
mod opaque;
mod registers;
mod translation;

pub use block::{Block, DecodeError};
pub use calling::CallingConvention;
pub use cause::{Cause, LastInstruction};
pub use cpu::{Cpu, Exit, OpaqueError};
pub use dependencies::{Dependencies, Writes};
pub use description::RegisterDescription;
pub use flow::Flow;
pub use instruction_set::{ByteOrder, Encoding, InstructionSet, guest_address};
pub use mode::Mode;
pub use opaque::{Opaque, Results};
pub use registers::{KnownRegisters, REGISTER_CAPACITY, RegisterSet, Registers};
pub use translation::{Mapped, Translations};
