//! SWP, and exclusive loads and stores (A5.2.10).

use super::{Word, require};
use crate::arm::instruction::{Instruction, Opaque};

/// Bits 7:4 are 1001 and bit 24 is set. Everything here is opaque.
pub(super) fn decode(word: Word) -> Option<Instruction> {
    let base = word.general(16)?;
    if !word.bit(23) {
        // SWP and SWPB.
        require(word.matches(0x00b0_0f00, 0))?;
        let (rt, rt2) = (word.general(12)?, word.general(0)?);
        require(base != rt && base != rt2)?;
        return exclusive(if word.bit(22) { "swpb" } else { "swp" }, 1 << rt);
    }
    let size = word.bits(21, 2) as usize;
    let double = size == 1;
    // Bits 11:8 distinguish what ARMv8 added: 1110 with acquire or release, 1100 not exclusive at all.
    let kind = match word.bits(8, 4) {
        0b1111 => 0,
        0b1110 => 1,
        0b1100 if !double => 2,
        _ => return None,
    };
    if word.bit(20) {
        require(word.bits(0, 4) == 15)?;
        let rt = word.general(12)?;
        require(!double || rt & 1 == 0 && rt != 14)?;
        let mnemonic = [
            ["ldrex", "ldrexd", "ldrexb", "ldrexh"],
            ["ldaex", "ldaexd", "ldaexb", "ldaexh"],
            ["lda", "lda", "ldab", "ldah"],
        ][kind][size];
        return exclusive(mnemonic, if double { 3 << rt } else { 1 << rt });
    }
    let rt = word.general(0)?;
    if kind == 2 {
        require(word.bits(12, 4) == 15)?;
        return exclusive(["stl", "stl", "stlb", "stlh"][size], 0);
    }
    let rd = word.general(12)?;
    require(rd != base && rd != rt)?;
    require(!double || rt & 1 == 0 && rt != 14 && rd != rt + 1)?;
    let mnemonic =
        [["strex", "strexd", "strexb", "strexh"], ["stlex", "stlexd", "stlexb", "stlexh"]][kind][size];
    exclusive(mnemonic, 1 << rd)
}

fn exclusive(mnemonic: &'static str, writes: u32) -> Option<Instruction> {
    Some(Instruction::Opaque(Opaque {
        mnemonic,
        writes,
        changes_mode: false,
        memory: true,
        changes_mapping: false,
    }))
}
