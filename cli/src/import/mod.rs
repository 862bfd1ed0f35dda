//! `ktracer import`: makes a trace of what other recorders have left.

mod layout;
mod records;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use indicatif::HumanCount;
use ktrace_format::header::{FORMAT_VERSION, Header, Totals};
use ktrace_format::segment::CAUSE_GAP;
use ktrace_format::segment::encoder::{BlockId, BlockTraits, Encoder, Finished, UnknownMemory};
use ktrace_format::writer::{SUMMARY_FILE, TRACE_FILE};
use ktrace_format::{TraceWriter, header};
use ktrace_machine::{Block, Mode};

use crate::record::directory;
use layout::Guest;
pub use layout::xpsr;
use records::{Record, Records};

/// The command line of `ktracer import`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    format: Format,
}

/// Whose recordings can be imported.
#[derive(Subcommand, Debug)]
enum Format {
    /// A recording of the original ktracer, the one for QEMU 4.0.
    Original(OriginalArguments),
}

/// The command line of `ktracer import original`.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
struct OriginalArguments {
    /// What the guest was: the files do not say it
    #[arg(long, value_enum)]
    arch: Guest,
    /// The file with registers, context.trace
    #[arg(value_name = "CONTEXT")]
    context: PathBuf,
    /// The file with instructions, execution.trace
    #[arg(value_name = "EXECUTION")]
    execution: PathBuf,
    /// The directory to create for the trace
    #[arg(short, value_name = "DIR")]
    output: PathBuf,
    /// Replace DIR if it is empty or holds a trace
    #[arg(long)]
    force: bool,
}

const NOTES: &str = "\
What such a recording has is registers at the entry of blocks, and the blocks' instructions. So in the trace:

- Registers are exact where a block begins. Behind that those are shown that can be computed from known ones; what depends
  on a load, or on an instruction that ktracer does not compute, is not known until the next block begins.
- Memory is not known, but for the code of the block at hand.
- Before each block there is a gap (`ktracer events --kind gap`): QEMU entered blocks by jumps from block to block, too, which
  the original ktracer did not see unless QEMU ran with `-d nochain`.
- A position counts the instructions of recorded blocks. That one behind a block's first instruction was reached is not
  certain: an exception, or an access to a device, may have left the block before it. In the latter case QEMU ran the rest
  again, and the block, or its rest, may be there twice.";

/// A segment ends behind the block with which it has so many instructions.
const SEGMENT_INSTRUCTIONS: u64 = 1 << 19;
/// The same for what its streams have before compression, in bytes: well below the format's limit.
const SEGMENT_BYTES: usize = 1 << 26;
/// The format's limits of a dictionary.
const MOST_BLOCKS: usize = 1 << 24;
const MOST_CODE_BYTES: u64 = 1 << 30;
/// What the dictionary has of a block besides its code.
const BLOCK_HEAD_BYTES: u64 = 8;

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Format::Original(arguments) = &arguments.format;
    let mut records = Records::open(arguments.arch, &arguments.context, &arguments.execution)?;
    let first = records.next()?;
    let output = directory::create(&arguments.output, arguments.force)?;
    let totals = match write(arguments.arch, &mut records, first, &output) {
        Ok(totals) => totals,
        Err(error) => {
            // A part of a recording would look like one that was torn.
            let removed = [TRACE_FILE, SUMMARY_FILE].map(|name| fs::remove_file(output.join(name)));
            let _ = (removed, fs::remove_dir(&output));
            return Err(error);
        }
    };
    crate::index::after_recording(&output);
    eprintln!(
        "ktracer: {} blocks with {} instructions, a gap between each two, are in {}",
        HumanCount(totals.blocks),
        HumanCount(totals.instructions),
        output.display()
    );
    let unused = records.unused_words();
    if unused > 0 {
        eprintln!(
            "ktracer: note: {} words of {} belong to no record",
            HumanCount(unused),
            arguments.execution.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the trace, beginning with the record that has been read already.
fn write(guest: Guest, records: &mut Records, first: Option<Record>, output: &Path) -> Result<Totals> {
    let failed = || format!("cannot write to {}", output.display());
    let trace = TraceWriter::create(output, header(guest)).with_context(failed)?;
    let encoder = Encoder::new(UnknownMemory).with_context(failed)?;
    let mut writer = Writer { guest, trace, encoder, known: HashMap::new(), code_bytes: 0 };
    let mut finished = Finished::default();
    let mut position = 0;
    let mut next = first;
    let mut open = false;
    while let Some(record) = next {
        next = records.next()?;
        if !open {
            writer.encoder.begin_segment(position, 0, &record.registers);
            open = true;
        }
        let block = writer.block(records, &record)?;
        writer.encoder.enter_block(block);
        if let Some(next) = &next {
            writer.encoder.discontinuity(CAUSE_GAP, &next.registers);
        }
        writer.encoder.end_whole_block();
        let instructions = writer.encoder.instructions();
        let full = instructions >= SEGMENT_INSTRUCTIONS || writer.encoder.stream_bytes() >= SEGMENT_BYTES;
        if full || next.is_none() {
            position += instructions;
            let written = writer.encoder.finish_segment(false, &mut finished);
            written.and_then(|()| writer.trace.segment(&finished)).with_context(failed)?;
            open = false;
        }
    }
    writer.trace.close("imported").with_context(failed)
}

fn header(guest: Guest) -> Header {
    let (arch, byte_order) = guest.header();
    Header {
        format_version: FORMAT_VERSION,
        arch,
        byte_order,
        cpu: String::new(),
        path: header::Path::Original,
        qemu_version: String::new(),
        command_line: Vec::new(),
        tracer_version: env!("CARGO_PKG_VERSION").to_owned(),
        host: String::new(),
        started: String::new(),
    }
}

/// The trace under way and its dictionary.
struct Writer {
    guest: Guest,
    trace: TraceWriter,
    encoder: Encoder<UnknownMemory>,
    known: HashMap<(u32, Mode, Vec<u8>), BlockId>,
    code_bytes: u64,
}

impl Writer {
    /// The number of a record's block.
    fn block(&mut self, records: &Records, record: &Record) -> Result<BlockId> {
        let Record { address, mode, code, .. } = record;
        let key = (*address, *mode, code.clone());
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let decoded = Block::decode(self.guest.instruction_set(), *address, *mode, code)
            .map_err(|error| records.not_a_block(record, error))?;
        self.code_bytes += BLOCK_HEAD_BYTES + code.len() as u64;
        if self.known.len() >= MOST_BLOCKS || self.code_bytes > MOST_CODE_BYTES {
            bail!("the recording has more different blocks than a trace can hold");
        }
        let id = self.trace.block(*address, mode.bits(), code);
        // A block's code has at most 65535 bytes, or it would not have been decoded.
        let instructions = decoded.len() as u16;
        let traits =
            BlockTraits { address: *address, mode: mode.bits(), instructions, opaque: Box::default() };
        self.encoder.define_block(traits);
        self.known.insert(key, id);
        Ok(id)
    }
}
