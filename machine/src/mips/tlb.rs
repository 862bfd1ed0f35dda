//! The TLB as a trace has it, for a debugger's view of memory that no access has shown.
//!
//! A trace says which entries there are at the start of some of its segments, and which change where. An address is looked up
//! as QEMU 10.0 does it in `r4k_map_address` (target/mips/tcg/system/tlb_helper.c), since that is what the accesses of the
//! recorded run went through: the first entry that matches counts, and what TLBWR has replaced stays in use behind the
//! processor's own entries until the guest could notice ("shadow entries"). Whether an access would be permitted is not looked
//! at, but an entry whose V is clear maps nothing.

use crate::translation::Mapped;

/// A TLB has no more entries than this: QEMU's `MIPS_TLB_MAX`.
pub const CAPACITY: usize = 128;

/// What a trace has of one change at a place: so many entries at most go together.
const ENTRIES_TOGETHER: usize = 5;

/// In a recorded head: no entries but those that come with it.
const HEAD_ALONE: u64 = 1 << 32;
/// In a recorded head: the guest has set segments, of which nothing is known.
const HEAD_OTHER_SEGMENTS: u64 = 1 << 33;
/// In EntryHi as recorded: for all address spaces.
const GLOBAL: u32 = 1 << 12;
/// EntryHi.EHINV: the entry matches nothing.
const INVALID: u32 = 1 << 10;
/// In EntryHi as recorded: 0.
const RESERVED: u32 = 1 << 11;
/// EntryHi.ASID and ASIDX.
const ASID: u32 = 0x3ff;
/// Where PageMask has its mask (MD00090, "PageMask Register"). QEMU knows no pages of 1 KiB, so bits 12 and 11 mean nothing.
const PAGE_MASK: u32 = 0x1fff_e000;
/// Bits of an address below VPN2 if PageMask is 0.
const BELOW_VPN2: u32 = 0x1fff;
/// EntryLo.V.
const VALID: u64 = 1 << 1;

/// An entry, as the registers of coprocessor 0 hold it for TLBWI (MD00090, "CP0 Register Descriptions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// VPN2, EHINV, ASIDX and ASID as in EntryHi; G in bit 12.
    pub hi: u32,
    /// PageMask.
    pub page_mask: u32,
    /// EntryLo0 and EntryLo1 in their 64-bit form: RI in bit 63, XI in bit 62, PFN in bits 61 to 6, C, D, V, G.
    pub lo: [u64; 2],
}

impl Entry {
    fn recorded(self, index: usize) -> [u64; 3] {
        let mask = self.page_mask & PAGE_MASK | (index & (CAPACITY - 1)) as u32;
        [u64::from(self.hi) | u64::from(mask) << 32, self.lo[0], self.lo[1]]
    }

    fn from_recorded([first, low, high]: [u64; 3]) -> Option<(usize, Entry)> {
        let mask = (first >> 32) as u32;
        let index = (mask & !PAGE_MASK) as usize;
        let entry = Entry { hi: first as u32, page_mask: mask & PAGE_MASK, lo: [low, high] };
        (index < CAPACITY && entry.hi & RESERVED == 0).then_some((index, entry))
    }

    /// What it maps an address to, in an address space: `None` if it does not match.
    fn translate(&self, asid: u16, address: u32) -> Option<Mapped> {
        let mask = self.page_mask | BELOW_VPN2;
        let is_of_space = self.hi & GLOBAL != 0 || self.hi & ASID == u32::from(asid);
        if !is_of_space || (self.hi ^ address) & !mask != 0 || self.hi & INVALID != 0 {
            return None;
        }
        let in_page = mask >> 1;
        let [even, odd] = self.lo;
        let lo = if address & mask & !in_page != 0 { odd } else { even };
        let frame = lo << 2 >> 8;
        Some(match lo & VALID {
            0 => Mapped::Nothing,
            // No physical address has more bits than 64.
            _ if frame >> 52 != 0 => Mapped::Unknown,
            _ => Mapped::To(frame << 12 | u64::from(address & in_page)),
        })
    }
}

/// What a trace says of all entries together from some place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The guest has set other segments than those that the processor starts with.
    OtherSegments,
    /// The segments are those that the processor starts with; what the mapped ones show is not known.
    NoTlb,
    /// The TLB is known.
    Tlb {
        /// EntryHi.ASID: the address space in which addresses are looked up.
        asid: u16,
        /// Entries from number 0 on that are looked at.
        in_use: usize,
    },
}

/// Tells `tell` the values of each translation entry that a trace needs to say this. `changed` are entries with their numbers;
/// if they are `alone` there are no others.
pub fn record(state: State, alone: bool, changed: &[(usize, Entry)], mut tell: impl FnMut(&[u64])) {
    let State::Tlb { asid, in_use } = state else {
        match state {
            State::OtherSegments => tell(&[HEAD_OTHER_SEGMENTS]),
            _ => tell(&[]),
        }
        return;
    };
    let head = u64::from(asid) | (in_use as u64) << 16;
    let mut values = vec![head | if alone { HEAD_ALONE } else { 0 }];
    let mut rest = changed;
    loop {
        let (part, more) = rest.split_at(rest.len().min(ENTRIES_TOGETHER));
        values.extend(part.iter().flat_map(|(index, entry)| entry.recorded(*index)));
        tell(&values);
        if more.is_empty() {
            return;
        }
        rest = more;
        values.clear();
        values.push(head);
    }
}

/// Whether the values of a translation entry say what has changed, and not what there is.
pub fn continues(values: &[u64]) -> bool {
    values.first().is_some_and(|head| head & (HEAD_ALONE | HEAD_OTHER_SEGMENTS) == 0)
}

/// All that a segment of a trace says of the TLB, by place.
#[derive(Clone, Debug, Default)]
pub struct History {
    states: Vec<(u64, State)>,
    /// For each entry what it is from a place on; `None`: not told.
    entries: Vec<Vec<(u64, Option<Entry>)>>,
}

/// The last of a list of things that hold from a place on.
fn latest<T: Copy>(list: &[(u64, T)], at: u64) -> Option<T> {
    let after = list.partition_point(|(from, _)| *from <= at);
    Some(list.get(after.checked_sub(1)?)?.1)
}

impl History {
    /// What is added from now on is of the next segment, which goes on with what there is at the end of this one.
    pub fn next_segment(&mut self) {
        fn keep_last<T>(list: &mut Vec<(u64, T)>) {
            list.drain(..list.len().saturating_sub(1));
            list.iter_mut().for_each(|(from, _)| *from = 0);
        }
        keep_last(&mut self.states);
        self.entries.iter_mut().for_each(keep_last);
    }

    /// Adds the values of a translation entry. `from` does not fall.
    pub fn push(&mut self, from: u64, values: &[u64]) {
        let before = self.states.last().map_or(State::NoTlb, |(_, state)| *state);
        let state = match values.split_first() {
            None => State::NoTlb,
            // What is not as it should be says nothing.
            Some((head, triples)) => {
                self.change(from, before, *head, triples).unwrap_or(State::OtherSegments)
            }
        };
        self.states.push((from, state));
    }

    fn change(&mut self, from: u64, before: State, head: u64, triples: &[u64]) -> Option<State> {
        let (asid, in_use) = (head as u16, (head >> 16) as u16 as usize);
        if head & !(HEAD_ALONE | 0xffff_ffff) != 0 || in_use > CAPACITY || !triples.len().is_multiple_of(3) {
            return None;
        }
        let kept = match before {
            _ if head & HEAD_ALONE != 0 => 0,
            State::Tlb { in_use: before, .. } => before.min(in_use),
            State::NoTlb => return Some(State::NoTlb),
            State::OtherSegments => return None,
        };
        if self.entries.len() < in_use {
            self.entries.resize(in_use, Vec::new());
        }
        // Each of them was told, so these take no more space than what was told.
        for gone in self.entries.iter_mut().skip(kept) {
            if gone.last().is_some_and(|(_, entry)| entry.is_some()) {
                gone.push((from, None));
            }
        }
        for triple in triples.chunks_exact(3) {
            let (index, entry) = Entry::from_recorded(triple.try_into().ok()?)?;
            if index >= in_use {
                return None;
            }
            self.entries.get_mut(index)?.push((from, Some(entry)));
        }
        Some(State::Tlb { asid, in_use })
    }

    /// What is known at a place.
    pub fn state(&self, at: u64) -> State {
        latest(&self.states, at).unwrap_or(State::NoTlb)
    }

    /// What is behind an address in a mapped segment at a place.
    pub fn look_up(&self, at: u64, address: u32) -> Mapped {
        let State::Tlb { asid, in_use } = self.state(at) else { return Mapped::Unknown };
        for index in 0..in_use {
            let entry = self.entries.get(index).and_then(|entries| latest(entries, at)).flatten();
            match entry.map(|entry| entry.translate(asid, address)) {
                Some(None) => {}
                Some(Some(mapped)) => return mapped,
                None => return Mapped::Unknown,
            }
        }
        Mapped::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::strategy::Strategy;

    const DIRTY_VALID: u64 = 6;

    fn page(frame: u64) -> u64 {
        frame << 6 | 3 << 3 | DIRTY_VALID
    }

    fn entry(hi: u32, even: u64, odd: u64) -> Entry {
        Entry { hi, page_mask: 0, lo: [even, odd] }
    }

    fn tlb(asid: u16, in_use: usize) -> State {
        State::Tlb { asid, in_use }
    }

    /// From where on, as `record` takes it: the state, whether it is alone, what has changed.
    type Told<'a> = (u64, State, bool, &'a [(usize, Entry)]);

    fn history(changes: &[Told<'_>]) -> History {
        let mut history = History::default();
        for (from, state, alone, changed) in changes {
            record(*state, *alone, changed, |values| history.push(*from, values));
        }
        history
    }

    #[test]
    fn an_entry_maps_two_pages_of_its_size_in_its_address_space() {
        let lookups = |entry: Entry, asid, addresses: &[u32]| -> Vec<Mapped> {
            let history = history(&[(0, tlb(asid, 1), true, &[(0, entry)])]);
            addresses.iter().map(|address| history.look_up(0, *address)).collect()
        };
        let small = entry(0x0040_2005, page(0x1234), page(0x777));
        let to = Mapped::To;
        assert_eq!(
            lookups(small, 5, &[0x0040_2abc, 0x0040_3abc, 0x0040_4000, 0x0040_1fff]),
            [to(0x123_4abc), to(0x77_7abc), Mapped::Nothing, Mapped::Nothing]
        );
        assert_eq!(lookups(small, 6, &[0x0040_2abc]), [Mapped::Nothing]);
        assert_eq!(lookups(small, 0x105, &[0x0040_2abc]), [Mapped::Nothing]);
        let global = Entry { hi: small.hi | GLOBAL, ..small };
        assert_eq!(lookups(global, 6, &[0x0040_2abc]), [to(0x123_4abc)]);
        let invalid = Entry { hi: global.hi | INVALID, ..small };
        assert_eq!(lookups(invalid, 6, &[0x0040_2abc]), [Mapped::Nothing]);
        // Pages of 1 MiB, whose VPN2 has bits that do not count.
        let large = Entry { hi: 0xd01f_e000, page_mask: 0x1f_e000, lo: [page(0x900), page(0x12_3400)] };
        assert_eq!(
            lookups(large, 0, &[0xd000_0000, 0xd00f_fffc, 0xd010_0000, 0xd01f_fffc, 0xd020_0000]),
            [to(0x90_0000), to(0x9f_fffc), to(0x1_2340_0000), to(0x1_234f_fffc), Mapped::Nothing]
        );
    }

    /// SPEC.md, "Translation".
    #[test]
    fn the_values_are_those_of_the_specification() {
        let told = |state, alone, changed: &[(usize, Entry)]| {
            let mut told = Vec::new();
            record(state, alone, changed, |values| told.push(values.to_vec()));
            told
        };
        let large = Entry { hi: 0xd020_1205, page_mask: 0x1f_e000, lo: [1 << 63 | page(0x900), 1] };
        let values = [0x0001_0012_0205, 0x001f_e011_d020_1205, 0x8000_0000_0002_401e, 1];
        assert_eq!(told(tlb(0x205, 18), true, &[(17, large)]), [values]);
        assert_eq!(told(tlb(0x205, 18), false, &[]), [[0x0012_0205]]);
        assert_eq!(told(State::NoTlb, true, &[]), [Vec::<u64>::new()]);
        assert_eq!(told(State::OtherSegments, true, &[]), [[2 << 32]]);
        let mut history = History::default();
        (0..17).for_each(|index| {
            history.push(0, &[0x0001_0012_0205 & !(u64::from(index > 0) << 32), index << 32 | 1 << 10, 0, 0])
        });
        history.push(0, &[values[0] & !HEAD_ALONE, values[1], values[2], values[3]]);
        assert_eq!(history.look_up(0, 0xd020_5678), Mapped::To(0x90_5678));
        assert_eq!(history.look_up(0, 0xd030_5678), Mapped::Nothing);
    }

    proptest::proptest! {
        #[test]
        fn no_values_are_too_strange(entries in proptest::collection::vec(
            proptest::collection::vec(proptest::prop_oneof![
                proptest::prelude::any::<u64>(),
                (0..4u64, 0..130u64).prop_map(|(alone, in_use)| alone << 32 | in_use << 16),
                (0..140u64).prop_map(|index| index << 32 | 1 << 12),
            ], 0..17),
            0..40,
        ), address: u32) {
            let mut history = History::default();
            for (from, values) in (0..).zip(&entries) {
                history.push(from, values);
                let told: usize = entries.iter().map(Vec::len).sum();
                let kept: usize = history.entries.iter().map(Vec::len).sum();
                proptest::prop_assert!(kept <= 2 * told);
            }
            history.look_up(entries.len() as u64, address);
        }
    }

    #[test]
    fn flags_of_a_page_are_not_of_its_address() {
        let high = 1 << 63 | 1 << 62 | page(0xf_ffff_ffff);
        let history = history(&[(0, tlb(0, 1), true, &[(0, entry(0, high, page(1) & !VALID))])]);
        assert_eq!(history.look_up(0, 0xffc), Mapped::To(0xffff_ffff_fffc));
        assert_eq!(history.look_up(0, 0x1ffc), Mapped::Nothing, "V is clear");
    }

    #[test]
    fn the_first_match_counts_also_if_it_is_not_valid() {
        let (one, two) = (entry(0, page(1), 0), entry(0, page(2), page(3)));
        let history = history(&[(0, tlb(0, 2), true, &[(0, one), (1, two)])]);
        assert_eq!(history.look_up(0, 0), Mapped::To(0x1000));
        assert_eq!(history.look_up(0, 0x1000), Mapped::Nothing);
    }

    #[test]
    fn changes_hold_from_their_place_on() {
        let (one, two) = (entry(0x2000, page(1), 0), entry(0x2001, page(2), 0));
        let never = entry(0x8000_0000, 0, 0);
        let history = history(&[
            (0, tlb(0, 2), true, &[(0, one), (1, never)]),
            (10, tlb(0, 2), false, &[(1, two)]),
            (20, tlb(1, 2), false, &[]),
            (30, tlb(1, 1), false, &[]),
            (40, State::NoTlb, false, &[]),
            (50, tlb(0, 1), true, &[(0, one)]),
            (60, State::OtherSegments, false, &[]),
        ]);
        let looked_up = |at| history.look_up(at, 0x2000);
        assert_eq!((looked_up(0), looked_up(19)), (Mapped::To(0x1000), Mapped::To(0x1000)));
        assert_eq!((looked_up(20), looked_up(29)), (Mapped::To(0x2000), Mapped::To(0x2000)));
        assert_eq!((looked_up(30), looked_up(40)), (Mapped::Nothing, Mapped::Unknown));
        assert_eq!((looked_up(50), looked_up(60)), (Mapped::To(0x1000), Mapped::Unknown));
        assert_eq!((history.state(45), history.state(60)), (State::NoTlb, State::OtherSegments));
        assert_eq!(History::default().state(0), State::NoTlb);
    }

    #[test]
    fn a_whole_tlb_takes_several_translation_entries() {
        let all: Vec<_> = (0..CAPACITY)
            .map(|index| (index, entry((index as u32) << 13 | 3, page(index as u64), 0)))
            .collect();
        let mut told = Vec::new();
        record(tlb(3, CAPACITY), true, &all, |values| told.push(values.to_vec()));
        assert_eq!(told.iter().map(Vec::len).sum::<usize>(), told.len() + 3 * CAPACITY);
        assert!(told.iter().all(|values| values.len() <= 16));
        let mut history = History::default();
        told.iter().for_each(|values| history.push(7, values));
        for index in 0..CAPACITY as u32 {
            assert_eq!(history.look_up(7, index << 13), Mapped::To(u64::from(index) << 12));
        }
    }

    #[test]
    fn an_entry_that_was_not_told_leaves_everything_behind_it_unknown() {
        let (one, two) = (entry(0x2000, page(1), 0), entry(0x4000, page(2), 0));
        let history = history(&[
            (0, tlb(0, 3), true, &[(0, one), (2, two)]),
            (10, tlb(0, 1), false, &[]),
            // Number 1 comes back, but not what it was.
            (20, tlb(0, 3), false, &[(1, two)]),
        ]);
        assert_eq!(
            (history.look_up(0, 0x2000), history.look_up(0, 0x4000)),
            (Mapped::To(0x1000), Mapped::Unknown)
        );
        assert_eq!(history.look_up(10, 0x4000), Mapped::Nothing);
        assert_eq!(
            (history.look_up(20, 0x4000), history.look_up(20, 0x6000)),
            (Mapped::To(0x2000), Mapped::Unknown)
        );
    }

    #[test]
    fn what_is_not_as_it_should_be_says_nothing_until_all_is_told_again() {
        let whole: &[(usize, Entry)] = &[(0, entry(0, page(1), 0))];
        let start = || history(&[(0, tlb(0, 1), true, whole)]);
        let head = 1 << 16;
        for bad in [
            &[head, 0, 0][..],
            &[head, 1 << 32, 0, 0],
            &[head, 0x80 << 32, 0, 0],
            &[head, 1 << 11, 0, 0],
            &[0x81 << 16],
            &[head | 1 << 34],
            &[head | HEAD_OTHER_SEGMENTS],
        ] {
            let mut history = start();
            history.push(1, bad);
            assert_eq!(history.look_up(0, 0), Mapped::To(0x1000));
            assert_eq!(history.state(1), State::OtherSegments, "{bad:x?}");
            history.push(2, &[head]);
            assert_eq!(history.look_up(2, 0), Mapped::Unknown, "{bad:x?}");
            record(tlb(0, 1), true, whole, |values| history.push(3, values));
            assert_eq!(history.look_up(3, 0), Mapped::To(0x1000));
        }
    }

    #[test]
    fn a_segment_goes_on_with_what_the_one_before_has_left() {
        let (one, two) = (entry(0x2000, page(1), 0), entry(0x2001, page(2), 0));
        let mut history =
            history(&[(0, tlb(0, 2), true, &[(0, one), (1, two)]), (10, tlb(1, 2), false, &[])]);
        history.next_segment();
        let mut told = Vec::new();
        record(tlb(1, 2), false, &[], |values| told.push(values.to_vec()));
        assert!(told.iter().all(|values| continues(values)));
        told.iter().for_each(|values| history.push(0, values));
        record(tlb(1, 2), false, &[(1, one)], |values| history.push(5, values));
        assert_eq!(
            (history.look_up(4, 0x2000), history.look_up(5, 0x2000)),
            (Mapped::To(0x2000), Mapped::Nothing)
        );
        // Without it there are the segments only.
        let mut alone = History::default();
        told.iter().for_each(|values| alone.push(0, values));
        assert_eq!((alone.look_up(4, 0x2000), alone.state(4)), (Mapped::Unknown, State::NoTlb));
        for (state, alone) in [(tlb(1, 2), true), (State::NoTlb, true), (State::OtherSegments, true)] {
            record(state, alone, &[], |values| assert!(!continues(values), "{state:?}"));
        }
    }
}
