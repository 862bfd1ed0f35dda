//! Why a processor went on elsewhere than its program says.

use crate::InstructionSet;

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

/// The number of [`Cause::is_gap`], for every instruction set.
const GAP: u8 = 254;

impl Cause {
    /// The cause with a number.
    pub const fn new(set: InstructionSet, code: u8) -> Cause {
        Cause { set, code }
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
        let names = match self.set {
            InstructionSet::Arm => &ARM_NAMES,
        };
        names.get(usize::from(self.code)).copied()
    }

    /// The recording has a gap: nobody knows what was executed there, if anything was.
    pub const fn is_gap(self) -> bool {
        self.code == GAP
    }

    /// It is an interrupt.
    pub fn is_interrupt(self) -> bool {
        match self.set {
            InstructionSet::Arm => matches!(self.code, 6 | 7),
        }
    }

    /// The number is that of the exception vector at which the processor went on.
    pub fn is_vector(self) -> bool {
        match self.set {
            InstructionSet::Arm => self.code < 8,
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
        }
    }
}
