//! What there is to know of an instruction set without executing it.

use crate::arm;
use crate::{Mode, Opaque, RegisterDescription, RegisterSet};

/// The order of a number's bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// The lowest address holds the least significant byte.
    Little,
    /// The lowest address holds the most significant byte.
    Big,
}

/// The instruction set that a guest executes, with all that decides what its code and data mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InstructionSet {
    /// 32-bit ARM, A32 and T32; data are little-endian unless a block's mode says otherwise.
    Arm,
}

/// How an instruction is encoded, for a disassembler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Words, little-endian.
    A32,
    /// Halfwords, little-endian.
    T32 {
        /// ITSTATE, if the instruction is in an IT block, else 0.
        it: u8,
    },
}

impl InstructionSet {
    /// `arm`, as a trace's header has it.
    pub const fn name(self) -> &'static str {
        match self {
            InstructionSet::Arm => "arm",
        }
    }

    /// gdb's name of the architecture.
    pub const fn gdb_architecture(self) -> &'static str {
        match self {
            InstructionSet::Arm => "armv7",
        }
    }

    /// Of the guest's data, as gdb is told.
    pub const fn byte_order(self) -> ByteOrder {
        match self {
            InstructionSet::Arm => ByteOrder::Little,
        }
    }

    /// All registers, in the order of a keyframe.
    pub const fn registers(self) -> &'static [RegisterDescription] {
        match self {
            InstructionSet::Arm => &arm::description::REGISTERS,
        }
    }

    /// How many registers there are.
    pub const fn register_count(self) -> usize {
        self.registers().len()
    }

    /// All registers.
    pub const fn all_registers(self) -> RegisterSet {
        RegisterSet::first(self.register_count())
    }

    /// The number of the program counter.
    pub const fn program_counter(self) -> usize {
        match self {
            InstructionSet::Arm => arm::description::PROGRAM_COUNTER,
        }
    }

    /// The number of the status register, see [`Cpu::status`](crate::Cpu::status).
    pub const fn status_register(self) -> usize {
        match self {
            InstructionSet::Arm => arm::description::CPSR,
        }
    }

    /// The mode in which a processor decodes code where it is not in the middle of something, by its registers. `None`: one
    /// that matters is not known.
    pub fn mode(self, read: impl Fn(usize) -> Option<u32>) -> Option<Mode> {
        match self {
            InstructionSet::Arm => read(self.status_register()).map(|cpsr| arm::Mode::from_cpsr(cpsr).into()),
        }
    }

    /// Registers that an exception changes.
    pub const fn exception_registers(self) -> RegisterSet {
        match self {
            // Its mode's stack pointer and link register, the program counter, CPSR.
            InstructionSet::Arm => RegisterSet::from_bits(0x1_e000),
        }
    }

    /// The registers of a keyframe after a discontinuity, in rising order. `last` is the last instruction that started in
    /// the block before it, if that is opaque: nobody has read its results.
    pub fn keyframe(self, last: Option<&Opaque>) -> RegisterSet {
        let _ = last;
        self.all_registers()
    }

    /// Registers that change without an instruction or a discontinuity. Their values hold only until the next
    /// instruction has executed.
    pub const fn volatile_registers(self) -> RegisterSet {
        match self {
            InstructionSet::Arm => RegisterSet::EMPTY,
        }
    }

    /// How code of a mode is encoded.
    pub fn encoding(self, mode: Mode) -> Encoding {
        match self {
            InstructionSet::Arm => match arm::Mode::from_bits(mode.bits()) {
                Some(mode) if mode.thumb() => {
                    Encoding::T32 { it: if mode.in_it_block() { mode.it() } else { 0 } }
                }
                _ => Encoding::A32,
            },
        }
    }

    /// The virtual address that a number stands for, if it is one.
    pub fn address(self, number: u64) -> Option<u32> {
        match self {
            InstructionSet::Arm => u32::try_from(number).ok(),
        }
    }

    /// The physical address behind a virtual one, by the registers that govern translation, in as far as a trace has
    /// them. `read` reads little-endian numbers of so many bytes in physical memory; it returns `None` for what is not
    /// known. `None`: unmapped, or not known.
    pub fn translate(
        self,
        address: u32,
        registers: Option<&[u64]>,
        read: &mut dyn FnMut(u64, usize) -> Option<u64>,
    ) -> Option<u64> {
        match self {
            InstructionSet::Arm => {
                arm::translation::TranslationRegisters::from_recorded(registers?)?.translate(address, read)
            }
        }
    }
}
