//! The registers as gdb knows them.
//!
//! Names and numbers are those of gdb's features `org.gnu.gdb.mips.cpu`, `org.gnu.gdb.mips.cp0` and
//! `org.gnu.gdb.mips.fpu` (*Debugging with GDB*, "MIPS Features"), of which it wants all three. QEMU numbers them alike
//! (`mips_cpu_gdb_read_register`).

use crate::description::RegisterDescription;

const fn core(name: &'static str, number: usize, kind: &'static str) -> RegisterDescription {
    RegisterDescription { name, feature: "org.gnu.gdb.mips.cpu", number, kind }
}

const fn cp0(name: &'static str, number: usize) -> RegisterDescription {
    RegisterDescription { name, feature: "org.gnu.gdb.mips.cp0", number, kind: "int" }
}

const fn fpu(name: &'static str, number: usize, kind: &'static str) -> RegisterDescription {
    RegisterDescription { name, feature: "org.gnu.gdb.mips.fpu", number, kind }
}

/// In the order of [`Registers`](super::cpu::Registers), which is that of gdb's numbers.
///
/// Where Status.FR is set, a floating-point register is the low half of the 64-bit one.
pub const REGISTERS: [RegisterDescription; 72] = [
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
    core("r13", 13, "int"),
    core("r14", 14, "int"),
    core("r15", 15, "int"),
    core("r16", 16, "int"),
    core("r17", 17, "int"),
    core("r18", 18, "int"),
    core("r19", 19, "int"),
    core("r20", 20, "int"),
    core("r21", 21, "int"),
    core("r22", 22, "int"),
    core("r23", 23, "int"),
    core("r24", 24, "int"),
    core("r25", 25, "int"),
    core("r26", 26, "int"),
    core("r27", 27, "int"),
    core("r28", 28, "int"),
    core("r29", 29, "int"),
    core("r30", 30, "int"),
    core("r31", 31, "int"),
    cp0("status", 32),
    core("lo", 33, "int"),
    core("hi", 34, "int"),
    cp0("badvaddr", 35),
    cp0("cause", 36),
    core("pc", 37, "code_ptr"),
    fpu("f0", 38, "ieee_single"),
    fpu("f1", 39, "ieee_single"),
    fpu("f2", 40, "ieee_single"),
    fpu("f3", 41, "ieee_single"),
    fpu("f4", 42, "ieee_single"),
    fpu("f5", 43, "ieee_single"),
    fpu("f6", 44, "ieee_single"),
    fpu("f7", 45, "ieee_single"),
    fpu("f8", 46, "ieee_single"),
    fpu("f9", 47, "ieee_single"),
    fpu("f10", 48, "ieee_single"),
    fpu("f11", 49, "ieee_single"),
    fpu("f12", 50, "ieee_single"),
    fpu("f13", 51, "ieee_single"),
    fpu("f14", 52, "ieee_single"),
    fpu("f15", 53, "ieee_single"),
    fpu("f16", 54, "ieee_single"),
    fpu("f17", 55, "ieee_single"),
    fpu("f18", 56, "ieee_single"),
    fpu("f19", 57, "ieee_single"),
    fpu("f20", 58, "ieee_single"),
    fpu("f21", 59, "ieee_single"),
    fpu("f22", 60, "ieee_single"),
    fpu("f23", 61, "ieee_single"),
    fpu("f24", 62, "ieee_single"),
    fpu("f25", 63, "ieee_single"),
    fpu("f26", 64, "ieee_single"),
    fpu("f27", 65, "ieee_single"),
    fpu("f28", 66, "ieee_single"),
    fpu("f29", 67, "ieee_single"),
    fpu("f30", 68, "ieee_single"),
    fpu("f31", 69, "ieee_single"),
    fpu("fcsr", 70, "int"),
    fpu("fir", 71, "int"),
];

/// The index of Status in [`REGISTERS`].
pub const STATUS: usize = 32;
/// The index of the program counter in [`REGISTERS`].
pub const PROGRAM_COUNTER: usize = 37;

/// What may be written only by instructions of the floating-point unit, as a mask over the numbers: f0 to f31 and FIR. An
/// exception does not change them. (It does change FCSR.)
pub const FLOATING_POINT: u128 = ((1 << 32) - 1) << 38 | 1 << 71;

/// f0 to f31, as a mask over the numbers.
pub const FLOATING_POINT_DATA: u128 = ((1 << 32) - 1) << 38;

/// Registers, as a mask over their numbers, that an exception changes: Status, BadVAddr, Cause, the program counter.
pub const EXCEPTION: u128 = 1 << 32 | 1 << 35 | 1 << 36 | 1 << 37;

/// Registers, as a mask over their numbers, that change without any instruction doing it: interrupt lines and the timer
/// set and clear bits of Cause. Its value is certain just behind a keyframe or an instruction that writes it only.
pub const ASYNCHRONOUS: u128 = 1 << 36;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_where_its_number_says() {
        for (index, register) in REGISTERS.iter().enumerate() {
            assert_eq!(register.number, index);
        }
        assert_eq!(REGISTERS[STATUS].name, "status");
        assert_eq!(REGISTERS[PROGRAM_COUNTER].name, "pc");
        assert_eq!((REGISTERS[36].name, ASYNCHRONOUS), ("cause", 1 << 36));
    }
}
