//! What an instruction may do whose results are recorded rather than computed.

use crate::arm;
use crate::mips;
use crate::registers::{REGISTER_CAPACITY, RegisterSet};

/// Why an instruction is not modelled, and what it may do. Memory that it reads or writes is recorded in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// For the counts of `ktracer info`: the architecture's mnemonic in lower case, or a word for a group of them.
    pub mnemonic: &'static str,
    /// Registers it may write. The program counter only if it may branch: its simply moving to the next instruction is no
    /// write.
    pub writes: RegisterSet,
    /// It may access memory.
    pub memory: bool,
    /// It may change the mapping of virtual to physical addresses.
    pub changes_mapping: bool,
    /// It may do so by other means than the status register, see [`translates_otherwise`](crate::InstructionSet::translates_otherwise).
    pub remaps: bool,
    /// What else it writes, by what it does to a status register.
    pub(crate) banked: Option<Banked>,
}

/// Registers that are others once a field of a status register has changed: those of the processor's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Banked {
    /// The status register. Its result comes first, if it is written.
    pub(crate) status: usize,
    /// The field, in place.
    pub(crate) field: u32,
    /// The registers.
    pub(crate) registers: RegisterSet,
}

impl From<&arm::instruction::Opaque> for Opaque {
    fn from(opaque: &arm::instruction::Opaque) -> Opaque {
        let registers = if opaque.changes_mode { arm::instruction::BANKED } else { 0 };
        use arm::instruction::Opaque as Arm;
        let by_status = opaque.writes & Arm::CPSR != 0 && opaque.writes != Arm::UNKNOWN.writes;
        Opaque {
            mnemonic: opaque.mnemonic,
            writes: RegisterSet::from_bits(opaque.writes.into()),
            memory: opaque.memory,
            changes_mapping: opaque.changes_mapping,
            remaps: opaque.changes_mapping && !by_status,
            banked: Some(Banked {
                status: arm::description::CPSR,
                field: arm::instruction::MODE_FIELD,
                registers: RegisterSet::from_bits(registers.into()),
            }),
        }
    }
}

impl From<&mips::instruction::Opaque> for Opaque {
    fn from(opaque: &mips::instruction::Opaque) -> Opaque {
        use mips::instruction::{CAUSE, PROGRAM_COUNTER, STATUS};
        let by_status =
            opaque.writes & STATUS != 0 && opaque.writes & !(STATUS | CAUSE | PROGRAM_COUNTER) == 0;
        Opaque {
            mnemonic: opaque.mnemonic,
            writes: RegisterSet::from_bits(opaque.writes),
            memory: opaque.memory,
            changes_mapping: opaque.changes_mapping,
            remaps: opaque.changes_mapping && !by_status,
            banked: None,
        }
    }
}

/// The results of an opaque instruction.
#[derive(Clone, Copy, Debug)]
pub struct Results {
    /// Whose.
    pub written: RegisterSet,
    count: usize,
    values: [u32; REGISTER_CAPACITY],
}

impl Results {
    /// Of an instruction that has none, or whose were never read.
    pub const NONE: Results =
        Results { written: RegisterSet::EMPTY, count: 0, values: [0; REGISTER_CAPACITY] };

    /// The value of a register, if it is among them.
    pub fn value(&self, register: usize) -> Option<u32> {
        let below = self.written.intersection(RegisterSet::first(register.min(REGISTER_CAPACITY)));
        if self.written.contains(register) { self.values().get(below.len()).copied() } else { None }
    }

    /// The values, by rising number of the register.
    pub fn values(&self) -> &[u32] {
        self.values.get(..self.count).unwrap_or(&self.values)
    }
}

impl Opaque {
    /// All that it may write, whatever comes of it.
    pub fn may_write(&self) -> RegisterSet {
        self.writes | self.banked.map_or(RegisterSet::EMPTY, |banked| banked.registers)
    }

    /// The registers whose values are its result, once the status register is known before and after it: others join
    /// them if the mode changed. The recorder stores these and a replay expects them.
    fn written(&self, status_before: u32, status_after: u32) -> RegisterSet {
        match self.banked {
            Some(banked) if (status_before ^ status_after) & banked.field != 0 => {
                self.writes | banked.registers
            }
            _ => self.writes,
        }
    }

    /// Takes its results from `next`, which is asked for one register after the other in the order in which a trace has
    /// them. `status_before` is [`Cpu::status`](crate::Cpu::status) before it.
    pub fn results<E>(
        &self,
        status_before: u32,
        mut next: impl FnMut(usize) -> Result<u32, E>,
    ) -> Result<Results, E> {
        let status = self.banked.map(|banked| banked.status).filter(|status| self.writes.contains(*status));
        let status_after = status.map(&mut next).transpose()?;
        let written = self.written(status_before, status_after.unwrap_or(status_before));
        let mut results = Results { written, ..Results::NONE };
        for register in written.iter() {
            let value = match status_after {
                Some(value) if Some(register) == status => value,
                _ => next(register)?,
            };
            if let Some(place) = results.values.get_mut(results.count) {
                *place = value;
                results.count += 1;
            }
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn asked(opaque: &Opaque, before: u32, status: u32) -> (Vec<usize>, Results) {
        let mut asked = Vec::new();
        let results: Result<_, Infallible> = opaque.results(before, |register| {
            asked.push(register);
            Ok(if register == 16 { status } else { register as u32 })
        });
        (asked, results.unwrap())
    }

    #[test]
    fn the_status_register_comes_first_and_decides() {
        let banked = Banked { status: 16, field: 0x1f, registers: RegisterSet::from_bits(0x7f00) };
        let opaque = Opaque {
            mnemonic: "cps",
            writes: RegisterSet::from_bits(0x1_0002),
            memory: false,
            changes_mapping: true,
            remaps: false,
            banked: Some(banked),
        };
        let (order, results) = asked(&opaque, 0x1d3, 0xd3);
        assert_eq!((&order[..], results.values()), (&[16, 1][..], &[1, 0xd3][..]));
        let (order, results) = asked(&opaque, 0x1d3, 0x1d2);
        assert_eq!(order, [16, 1, 8, 9, 10, 11, 12, 13, 14]);
        assert_eq!(results.values(), [1, 8, 9, 10, 11, 12, 13, 14, 0x1d2]);
        assert_eq!(results.written, opaque.may_write());
        assert_eq!((results.value(8), results.value(16), results.value(7)), (Some(8), Some(0x1d2), None));
    }

    #[test]
    fn what_a_status_register_decides_is_no_change_of_the_mapping() {
        let arm = |word: u32| match arm::a32::decode(word).instruction {
            arm::instruction::Instruction::Opaque(opaque) => Opaque::from(&opaque).remaps,
            other => panic!("{other:?}"),
        };
        // TLBIALL, TTBR0, CONTEXTIDR; DCCIMVAC, TPIDRURO, CPS, RFE, and what nothing is known about.
        assert_eq!([0xee08_0f17, 0xee02_0f10, 0xee0d_0f30].map(arm), [true; 3]);
        assert_eq!([0xee07_0f3e, 0xee0d_0f70, 0xf102_0013, 0xf8bd_0a00].map(arm), [false; 4]);
        assert!(Opaque::from(&arm::instruction::Opaque::UNKNOWN).remaps);
        let mode = mips::Mode::of_processor(true);
        let mips = |word: u32| match mips::mips32::decode(word, mode) {
            mips::instruction::Instruction::Opaque(opaque) => Opaque::from(&opaque).remaps,
            other => panic!("{other:?}"),
        };
        // TLBWR, EntryHi, Config; ERET, Status, Count.
        assert_eq!([0x4200_0006, 0x4084_5000, 0x4084_8000].map(mips), [true; 3]);
        assert_eq!([0x4200_0018, 0x4084_6000, 0x4084_4800].map(mips), [false; 3]);
        assert!(Opaque::from(&mips::instruction::Opaque::UNKNOWN).remaps);
    }
}
