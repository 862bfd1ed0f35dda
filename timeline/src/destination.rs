//! Positions as people write them: on the command line (`--at`) and in `monitor goto`.

use std::str::FromStr;

use ktrace_format::Position;

/// A place in a recording that a person names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `start`: position 0.
    Start,
    /// `end`: after the last instruction.
    End,
    /// `N`: position N.
    Absolute(u64),
    /// `+N`: N instructions later.
    Later(u64),
    /// `-N`: N instructions earlier.
    Earlier(u64),
    /// `N%` of the recording; in hundredths of a percent, at most 10000.
    Fraction(u64),
}

/// Why a text names no place in a recording.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The text is of none of the forms.
    #[error("`{0}` is no position: write N, N%, +N, -N, start or end (N is decimal, or 0x… hexadecimal)")]
    Syntax(String),
    /// It leads out of the recording.
    #[error("`{text}` leads out of the recording, whose positions are 0 to {end}")]
    OutOfRange {
        /// What was written.
        text: String,
        /// The last position.
        end: Position,
    },
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let syntax = || DestinationError::Syntax(text.to_owned());
        let trimmed = text.trim();
        if let Some(percentage) = trimmed.strip_suffix('%') {
            return parse_hundredths(percentage).map(Self::Fraction).ok_or_else(syntax);
        }
        match trimmed {
            "start" => Ok(Self::Start),
            "end" => Ok(Self::End),
            _ => match (trimmed.strip_prefix('+'), trimmed.strip_prefix('-')) {
                (Some(number), _) => parse_number(number).map(Self::Later),
                (_, Some(number)) => parse_number(number).map(Self::Earlier),
                _ => parse_number(trimmed).map(Self::Absolute),
            }
            .ok_or_else(syntax),
        }
    }
}

impl Destination {
    /// The position that is meant in a recording that ends at `end`, seen from `here`; `None` if it is outside.
    pub fn resolve(self, here: Position, end: Position) -> Option<Position> {
        let position = match self {
            Self::Start => 0,
            Self::End => end.0,
            Self::Absolute(position) => position,
            Self::Later(count) => here.0.checked_add(count)?,
            Self::Earlier(count) => here.0.checked_sub(count)?,
            Self::Fraction(hundredths) => {
                u64::try_from(u128::from(end.0) * u128::from(hundredths) / 10_000).ok()?
            }
        };
        (position <= end.0).then_some(Position(position))
    }

    /// Reads a text and resolves it.
    pub fn find(text: &str, here: Position, end: Position) -> Result<Position, DestinationError> {
        text.parse::<Self>()?
            .resolve(here, end)
            .ok_or_else(|| DestinationError::OutOfRange { text: text.trim().to_owned(), end })
    }
}

/// A number as people write it, of a position as well as of an address or a length: decimal, or hexadecimal with 0x, and with
/// optional `_` between its digits.
pub fn parse_number(text: &str) -> Option<u64> {
    let digits = text.replace('_', "");
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None => (digits.as_str(), 10),
    };
    // from_str_radix would take a sign.
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// A percentage with up to two decimals, in hundredths.
fn parse_hundredths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 2 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = parse_number(whole)?;
    let decimals: u64 = format!("{decimals:0<2}").parse().ok()?;
    let hundredths = whole.checked_mul(100)?.checked_add(decimals)?;
    (hundredths <= 10_000).then_some(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_finds_its_position() {
        for (text, expected) in [
            ("0", 0),
            ("1_000", 1000),
            ("0x10", 16),
            ("+5", 105),
            ("-100", 0),
            ("start", 0),
            ("end", 1000),
            ("50%", 500),
            ("12.5%", 125),
            ("100%", 1000),
            (" 7 ", 7),
        ] {
            assert_eq!(
                Destination::find(text, Position(100), Position(1000)),
                Ok(Position(expected)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in [
            "",
            "x",
            "+",
            "-",
            "%",
            "1.5",
            "101%",
            "1.234%",
            "++5",
            "+-5",
            "0x",
            "99999999999999999999",
            "é%",
        ] {
            let found = Destination::find(text, Position(0), Position(1000));
            assert!(matches!(found, Err(DestinationError::Syntax(_))), "{text}: {found:?}");
        }
        for text in ["1001", "+1001", "-1", "+18446744073709551615"] {
            let found = Destination::find(text, Position(0), Position(1000));
            assert!(matches!(found, Err(DestinationError::OutOfRange { .. })), "{text}: {found:?}");
        }
    }

    #[test]
    fn a_fraction_of_the_longest_recording_does_not_overflow() {
        assert_eq!(Destination::find("100%", Position(0), Position(u64::MAX)), Ok(Position(u64::MAX)));
    }
}
