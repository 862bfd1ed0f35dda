//! `ktracer events`: what happened to the processor from outside its program, and what it did to devices.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::HumanCount;
use ktrace_format::{Position, header};
use ktrace_timeline::Program;
use ktrace_timeline::destination::Destination;
use ktrace_timeline::events::nearest::last_events;
use ktrace_timeline::events::{DeviceAccess, DeviceWrite, Discontinuity, Event, Events, Kind, Kinds};
use serde_json::{Value, json};

use crate::interrupt::Interrupt;
use crate::record::parse_count;

/// The command line of `ktracer events`.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub struct Arguments {
    /// The trace: a directory that `ktracer record -o` wrote
    #[arg(value_name = "DIR")]
    trace: PathBuf,
    /// Only events of these kinds; can be given several times, or with commas [default: all]
    #[arg(long = "kind", value_name = "KIND", value_enum, value_delimiter = ',')]
    kinds: Vec<KindName>,
    /// Where to begin: a position N, N%, start, or -N for N instructions before the end
    #[arg(long, value_name = "T", default_value = "start", allow_hyphen_values = true)]
    from: String,
    /// Where to end: the last position whose events are listed
    #[arg(long, value_name = "T", default_value = "end", allow_hyphen_values = true)]
    to: String,
    /// How many events; k, M and G stand for thousands, millions, billions [default: all]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    count: Option<u64>,
    /// The last N of them instead of the first
    #[arg(long, value_name = "N", value_parser = parse_count, conflicts_with = "count")]
    last: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// A kind of events as one writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindName {
    /// Interrupts
    Irq,
    /// Exceptions, and resets, host calls, jumps that nothing explains
    Exception,
    /// Writes of devices to memory
    Dma,
    /// Accesses of the processor to devices
    Io,
    /// Gaps in an imported recording
    Gap,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Kind {
        match name {
            KindName::Irq => Kind::Interrupt,
            KindName::Exception => Kind::Exception,
            KindName::Dma => Kind::Dma,
            KindName::Io => Kind::Io,
            KindName::Gap => Kind::Gap,
        }
    }
}

const NOTES: &str = "\
Examples:
  ktracer events trace/ --kind irq,exception --count 20
  ktracer events trace/ --kind dma --from 50% --to 51%
  ktracer events trace/ --kind irq --to 1_000_000 --last 1
  ktracer events trace/ --kind io --json | grep pl011

The position of an interrupt or an exception is that of the first instruction after it: `monitor goto` there shows the
handler's start, and one position before it the instruction that was interrupted or at fault. The position of a device's
write to memory is the first one that shows it, that of an access to a device is its instruction's.

Only what is proved is listed. Where the trace is damaged or a segment is missing, a line says so, and the list goes on
behind it. Parts of the trace that can't have what is wanted are not executed, and whether they are proved is not looked at:
`ktracer verify` does that.

JSON, one object a line:
  {\"position\", \"kind\": \"irq\", \"exception\" or \"gap\", \"cause\", \"name\", \"raised_by\", \"pc\", \"to\"}
      cause: on ARM the number of the exception vector, or 8 for a reset, 9 for something that QEMU did for the guest; on
      MIPS the ExcCode, or 32 and 33 for these; 254 for a gap in the recording, 255 if it is not known; name: what that is
      called, or null; raised_by: the position of the instruction that caused it, or null; pc: the address of that instruction,
      or else of the one that would have been next, or null; to: the address of the instruction at `position`, or null if
      another interrupt or exception came before it
  {\"position\", \"kind\": \"dma\", \"physical\", \"size\"}
  {\"position\", \"kind\": \"io\", \"access\" (\"read\" or \"write\"), \"device\", \"physical\", \"address\", \"size\", \"value\"}
      address: the virtual one
  {\"unknown\": {\"from\", \"to\", \"reason\"}}
      from position `from` to before `to` nothing is known
Positions, sizes and causes are numbers; addresses and values are text, as in \"0x4000ff8c\", or null if not known.";

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let program = Arc::new(Program::open(&arguments.trace)?);
    let trace = program.trace();
    let end = Position(trace.instructions());
    let find = |text: &str, option: &'static str| {
        let here = if text.trim().starts_with('-') { end } else { Position::START };
        Destination::find(text, here, end).context(option)
    };
    let (from, to) = (find(&arguments.from, "--from")?, find(&arguments.to, "--to")?);
    let kinds = match &arguments.kinds[..] {
        [] => Kinds::ALL,
        kinds => kinds.iter().map(|kind| Kind::from(*kind)).collect(),
    };
    say_what_was_not_recorded(&program, kinds, &arguments.kinds)?;
    let interrupt = Interrupt::catch()?;
    let mut reached = None;
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut print = |events: &mut dyn Iterator<Item = Event>| {
        if arguments.json { print_json(events, &mut out) } else { print_text(events, end, &mut out) }
    };
    let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let printed = if let Some(count) = arguments.last {
        let found = last_events(&program, kinds, from, to, number(count), &mut || interrupt.came());
        reached =
            found.cancelled_at.map(|position| format!("{position}: what is listed is all that is behind"));
        print(&mut found.events.into_iter())
    } else {
        let mut events = Events::new(Arc::clone(&program), kinds, from.0, to.0);
        let count = arguments.count.map_or(usize::MAX, number);
        let mut next = || if interrupt.came() { None } else { events.next_unless(&mut || interrupt.came()) };
        let printed = print(&mut std::iter::from_fn(&mut next).take(count));
        if interrupt.came() {
            reached = Some(format!("{}: what is listed is all that is before", events.reached()));
        }
        printed
    };
    match printed.and_then(|()| out.flush()) {
        Ok(()) => {}
        // The reader has seen enough, as `head` has.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(error).context("standard output"),
    }
    if let Some(reached) = reached {
        return Ok(interrupt.end(&reached));
    }
    if to == end && trace.totals().is_none() {
        eprintln!("ktracer: note: the trace is torn at position {end}: what happened after that is missing");
    }
    Ok(ExitCode::SUCCESS)
}

/// Of kinds that the recorder does not see there are none in the trace, which is no answer.
fn say_what_was_not_recorded(program: &Program, kinds: Kinds, asked_for: &[KindName]) -> Result<()> {
    let missing = kinds.without(program.recorded_kinds());
    let why = match program.trace().header().path {
        header::Path::Original => "this is an imported recording, whose recorder did not see them",
        // What is in the trace of devices' writes is only what later loads saw.
        _ => "the trace was recorded on the portable path, which does not see what devices write to memory",
    };
    if missing == kinds && !asked_for.is_empty() {
        bail!("{missing} were not recorded: {why}");
    }
    if !missing.is_empty() {
        eprintln!("ktracer: note: {missing} were not recorded: {why}");
    }
    Ok(())
}

fn print_text(events: &mut dyn Iterator<Item = Event>, end: Position, out: &mut dyn Write) -> io::Result<()> {
    let width = HumanCount(end.0).to_string().len().max("position".len());
    writeln!(out, "{:>width$}  {:<9}  details", "position", "kind")?;
    for event in events {
        let position = HumanCount(event.position()).to_string();
        let kind = event.kind().map_or("unknown", Kind::name);
        writeln!(out, "{position:>width$}  {kind:<9}  {event}")?;
    }
    Ok(())
}

fn print_json(events: &mut dyn Iterator<Item = Event>, out: &mut dyn Write) -> io::Result<()> {
    for event in events {
        serde_json::to_writer(&mut *out, &object(&event))?;
        writeln!(out)?;
    }
    Ok(())
}

/// An event as JSON.
pub fn object(event: &Event) -> Value {
    let kind = event.kind().map(Kind::name);
    let address = |address: u64| format!("{address:#010x}");
    let word = |word: Option<u32>| word.map(|word| address(word.into()));
    match event {
        Event::Discontinuity(Discontinuity { position, cause, raised_by, pc, to }) => json!({
            "position": position,
            "kind": kind,
            "cause": cause.code(),
            "name": cause.name(),
            "raised_by": raised_by,
            "pc": word(*pc),
            "to": word(*to),
        }),
        Event::DeviceWrite(DeviceWrite { position, physical, bytes }) => json!({
            "position": position,
            "kind": kind,
            "physical": address(*physical),
            "size": bytes,
        }),
        Event::DeviceAccess(access) => {
            let DeviceAccess { position, device, physical, address: virtual_address, bytes, store, value } =
                access;
            json!({
                "position": position,
                "kind": kind,
                "access": if *store { "write" } else { "read" },
                "device": Some(device).filter(|device| !device.is_empty()),
                "physical": physical.map(address),
                "address": address((*virtual_address).into()),
                "size": bytes,
                "value": format!("{value:#0width$x}", width = 2 + 2 * usize::from(*bytes)),
            })
        }
        Event::Unknown(unproved) => json!({ "unknown": unproved }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_same_names_everywhere() {
        for name in KindName::value_variants() {
            let value = name.to_possible_value().unwrap();
            assert_eq!(value.get_name(), Kind::from(*name).name());
        }
    }
}
