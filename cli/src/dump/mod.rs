//! `ktracer dump`: what was executed, instruction by instruction.

mod json;
mod original;
mod text;

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use ktrace_format::Position;
use ktrace_timeline::Program;
use ktrace_timeline::destination::Destination;
use ktrace_timeline::verify::Unproved;
use ktrace_timeline::walk::{Discontinuity, Event, Instruction, Walk};

use crate::record::parse_count;

/// The command line of `ktracer dump`.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub struct Arguments {
    /// The trace: a directory that `ktracer record -o` wrote
    #[arg(value_name = "DIR")]
    trace: PathBuf,
    /// Where to begin: a position N, N%, start, or -N for N instructions before the end
    #[arg(long, value_name = "T", default_value = "start", allow_hyphen_values = true)]
    from: String,
    /// How many instructions; k, M and G stand for thousands, millions, billions [default: to the end]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    count: Option<u64>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How to print instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for people: position, address, encoding, disassembly; registers changed; memory read and written
    Text,
    /// A JSON object on a line for each instruction and each discontinuity
    Json,
    /// Block by block with all registers before the block, as the ktracer for QEMU 4.0 printed it
    Original,
}

const NOTES: &str = "\
Only what is proved is printed. Where the trace is damaged or torn, the dump says so and stops, with exit status 1.

A discontinuity is an exception, an interrupt or a reset: the processor goes on elsewhere than the instruction before says.
What that instruction changed is not told apart from what the discontinuity changed, so it is shown with the latter.

MIPS: a delay slot is an instruction of its own. Interrupts and the timer change the register Cause by themselves, so its
value is known only just after an exception or an instruction that may write it; elsewhere --format original has ????????.

JSON, one object a line:
  {\"position\", \"address\", \"bytes\", \"thumb\", \"mnemonic\", \"operands\", \"opaque\", \"registers\", \"memory\"}
      bytes: as they lie in memory; opaque: the result was recorded rather than computed; registers: those that changed
      (pc if it is not the next instruction's address), with their new value, or null for a value that is not known;
      `registers` itself is null if a discontinuity follows; memory: a list of {\"access\" (\"read\" or \"write\"),
      \"address\", \"size\", \"value\", \"physical\", \"device\" (its name, or null for memory)}
  {\"position\", \"discontinuity\", \"vector\", \"cause\", \"further\", \"registers\"}
      before the instruction at `position`; vector: the number of ARM's exception vector, or null if it went elsewhere;
      cause: that number, or 8 for a reset, 9 for something that QEMU did for the guest; on MIPS the ExcCode, or 32 and 33 for
      these; 254 for a gap in an imported recording, 255 if it is not known; further: a list of the causes of discontinuities
      that followed at once, with no instruction between
  {\"unknown\": {\"from\", \"to\", \"reason\"}}
      from position `from` to before `to` nothing is known; it comes last
Positions, sizes and vectors are numbers; addresses and values are text, as in \"0x4000ff8c\".";

/// Prints events in one of the formats.
trait Printer {
    fn instruction(&mut self, instruction: &Instruction, out: &mut dyn Write) -> io::Result<()>;
    fn discontinuity(&mut self, discontinuity: &Discontinuity, out: &mut dyn Write) -> io::Result<()>;
    fn unknown(&mut self, unproved: &Unproved, out: &mut dyn Write) -> io::Result<()>;
    /// Nothing follows.
    fn end(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let program = Arc::new(Program::open(&arguments.trace)?);
    let end = Position(program.trace().instructions());
    let here = if arguments.from.trim().starts_with('-') { end } else { Position::START };
    let from = Destination::find(&arguments.from, here, end).context("--from")?;
    let mut printer: Box<dyn Printer> = match arguments.format {
        Format::Text => Box::new(text::Text::new(Arc::clone(&program))?),
        Format::Json => Box::new(json::Json::new(Arc::clone(&program))?),
        Format::Original => Box::new(original::Original::new(program.instruction_set())?),
    };
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let walk = Walk::new(Arc::clone(&program), from.0);
    let printed = print(walk, arguments.count, printer.as_mut(), &mut out)
        .and_then(|ended| out.flush().map(|()| ended));
    match printed {
        Ok(Ended::Count) => Ok(ExitCode::SUCCESS),
        Ok(Ended::End) if program.trace().totals().is_some() => Ok(ExitCode::SUCCESS),
        Ok(Ended::End) => {
            eprintln!(
                "ktracer: the trace is torn at position {end}: what the guest did after that is missing"
            );
            Ok(ExitCode::FAILURE)
        }
        Ok(Ended::Unknown(Unproved { from, reason, .. })) => {
            eprintln!("ktracer: the dump stops at position {from}: {reason}");
            Ok(ExitCode::FAILURE)
        }
        // The reader has seen enough, as `head` has.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error).context("standard output"),
    }
}

/// Why a dump ended.
enum Ended {
    /// It has printed as many instructions as were asked for.
    Count,
    /// The trace has no more.
    End,
    /// Nothing is known here.
    Unknown(Unproved),
}

/// Prints at most `count` instructions.
fn print(
    walk: Walk,
    count: Option<u64>,
    printer: &mut dyn Printer,
    out: &mut dyn Write,
) -> io::Result<Ended> {
    let mut left = count.unwrap_or(u64::MAX);
    for event in walk {
        match event {
            // Discontinuities behind the last instruction still belong to it.
            Event::Instruction(_) | Event::Unknown(_) if left == 0 => break,
            Event::Instruction(instruction) => {
                printer.instruction(&instruction, out)?;
                left -= 1;
            }
            Event::Discontinuity(discontinuity) => printer.discontinuity(&discontinuity, out)?,
            Event::Unknown(unproved) => {
                printer.unknown(&unproved, out)?;
                printer.end(out)?;
                return Ok(Ended::Unknown(unproved));
            }
        }
    }
    printer.end(out)?;
    Ok(if left == 0 { Ended::Count } else { Ended::End })
}

/// Prints a stretch as text; for `ktracer demo`.
pub fn print_text(program: &Arc<Program>, from: u64, count: u64, out: &mut dyn Write) -> Result<()> {
    let mut printer = text::Text::new(Arc::clone(program))?;
    print(Walk::new(Arc::clone(program), from), Some(count), &mut printer, out)?;
    Ok(())
}

/// The registers that an instruction changed, with their new values; of the program counter only a jump. `None` if that
/// is not known, because a discontinuity followed.
fn changes(
    program: &Program,
    instruction: &Instruction,
) -> Option<impl Iterator<Item = (&'static str, Option<u32>)> + use<>> {
    let (before, after) = (instruction.before, instruction.after?);
    let next = instruction.address.wrapping_add(instruction.code().len() as u32);
    let set = program.instruction_set();
    let changed = set.registers().iter().enumerate().filter_map(move |(number, register)| {
        let expected = if number == set.program_counter() { Some(next) } else { before.get(number) };
        let value = after.get(number);
        // What changes by itself is not known as a rule, and no instruction did that.
        let changed = value != expected && (value.is_some() || !set.volatile_registers().contains(number));
        changed.then_some((register.name, value))
    });
    Some(changed)
}

/// The registers that a discontinuity changed, together with the instruction before it; all if there was none.
fn changes_of_discontinuity(
    program: &Program,
    discontinuity: &Discontinuity,
) -> impl Iterator<Item = (&'static str, u32)> + use<> {
    let (before, after) = (discontinuity.before, discontinuity.after);
    let registers = program.instruction_set().registers().iter().enumerate();
    registers.filter_map(move |(number, register)| {
        let value = after.get(number)?;
        let changed = before.is_none_or(|before| before.get(number) != Some(value));
        changed.then_some((register.name, value))
    })
}

/// The name of a device, for people and scripts.
fn device_name(program: &Program, number: u32) -> &str {
    match program.trace().name(number) {
        "" => "unnamed device",
        name => name,
    }
}
