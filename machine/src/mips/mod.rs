//! MIPS32, releases 1 and 2, in both byte orders.
//!
//! [`mips32`] turns an encoding into an [`Instruction`](instruction::Instruction), which says what the architecture
//! manual says. [`Block`](block::Block) lowers these to compact micro-operations, and [`Cpu`](cpu::Cpu) executes them.
//! The rules come from *MIPS Architecture For Programmers, Volume II-A: The MIPS32 Instruction Set* (MD00086, revision
//! 5.04); where that leaves room, QEMU 10.0's `target/mips/tcg/translate.c` decides.
//!
//! A delay slot is an instruction of its own, also one that a branch-likely nullifies. Code in one of the compressed
//! instruction sets, MIPS16e and microMIPS, is known by its lengths only: each of its instructions is opaque. Release 6
//! and the MXU extension of XBurst processors give encodings another meaning, and are not for this module.

pub mod block;
mod compressed;
pub mod cpu;
mod dependencies;
pub mod description;
mod effects;
mod execute;
pub mod instruction;
mod lower;
pub mod mips32;
mod mode;
mod operation;
#[cfg(test)]
mod tests;
pub mod tlb;
pub mod translation;

pub use effects::Flow;
pub use mode::{Mode, Slot};
