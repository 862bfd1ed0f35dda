//! One gdbstub architecture for every guest, in either byte order: what differs between guests is data
//! ([`MachineDescription`](ktrace_timeline::MachineDescription)), not a type.

use std::num::NonZeroUsize;

use gdbstub::arch::{Arch, RegId, Registers};

/// The architecture of any guest. Addresses are 64 bits wide for gdbstub, since gdb sends those of 32-bit MIPS
/// sign-extended.
pub enum GuestArchitecture {}

impl Arch for GuestArchitecture {
    type Usize = u64;
    type Registers = RegisterBytes;
    type BreakpointKind = usize;
    type RegId = RegisterNumber;
}

/// All registers as the `g` packet carries them: in order of their numbers, in the guest's byte order; `None` is a
/// byte of a register that the trace does not prove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterBytes {
    /// The contents of the `g` packet.
    pub bytes: Vec<Option<u8>>,
    /// The program counter, if it is known.
    pub program_counter: Option<u32>,
}

impl Registers for RegisterBytes {
    type ProgramCounter = u64;

    // gdbstub itself never asks; an unknown program counter is the one address that no guest has.
    fn pc(&self) -> u64 {
        self.program_counter.map_or(u64::MAX, u64::from)
    }

    fn gdb_serialize(&self, write_byte: impl FnMut(Option<u8>)) {
        self.bytes.iter().copied().for_each(write_byte);
    }

    // A recording's registers can't be written.
    fn gdb_deserialize(&mut self, _bytes: &[u8]) -> Result<(), ()> {
        Err(())
    }
}

/// A register's number in the target description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterNumber(pub usize);

impl RegId for RegisterNumber {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        Some((Self(id), None))
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}
