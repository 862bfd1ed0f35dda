//! From virtual to physical addresses in a segment of a trace, by what the trace says of the registers, or the TLB, that govern
//! translation.

use crate::InstructionSet;
use crate::arm::translation::TranslationRegisters;
use crate::mips;
use crate::mips::tlb::{History, Mapped, State};
use crate::mips::translation::Segment;

/// What governs translation in a segment, by how many of its instructions have been executed.
#[derive(Clone, Debug)]
pub struct Translations(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Arm(Vec<(u64, Option<TranslationRegisters>)>),
    Mips(History),
}

impl Translations {
    /// From the entries that a trace has: from how many instructions on each holds, which does not fall, and its values.
    pub fn new<'a>(set: InstructionSet, entries: impl Iterator<Item = (u64, &'a [u64])>) -> Translations {
        Translations(match set {
            InstructionSet::Arm => Kind::Arm(
                entries.map(|(from, values)| (from, TranslationRegisters::from_recorded(values))).collect(),
            ),
            InstructionSet::Mips(_) => {
                let mut history = History::default();
                entries.for_each(|(from, values)| history.push(from, values));
                Kind::Mips(history)
            }
        })
    }

    /// Where an access would find a virtual address, after so many instructions and with this status register, whatever was
    /// seen before: `Some(None)` if it would find nothing. `None`: this does not say, or not for certain.
    pub fn certain(&self, executed: u64, status: u32, address: u32) -> Option<Option<u64>> {
        match &self.0 {
            // The tables may have been changed since the processor last looked at them.
            Kind::Arm(_) => None,
            Kind::Mips(history) => match mips::translation::segment(address, status) {
                Segment::Fixed(physical) => {
                    let is_fixed = history.state(executed) != State::OtherSegments;
                    is_fixed.then_some(Some(physical.into()))
                }
                Segment::Mapped => match history.look_up(executed, address) {
                    Mapped::To(physical) => Some(Some(physical)),
                    Mapped::Nothing => Some(None),
                    Mapped::Unknown => None,
                },
            },
        }
    }

    /// The physical address behind a virtual one by tables in memory. `read` reads little-endian numbers of so many bytes in
    /// physical memory; it returns `None` for what is not known. `None`: unmapped, or not known.
    pub fn by_tables(
        &self,
        executed: u64,
        address: u32,
        read: &mut dyn FnMut(u64, usize) -> Option<u64>,
    ) -> Option<u64> {
        match &self.0 {
            Kind::Arm(entries) => {
                let after = entries.partition_point(|(from, _)| *from <= executed);
                entries.get(after.checked_sub(1)?)?.1.as_ref()?.translate(address, read)
            }
            Kind::Mips(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteOrder;

    const ERL: u32 = 1 << 2;

    fn mips(entries: &[(u64, &[u64])]) -> Translations {
        Translations::new(InstructionSet::mips(ByteOrder::Big), entries.iter().copied())
    }

    #[test]
    fn without_a_tlb_the_fixed_segments_of_mips_are_translated_and_no_others() {
        for translations in [mips(&[]), mips(&[(0, &[])])] {
            let certain = |address, status| translations.certain(0, status, address);
            assert_eq!(certain(0x8000_1234, 0), Some(Some(0x1234)));
            assert_eq!(certain(0xbfc0_0000, 0), Some(Some(0x1fc0_0000)));
            assert_eq!((certain(0x40_0000, 0), certain(0xc000_0000, 0)), (None, None));
            assert_eq!((certain(0x40_0000, ERL), certain(0xc000_0000, ERL)), (Some(Some(0x40_0000)), None));
        }
    }

    #[test]
    fn a_tlb_translates_the_mapped_segments_of_mips() {
        // One entry, for 0xc0000000 and what is behind it; from the third instruction on the segments are others.
        let entry = [1 << 16 | 1 << 32, 0xc000_1000, 0x123 << 6 | 3, 1];
        let translations = mips(&[(0, &entry), (3, &[1 << 33])]);
        let certain = |executed, address| translations.certain(executed, 0, address);
        assert_eq!(certain(2, 0xc000_0abc), Some(Some(0x12_3abc)));
        assert_eq!((certain(2, 0xc000_1abc), certain(2, 0x40_0000)), (Some(None), Some(None)));
        assert_eq!(certain(2, 0x8000_1234), Some(Some(0x1234)));
        assert_eq!(translations.certain(2, ERL, 0x40_0000), Some(Some(0x40_0000)));
        assert_eq!((certain(3, 0xc000_0abc), certain(3, 0x8000_1234)), (None, None));
        assert_eq!(translations.by_tables(2, 0xc000_0abc, &mut |_, _| Some(0)), None);
    }

    #[test]
    fn tables_of_arm_count_from_where_their_registers_do() {
        let off: &[u64] = &[0xc5_0078, 0, 0, 0];
        let entries = [(1, off), (5, &[][..])];
        let translations = Translations::new(InstructionSet::Arm, entries.into_iter());
        let by_tables = |executed| translations.by_tables(executed, 0x1234, &mut |_, _| None);
        assert_eq!(
            [by_tables(0), by_tables(1), by_tables(4), by_tables(5)],
            [None, Some(0x1234), Some(0x1234), None]
        );
        assert_eq!(translations.certain(1, 0, 0x1234), None);
    }
}
