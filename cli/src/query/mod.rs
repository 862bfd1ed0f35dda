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
use ktrace_timeline::search::list::{Ended, Hit, Query, list};
use ktrace_timeline::search::registers::{Question as RegisterQuestion, last_write};
use ktrace_timeline::search::{AddressSpace, MemoryRange, Watched, Watchpoint};
use ktrace_timeline::verify::Unproved;
use ktrace_timeline::{Program, Recording, Replay, ReplayError};

use crate::interrupt::Interrupt;
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
    /// What wrote a register last
    Reg {
        /// Its name, as gdb has it
        name: String,
        /// Before which position
        #[arg(long, value_name = "T", default_value = "end", allow_hyphen_values = true)]
        at: String,
        /// Only what changed its value
        #[arg(long)]
        changed: bool,
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

A register is also written where it gets the value that it had. The last write that is certain is told, and behind it the last
that may have been one, if there is any: an instruction whose results are recorded rather than computed, or an exception, with the
same value before and after.

Only what is proved is listed. Where the trace is damaged or a segment is missing, a line says so, and the list goes on
behind it. Parts of the trace that can't have what is wanted are not executed. What was not recorded at all is an error, or a
note says so. Ctrl-C ends a search: what was found so far is printed, a line says how far it came, and the status is 130.

JSON, one object a line:
  exec                    {\"position\", \"address\"}
  writes, reads, changes  {\"position\", \"who\": \"store\", \"load\" or \"device\", \"address\", \"physical\", \"size\", \"value\", \"device\"}
  reg                     {\"position\", \"register\", \"address\", \"before\", \"after\", \"certain\": true or false, \"by\": \"instruction\",
                          \"opaque\" or \"discontinuity\" (behind the instruction), \"name\": of these two, or null}
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
    let interrupt = Interrupt::catch()?;
    let mut printer = Printer::new(&mut out, &program, arguments.json, arguments.count);
    let searcher = Searcher { program: &program, positions: range, interrupt: &interrupt };
    let outcome = match &arguments.question {
        Question::Exec { address } => {
            searcher.say_that_gaps_are_unknown();
            let query = Query { addresses: vec![symbols.address(address)?], ..Query::default() };
            searcher.list(&query, &mut printer)
        }
        Question::Writes { range } => searcher.accesses(symbols.range(range)?, Watched::Write, &mut printer),
        Question::Reads { range } => searcher.accesses(symbols.range(range)?, Watched::Read, &mut printer),
        Question::Changes { range } => {
            searcher.accesses(symbols.range(range)?, Watched::Change, &mut printer)
        }
        Question::Reg { name, at, changed } => {
            let question = if *changed { RegisterQuestion::Change } else { RegisterQuestion::Write };
            searcher.register(name, find(at, "--at")?.0, question, &mut printer)
        }
        Question::Mem { range, at } => {
            memory(&program, &symbols.range(range)?, find(at, "--at")?, &interrupt, &mut printer)
        }
        Question::Regs { at } => {
            let mut recording = Recording::new(Arc::clone(&program));
            recording.seek(find(at, "--at")?)?;
            let values = recording.registers()?;
            printer.registers(recording.position().0, recording.description().registers, &values);
            Ok(None)
        }
        Question::Calls { function } => {
            searcher.say_that_gaps_are_unknown();
            Ok(searcher.calls(symbols.address(function)?, &mut printer))
        }
        Question::Io { device } => searcher.accesses_to(device, &mut printer),
    };
    let reached = outcome?;
    let instead = program.executed_instead();
    if instead > 0 {
        eprintln!(
            "ktracer: note: {instead} segments were executed because their indexes can't be read, which took its time"
        );
    }
    let printed = printer.finish();
    match printed.and_then(|()| out.flush()) {
        Ok(()) => Ok(reached.map_or(ExitCode::SUCCESS, |reached| interrupt.end(&reached))),
        // The reader has seen enough, as `head` has.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error).context("standard output"),
    }
}

/// Asks for what takes a search. Each question returns how far it came, if Ctrl-C ended it.
struct Searcher<'a> {
    program: &'a Arc<Program>,
    /// Where lists begin and end.
    positions: (u64, u64),
    interrupt: &'a Interrupt,
}

impl Searcher<'_> {
    /// What an imported recording can't tell, where it can tell something.
    fn say_that_gaps_are_unknown(&self) {
        if self.program.is_imported() {
            eprintln!(
                "ktracer: note: this is an imported recording: what ran between its blocks is not known, so that there may be more"
            );
        }
    }

    fn list(&self, query: &Query, printer: &mut Printer<'_>) -> Result<Option<String>> {
        let (from, to) = self.positions;
        let mut last = from;
        let ended = list(self.program, query, from, to, &mut || self.interrupt.came(), &mut |hit: Hit| {
            last = hit.position();
            printer.hit(&hit)?;
            // A segment can have so many that printing them takes a while.
            if self.interrupt.came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(match ended {
            Ended::Cancelled { position } => Some(position),
            Ended::Finished => self.interrupt.came().then_some(last),
        }
        .map(before_is_all))
    }

    fn accesses(
        &self,
        range: MemoryRange,
        watched: Watched,
        printer: &mut Printer<'_>,
    ) -> Result<Option<String>> {
        if watched != Watched::Read && self.program.trace().header().path == header::Path::Portable {
            eprintln!(
                "ktracer: note: the trace was recorded on the portable path, which does not see what devices write to memory"
            );
        }
        self.list(&Query { watchpoints: vec![Watchpoint { range, watched }], ..Query::default() }, printer)
    }

    fn register(
        &self,
        name: &str,
        at: u64,
        question: RegisterQuestion,
        printer: &mut Printer<'_>,
    ) -> Result<Option<String>> {
        let registers = self.program.instruction_set().registers();
        let Some(number) = registers.iter().position(|register| register.name == name) else {
            let names: Vec<_> = registers.iter().map(|register| register.name).collect();
            bail!("there is no register `{name}`; there are {}", names.join(", "));
        };
        self.say_that_gaps_are_unknown();
        let last = last_write(self.program, number, at, question, &mut || self.interrupt.came());
        for (write, certain) in [(&last.certain, true), (&last.perhaps, false)] {
            if let Some(write) = write {
                printer.write(name, write, certain);
            }
        }
        if let Some(unproved) = &last.unknown {
            let (Unproved { from, to, reason }, wrote) = (unproved, verb(question)[0]);
            eprintln!(
                "ktracer: note: whether something {wrote} {name} from position {from} to {to} is not known: {reason}"
            );
        }
        if last.certain.is_none() && last.cancelled_at.is_none() {
            eprintln!("ktracer: nothing is known to have {} {name} before position {at}", verb(question)[1]);
        }
        Ok(last.cancelled_at.map(|position| {
            format!(
                "{position}: from there to position {at} nothing is known to have {} {name}",
                verb(question)[1]
            )
        }))
    }

    fn calls(&self, entry: u32, printer: &mut Printer<'_>) -> Option<String> {
        let (from, to) = self.positions;
        let mut came = || self.interrupt.came();
        let cancelled_at =
            calls(self.program, &[entry], from, to, &mut came, &mut |call| printer.call(&call));
        cancelled_at
            .map(|position| format!("{position}: what was called or returned from there on is not listed"))
    }

    fn accesses_to(&self, device: &str, printer: &mut Printer<'_>) -> Result<Option<String>> {
        let kinds = Kinds::from_iter([Kind::Io]);
        if !self.program.recorded_kinds().contains(Kind::Io) {
            bail!(ReplayError::NotRecorded("accesses to devices"));
        }
        let (from, to) = self.positions;
        let mut events = Events::new(Arc::clone(self.program), kinds, from, to);
        let mut came = || self.interrupt.came();
        while !came() {
            let Some(event) = events.next_unless(&mut came) else { break };
            let wanted = match &event {
                Event::DeviceAccess(access) => access.device.contains(device),
                _ => true,
            };
            if wanted && printer.event(&event) == ControlFlow::Break(()) {
                return Ok(None);
            }
        }
        Ok(came().then(|| before_is_all(events.reached())))
    }
}

/// What was done to a register: in the past, and as a participle.
fn verb(question: RegisterQuestion) -> [&'static str; 2] {
    match question {
        RegisterQuestion::Write => ["wrote", "written"],
        RegisterQuestion::Change => ["changed", "changed"],
    }
}

fn before_is_all(position: u64) -> String {
    format!("{position}: what is listed is all that is before")
}

/// Prints memory. Returns how far it came, if Ctrl-C ended it.
fn memory(
    program: &Arc<Program>,
    range: &MemoryRange,
    at: Position,
    interrupt: &Interrupt,
    printer: &mut Printer<'_>,
) -> Result<Option<String>> {
    const PIECE: u64 = 1 << 16;
    let mut recording = Recording::new(Arc::clone(program));
    recording.seek(at)?;
    if program.is_imported() {
        eprintln!(
            "ktracer: note: this is an imported recording: it has no memory but the code of the block that executes"
        );
    }
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
            return Ok(None);
        }
        here += PIECE;
        if interrupt.came() {
            return Ok(Some(format!("{at}: memory from {here:#x} on is not listed")));
        }
    }
}
