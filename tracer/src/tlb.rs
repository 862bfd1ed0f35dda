//! The TLB of a MIPS guest: reads what of it is new from QEMU, and remembers what was told.

use std::ffi::c_uint;

use ktrace_format::segment::TRANSLATION_SEGMENTS;
use ktrace_machine::mips::tlb::{CAPACITY, Entry, State, record};

/// `enum qemu_plugin_mips_translation`.
mod translation {
    use std::ffi::c_uint;

    pub const SEGMENTS: c_uint = 1;
    pub const TLB: c_uint = 2;
}

/// `struct qemu_plugin_mips_tlb_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct QemuEntry {
    index: u32,
    page_mask: u32,
    hi: u64,
    lo: [u64; 2],
}

/// `struct qemu_plugin_mips_tlb`.
#[repr(C)]
#[derive(Debug)]
pub struct QemuTlb {
    asid: u32,
    in_use: u32,
    count: u32,
    entries: [QemuEntry; CAPACITY],
}

/// `qemu_plugin_read_mips_tlb`.
pub type ReadTlb = unsafe extern "C" fn(*mut QemuTlb, bool) -> c_uint;

/// Everything is told in one segment of so many; 16 would do for a replay, which reads back to there, and more would save little.
const WHOLE_EVERY: usize = 16;
const _: () = assert!(WHOLE_EVERY < TRANSLATION_SEGMENTS);

/// See the [module](self).
pub struct Tlb {
    read: ReadTlb,
    /// As QEMU gives it.
    new: Box<QemuTlb>,
    /// What was last told of all of it.
    state: Option<State>,
    /// The entries that were told and are in use.
    told: Vec<Option<Entry>>,
    /// Segments since the one in which everything was told.
    segments: usize,
}

impl Tlb {
    /// One of which nothing was told.
    pub fn new(read: ReadTlb) -> Tlb {
        let new = QemuTlb { asid: 0, in_use: 0, count: 0, entries: [QemuEntry::default(); CAPACITY] };
        Tlb { read, new: Box::new(new), state: None, told: Vec::new(), segments: 0 }
    }

    /// Tells `tell` the values of translation entries that say what is new; at the start of a segment at least one. To be called on
    /// the vCPU's thread between two instructions.
    pub fn update(&mut self, is_start: bool, tell: impl FnMut(&[u64])) {
        self.segments += usize::from(is_start);
        // What was written while it could not be told is not known here.
        let alone = self.segments == WHOLE_EVERY || !matches!(self.state, Some(State::Tlb { .. }));
        if alone {
            self.segments = 0;
        }
        // SAFETY: on the vCPU's thread, as QEMU asks; it fills in what this points to.
        let state = match unsafe { (self.read)(&raw mut *self.new, alone) } {
            translation::TLB => {
                State::Tlb { asid: self.new.asid as u16, in_use: (self.new.in_use as usize).min(CAPACITY) }
            }
            translation::SEGMENTS => State::NoTlb,
            _ => State::OtherSegments,
        };
        let changed = match state {
            State::Tlb { in_use, .. } => self.changed(alone, in_use),
            State::NoTlb | State::OtherSegments => Vec::new(),
        };
        if is_start || self.state != Some(state) || !changed.is_empty() {
            self.state = Some(state);
            record(state, alone, &changed, tell);
        }
    }

    fn changed(&mut self, alone: bool, in_use: usize) -> Vec<(usize, Entry)> {
        if alone {
            self.told.clear();
        }
        self.told.resize(in_use, None);
        let mut changed = Vec::new();
        for new in self.new.entries.iter().take(self.new.count as usize) {
            let entry = Entry { hi: new.hi as u32, page_mask: new.page_mask, lo: new.lo };
            if let Some(told) = self.told.get_mut(new.index as usize)
                && *told != Some(entry)
            {
                *told = Some(entry);
                changed.push((new.index as usize, entry));
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    use ktrace_machine::Mapped;
    use ktrace_machine::mips::tlb::History;

    /// QEMU's side: what it answers, the TLB, and which entries were written since it was read.
    struct Guest {
        answer: c_uint,
        asid: u32,
        entries: Vec<(Entry, bool)>,
    }

    thread_local! {
        static GUEST: RefCell<Guest> = const { RefCell::new(Guest { answer: 0, asid: 0, entries: Vec::new() }) };
    }

    unsafe extern "C" fn read(to: *mut QemuTlb, all: bool) -> c_uint {
        GUEST.with_borrow_mut(|guest| {
            if guest.answer == translation::TLB {
                // SAFETY: it is the one that `update` passes.
                let to = unsafe { &mut *to };
                (to.asid, to.in_use, to.count) = (guest.asid, guest.entries.len() as u32, 0);
                for (index, (entry, written)) in (0..).zip(&mut guest.entries) {
                    if std::mem::take(written) || all {
                        let Entry { hi, page_mask, lo } = *entry;
                        to.entries[to.count as usize] = QemuEntry { index, page_mask, hi: hi.into(), lo };
                        to.count += 1;
                    }
                }
            }
            guest.answer
        })
    }

    fn entry(page: u64) -> (Entry, bool) {
        let hi = (page as u32) << 13 | 1 << 12;
        (Entry { hi, page_mask: 0, lo: [page << 6 | 3, 0] }, true)
    }

    /// What the updates tell is the guest's TLB at each place; so many values were told there.
    #[test]
    fn what_is_told_is_what_there_is() {
        type Change = fn(&mut Guest);
        let steps: [(Change, usize); 10] = [
            (|guest| (guest.answer, guest.entries) = (2, vec![entry(1), entry(2), entry(3)]), 10),
            (|_| {}, 0),
            (|guest| guest.asid = 7, 1),
            (|guest| guest.entries[1] = entry(5), 4),
            (|guest| guest.entries[1].1 = true, 0),
            // One more behind the others, which goes away again, and comes back.
            (|guest| guest.entries.push(entry(6)), 4),
            (|guest| guest.entries.truncate(3), 1),
            (|guest| guest.entries.push(entry(6)), 4),
            (|guest| (guest.answer, guest.entries[0]) = (1, entry(9)), 0),
            (|guest| guest.answer = 2, 13),
        ];
        let (mut tlb, mut history) = (Tlb::new(read), History::default());
        for (at, (change, expected)) in (0..).zip(steps) {
            GUEST.with_borrow_mut(change);
            let mut count = 0;
            tlb.update(at == 0, |values| {
                count += values.len();
                history.push(at, values);
            });
            assert_eq!(count, expected, "values at {at}");
            GUEST.with_borrow(|guest| {
                for page in 0..10u64 {
                    let is_there = guest.entries.iter().any(|(entry, _)| entry.hi >> 13 == page as u32);
                    let mapped = match is_there {
                        _ if guest.answer == 1 => Mapped::Unknown,
                        true => Mapped::To(page << 12),
                        false => Mapped::Nothing,
                    };
                    assert_eq!(history.look_up(at, (page as u32) << 13), mapped, "page {page} at {at}");
                }
            });
        }
        GUEST.with_borrow_mut(|guest| guest.answer = 0);
        tlb.update(false, |values| history.push(20, values));
        assert_eq!(history.state(20), State::OtherSegments);
        // A segment begins with something, whether it is new or not, and now and then with everything.
        GUEST.with_borrow_mut(|guest| guest.answer = 2);
        let told = std::array::from_fn(|_| {
            let mut count = 0;
            tlb.update(true, |values| count += values.len());
            count
        });
        let mut expected = [1; 2 * WHOLE_EVERY];
        (expected[0], expected[WHOLE_EVERY]) = (13, 13);
        assert_eq!(told, expected);
    }

    #[test]
    fn the_layout_is_that_of_c() {
        assert_eq!((size_of::<QemuEntry>(), size_of::<QemuTlb>()), (32, 16 + 32 * CAPACITY));
    }
}
