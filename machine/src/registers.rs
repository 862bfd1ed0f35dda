//! Registers of whichever instruction set the guest has, by their number in its keyframes.

use std::fmt;
use std::ops::{BitOr, BitOrAssign, Deref, DerefMut, Index, IndexMut};

/// No instruction set has more registers in a keyframe.
pub const REGISTER_CAPACITY: usize = 72;

/// The values of a processor's registers, in the order of its keyframes. It is as long as the instruction set has
/// registers, and as a slice that is all there is to it.
#[derive(Clone, Copy)]
pub struct Registers {
    count: usize,
    /// Those from `count` on are 0.
    values: [u32; REGISTER_CAPACITY],
}

impl Registers {
    /// So many registers, at most [`REGISTER_CAPACITY`], all 0.
    pub const fn zero(count: usize) -> Registers {
        let count = if count < REGISTER_CAPACITY { count } else { REGISTER_CAPACITY };
        Registers { count, values: [0; REGISTER_CAPACITY] }
    }

    /// These values; `None` if there are more than [`REGISTER_CAPACITY`].
    pub fn from_slice(values: &[u32]) -> Option<Registers> {
        let mut registers = Registers::zero(values.len());
        registers.values.get_mut(..values.len())?.copy_from_slice(values);
        Some(registers)
    }
}

impl<const N: usize> From<[u32; N]> for Registers {
    fn from(values: [u32; N]) -> Registers {
        const { assert!(N <= REGISTER_CAPACITY) };
        let mut registers = Registers::zero(N);
        registers.copy_from_slice(&values);
        registers
    }
}

impl Deref for Registers {
    type Target = [u32];

    #[inline]
    fn deref(&self) -> &[u32] {
        self.values.get(..self.count).unwrap_or(&self.values)
    }
}

impl DerefMut for Registers {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u32] {
        self.values.get_mut(..self.count).unwrap_or_default()
    }
}

impl Index<usize> for Registers {
    type Output = u32;

    #[inline]
    fn index(&self, number: usize) -> &u32 {
        &(**self)[number]
    }
}

impl IndexMut<usize> for Registers {
    #[inline]
    fn index_mut(&mut self, number: usize) -> &mut u32 {
        &mut (**self)[number]
    }
}

impl PartialEq for Registers {
    fn eq(&self, other: &Registers) -> bool {
        **self == **other
    }
}

impl Eq for Registers {}

impl fmt::Debug for Registers {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = text.debug_list();
        for value in self.iter() {
            list.entry(&format_args!("{value:#010x}"));
        }
        list.finish()
    }
}

/// A set of registers, by number.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RegisterSet(u128);

impl RegisterSet {
    /// None.
    pub const EMPTY: RegisterSet = RegisterSet(0);

    /// All that any instruction set has.
    pub const ALL: RegisterSet = RegisterSet(u128::MAX);

    /// Bit *n* is for register *n*.
    pub const fn from_bits(bits: u128) -> RegisterSet {
        RegisterSet(bits)
    }

    /// Bit *n* is for register *n*.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The registers with numbers below `count`, which is less than 128.
    pub const fn first(count: usize) -> RegisterSet {
        RegisterSet((1 << count) - 1)
    }

    /// Whether it has none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many it has.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether it has a register.
    #[inline]
    pub const fn contains(self, number: usize) -> bool {
        number < 128 && self.0 >> number & 1 != 0
    }

    /// Whether both have a register.
    pub const fn intersects(self, other: RegisterSet) -> bool {
        self.0 & other.0 != 0
    }

    /// Those that both have.
    pub const fn intersection(self, other: RegisterSet) -> RegisterSet {
        RegisterSet(self.0 & other.0)
    }

    /// The same without those of another set.
    pub const fn without(self, other: RegisterSet) -> RegisterSet {
        RegisterSet(self.0 & !other.0)
    }

    /// The numbers, rising.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let number = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (number < 128).then_some(number)
        })
    }
}

impl BitOr for RegisterSet {
    type Output = RegisterSet;

    fn bitor(self, other: RegisterSet) -> RegisterSet {
        RegisterSet(self.0 | other.0)
    }
}

impl BitOrAssign for RegisterSet {
    fn bitor_assign(&mut self, other: RegisterSet) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for RegisterSet {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "RegisterSet({:#x})", self.0)
    }
}

/// Registers of which some are not known.
#[derive(Clone, Copy, Debug)]
pub struct KnownRegisters {
    values: Registers,
    unknown: RegisterSet,
}

impl KnownRegisters {
    /// These values, but for those of some registers.
    pub const fn new(values: Registers, unknown: RegisterSet) -> KnownRegisters {
        KnownRegisters { values, unknown }
    }

    /// The value of a register; `None` if it is not known, or if there is none of this number.
    #[inline]
    pub fn get(&self, number: usize) -> Option<u32> {
        if self.unknown.contains(number) { None } else { self.values.get(number).copied() }
    }

    /// How many there are, known or not.
    #[expect(clippy::len_without_is_empty, reason = "a processor has registers")]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// All, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Option<u32>> + use<> {
        let registers = *self;
        (0..registers.len()).map(move |number| registers.get(number))
    }
}

impl PartialEq for KnownRegisters {
    fn eq(&self, other: &KnownRegisters) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for KnownRegisters {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_its_members_in_order() {
        let set = RegisterSet::from_bits(1 << 71 | 1 << 127 | 9);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 3, 71, 127]);
        assert_eq!(
            (set.len(), set.contains(71), set.contains(70), set.contains(128)),
            (4, true, false, false)
        );
        assert_eq!(set.without(RegisterSet::first(72)).iter().collect::<Vec<_>>(), [127]);
    }

    #[test]
    fn registers_are_as_many_as_they_were_made_of() {
        let registers = Registers::from([7, 8, 9]);
        assert_eq!(*registers, [7, 8, 9]);
        assert_ne!(registers, Registers::from([7, 8, 9, 0]));
        assert_eq!(Registers::from_slice(&[0; REGISTER_CAPACITY + 1]), None);
    }

    #[test]
    fn what_is_not_known_is_never_equal_to_a_value() {
        let known = KnownRegisters::new(Registers::from([1, 2]), RegisterSet::EMPTY);
        let partly = KnownRegisters::new(Registers::from([1, 2]), RegisterSet::from_bits(2));
        assert_ne!(known, partly);
        assert_eq!(partly, KnownRegisters::new(Registers::from([1, 3]), RegisterSet::from_bits(2)));
        assert_eq!(partly.iter().collect::<Vec<_>>(), [Some(1), None]);
    }
}
