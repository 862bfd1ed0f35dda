//! How compiled code calls functions: by convention, which hand-written code need not follow.

use crate::InstructionSet;

/// Numbers of registers, as in [`InstructionSet::registers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallingConvention {
    /// The first four arguments.
    pub arguments: [usize; 4],
    /// Where the function returns to; bit 0 chooses the instruction set there and is no part of the address.
    pub return_address: usize,
    /// The stack pointer, which is the same before and after.
    pub stack_pointer: usize,
    /// The result.
    pub result: usize,
}

impl InstructionSet {
    /// The calling convention: the AAPCS on ARM (IHI 0042F, 6.1.1), o32 on MIPS.
    pub const fn calling_convention(self) -> CallingConvention {
        match self {
            InstructionSet::Arm => CallingConvention {
                arguments: [0, 1, 2, 3],
                return_address: 14,
                stack_pointer: 13,
                result: 0,
            },
            InstructionSet::Mips(_) => CallingConvention {
                arguments: [4, 5, 6, 7],
                return_address: 31,
                stack_pointer: 29,
                result: 2,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteOrder;

    #[test]
    fn registers_have_the_names_that_the_conventions_use() {
        for (set, names) in [
            (InstructionSet::Arm, ["r0", "r3", "lr", "sp", "r0"]),
            (InstructionSet::mips(ByteOrder::Big), ["r4", "r7", "r31", "r29", "r2"]),
        ] {
            let CallingConvention { arguments, return_address, stack_pointer, result } =
                set.calling_convention();
            let numbers = [arguments[0], arguments[3], return_address, stack_pointer, result];
            assert_eq!(numbers.map(|number| set.registers()[number].name), names);
        }
    }
}
