//! The core registers as gdb knows them.
//!
//! Names, numbers and types are those of gdb's `org.gnu.gdb.arm.core` feature (*Debugging with GDB*, G.5.3). Numbers 16
//! to 24 belonged to the FPA and stay unused, so CPSR has 25.

pub use crate::description::RegisterDescription;

const fn core(name: &'static str, number: usize, kind: &'static str) -> RegisterDescription {
    RegisterDescription { name, feature: "org.gnu.gdb.arm.core", number, kind }
}

/// In the order of [`Registers`](super::cpu::Registers).
pub const REGISTERS: [RegisterDescription; 17] = [
    core("r0", 0, "int"),
    core("r1", 1, "int"),
    core("r2", 2, "int"),
    core("r3", 3, "int"),
    core("r4", 4, "int"),
    core("r5", 5, "int"),
    core("r6", 6, "int"),
    core("r7", 7, "int"),
    core("r8", 8, "int"),
    core("r9", 9, "int"),
    core("r10", 10, "int"),
    core("r11", 11, "int"),
    core("r12", 12, "int"),
    core("sp", 13, "data_ptr"),
    core("lr", 14, "int"),
    core("pc", 15, "code_ptr"),
    core("cpsr", 25, "int"),
];

/// The index of the program counter in [`REGISTERS`].
pub const PROGRAM_COUNTER: usize = 15;
/// The index of CPSR in [`REGISTERS`].
pub const CPSR: usize = 16;
