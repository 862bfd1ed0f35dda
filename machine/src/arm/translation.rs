//! From virtual to physical addresses by walking the translation tables (DDI 0406C, chapter B3), for a debugger's view
//! of memory that no access has shown. Permissions, domains and access flags are not looked at.
//!
//! It says "not known" wherever the tables, or the rules that apply, are not certain.

use crate::translation::Mapped;

/// The system registers that govern the translation: what [`TRANSLATION_REGISTERS`] names, in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationRegisters {
    /// SCTLR.
    pub sctlr: u32,
    /// TTBCR.
    pub ttbcr: u32,
    /// TTBR0; its upper half counts only in the long format.
    pub ttbr0: u64,
    /// TTBR1, likewise.
    pub ttbr1: u64,
}

/// The registers that a recorder stores for [`TranslationRegisters`].
pub const TRANSLATION_REGISTERS: [&str; 4] = ["SCTLR", "TTBCR", "TTBR0", "TTBR1"];

const SCTLR_M: u32 = 1;
/// Extended page table configuration: without it second-level tables have the format of ARMv5.
const SCTLR_XP: u32 = 1 << 23;
/// Tables are big-endian.
const SCTLR_EE: u32 = 1 << 25;
const TTBCR_EAE: u32 = 1 << 31;
const ADDRESS_40: u64 = (1 << 40) - 1;

impl TranslationRegisters {
    /// From a recorded list; `None` if it is not one.
    pub fn from_recorded(values: &[u64]) -> Option<Self> {
        let &[sctlr, ttbcr, ttbr0, ttbr1] = values else { return None };
        Some(TranslationRegisters { sctlr: sctlr as u32, ttbcr: ttbcr as u32, ttbr0, ttbr1 })
    }

    /// What is behind a virtual address. `read` reads bytes of physical memory, little-endian; it returns `None` for bytes that
    /// are not known.
    pub fn translate(&self, address: u32, read: &mut dyn FnMut(u64, usize) -> Option<u64>) -> Mapped {
        if self.sctlr & SCTLR_M == 0 {
            return Mapped::To(u64::from(address));
        }
        if self.sctlr & SCTLR_EE != 0 {
            return Mapped::Unknown;
        }
        if self.ttbcr & TTBCR_EAE != 0 { self.long(address, read) } else { self.short(address, read) }
    }

    /// The short-descriptor format (B3.5).
    fn short(&self, address: u32, read: &mut dyn FnMut(u64, usize) -> Option<u64>) -> Mapped {
        let n = self.ttbcr & 7;
        let upper = n > 0 && address >> (32 - n) != 0;
        let disabled = if upper { 1 << 5 } else { 1 << 4 };
        if self.ttbcr & disabled != 0 {
            return Mapped::Nothing;
        }
        let (table, width) = if upper { (self.ttbr1 as u32, 0) } else { (self.ttbr0 as u32, n) };
        let base = table & !((1 << (14 - width)) - 1);
        let index = address << width >> width >> 20;
        let Some(first) = read(u64::from(base | index << 2), 4) else { return Mapped::Unknown };
        let first = first as u32;
        match first & 3 {
            0 => Mapped::Nothing,
            1 => {
                let second = read(u64::from(first & 0xffff_fc00 | (address >> 12 & 0xff) << 2), 4);
                let Some(second) = second else { return Mapped::Unknown };
                let second = second as u32;
                match second & 3 {
                    0 => Mapped::Nothing,
                    1 => Mapped::To(u64::from(second & 0xffff_0000 | address & 0xffff)),
                    2 => Mapped::To(u64::from(second & 0xffff_f000 | address & 0xfff)),
                    // Execute-never.
                    _ if self.sctlr & SCTLR_XP != 0 => {
                        Mapped::To(u64::from(second & 0xffff_f000 | address & 0xfff))
                    }
                    // In the old format a page of 1 KiB.
                    _ => Mapped::Unknown,
                }
            }
            2 if first & 1 << 18 == 0 => Mapped::To(u64::from(first & 0xfff0_0000 | address & 0xf_ffff)),
            2 => {
                // A supersection: bits 39:36 and 35:32 of the address are elsewhere in the descriptor.
                let high = u64::from(first >> 5 & 0xf) << 36 | u64::from(first >> 20 & 0xf) << 32;
                Mapped::To(high | u64::from(first & 0xff00_0000 | address & 0xff_ffff))
            }
            // A section where PXN exists, and reserved elsewhere.
            _ => Mapped::Unknown,
        }
    }

    /// The long-descriptor format (B3.6).
    fn long(&self, address: u32, read: &mut dyn FnMut(u64, usize) -> Option<u64>) -> Mapped {
        let (size0, size1) = (self.ttbcr & 7, self.ttbcr >> 16 & 7);
        let in_lower = size0 == 0 || address >> (32 - size0) == 0;
        let in_upper = size1 > 0 && !address >> (32 - size1) == 0;
        let upper = match (size0, size1) {
            (0, _) => in_upper,
            (_, 0) => !in_lower,
            _ if in_lower => false,
            _ if in_upper => true,
            _ => return Mapped::Nothing,
        };
        let (table, size, disabled) =
            if upper { (self.ttbr1, size1, 1 << 23) } else { (self.ttbr0, size0, 1 << 7) };
        if self.ttbcr & disabled != 0 {
            return Mapped::Nothing;
        }
        let bits = 32 - size;
        let mut level = if bits > 30 { 1 } else { 2 };
        // The index into the first table has the bits above the level's shift, up to the size of the input.
        let first_shift = if level == 1 { 30 } else { 21 };
        let index_bits = bits - first_shift;
        let mut base = table & ADDRESS_40 & !((1 << (index_bits + 3)) - 1);
        let mut index = u64::from(address) >> first_shift & ((1 << index_bits) - 1);
        loop {
            let Some(descriptor) = read(base + index * 8, 8) else { return Mapped::Unknown };
            let shift = [30, 21, 12][level - 1];
            match (descriptor & 3, level) {
                (1, 1 | 2) | (3, 3) => {
                    let mask = (1u64 << shift) - 1;
                    return Mapped::To(descriptor & ADDRESS_40 & !mask | u64::from(address) & mask);
                }
                (3, _) => {
                    base = descriptor & ADDRESS_40 & !0xfff;
                    index = u64::from(address) >> (shift - 9) & 0x1ff;
                    level += 1;
                }
                _ => return Mapped::Nothing,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translation::Mapped::{Nothing, To, Unknown};
    use std::collections::HashMap;

    fn walk(registers: TranslationRegisters, memory: &[(u64, u64)], address: u32) -> Mapped {
        let memory: HashMap<u64, u64> = memory.iter().copied().collect();
        registers.translate(address, &mut |at, _| memory.get(&at).copied())
    }

    fn short(ttbcr: u32) -> TranslationRegisters {
        TranslationRegisters { sctlr: 0xc5_187d, ttbcr, ttbr0: 0x4000_406a, ttbr1: 0x4000_8000 }
    }

    #[test]
    fn without_translation_addresses_are_physical() {
        let off = TranslationRegisters { sctlr: 0xc5_0078, ..short(0) };
        assert_eq!(walk(off, &[], 0x1234_5678), To(0x1234_5678));
    }

    #[test]
    fn short_descriptors() {
        // Index 0xc01 of a 16 KiB table: a section; 0x001: a table with a small, a large and no page.
        let memory = [
            (0x4000_4000 + 0xc01 * 4, 0x6010_0c0e),
            (0x4000_4000 + 4, 0x4800_0001),
            (0x4800_0000 + 0x23 * 4, 0x5555_5003),
            (0x4800_0000 + 0x40 * 4, 0x7777_0001),
            (0x4800_0000, 0),
            (0x4000_4000 + 0xd00 * 4, 0x6210_0000 | 0x4_0002 | 3 << 5),
        ];
        assert_eq!(walk(short(0), &memory, 0xc01a_bcde), To(0x601a_bcde));
        assert_eq!(walk(short(0), &memory, 0x0012_3456), To(0x5555_5456));
        assert_eq!(walk(short(0), &memory, 0x0014_0abc), To(0x7777_0abc));
        assert_eq!(walk(short(0), &memory, 0x0010_0000), Nothing, "a fault");
        assert_eq!(walk(short(0), &memory, 0xd000_0000), To(0x31_6200_0000));
        assert_eq!(walk(short(0), &memory, 0x9000_0000), Unknown, "the table is not known there");
    }

    #[test]
    fn two_tables() {
        let memory = [(0x4000_8000 + 0xc01 * 4, 0x6010_0c0e), (0x4000_4000 + 4, 0x1110_0002)];
        assert_eq!(walk(short(1), &memory, 0xc01a_bcde), To(0x601a_bcde));
        assert_eq!(walk(short(1), &memory, 0x0012_3456), To(0x1112_3456));
        assert_eq!(walk(short(1 | 1 << 5), &memory, 0xc01a_bcde), Nothing, "TTBR1 is switched off");
    }

    #[test]
    fn long_descriptors() {
        let registers =
            TranslationRegisters { sctlr: 0xc5_187d, ttbcr: 1 << 31, ttbr0: 0x8_0000_1000, ttbr1: 0 };
        let memory = [
            (0x8_0000_1000 + 8, 0x1_4000_0701),
            (0x8_0000_1000 + 16, 0x8_0000_2003),
            (0x8_0000_2000 + 5 * 8, 0x2_00a0_0701),
            (0x8_0000_2000 + 6 * 8, 0x8_0000_3003),
            (0x8_0000_3000 + 7 * 8, 0x60_0000_7703),
        ];
        assert_eq!(walk(registers, &memory, 0x4123_4567), To(0x1_4123_4567));
        assert_eq!(walk(registers, &memory, 0x80ab_cdef), To(0x2_00ab_cdef));
        assert_eq!(walk(registers, &memory, 0x80c0_7abc), To(0x60_0000_7abc));
        assert_eq!(walk(registers, &memory, 0x80c0_8abc), Unknown);
    }

    #[test]
    fn the_split_of_the_long_format() {
        // T1SZ 2: the upper quarter, whose walk starts at the second level.
        let registers =
            TranslationRegisters { sctlr: 0xc5_187d, ttbcr: 1 << 31 | 2 << 16, ttbr0: 0x1000, ttbr1: 0x5000 };
        let memory = [(0x5000 + 8, 0x4020_0701), (0x1000 + 16, 0x8000_0701)];
        assert_eq!(walk(registers, &memory, 0xc020_0010), To(0x4020_0010));
        assert_eq!(walk(registers, &memory, 0x8000_0010), To(0x8000_0010));
    }
}
