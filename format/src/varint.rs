//! Unsigned LEB128 numbers: seven bits a byte, the lowest first, bit 7 set on all but the last.

/// The bytes end inside a number, or it has more than 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a number is cut short or longer than 64 bits")]
pub struct BadNumber;

/// Appends one number.
#[inline]
pub fn write(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// Reads one number at `*at` and moves `*at` behind it.
#[inline]
pub fn read(from: &[u8], at: &mut usize) -> Result<u64, BadNumber> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *from.get(*at).ok_or(BadNumber)?;
        *at += 1;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(BadNumber);
        }
        value |= part << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(BadNumber)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_number_comes_back(value: u64, rest: Vec<u8>) {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            let length = bytes.len();
            bytes.extend(rest);
            let mut at = 0;
            prop_assert_eq!(read(&bytes, &mut at), Ok(value));
            prop_assert_eq!(at, length);
            let mut at = 0;
            prop_assert_eq!(read(&bytes[..length - 1], &mut at), Err(BadNumber));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            let mut at = 0;
            while read(&bytes, &mut at).is_ok() {}
            prop_assert!(at <= bytes.len());
        }
    }
}
