//! 32-bit ARM, A and R profile up to ARMv7: A32 and T32.
//!
//! A decoder ([`a32`], [`t32`]) turns an encoding into an [`Instruction`](instruction::Instruction), which says what
//! the architecture manual says. [`Block`](block::Block) lowers these to compact micro-operations, and
//! [`Cpu`](cpu::Cpu) executes them. The rules come from the *ARM Architecture Reference Manual, ARMv7-A and ARMv7-R
//! edition* (DDI 0406C); where that leaves room, QEMU 10.0's `target/arm/tcg/translate.c` decides.

pub mod a32;
mod arithmetic;
pub mod block;
pub mod cpu;
mod dependencies;
pub mod description;
mod effects;
mod execute;
pub mod instruction;
mod lower;
mod mode;
mod operation;
pub mod t32;
#[cfg(test)]
mod tests;
pub mod translation;

pub use crate::flow::Flow;
pub use mode::Mode;
