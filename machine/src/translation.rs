//! From virtual to physical addresses in a segment of a trace, by what the trace says of the registers, or the TLB, that govern
//! translation.

use crate::InstructionSet;
use crate::arm::translation::TranslationRegisters;
use crate::mips;
use crate::mips::tlb::{History, State};
use crate::mips::translation::Segment;

/// What is behind a virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// This physical address.
    To(u64),
    /// An access would raise an exception.
    Nothing,
    /// The trace does not say.
    Unknown,
}

/// What governs translation in a segment, by how many of its instructions have been executed.
#[derive(Clone, Debug)]
pub struct Translations(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Arm(Vec<(u64, Option<TranslationRegisters>)>),
    Mips(History),
}

impl Translations {
    /// Of which a trace has said nothing yet.
    pub fn new(set: InstructionSet) -> Translations {
        Translations(match set {
            InstructionSet::Arm => Kind::Arm(Vec::new()),
            InstructionSet::Mips(_) => Kind::Mips(History::default()),
        })
    }

    /// Whether the first entry of a segment, of which these are the values, says only what is other than at the end of the segment
    /// before.
    pub fn continues(set: InstructionSet, first: &[u64]) -> bool {
        match set {
            InstructionSet::Arm => false,
            InstructionSet::Mips(_) => mips::tlb::continues(first),
        }
    }

    /// Goes on to the next segment, and its entries: from how many instructions on each holds, which does not fall, and its values.
    pub fn next_segment<'a>(&mut self, entries: impl Iterator<Item = (u64, &'a [u64])>) {
        match &mut self.0 {
            Kind::Arm(registers) => {
                registers.clear();
                registers.extend(
                    entries.map(|(from, values)| (from, TranslationRegisters::from_recorded(values))),
                );
            }
            Kind::Mips(history) => {
                history.next_segment();
                entries.for_each(|(from, values)| history.push(from, values));
            }
        }
    }

    /// Where an access would find a virtual address, after so many instructions and with this status register, whatever was
    /// seen before, if that is certain.
    pub fn certain(&self, executed: u64, status: u32, address: u32) -> Mapped {
        match &self.0 {
            // The tables may have been changed since the processor last looked at them.
            Kind::Arm(_) => Mapped::Unknown,
            Kind::Mips(history) => match mips::translation::segment(address, status) {
                Segment::Fixed(_) if history.state(executed) == State::OtherSegments => Mapped::Unknown,
                Segment::Fixed(physical) => Mapped::To(physical.into()),
                Segment::Mapped => history.look_up(executed, address),
            },
        }
    }

    /// What is behind a virtual address by tables in memory. `read` reads little-endian numbers of so many bytes in physical
    /// memory; it returns `None` for what is not known.
    pub fn by_tables(
        &self,
        executed: u64,
        address: u32,
        read: &mut dyn FnMut(u64, usize) -> Option<u64>,
    ) -> Mapped {
        match self.registers(executed) {
            Some(registers) => registers.translate(address, read),
            None => Mapped::Unknown,
        }
    }

    /// Whether the registers that govern tables are others than at the segment's start, or were in between.
    pub fn tables_have_changed(&self, executed: u64) -> bool {
        match &self.0 {
            Kind::Arm(entries) => entries.iter().skip(1).any(|(from, _)| *from <= executed),
            Kind::Mips(_) => false,
        }
    }

    fn registers(&self, executed: u64) -> Option<&TranslationRegisters> {
        let Kind::Arm(entries) = &self.0 else { return None };
        let after = entries.partition_point(|(from, _)| *from <= executed);
        entries.get(after.checked_sub(1)?)?.1.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::Mapped::{Nothing, To, Unknown};
    use super::*;
    use crate::ByteOrder;

    const ERL: u32 = 1 << 2;

    fn mips(entries: &[(u64, &[u64])]) -> Translations {
        let mut translations = Translations::new(InstructionSet::mips(ByteOrder::Big));
        translations.next_segment(entries.iter().copied());
        translations
    }

    #[test]
    fn without_a_tlb_the_fixed_segments_of_mips_are_translated_and_no_others() {
        for translations in [mips(&[]), mips(&[(0, &[])])] {
            let certain = |address, status| translations.certain(0, status, address);
            assert_eq!(certain(0x8000_1234, 0), To(0x1234));
            assert_eq!(certain(0xbfc0_0000, 0), To(0x1fc0_0000));
            assert_eq!((certain(0x40_0000, 0), certain(0xc000_0000, 0)), (Unknown, Unknown));
            assert_eq!((certain(0x40_0000, ERL), certain(0xc000_0000, ERL)), (To(0x40_0000), Unknown));
        }
    }

    #[test]
    fn a_tlb_translates_the_mapped_segments_of_mips() {
        // One entry, for 0xc0000000 and what is behind it; from the third instruction on the segments are others.
        let entry = [1 << 16 | 1 << 32, 0xc000_1000, 0x123 << 6 | 3, 1];
        let translations = mips(&[(0, &entry), (3, &[1 << 33])]);
        let certain = |executed, address| translations.certain(executed, 0, address);
        assert_eq!(certain(2, 0xc000_0abc), To(0x12_3abc));
        assert_eq!((certain(2, 0xc000_1abc), certain(2, 0x40_0000)), (Nothing, Nothing));
        assert_eq!(certain(2, 0x8000_1234), To(0x1234));
        assert_eq!(translations.certain(2, ERL, 0x40_0000), To(0x40_0000));
        assert_eq!((certain(3, 0xc000_0abc), certain(3, 0x8000_1234)), (Unknown, Unknown));
        assert_eq!(translations.by_tables(2, 0xc000_0abc, &mut |_, _| Some(0)), Unknown);
    }

    #[test]
    fn tables_of_arm_count_from_where_their_registers_do() {
        let off: &[u64] = &[0xc5_0078, 0, 0, 0];
        let entries = [(1, off), (5, &[][..])];
        let mut translations = Translations::new(InstructionSet::Arm);
        translations.next_segment(entries.into_iter());
        let by_tables = |executed| translations.by_tables(executed, 0x1234, &mut |_, _| None);
        assert_eq!(
            [by_tables(0), by_tables(1), by_tables(4), by_tables(5)],
            [Unknown, To(0x1234), To(0x1234), Unknown]
        );
        assert_eq!([0, 1, 4, 5].map(|at| translations.tables_have_changed(at)), [false, false, false, true]);
        assert_eq!(translations.certain(1, 0, 0x1234), Unknown);
        // Nothing of it is left for the next segment.
        assert!(!Translations::continues(InstructionSet::Arm, off));
        translations.next_segment([].into_iter());
        assert_eq!(translations.by_tables(4, 0x1234, &mut |_, _| None), Unknown);
    }
}
