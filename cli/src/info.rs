//! `ktracer info`: what a trace is and what it holds, without executing it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use indicatif::{DecimalBytes, HumanCount};
use ktrace_format::header::{Architecture, ByteOrder};
use ktrace_format::{Header, Trace, header, memory};
use ktrace_timeline::counts;
use serde::Serialize;

use crate::condition::Condition;
use crate::output;

/// The command line of `ktracer info`.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub struct Arguments {
    /// The trace: a directory that `ktracer record -o` wrote
    #[arg(value_name = "DIR")]
    trace: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const NOTES: &str = "\
A trace that was not closed (its recorder was killed) or that is damaged is described as far as it goes, and what is wrong
with it is listed; the exit status is 1 only if it can't be opened at all. `ktracer verify` says whether what is there is
right.

JSON: format_version, arch, byte_order, instructions, blocks, segments, bytes (of trace.kt), bytes_per_instruction,
closed, path, discontinuities, opaque (instructions whose results were recorded rather than computed, a count for each
mnemonic), qemu_version, command_line, faults (a list of texts). Null is not known.";

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Information {
    format_version: u32,
    arch: Architecture,
    byte_order: ByteOrder,
    instructions: u64,
    blocks: u64,
    segments: u64,
    bytes: u64,
    bytes_per_instruction: Option<f64>,
    closed: bool,
    path: header::Path,
    discontinuities: Option<u64>,
    opaque: BTreeMap<String, u64>,
    qemu_version: String,
    command_line: Vec<String>,
    faults: Vec<String>,
}

impl Information {
    fn gather(directory: &Path, trace: &Trace) -> Information {
        let Header { format_version, arch, byte_order, path, qemu_version, command_line, .. } =
            trace.header().clone();
        let Condition { mut faults, notes } = Condition::of(directory, trace);
        faults.extend(notes);
        let opaque = counts::opaque_counts(trace);
        if !opaque.uncounted.is_empty() {
            faults.push(format!(
                "the opaque instructions of {} of {} segments are not counted",
                opaque.uncounted.len(),
                trace.segments().len()
            ));
        }
        let instructions = trace.instructions();
        let blocks = trace.segments().iter().map(|segment| u64::from(segment.blocks)).sum();
        Information {
            format_version,
            arch,
            byte_order,
            instructions,
            blocks,
            segments: trace.segments().len() as u64,
            bytes: trace.bytes(),
            bytes_per_instruction: (instructions > 0).then(|| trace.bytes() as f64 / instructions as f64),
            closed: trace.totals().is_some(),
            path,
            discontinuities: match trace.totals() {
                Some(totals) => Some(totals.discontinuities),
                None => counts::discontinuities(trace),
            },
            opaque: opaque.counts,
            qemu_version,
            command_line,
            faults,
        }
    }
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let trace = Trace::open(&arguments.trace)?;
    output::print(|out| {
        if arguments.json {
            output::write_json(out, &Information::gather(&arguments.trace, &trace))
        } else {
            describe(&arguments.trace, &trace, out)
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Opaque mnemonics that the text names; the rest is summed up.
const OPAQUE_SHOWN: usize = 12;

/// Describes a trace for people.
pub fn describe(directory: &Path, trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
    let information = Information::gather(directory, trace);
    let header = trace.header();
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<16} {value}");
    line("trace", &directory.display().to_string())?;
    if !header.started.is_empty() {
        line("recorded", &header.started)?;
    }
    let recorder = format!(
        "ktracer {}, {} path, format {}",
        header.tracer_version,
        word(&information.path),
        header.format_version
    );
    line("recorder", &recorder)?;
    for (name, text) in
        [("qemu", information.qemu_version.clone()), ("command line", shell_words(&information.command_line))]
    {
        line(name, if text.is_empty() { "not known" } else { &text })?;
    }
    let guest = format!("{}, {}-endian data", word(&information.arch), word(&information.byte_order));
    line("guest", &guest)?;
    let closed = match trace.totals() {
        Some(totals) => format!("yes ({})", totals.reason),
        None => "no".to_owned(),
    };
    line("closed", &closed)?;
    line("instructions", &HumanCount(information.instructions).to_string())?;
    line("blocks", &HumanCount(information.blocks).to_string())?;
    line("segments", &HumanCount(information.segments).to_string())?;
    let discontinuities =
        information.discontinuities.map_or("not known".to_owned(), |count| HumanCount(count).to_string());
    line("discontinuities", &discontinuities)?;
    let per_instruction = information
        .bytes_per_instruction
        .map_or(String::new(), |bytes| format!(", {bytes:.3} per instruction"));
    line("size", &format!("{}{per_instruction}", DecimalBytes(information.bytes)))?;
    if let Ok(image) = std::fs::metadata(directory.join(memory::FILE_NAME)) {
        line("memory image", &DecimalBytes(image.len()).to_string())?;
    }
    write_opaque(&information, out)?;
    if !information.faults.is_empty() {
        writeln!(out, "\ndamaged or missing:")?;
        for fault in &information.faults {
            writeln!(out, "  {fault}")?;
        }
    }
    Ok(())
}

fn write_opaque(information: &Information, out: &mut dyn Write) -> io::Result<()> {
    let total: u64 = information.opaque.values().sum();
    let share = 100.0 * total as f64 / information.instructions.max(1) as f64;
    writeln!(
        out,
        "{:<16} {} instructions ({share:.3} %) have recorded results",
        "opaque",
        HumanCount(total)
    )?;
    let mut opaque: Vec<_> = information.opaque.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    opaque.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let rest = opaque.split_off(opaque.len().min(OPAQUE_SHOWN));
    let others = format!("({} others)", rest.len());
    if !rest.is_empty() {
        opaque.push((&others, rest.iter().map(|(_, count)| count).sum()));
    }
    for (name, count) in opaque {
        writeln!(out, "  {name:<14} {:>15}", HumanCount(count).to_string())?;
    }
    Ok(())
}

/// The JSON name of an enum's value.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

/// A command line as one could type it.
fn shell_words(words: &[String]) -> String {
    let plain = |word: &str| {
        !word.is_empty()
            && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./:,=+@%".contains(letter))
    };
    let quote =
        |word: &String| if plain(word) { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed_again() {
        let words = ["qemu-system-arm", "-append", "console=ttyAMA0 panic=-1", "it's", ""];
        let words: Vec<String> = words.map(str::to_owned).to_vec();
        assert_eq!(shell_words(&words), r"qemu-system-arm -append 'console=ttyAMA0 panic=-1' 'it'\''s' ''");
    }

    #[test]
    fn enums_have_their_json_names() {
        assert_eq!(word(&ByteOrder::Little), "little");
        assert_eq!(word(&header::Path::Portable), "portable");
    }
}
