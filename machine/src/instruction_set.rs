//! What there is to know of an instruction set without executing it.

use crate::arm;
use crate::mips;
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
    /// MIPS32, with the properties of the processor: see [`mips::Mode::processor`].
    Mips(mips::Mode),
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
    /// MIPS words.
    Mips32(ByteOrder),
    /// Halfwords of MIPS16e.
    Mips16(ByteOrder),
    /// Halfwords of microMIPS.
    MicroMips(ByteOrder),
}

impl InstructionSet {
    /// MIPS32 in a byte order, of a processor about which no more is known.
    pub fn mips(order: ByteOrder) -> InstructionSet {
        InstructionSet::Mips(mips::Mode::of_processor(order == ByteOrder::Big))
    }

    /// The same of a processor that runs code in this mode, which tells its properties. They are the same in all of a
    /// processor's modes.
    #[must_use]
    pub fn with_properties_of(self, mode: Mode) -> InstructionSet {
        match (self, mips::Mode::from_bits(mode.bits())) {
            (InstructionSet::Mips(processor), Some(mode)) if mode.big_endian() == processor.big_endian() => {
                InstructionSet::Mips(mode.processor())
            }
            _ => self,
        }
    }

    /// `arm` or `mips`, as a trace's header has it.
    pub const fn name(self) -> &'static str {
        match self {
            InstructionSet::Arm => "arm",
            InstructionSet::Mips(_) => "mips",
        }
    }

    /// gdb's name of the architecture.
    pub const fn gdb_architecture(self) -> &'static str {
        match self {
            InstructionSet::Arm => "armv7",
            InstructionSet::Mips(_) => "mips",
        }
    }

    /// Of the guest's data, as gdb is told.
    pub fn byte_order(self) -> ByteOrder {
        match self {
            InstructionSet::Mips(processor) if processor.big_endian() => ByteOrder::Big,
            InstructionSet::Arm | InstructionSet::Mips(_) => ByteOrder::Little,
        }
    }

    /// All registers, in the order of a keyframe.
    pub const fn registers(self) -> &'static [RegisterDescription] {
        match self {
            InstructionSet::Arm => &arm::description::REGISTERS,
            InstructionSet::Mips(_) => &mips::description::REGISTERS,
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
            InstructionSet::Mips(_) => mips::description::PROGRAM_COUNTER,
        }
    }

    /// The number of the status register, see [`Cpu::status`](crate::Cpu::status).
    pub const fn status_register(self) -> usize {
        match self {
            InstructionSet::Arm => arm::description::CPSR,
            InstructionSet::Mips(_) => mips::description::STATUS,
        }
    }

    /// The mode in which a processor decodes code, by its registers; but no register tells that MIPS is in a delay slot.
    /// `None`: one that matters is not known.
    pub fn mode(self, read: impl Fn(usize) -> Option<u32>) -> Option<Mode> {
        match self {
            InstructionSet::Arm => read(self.status_register()).map(|cpsr| arm::Mode::from_cpsr(cpsr).into()),
            InstructionSet::Mips(processor) => {
                let (status, pc) = (read(self.status_register())?, read(self.program_counter())?);
                Some(mips::Mode::at(processor, status, pc).into())
            }
        }
    }

    /// Registers that an exception changes.
    pub const fn exception_registers(self) -> RegisterSet {
        match self {
            // Its mode's stack pointer and link register, the program counter, CPSR.
            InstructionSet::Arm => RegisterSet::from_bits(0x1_e000),
            InstructionSet::Mips(_) => RegisterSet::from_bits(mips::description::EXCEPTION),
        }
    }

    /// The registers of a keyframe after a discontinuity, in rising order. `last` is the last instruction that started in
    /// the block before it, if that is opaque: nobody has read its results.
    pub fn keyframe(self, last: Option<&Opaque>) -> RegisterSet {
        match self {
            InstructionSet::Arm => self.all_registers(),
            InstructionSet::Mips(_) => {
                let floating = RegisterSet::from_bits(mips::description::FLOATING_POINT);
                if last.is_some_and(|last| last.writes.intersects(floating)) {
                    self.all_registers()
                } else {
                    self.all_registers().without(floating)
                }
            }
        }
    }

    /// Registers that change without an instruction or a discontinuity. Their values hold only until the next
    /// instruction has executed.
    pub const fn volatile_registers(self) -> RegisterSet {
        match self {
            InstructionSet::Arm => RegisterSet::EMPTY,
            InstructionSet::Mips(_) => RegisterSet::from_bits(mips::description::ASYNCHRONOUS),
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
            InstructionSet::Mips(_) => match mips::Mode::from_bits(mode.bits()) {
                Some(mode) if mode.compressed() && mode.micromips() => Encoding::MicroMips(self.byte_order()),
                Some(mode) if mode.compressed() => Encoding::Mips16(self.byte_order()),
                _ => Encoding::Mips32(self.byte_order()),
            },
        }
    }

    /// The virtual address that a number from a user or a debugger stands for, if it is one. gdb sign-extends those of MIPS to
    /// 64 bits.
    pub fn address(self, number: u64) -> Option<u32> {
        match self {
            InstructionSet::Arm => u32::try_from(number).ok(),
            InstructionSet::Mips(_) => mips::translation::normalise(number),
        }
    }

    /// The physical address behind a virtual one, by the status register and the registers that govern translation, in as far
    /// as a trace has them. `read` reads little-endian numbers of so many bytes in physical memory; it returns `None` for what is not
    /// known. `None`: unmapped, or not known.
    pub fn translate(
        self,
        address: u32,
        status: u32,
        registers: Option<&[u64]>,
        read: &mut dyn FnMut(u64, usize) -> Option<u64>,
    ) -> Option<u64> {
        match self {
            InstructionSet::Arm => {
                arm::translation::TranslationRegisters::from_recorded(registers?)?.translate(address, read)
            }
            InstructionSet::Mips(_) => match mips::translation::segment(address, status) {
                mips::translation::Segment::Fixed(physical) => Some(physical.into()),
                // The TLB is not in the trace.
                mips::translation::Segment::Mapped => None,
            },
        }
    }
}
