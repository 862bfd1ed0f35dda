//! Memory that is sent as it is (`x`), and the search for a pattern in it (`qSearch:memory`), which gdbstub does not know.

use std::ops::Range;

use memchr::memmem::Finder;

use crate::admission::Refusal;
use crate::framing;
use crate::target::Guest;

/// How much memory a search reads at once; it can be cancelled between.
const PIECE: u64 = 0x10000;

/// The answer to a binary read of up to `length` bytes: what is known from `address` on, up to the first unknown byte.
pub fn read(guest: &mut Guest, address: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    match guest.read_known(address, &mut bytes) {
        Ok(0) if length > 0 => Refusal::NOTHING_KNOWN.as_bytes().to_vec(),
        Ok(known) => {
            let mut reply = b"b".to_vec();
            framing::escape(bytes.get(..known).unwrap_or_default(), &mut reply);
            reply
        }
        Err(error) => {
            log::warn!("memory at {address:#010x}, position {}: {error}", guest.replay.position());
            Refusal::NOTHING_KNOWN.as_bytes().to_vec()
        }
    }
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The lowest virtual address where the pattern is.
    At(u32),
    /// The pattern is nowhere in the memory that is known.
    Nowhere,
    /// The client wants a stop.
    Cancelled,
}

/// Searches the memory from virtual address `start` on for a pattern that lies wholly in its `length` bytes. Bytes that
/// are not known never match.
pub fn search(
    guest: &mut Guest,
    start: u32,
    length: u64,
    pattern: &[u8],
    cancelled: &mut dyn FnMut() -> bool,
) -> Found {
    let finder = Finder::new(pattern);
    // The address space ends; a search does not go on at its start.
    let end = u64::from(start).saturating_add(length).min(1 << 32);
    let overlap = pattern.len().saturating_sub(1);
    // The end of the piece before, where the pattern may begin, and the piece.
    let mut bytes: Vec<Option<u8>> = Vec::new();
    let mut at = u64::from(start);
    while at < end {
        if cancelled() {
            return Found::Cancelled;
        }
        bytes.drain(..bytes.len().saturating_sub(overlap));
        let kept = bytes.len();
        let first = at - kept as u64;
        let piece = PIECE.min(end - at);
        bytes.resize(kept + piece as usize, None);
        if let Some(into) = bytes.get_mut(kept..)
            && let Err(error) = guest.replay.read_memory(at as u32, into)
        {
            log::warn!("memory at {at:#010x}, position {}: {error}", guest.replay.position());
            into.fill(None);
        }
        if let Some(offset) = find(&finder, &bytes) {
            return Found::At((first + offset as u64) as u32);
        }
        at += piece;
    }
    Found::Nowhere
}

/// The first place where known bytes match.
fn find(finder: &Finder<'_>, bytes: &[Option<u8>]) -> Option<usize> {
    let known = |range: &Range<usize>| -> Vec<u8> {
        bytes.get(range.clone()).unwrap_or_default().iter().flatten().copied().collect()
    };
    let mut start = 0;
    while let Some(skipped) = bytes.get(start..)?.iter().position(Option::is_some) {
        start += skipped;
        let rest = bytes.get(start..)?;
        let end = start + rest.iter().position(Option::is_none).unwrap_or(rest.len());
        let run = start..end;
        if run.len() >= finder.needle().len()
            && let Some(offset) = finder.find(&known(&run))
        {
            return Some(start + offset);
        }
        start = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{COUNTER_ADDRESS, PROGRAM_ADDRESS, SyntheticRecording};
    use proptest::prelude::*;

    fn search_freely(guest: &mut Guest, start: u32, length: u64, pattern: &[u8]) -> Found {
        search(guest, start, length, pattern, &mut || false)
    }

    #[test]
    fn a_pattern_is_found_where_it_lies_whole_in_the_range() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        let mut find = |start, length, pattern: &[u8]| search_freely(&mut guest, start, length, pattern);
        // `mov r1, #0x9000` and the first byte of the next instruction.
        let pattern = [0x09, 0x1a, 0xa0, 0xe3, 0x01];
        let place = PROGRAM_ADDRESS + 4;
        assert_eq!(find(0, 1 << 32, &pattern), Found::At(place));
        assert_eq!(find(place, 5, &pattern), Found::At(place));
        assert_eq!(find(place, 4, &pattern), Found::Nowhere);
        assert_eq!(find(place + 1, 1 << 20, &pattern), Found::Nowhere);
        assert_eq!(find(place, u64::MAX, &pattern), Found::At(place));
        assert_eq!(find(0, 0, &pattern), Found::Nowhere);
        // Over the border between two pieces, wherever that is.
        let last_word = 0x1234_5678_u32.to_le_bytes();
        let border = 0xffff_fffc - PIECE as u32;
        for start in border - 1..border + 6 {
            assert_eq!(find(start, 1 << 32, &last_word), Found::At(0xffff_fffc), "from {start:#x}");
        }
    }

    #[test]
    fn the_last_byte_of_the_address_space_is_found_and_nothing_behind_it() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        let found = search_freely(&mut guest, 0xffff_0000, 1 << 32, &[0x34, 0x12]);
        assert_eq!(found, Found::At(0xffff_fffe));
        // 0x8000 is far behind the end of the address space.
        assert_eq!(search_freely(&mut guest, 0xffff_0000, 1 << 32, &[0, 0, 0xa0, 0xe3]), Found::Nowhere);
    }

    #[test]
    fn memory_is_searched_as_it_is_at_the_position_and_unknown_bytes_match_nothing() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        let pattern = [3, 0, 0, 0];
        assert_eq!(search_freely(&mut guest, COUNTER_ADDRESS, 4, &pattern), Found::Nowhere);
        guest.replay.seek(ktrace_format::Position(12)).expect("in the recording");
        assert_eq!(search_freely(&mut guest, COUNTER_ADDRESS, 4, &pattern), Found::At(COUNTER_ADDRESS));
        assert_eq!(search_freely(&mut guest, COUNTER_ADDRESS, 8, &[0, 0]), Found::At(COUNTER_ADDRESS + 1));
        assert_eq!(search_freely(&mut guest, COUNTER_ADDRESS + 3, 8, &[0, 0]), Found::Nowhere);
    }

    #[test]
    fn a_search_can_be_cancelled() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        let mut questions = 0;
        let found = search(&mut guest, 0, 1 << 32, b"nowhere", &mut || {
            questions += 1;
            questions == 100
        });
        assert_eq!(found, Found::Cancelled);
    }

    #[test]
    fn binary_memory_is_escaped_and_ends_where_nothing_is_known() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        assert_eq!(read(&mut guest, PROGRAM_ADDRESS + 28, 64), [b'b', 0xfe, 0xff, 0xff, 0xea]);
        assert_eq!(read(&mut guest, PROGRAM_ADDRESS, 0), b"b");
        assert_eq!(read(&mut guest, 0, 4), b"E14");
    }

    proptest! {
        #[test]
        fn known_runs_are_searched_as_a_plain_search_would(
            bytes in proptest::collection::vec(proptest::option::weighted(0.9, 0_u8..3), 0..60),
            pattern in proptest::collection::vec(0_u8..3, 1..4),
        ) {
            let wanted: Vec<Option<u8>> = pattern.iter().copied().map(Some).collect();
            let expected = bytes.windows(wanted.len()).position(|window| window == wanted);
            prop_assert_eq!(find(&Finder::new(&pattern), &bytes), expected);
        }
    }
}
