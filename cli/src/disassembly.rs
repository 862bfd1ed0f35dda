//! Instructions as text, by capstone.

use std::collections::HashMap;

use anyhow::{Result, anyhow};
use capstone::Endian;
use capstone::prelude::*;
use ktrace_machine::ByteOrder::{Big, Little};
use ktrace_machine::{Encoding, InstructionSet};
use ktrace_timeline::walk::Instruction;

/// Texts that are kept; a program has fewer instructions as a rule.
const CACHED: usize = 1 << 17;

/// An instruction as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The mnemonic; `.inst` if capstone does not know the encoding.
    pub mnemonic: String,
    /// The operands, or empty.
    pub operands: String,
}

/// Disassembles executed instructions, each encoding and address once.
pub struct Disassembler {
    /// For code of words: A32, MIPS32.
    words: Capstone,
    /// For code of halfwords: T32, microMIPS.
    halfwords: Capstone,
    cache: HashMap<(u32, Encoding, Vec<u8>), Text>,
}

impl Disassembler {
    /// A disassembler for what a guest executes.
    pub fn new(set: InstructionSet) -> Result<Disassembler> {
        let built = match set {
            InstructionSet::Arm => {
                let build = |mode| Capstone::new().arm().mode(mode).build();
                (build(arch::arm::ArchMode::Arm), build(arch::arm::ArchMode::Thumb))
            }
            InstructionSet::Mips(_) => {
                let order = match set.byte_order() {
                    Little => Endian::Little,
                    Big => Endian::Big,
                };
                let builder = || Capstone::new().mips().mode(arch::mips::ArchMode::Mips32).endian(order);
                let micro = builder().extra_mode([arch::mips::ArchExtraMode::Micro].into_iter());
                (builder().build(), micro.build())
            }
        };
        match built {
            (Ok(words), Ok(halfwords)) => Ok(Disassembler { words, halfwords, cache: HashMap::new() }),
            (Err(error), _) | (_, Err(error)) => Err(anyhow!("capstone does not start: {error}")),
        }
    }

    /// An instruction's text.
    pub fn text(&mut self, instruction: &Instruction) -> &Text {
        let key = (instruction.address, instruction.encoding, instruction.code().to_vec());
        if self.cache.len() >= CACHED && !self.cache.contains_key(&key) {
            self.cache.clear();
        }
        let (words, halfwords) = (&self.words, &self.halfwords);
        self.cache.entry(key).or_insert_with_key(|(address, encoding, code)| {
            let known = match *encoding {
                Encoding::A32 | Encoding::Mips32(_) => disassemble(words, code, *address, 0),
                Encoding::T32 { it: 0 } | Encoding::MicroMips(_) => disassemble(halfwords, code, *address, 0),
                // Capstone does not know it.
                Encoding::Mips16(_) => None,
                // The condition of an instruction in an IT block is not in its encoding, so it gets an IT in front, of which
                // it is the only instruction.
                Encoding::T32 { it } => {
                    let before = [it & 0xf0 | 8, 0xbf];
                    disassemble(halfwords, &[&before[..], code].concat(), address.wrapping_sub(2), 1)
                }
            };
            known.unwrap_or_else(|| Text { mnemonic: ".inst".to_owned(), operands: raw(*encoding, code) })
        })
    }
}

fn disassemble(capstone: &Capstone, code: &[u8], address: u32, number: usize) -> Option<Text> {
    let instructions = capstone.disasm_count(code, u64::from(address), number + 1).ok()?;
    let instruction = instructions.get(number)?;
    Some(Text {
        mnemonic: instruction.mnemonic()?.to_owned(),
        operands: instruction.op_str().unwrap_or_default().to_owned(),
    })
}

fn raw(encoding: Encoding, code: &[u8]) -> String {
    format!("0x{}", number(encoding, code))
}

/// The encoding as manuals print it: one word or halfword in hexadecimal.
pub fn number(encoding: Encoding, code: &[u8]) -> String {
    use Encoding::{A32, MicroMips, Mips16, Mips32, T32};
    let mut bytes = code.to_vec();
    if let A32 | T32 { .. } | Mips32(Little) | Mips16(Little) | MicroMips(Little) = encoding {
        bytes.reverse();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The block that the original printed, and an instruction of release 2.
    #[test]
    fn mips_is_disassembled_in_both_byte_orders() {
        let expected = [
            (0x4008_6000, "mfc0", "$t0, $t4, 0"),
            (0x3c01_1000, "lui", "$at, 0x1000"),
            (0x3421_001f, "ori", "$at, $at, 0x1f"),
            (0x0101_4025, "or", "$t0, $t0, $at"),
            (0x3908_001f, "xori", "$t0, $t0, 0x1f"),
            (0x4088_6000, "mtc0", "$t0, $t4, 0"),
            (0x7c85_3880, "ext", "$a1, $a0, 2, 8"),
        ];
        for order in [Little, Big] {
            let disassembler = Disassembler::new(InstructionSet::mips(order)).unwrap();
            for (word, mnemonic, operands) in expected {
                let word: u32 = word;
                let code = if order == Big { word.to_be_bytes() } else { word.to_le_bytes() };
                let text = disassemble(&disassembler.words, &code, 0x8000_5ce0, 0).unwrap();
                assert_eq!((&text.mnemonic[..], &text.operands[..]), (mnemonic, operands));
                assert_eq!(number(Encoding::Mips32(order), &code), format!("{word:08x}"));
            }
        }
    }
}
