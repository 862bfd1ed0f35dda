//! One JSON object a line, for scripts.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Result;
use ktrace_machine::{Cause, Encoding};
use ktrace_timeline::Program;
use ktrace_timeline::segment_memory::Access;
use ktrace_timeline::verify::Unproved;
use ktrace_timeline::walk::{Discontinuity, Instruction};
use serde::Serialize;
use serde_json::json;

use super::{Printer, changes, changes_of_discontinuity, device_name};
use crate::disassembly::Disassembler;

pub struct Json {
    program: Arc<Program>,
    disassembler: Disassembler,
}

#[derive(Serialize)]
struct InstructionLine<'a> {
    position: u64,
    address: String,
    bytes: String,
    thumb: bool,
    mnemonic: &'a str,
    operands: &'a str,
    opaque: bool,
    registers: Option<BTreeMap<&'static str, Option<String>>>,
    memory: Vec<AccessEntry<'a>>,
}

#[derive(Serialize)]
struct AccessEntry<'a> {
    access: &'static str,
    address: String,
    size: u8,
    value: String,
    physical: Option<String>,
    device: Option<&'a str>,
}

fn word(value: u32) -> String {
    format!("{value:#010x}")
}

impl Json {
    pub fn new(program: Arc<Program>) -> Result<Json> {
        let disassembler = Disassembler::new(program.instruction_set())?;
        Ok(Json { program, disassembler })
    }
}

fn entry<'a>(program: &'a Program, access: &Access) -> AccessEntry<'a> {
    let physical = access.device.map(|(_, physical)| physical).or(access.physical);
    AccessEntry {
        access: if access.store { "write" } else { "read" },
        address: word(access.address),
        size: access.bytes,
        value: format!("{:#0width$x}", access.value, width = 2 + 2 * usize::from(access.bytes)),
        physical: physical.map(|physical| format!("{physical:#010x}")),
        device: access.device.map(|(name, _)| device_name(program, name)),
    }
}

fn write_line(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

impl Printer for Json {
    fn instruction(&mut self, instruction: &Instruction, out: &mut dyn Write) -> io::Result<()> {
        let text = self.disassembler.text(instruction);
        let line = InstructionLine {
            position: instruction.position,
            address: word(instruction.address),
            bytes: instruction.code().iter().map(|byte| format!("{byte:02x}")).collect(),
            thumb: matches!(instruction.encoding, Encoding::T32 { .. }),
            mnemonic: &text.mnemonic,
            operands: &text.operands,
            opaque: instruction.opaque.is_some(),
            registers: changes(&self.program, instruction)
                .map(|changes| changes.map(|(name, value)| (name, value.map(word))).collect()),
            memory: instruction.accesses.iter().map(|access| entry(&self.program, access)).collect(),
        };
        write_line(&line, out)
    }

    fn discontinuity(&mut self, discontinuity: &Discontinuity, out: &mut dyn Write) -> io::Result<()> {
        let registers: BTreeMap<_, _> = changes_of_discontinuity(&self.program, discontinuity)
            .map(|(name, value)| (name, word(value)))
            .collect();
        let vector = Some(discontinuity.cause).filter(|cause| cause.is_vector());
        let line = json!({
            "position": discontinuity.position,
            "discontinuity": true,
            "vector": vector.map(Cause::code),
            "cause": discontinuity.cause.code(),
            "further": discontinuity.further.iter().map(|cause| cause.code()).collect::<Vec<_>>(),
            "registers": registers,
        });
        write_line(&line, out)
    }

    fn unknown(&mut self, unproved: &Unproved, out: &mut dyn Write) -> io::Result<()> {
        write_line(&json!({ "unknown": unproved }), out)
    }

    fn end(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
