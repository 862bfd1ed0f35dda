//! `ktracer query`: asks a trace when something happened, and what there was at a position.

mod operand;
mod print;

use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use ktrace_format::{Position, header};
use ktrace_timeline::cache::Limits;
use ktrace_timeline::destination::Destination;
use ktrace_timeline::events::{Event, Events, Kind, Kinds};
use ktrace_timeline::search::calls::calls;
use ktrace_timeline::search::list::{Hit, Query, list};
use ktrace_timeline::search::registers::last_change;
use ktrace_timeline::search::{AddressSpace, MemoryRange, Watched, Watchpoint};
use ktrace_timeline::{Program, Recording, Replay};

use crate::record::parse_count;
use operand::Symbols;
use print::Printer;

/// The command line of `ktracer query`.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub struct Arguments {
    /// The trace: a directory that `ktracer record -o` wrote
    #[arg(value_name = "DIR")]
    trace: PathBuf,
    #[command(subcommand)]
    question: Question,
    /// Where a list begins: a position N, N%, start, or -N for N instructions before the end
    #[arg(long, value_name = "T", default_value = "start", allow_hyphen_values = true, global = true)]
    from: String,
    /// Where it ends: the last position that is listed
    #[arg(long, value_name = "T", default_value = "end", allow_hyphen_values = true, global = true)]
    to: String,
    /// How many lines; k, M and G stand for thousands, millions, billions [default: all]
    #[arg(long, value_name = "N", value_parser = parse_count, global = true)]
    count: Option<u64>,
    /// Program whose symbols can be used instead of addresses
    #[arg(long, value_name = "FILE", global = true)]
    elf: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long, global = true)]
    json: bool,
    /// Memory for what is kept only to be faster; k, M and G stand for 1024, its square and cube
    #[arg(long, value_name = "SIZE", default_value = "256M", global = true)]
    cache: Limits,
}

/// What is asked.
#[derive(Subcommand, Debug)]
enum Question {
    /// Where an instruction was executed
    Exec {
        /// Address or symbol
        address: String,
    },
    /// Who wrote to memory: stores, and writes of devices
    Writes {
        /// ADDR (a word), ADDR+LENGTH, ADDR..END, or a symbol; `phys:` before it makes it physical
        range: String,
    },
    /// Who read memory
    Reads {
        /// As for writes
        range: String,
    },
    /// What changed memory: writes after which it was another than before
    Changes {
        /// As for writes
        range: String,
    },
    /// What changed a register last
    Reg {
        /// Its name, as gdb has it
        name: String,
        /// Before which position
        #[arg(long, value_name = "T", default_value = "end", allow_hyphen_values = true)]
        at: String,
    },
    /// What memory held
    Mem {
        /// As for writes
        range: String,
        /// At which position
        #[arg(long, value_name = "T", default_value = "end", allow_hyphen_values = true)]
        at: String,
    },
    /// What the registers held
    Regs {
        /// At which position
        #[arg(long, value_name = "T", default_value = "end", allow_hyphen_values = true)]
        at: String,
    },
    /// Calls of a function: arguments, where it returned, and its result
    Calls {
        /// Its address or symbol
        function: String,
    },
    /// Accesses of the processor to a device
    Io {
        /// A part of the device's name
        device: String,
    },
}

const NOTES: &str = "\
Examples:
  ktracer query trace/ exec 0xc0008000 --count 1
  ktracer query trace/ writes jiffies --elf vmlinux --from 50%
  ktracer query trace/ changes phys:0x40001000+64 --json
  ktracer query trace/ reg r4 --at 1_000_000
  ktracer query trace/ mem 0xc0800000..0xc0800100 --at end
  ktracer query trace/ calls panic --elf vmlinux

The position of an access is that of its instruction: `monitor goto` there stands before it. The position of a device's write
is the first one that shows it. A load counts as a change if it shows that memory is not what was known.

Only what is proved is listed. Where the trace is damaged or a segment is missing, a line says so, and the list goes on
behind it. Parts of the trace that can't have what is wanted are not executed.

JSON, one object a line:
  exec                    {\"position\", \"address\"}
  writes, reads, changes  {\"position\", \"who\": \"store\", \"load\" or \"device\", \"address\", \"physical\", \"size\", \"value\", \"device\"}
  reg                     {\"position\", \"register\", \"address\", \"before\", \"after\"}
  mem                     {\"position\", \"address\", \"physical\": true or false, \"bytes\"}: two hexadecimal digits a byte, ?? if not known
  regs                    {\"position\", \"registers\": {name: value}}
  calls                   {\"position\", \"address\", \"arguments\", \"return_address\", \"return\": {\"position\", \"value\"} or null}
  io                      as `ktracer events --kind io --json`
  all lists               {\"unknown\": {\"from\", \"to\", \"reason\"}}
Positions and sizes are numbers; addresses and values are text, as in \"0x4000ff8c\", or null if not known.";

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let program = Arc::new(Program::open_within(&arguments.trace, arguments.cache)?);
    let symbols = match &arguments.elf {
        Some(path) => Symbols::read(path)?,
        None => Symbols::default(),
    };
    let end = Position(program.trace().instructions());
    let find = |text: &str, option: &'static str| {
        let here = if text.trim().starts_with('-') { end } else { Position::START };
        Destination::find(text, here, end).context(option)
    };
    let range = (find(&arguments.from, "--from")?.0, find(&arguments.to, "--to")?.0);
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut printer = Printer::new(&mut out, &program, arguments.json, arguments.count);
    let outcome = match &arguments.question {
        Question::Exec { address } => {
            let query = Query { addresses: vec![symbols.address(address)?], ..Query::default() };
            print_list(&program, &query, range, &mut printer);
            Ok(())
        }
        Question::Writes { range: text } => {
            accesses(&program, symbols.range(text)?, Watched::Write, range, &mut printer)
        }
        Question::Reads { range: text } => {
            accesses(&program, symbols.range(text)?, Watched::Read, range, &mut printer)
        }
        Question::Changes { range: text } => {
            accesses(&program, symbols.range(text)?, Watched::Change, range, &mut printer)
        }
        Question::Reg { name, at } => register(&program, name, find(at, "--at")?.0, &mut printer),
        Question::Mem { range, at } => {
            memory(&program, &symbols.range(range)?, find(at, "--at")?, &mut printer)
        }
        Question::Regs { at } => {
            let mut recording = Recording::new(Arc::clone(&program));
            recording.seek(find(at, "--at")?)?;
            let values = recording.registers()?;
            printer.registers(recording.position().0, recording.description().registers, &values);
            Ok(())
        }
        Question::Calls { function } => {
            let entries = [symbols.address(function)?];
            calls(&program, &entries, range.0, range.1, &mut || false, &mut |call| printer.call(&call));
            Ok(())
        }
        Question::Io { device } => {
            io_events(&program, device, range, &mut printer);
            Ok(())
        }
    };
    outcome?;
    let printed = printer.finish();
    match printed.and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // The reader has seen enough, as `head` has.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error).context("standard output"),
    }
}

fn print_list(program: &Arc<Program>, query: &Query, (from, to): (u64, u64), printer: &mut Printer<'_>) {
    list(program, query, from, to, &mut || false, &mut |hit: Hit| printer.hit(&hit));
}

fn accesses(
    program: &Arc<Program>,
    range: MemoryRange,
    watched: Watched,
    positions: (u64, u64),
    printer: &mut Printer<'_>,
) -> Result<()> {
    if watched != Watched::Read && program.trace().header().path == header::Path::Portable {
        eprintln!(
            "ktracer: note: the trace was recorded on the portable path, which does not see what devices write to memory"
        );
    }
    let query = Query { watchpoints: vec![Watchpoint { range, watched }], ..Query::default() };
    print_list(program, &query, positions, printer);
    Ok(())
}

fn register(program: &Arc<Program>, name: &str, at: u64, printer: &mut Printer<'_>) -> Result<()> {
    let registers = program.instruction_set().registers();
    let Some(number) = registers.iter().position(|register| register.name == name) else {
        let names: Vec<_> = registers.iter().map(|register| register.name).collect();
        bail!("there is no register `{name}`; there are {}", names.join(", "));
    };
    match last_change(program, number, at, &mut || false) {
        Some(change) => printer.change(name, &change),
        None => {
            eprintln!("ktracer: nothing changed {name} before position {at}, in as far as that is proved")
        }
    }
    Ok(())
}

fn memory(
    program: &Arc<Program>,
    range: &MemoryRange,
    at: Position,
    printer: &mut Printer<'_>,
) -> Result<()> {
    const PIECE: u64 = 1 << 16;
    let mut recording = Recording::new(Arc::clone(program));
    recording.seek(at)?;
    if let Some(reason) = recording.why_unknown() {
        eprintln!("ktracer: note: nothing is known at position {at}: {reason}");
    }
    let physical = range.space() == AddressSpace::Physical;
    let mut here = range.first();
    loop {
        let length = (range.last() - here).min(PIECE - 1) + 1;
        let mut bytes = vec![None; length as usize];
        if physical {
            recording.read_physical_memory(here, &mut bytes)?;
        } else {
            recording.read_memory(here as u32, &mut bytes)?;
        }
        if printer.memory(at.0, here, physical, &bytes).is_break() || range.last() - here < PIECE {
            return Ok(());
        }
        here += PIECE;
    }
}

fn io_events(program: &Arc<Program>, device: &str, (from, to): (u64, u64), printer: &mut Printer<'_>) {
    for event in Events::new(Arc::clone(program), Kinds::from_iter([Kind::Io]), from, to) {
        let wanted = match &event {
            Event::DeviceAccess(access) => access.device.contains(device),
            _ => true,
        };
        if wanted && printer.event(&event) == ControlFlow::Break(()) {
            break;
        }
    }
}
