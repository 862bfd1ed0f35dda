//! Arithmetic shared by all executors: additions with flags and the barrel shifter.
//!
//! Flags are kept unpacked: N is the sign of a word, Z says that a word is zero, C is 0 or 1, V is the sign of a word.
//! Computing them is then a by-product of the operation, and only a conditional instruction or a read of CPSR pays for
//! packing.

use super::instruction::{Shift, ShiftKind};

/// The sum of two words and a carry, with the carry (0 or 1) and the overflow (in the sign bit) that it produced.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    pub result: u32,
    pub carry: u32,
    pub overflow: u32,
}

/// `a + b + carry` (AddWithCarry of DDI 0406C, A2.2.1).
#[inline(always)]
pub(super) fn add_with_carry(a: u32, b: u32, carry: u32) -> Sum {
    let wide = u64::from(a) + u64::from(b) + u64::from(carry);
    let result = wide as u32;
    Sum { result, carry: (wide >> 32) as u32, overflow: (result ^ a) & !(a ^ b) }
}

/// `a + b`.
#[inline(always)]
pub(super) fn add(a: u32, b: u32) -> Sum {
    let (result, carry) = a.overflowing_add(b);
    Sum { result, carry: u32::from(carry), overflow: (result ^ a) & !(a ^ b) }
}

/// `a - b`; the carry is the inverted borrow.
#[inline(always)]
pub(super) fn subtract(a: u32, b: u32) -> Sum {
    let result = a.wrapping_sub(b);
    Sum { result, carry: u32::from(a >= b), overflow: (result ^ a) & (a ^ b) }
}

/// A value shifted by a constant.
#[inline(always)]
pub(super) fn shift(value: u32, shift: Shift, carry: u32) -> u32 {
    let amount = u32::from(shift.amount);
    match shift.kind {
        ShiftKind::Lsl => value << (amount & 31),
        ShiftKind::Lsr => value.checked_shr(amount).unwrap_or(0),
        ShiftKind::Asr => (value as i32 >> amount.min(31)) as u32,
        ShiftKind::Ror => value.rotate_right(amount),
        ShiftKind::Rrx => value >> 1 | carry << 31,
    }
}

/// A value shifted by a constant, and the shifter's carry-out.
#[inline(always)]
pub(super) fn shift_with_carry(value: u32, shift: Shift, carry: u32) -> (u32, u32) {
    match shift.kind {
        ShiftKind::Rrx => (value >> 1 | carry << 31, value & 1),
        kind => shift_by_amount(value, kind, shift.amount, carry),
    }
}

/// A value shifted by 0 to 255 bits, as by the low byte of a register (Shift_C of DDI 0406C, A2.2.1), and the
/// shifter's carry-out.
#[inline]
pub(super) fn shift_by_amount(value: u32, kind: ShiftKind, amount: u8, carry: u32) -> (u32, u32) {
    let amount = u32::from(amount);
    if amount == 0 {
        return (value, carry);
    }
    match kind {
        ShiftKind::Lsl => match amount {
            1..=31 => (value << amount, value >> (32 - amount) & 1),
            32 => (0, value & 1),
            _ => (0, 0),
        },
        ShiftKind::Lsr => match amount {
            1..=31 => (value >> amount, value >> (amount - 1) & 1),
            32 => (0, value >> 31),
            _ => (0, 0),
        },
        ShiftKind::Asr => match amount {
            1..=31 => ((value as i32 >> amount) as u32, value >> (amount - 1) & 1),
            _ => ((value as i32 >> 31) as u32, value >> 31),
        },
        ShiftKind::Ror => {
            let result = value.rotate_right(amount);
            (result, result >> 31)
        }
        // No encoding shifts by a register with RRX.
        ShiftKind::Rrx => (value >> 1 | carry << 31, value & 1),
    }
}

/// `width` bits (1 to 32) of a value from bit `lsb` on, zero-extended.
#[inline(always)]
pub(super) fn extract_field(value: u32, lsb: u8, width: u8) -> u32 {
    value >> (lsb & 31) & u32::MAX >> ((32 - u32::from(width)) & 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The shifter on 320 bits of room: every bit that leaves the word can still be seen.
    fn shifter_oracle(value: u32, kind: ShiftKind, amount: u8, carry: u32) -> (u32, u32) {
        let bit = |index: i32| -> u32 {
            match kind {
                ShiftKind::Asr if index > 31 => value >> 31,
                ShiftKind::Ror => value >> index.rem_euclid(32) & 1,
                _ if (0..32).contains(&index) => value >> index & 1,
                _ => 0,
            }
        };
        let by = i32::from(amount);
        let (step, out) = match kind {
            ShiftKind::Lsl => (-by, 32 - by),
            _ => (by, by - 1),
        };
        let result = (0..32).map(|index| bit(index + step) << index).sum();
        (result, if amount == 0 { carry } else { bit(out) })
    }

    #[test]
    fn every_amount_shifts_as_if_there_were_room() {
        for kind in [ShiftKind::Lsl, ShiftKind::Lsr, ShiftKind::Asr, ShiftKind::Ror] {
            for amount in 0..=255u8 {
                for value in [0, 1, 0x8000_0000, 0xffff_ffff, 0x8000_0001, 0x1234_5678, 0x9abc_def0] {
                    for carry in [0, 1] {
                        let expected = shifter_oracle(value, kind, amount, carry);
                        assert_eq!(
                            shift_by_amount(value, kind, amount, carry),
                            expected,
                            "{kind:?} {amount}"
                        );
                        let in_range = match kind {
                            ShiftKind::Lsl | ShiftKind::Ror => amount < 32,
                            _ => amount <= 32,
                        };
                        if in_range {
                            assert_eq!(shift(value, Shift { kind, amount }, carry), expected.0);
                            assert_eq!(shift_with_carry(value, Shift { kind, amount }, carry), expected);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rrx_rotates_through_the_carry() {
        let rrx = Shift { kind: ShiftKind::Rrx, amount: 1 };
        assert_eq!(shift_with_carry(0x8000_0001, rrx, 0), (0x4000_0000, 1));
        assert_eq!(shift_with_carry(0x8000_0000, rrx, 1), (0xc000_0000, 0));
        assert_eq!(shift(2, rrx, 1), 0x8000_0001);
    }

    proptest! {
        #[test]
        fn sums_agree_with_wide_arithmetic(a: u32, b: u32, carry in 0u32..2) {
            for (sum, addend, carry) in [
                (add_with_carry(a, b, carry), b, carry),
                (add(a, b), b, 0),
                (subtract(a, b), !b, 1),
            ] {
                let unsigned = i128::from(a) + i128::from(addend) + i128::from(carry);
                let signed = i128::from(a as i32) + i128::from(addend as i32) + i128::from(carry);
                prop_assert_eq!(i128::from(sum.result), unsigned & 0xffff_ffff);
                prop_assert_eq!(sum.carry == 1, unsigned > i128::from(u32::MAX));
                prop_assert!(sum.carry < 2);
                prop_assert_eq!(sum.overflow >> 31 == 1, i32::try_from(signed).is_err());
            }
        }
    }
}
