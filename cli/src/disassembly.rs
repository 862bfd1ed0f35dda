//! ARM instructions as text, by capstone.

use std::collections::HashMap;

use anyhow::{Result, anyhow};
use capstone::prelude::*;
use ktrace_machine::Encoding;
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
    arm: Capstone,
    thumb: Capstone,
    cache: HashMap<(u32, Encoding, Vec<u8>), Text>,
}

impl Disassembler {
    /// A disassembler for A32 and T32.
    pub fn new() -> Result<Disassembler> {
        let build = |mode| {
            let built = Capstone::new().arm().mode(mode).build();
            built.map_err(|error| anyhow!("capstone does not start: {error}"))
        };
        Ok(Disassembler {
            arm: build(arch::arm::ArchMode::Arm)?,
            thumb: build(arch::arm::ArchMode::Thumb)?,
            cache: HashMap::new(),
        })
    }

    /// An instruction's text.
    pub fn text(&mut self, instruction: &Instruction) -> &Text {
        let key = (instruction.address, instruction.encoding, instruction.code().to_vec());
        if self.cache.len() >= CACHED && !self.cache.contains_key(&key) {
            self.cache.clear();
        }
        let (arm, thumb) = (&self.arm, &self.thumb);
        self.cache.entry(key).or_insert_with_key(|(address, encoding, code)| {
            let known = match *encoding {
                Encoding::A32 => disassemble(arm, code, *address, 0),
                Encoding::T32 { it: 0 } => disassemble(thumb, code, *address, 0),
                // The condition of an instruction in an IT block is not in its encoding, so it gets an IT in front, of which
                // it is the only instruction.
                Encoding::T32 { it } => {
                    let before = [it & 0xf0 | 8, 0xbf];
                    disassemble(thumb, &[&before[..], code].concat(), address.wrapping_sub(2), 1)
                }
            };
            known.unwrap_or_else(|| Text { mnemonic: ".inst".to_owned(), operands: raw(code) })
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

fn raw(code: &[u8]) -> String {
    format!("0x{}", encoding(code).replace(' ', ""))
}

/// The encoding as manuals print it: one word, or one or two halfwords, in hexadecimal.
pub fn encoding(code: &[u8]) -> String {
    match *code {
        [a, b] => format!("{b:02x}{a:02x}"),
        [a, b, c, d] => format!("{d:02x}{c:02x}{b:02x}{a:02x}"),
        _ => code.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
