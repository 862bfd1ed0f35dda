//! What there is to know of an instruction set without executing it.

use crate::arm;
use crate::mips;
use crate::{Mode, RegisterDescription, RegisterSet};

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

/// The virtual address that a number from a user or a debugger stands for, if it is one. Addresses have 32 bits; gdb
/// sign-extends those of MIPS to 64.
pub fn guest_address(number: u64) -> Option<u32> {
    mips::translation::normalise(number)
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

    /// Whether other registers and tables govern the translation of addresses with one status register than with another: in
    /// Hyp and in Monitor mode of ARM they do (DDI 0406C, B3.1).
    pub const fn translates_otherwise(self, before: u32, after: u32) -> bool {
        const MONITOR: u32 = 0x16;
        const HYPERVISOR: u32 = 0x1a;
        match self {
            InstructionSet::Arm => {
                let field = arm::instruction::MODE_FIELD;
                let (before, after) = (before & field, after & field);
                before != after
                    && (matches!(before, MONITOR | HYPERVISOR) || matches!(after, MONITOR | HYPERVISOR))
            }
            InstructionSet::Mips(_) => false,
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

    /// A processor decodes in this mode only in a delay slot whose branch is in the block before. Registers do not say where that
    /// leads, so nothing can begin here but what has executed the branch.
    pub fn is_in_delay_slot(self, mode: Mode) -> bool {
        match self {
            InstructionSet::Arm => false,
            InstructionSet::Mips(_) => {
                mips::Mode::from_bits(mode.bits()).is_some_and(mips::Mode::in_delay_slot)
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

    /// Registers that the original ktracer did not record.
    pub const fn missing_in_original(self) -> RegisterSet {
        match self {
            InstructionSet::Arm => RegisterSet::EMPTY,
            InstructionSet::Mips(_) => RegisterSet::from_bits(mips::description::FLOATING_POINT_DATA),
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Block, Cpu, Exit, OpaqueError, Registers, Results};

    const MIPS: fn(ByteOrder) -> InstructionSet = InstructionSet::mips;

    #[test]
    fn addresses_may_be_sign_extended() {
        assert_eq!(guest_address(0xffff_ffff_8000_1118), Some(0x8000_1118));
        assert_eq!(guest_address(0x8000_1118), Some(0x8000_1118));
        assert_eq!(guest_address(0xffff_ffff_0000_1118), None);
        assert_eq!(guest_address(1 << 32), None);
    }

    #[test]
    fn modes_say_how_code_is_encoded_and_what_the_processor_is() {
        let big = MIPS(ByteOrder::Big);
        assert_eq!(big.byte_order(), ByteOrder::Big);
        assert_eq!(InstructionSet::Arm.encoding(Mode::from_bits(1)), Encoding::T32 { it: 0 });
        assert_eq!(big.encoding(Mode::from_bits(0x81)), Encoding::Mips32(ByteOrder::Big));
        assert_eq!(big.encoding(Mode::from_bits(0x05)), Encoding::Mips16(ByteOrder::Big));
        assert_eq!(big.encoding(Mode::from_bits(0x0d)), Encoding::MicroMips(ByteOrder::Big));
        // Release 2, which is no matter of the present state; another byte order is not believed.
        let release_2 = big.with_properties_of(Mode::from_bits(0x91));
        let registers = Registers::zero(72);
        assert_eq!(Cpu::new(release_2, &registers).mode(), Mode::from_bits(0x81));
        assert_eq!(big.with_properties_of(Mode::from_bits(0x80)), big);
        assert!(big.is_in_delay_slot(Mode::from_bits(0x91)) && !big.is_in_delay_slot(Mode::from_bits(0x81)));
    }

    #[test]
    fn hyp_and_monitor_mode_translate_otherwise() {
        let otherwise = |before, after| InstructionSet::Arm.translates_otherwise(before, after);
        assert!(
            otherwise(0x1d3, 0x1da)
                && otherwise(0x1a, 0x13)
                && otherwise(0x16, 0x1a)
                && otherwise(0x10, 0x16)
        );
        assert!(!otherwise(0x10, 0x1d3) && !otherwise(0x1a, 0x1da) && !otherwise(0x16, 0x2000_0016));
        assert!(!MIPS(ByteOrder::Big).translates_otherwise(0x10, 0x1a));
    }

    #[test]
    fn a_processor_does_not_run_code_of_another_instruction_set() {
        struct Nothing;
        impl crate::bus::Bus for Nothing {
            fn load(&mut self, _: u32, _: crate::bus::AccessSize) -> Result<u64, crate::bus::Halt> {
                Err(crate::bus::Halt)
            }
            fn store(&mut self, _: u32, _: crate::bus::AccessSize, _: u64) -> Result<(), crate::bus::Halt> {
                Err(crate::bus::Halt)
            }
        }
        let sets = [InstructionSet::Arm, MIPS(ByteOrder::Little)];
        for (own, other) in [(sets[0], sets[1]), (sets[1], sets[0])] {
            let mut cpu = Cpu::new(own, &Registers::zero(own.register_count()));
            let block = Block::nop(other);
            assert_eq!(cpu.run(&block, 0, 1, &mut Nothing), Exit::Halted(0));
            assert_eq!(cpu.complete_opaque(&block, 0, &Results::NONE), Err(OpaqueError::Foreign));
            assert_eq!(cpu.run(&Block::nop(own), 0, 1, &mut Nothing), Exit::Done);
            assert_eq!(cpu.pc(), 4);
        }
        let mode = Mode::from_bits(1 << 15);
        assert!(Block::decode(sets[1], 0, mode, &[0; 4]).is_err());
    }
}
