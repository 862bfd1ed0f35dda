//! 32-bit ARM, A and R profile up to ARMv7: A32 and T32.
//!
//! A decoder ([`a32`], [`t32`]) turns an encoding into an [`Instruction`](instruction::Instruction), which says what
//! the architecture manual says. [`Block`](block::Block) lowers these to compact micro-operations, and
//! [`Cpu`](cpu::Cpu) executes them. The rules come from the *ARM Architecture Reference Manual, ARMv7-A and ARMv7-R
//! edition* (DDI 0406C); where that leaves room, QEMU 10.0's `target/arm/tcg/translate.c` decides.

pub mod instruction;
pub mod t32;
