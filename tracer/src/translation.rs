//! What governs the translation of addresses: what was last told of it, and what to tell next. The values are those of the trace's
//! Translation stream.

use ktrace_machine::InstructionSet;
use ktrace_machine::mips::tlb::{State, record};

use crate::registers::Registers;
use crate::tlb::{ReadTlb, Tlb};

/// SCTLR.B: addresses of bytes and halfwords are not what the model says.
const SCTLR_B: u64 = 1 << 7;

/// See the [module](self).
pub enum Translation {
    /// SCTLR, TTBCR, TTBR0 and TTBR1, if they are known.
    Arm(Option<[u64; 4]>),
    /// The TLB.
    Mips(Tlb),
    /// Nothing that can be told.
    Unknown,
}

/// Why a guest can't be recorded any more.
#[derive(Debug, thiserror::Error)]
#[error("the guest uses the big-endian memory of ARMv5 (SCTLR.B), which is not supported")]
pub struct UnsupportedMemory;

impl Translation {
    /// Of which nothing was told; a patched QEMU reads the TLB of a MIPS guest.
    pub fn new(set: InstructionSet, read_tlb: Option<ReadTlb>) -> Translation {
        match (set, read_tlb) {
            (InstructionSet::Arm, _) => Translation::Arm(None),
            (InstructionSet::Mips(_), Some(read)) => Translation::Mips(Tlb::new(read)),
            (InstructionSet::Mips(_), None) => Translation::Unknown,
        }
    }

    /// Tells `tell` the values of translation entries that say what is new; with `all`, those that say everything. To be called on
    /// the vCPU's thread between two instructions.
    pub fn update(
        &mut self,
        all: bool,
        registers: &Registers,
        status: u32,
        mut tell: impl FnMut(&[u64]),
    ) -> Result<(), UnsupportedMemory> {
        match self {
            Translation::Arm(told) => {
                let now = registers.translation(status);
                if now.is_some_and(|[sctlr, ..]| sctlr & SCTLR_B != 0) {
                    return Err(UnsupportedMemory);
                }
                if all || now != *told {
                    *told = now;
                    tell(now.as_ref().map_or(&[][..], |values| values));
                }
            }
            Translation::Mips(tlb) => tlb.update(all, tell),
            Translation::Unknown => {}
        }
        Ok(())
    }

    /// Tells `tell` that nothing is known any more, nor perhaps the status register. It says no more of translation after that.
    pub fn forget(&mut self, status_is_known: bool, mut tell: impl FnMut(&[u64])) {
        match std::mem::replace(self, Translation::Unknown) {
            // Without Status it is not known either which addresses are looked up in the TLB.
            Translation::Mips(_) if !status_is_known => record(State::OtherSegments, true, &[], tell),
            Translation::Mips(_) => record(State::NoTlb, true, &[], tell),
            Translation::Arm(_) => tell(&[]),
            Translation::Unknown => {}
        }
    }
}
