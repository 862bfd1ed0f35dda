//! Why a processor went on elsewhere than its program says.

use crate::{InstructionSet, RegisterSet};

/// The cause of a discontinuity, as a trace numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    set: InstructionSet,
    code: u8,
}

/// What the last instruction before a discontinuity was, in as far as the cause's meaning depends on it.
#[derive(Clone, Copy, Debug)]
pub struct LastInstruction {
    /// It stopped in the middle, at a memory access.
    pub stopped: bool,
    /// What is known of it if it is opaque: its mnemonic, and whether it may access memory.
    pub opaque: Option<(&'static str, bool)>,
}

/// ARM: the exception vectors (DDI 0406C, B1.8.1), then what has none.
const ARM_NAMES: [&str; 10] = [
    "reset",
    "undefined instruction",
    "supervisor call",
    "prefetch abort",
    "data abort",
    "hypervisor trap",
    "IRQ",
    "FIQ",
    "reset",
    "host call",
];

/// MIPS: ExcCode of the register Cause (MD00090, table 9.52), then what is no exception.
const MIPS_NAMES: [&str; 34] = [
    "interrupt",
    "TLB modification",
    "TLB exception on a load or fetch",
    "TLB exception on a store",
    "address error on a load or fetch",
    "address error on a store",
    "bus error on a fetch",
    "bus error on a load or store",
    "system call",
    "breakpoint",
    "reserved instruction",
    "coprocessor unusable",
    "integer overflow",
    "trap",
    "MSA floating-point exception",
    "floating-point exception",
    "",
    "",
    "coprocessor 2 exception",
    "TLB read inhibit",
    "TLB execute inhibit",
    "MSA disabled",
    "MDMX unusable",
    "watch",
    "machine check",
    "thread exception",
    "DSP module disabled",
    "guest exit",
    "",
    "",
    "cache error",
    "",
    "reset",
    "host call",
];

/// The number of [`Cause::is_gap`], for every instruction set.
const GAP: u8 = 254;

impl Cause {
    /// The cause with a number.
    pub const fn new(set: InstructionSet, code: u8) -> Cause {
        Cause { set, code }
    }

    /// The number of a reset.
    pub const fn reset(set: InstructionSet) -> u8 {
        match set {
            InstructionSet::Arm => 8,
            InstructionSet::Mips(_) => 32,
        }
    }

    /// The number of a host call: QEMU did for the guest what an instruction asked for, such as PSCI or semihosting.
    pub const fn host_call(set: InstructionSet) -> u8 {
        match set {
            InstructionSet::Arm => 9,
            InstructionSet::Mips(_) => 33,
        }
    }

    /// Its number.
    pub const fn code(self) -> u8 {
        self.code
    }

    /// What it is called; `None`: it has no name.
    pub fn name(self) -> Option<&'static str> {
        if self.is_gap() {
            return Some("a gap in the recording");
        }
        let names: &[&str] = match self.set {
            InstructionSet::Arm => &ARM_NAMES,
            InstructionSet::Mips(_) => &MIPS_NAMES,
        };
        names.get(usize::from(self.code)).copied().filter(|name| !name.is_empty())
    }

    /// The recording has a gap: nobody knows what was executed there, if anything was.
    pub const fn is_gap(self) -> bool {
        self.code == GAP
    }

    /// The mapping of virtual to physical addresses may be another behind it: after a reset, and where nobody knows what happened.
    pub const fn remaps(self) -> bool {
        self.is_gap() || self.code == Cause::reset(self.set)
    }

    /// It is an interrupt.
    pub fn is_interrupt(self) -> bool {
        match self.set {
            InstructionSet::Arm => matches!(self.code, 6 | 7),
            InstructionSet::Mips(_) => self.code == 0,
        }
    }

    /// The registers that it may write. Only an exception or interrupt of the architecture is known to leave the others alone: a
    /// host call returns values, a reset sets all, and in a gap anything may have happened.
    pub fn may_write(self) -> RegisterSet {
        let architectural = match self.set {
            InstructionSet::Arm => matches!(self.code, 1..=7),
            InstructionSet::Mips(_) => self.code < 32,
        };
        if architectural { self.set.exception_registers() } else { self.set.all_registers() }
    }

    /// The number is that of the exception vector at which the processor went on.
    pub fn is_vector(self) -> bool {
        match self.set {
            InstructionSet::Arm => self.code < 8,
            InstructionSet::Mips(_) => false,
        }
    }

    /// The last instruction before it caused it.
    pub fn is_raised_by(self, last: LastInstruction) -> bool {
        match self.set {
            InstructionSet::Arm => match self.code {
                1 | 2 | 4 | 5 | 9 => true,
                // An instruction that can't be fetched has not started, and did not raise it: the one before it is at
                // fault only if it asked for that.
                3 => last.opaque.is_some_and(|(mnemonic, _)| mnemonic == "bkpt"),
                _ => false,
            },
            InstructionSet::Mips(_) => match self.code {
                1 | 3 | 5 | 7..=15 | 18 | 19 | 21 | 22 | 26 | 33 => true,
                // The same code stands for an instruction that can't be fetched, which has not started.
                2 | 4 | 23 => last.stopped || last.opaque.is_some_and(|(_, memory)| memory),
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteOrder;

    #[test]
    fn a_number_means_what_its_instruction_set_says() {
        let (arm, mips) = (InstructionSet::Arm, InstructionSet::mips(ByteOrder::Big));
        let names = |code| (Cause::new(arm, code).name(), Cause::new(mips, code).name());
        assert_eq!(names(8), (Some("reset"), Some("system call")));
        assert_eq!(names(32), (None, Some("reset")));
        for set in [arm, mips] {
            assert_eq!(Cause::new(set, Cause::reset(set)).name(), Some("reset"));
            assert_eq!(Cause::new(set, Cause::host_call(set)).name(), Some("host call"));
        }
        assert_eq!(names(16), (None, None));
        assert_eq!(names(255), (None, None));
        assert!(Cause::new(mips, 0).is_interrupt() && !Cause::new(arm, 0).is_interrupt());
    }

    #[test]
    fn a_fetch_is_not_the_fault_of_the_instruction_before() {
        let miss = Cause::new(InstructionSet::mips(ByteOrder::Little), 2);
        assert!(!miss.is_raised_by(LastInstruction { stopped: false, opaque: None }));
        assert!(miss.is_raised_by(LastInstruction { stopped: true, opaque: None }));
        assert!(miss.is_raised_by(LastInstruction { stopped: false, opaque: Some(("ll", true)) }));
        assert!(!miss.is_raised_by(LastInstruction { stopped: false, opaque: Some(("mfc0", false)) }));
    }
}
