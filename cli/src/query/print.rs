//! Prints answers: lines for people, or JSON objects.

use std::io::{self, Write};
use std::ops::ControlFlow;

use indicatif::HumanCount;
use ktrace_timeline::Program;
use ktrace_timeline::events::{Event, Kind};
use ktrace_timeline::replay::RegisterDescription;
use ktrace_timeline::search::calls::Call;
use ktrace_timeline::search::list::Hit;
use ktrace_timeline::search::registers::{Write as RegisterWrite, Writer};
use ktrace_timeline::search::{Sighting, Who};
use serde_json::{Map, Value, json};

use crate::events;

/// Bytes of memory on a line.
const BYTES: usize = 16;

/// See the [module](self).
pub struct Printer<'a> {
    out: &'a mut dyn Write,
    program: &'a Program,
    json: bool,
    left: u64,
    width: usize,
    outcome: io::Result<()>,
}

fn hexadecimal(value: impl Into<u64>) -> String {
    format!("{:#010x}", value.into())
}

fn word(value: Option<u32>) -> String {
    value.map_or_else(|| "unknown".to_owned(), hexadecimal)
}

impl<'a> Printer<'a> {
    /// One that prints so many lines at most.
    pub fn new(out: &'a mut dyn Write, program: &'a Program, json: bool, count: Option<u64>) -> Printer<'a> {
        let width = HumanCount(program.trace().instructions()).to_string().len();
        Printer { out, program, json, left: count.unwrap_or(u64::MAX), width, outcome: Ok(()) }
    }

    /// How the printing went.
    pub fn finish(self) -> io::Result<()> {
        self.outcome
    }

    /// Prints an object, or a line for people; breaks when that was the last one.
    fn print(
        &mut self,
        object: impl FnOnce(&Self) -> Value,
        text: impl FnOnce(&Self) -> String,
    ) -> ControlFlow<()> {
        if self.left == 0 || self.outcome.is_err() {
            return ControlFlow::Break(());
        }
        let line = if self.json { object(self).to_string() } else { text(self) };
        self.left -= 1;
        self.outcome = writeln!(self.out, "{line}");
        if self.left == 0 || self.outcome.is_err() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn position(&self, position: u64) -> String {
        format!("{:>width$}", HumanCount(position).to_string(), width = self.width)
    }

    /// A hit of a list.
    pub fn hit(&mut self, hit: &Hit) -> ControlFlow<()> {
        match hit {
            Hit::Execution { position, address } => self.print(
                |_| json!({ "position": position, "address": hexadecimal(*address) }),
                |printer| format!("{}  {}", printer.position(*position), hexadecimal(*address)),
            ),
            Hit::Access { position, sighting } => self.print(
                |printer| printer.access_object(*position, sighting),
                |printer| printer.access(*position, sighting),
            ),
            Hit::Unknown(unproved) => self.print(
                |_| json!({ "unknown": unproved }),
                |printer| {
                    let (from, to) = (printer.position(unproved.from), HumanCount(unproved.to));
                    format!("{from}  nothing is known up to position {to}: {}", unproved.reason)
                },
            ),
        }
    }

    fn device(&self, sighting: &Sighting) -> Option<&str> {
        sighting.device.map(|number| self.program.trace().name(number)).filter(|name| !name.is_empty())
    }

    fn value(sighting: &Sighting) -> Option<String> {
        let width = 2 + 2 * sighting.bytes as usize;
        (sighting.who != Who::Device).then(|| format!("{:#0width$x}", sighting.value))
    }

    fn access_object(&self, position: u64, sighting: &Sighting) -> Value {
        json!({
            "position": position,
            "who": match sighting.who {
                Who::Load => "load",
                Who::Store => "store",
                Who::Device => "device",
            },
            "address": sighting.address.map(hexadecimal),
            "physical": sighting.physical.map(hexadecimal),
            "size": sighting.bytes,
            "value": Self::value(sighting),
            "device": self.device(sighting),
        })
    }

    fn access(&self, position: u64, sighting: &Sighting) -> String {
        let who = match sighting.who {
            Who::Load => "load  ",
            Who::Store => "store ",
            Who::Device => "device",
        };
        let value = Self::value(sighting).unwrap_or_else(|| format!("{} bytes", sighting.bytes));
        let place = match (sighting.address, sighting.physical) {
            (Some(address), _) => format!("[{address:08x}]"),
            (None, Some(physical)) => format!("[phys:{physical:08x}]"),
            (None, None) => String::new(),
        };
        let device = self.device(sighting).map_or_else(String::new, |device| format!(" {device}"));
        format!("{}  {who} {value}  {place}{device}", self.position(position))
    }

    /// A write of a register that is certain, or that may have been one.
    pub fn write(&mut self, name: &str, write: &RegisterWrite, certain: bool) {
        let RegisterWrite { position, address, by, values: [before, after] } = *write;
        let _ = self.print(
            |_| {
                let (by, who) = match by {
                    Writer::Instruction => ("instruction", None),
                    Writer::Opaque(mnemonic) => ("opaque", Some(mnemonic)),
                    Writer::Discontinuity(cause) => ("discontinuity", cause.name()),
                };
                json!({
                    "position": position,
                    "register": name,
                    "address": address.map(hexadecimal),
                    "before": before.map(hexadecimal),
                    "after": after.map(hexadecimal),
                    "certain": certain,
                    "by": by,
                    "name": who,
                })
            },
            |printer| {
                let (at, address) = (printer.position(position), word(address));
                let by = match by {
                    Writer::Instruction => String::new(),
                    Writer::Opaque(mnemonic) => format!(", by {mnemonic}"),
                    Writer::Discontinuity(cause) => {
                        format!(", behind it: {}", cause.name().unwrap_or("jump without an explanation"))
                    }
                };
                let values = match (before == after, certain) {
                    (false, _) => format!("{} to {}", word(before), word(after)),
                    (true, true) => format!("{}, as before", word(after)),
                    (true, false) => word(after),
                };
                let perhaps = if certain { "" } else { ", may have been written" };
                format!("{at}  {address}  {name}: {values}{perhaps}{by}")
            },
        );
    }

    /// The registers at a position.
    pub fn registers(&mut self, position: u64, registers: &[RegisterDescription], values: &[Option<u32>]) {
        let named = || registers.iter().zip(values);
        let _ = self.print(
            |_| {
                let values: Map<String, Value> = named()
                    .map(|(register, value)| (register.name.to_owned(), json!(value.map(hexadecimal))))
                    .collect();
                json!({ "position": position, "registers": values })
            },
            |_| {
                let lines: Vec<String> = named()
                    .map(|(register, value)| format!("{:<10} {}", register.name, word(*value)))
                    .collect();
                lines.join("\n")
            },
        );
    }

    /// A stretch of memory at a position, in as many lines as it takes.
    pub fn memory(
        &mut self,
        position: u64,
        address: u64,
        physical: bool,
        bytes: &[Option<u8>],
    ) -> ControlFlow<()> {
        let digits = |byte: &Option<u8>| byte.map_or_else(|| "??".to_owned(), |byte| format!("{byte:02x}"));
        for (line, bytes) in (0u64..).zip(bytes.chunks(BYTES)) {
            let here = address + line * BYTES as u64;
            self.print(
                |_| {
                    let bytes: String = bytes.iter().map(digits).collect();
                    json!({ "position": position, "address": hexadecimal(here), "physical": physical, "bytes": bytes })
                },
                |_| {
                    let bytes: Vec<String> = bytes.iter().map(digits).collect();
                    format!("{}  {}", hexadecimal(here), bytes.join(" "))
                },
            )?;
        }
        ControlFlow::Continue(())
    }

    /// A call.
    pub fn call(&mut self, call: &Call) -> ControlFlow<()> {
        self.print(
            |_| {
                json!({
                    "position": call.position,
                    "address": hexadecimal(call.address),
                    "arguments": call.arguments.map(|argument| argument.map(hexadecimal)),
                    "return_address": call.return_address.map(hexadecimal),
                    "return": call.returned.map(|(position, value)| {
                        json!({ "position": position, "value": value.map(hexadecimal) })
                    }),
                })
            },
            |printer| {
                let arguments = call.arguments.map(word).join(", ");
                let returned = match call.returned {
                    Some((position, value)) => format!("{} at {}", word(value), HumanCount(position)),
                    None => "not seen".to_owned(),
                };
                let from =
                    call.return_address.map_or_else(String::new, |to| format!(", returns to {to:#010x}"));
                format!("{}  ({arguments}){from}: {returned}", printer.position(call.position))
            },
        )
    }

    /// An access to a device.
    pub fn event(&mut self, event: &Event) -> ControlFlow<()> {
        self.print(
            |_| events::object(event),
            |printer| {
                let kind = event.kind().map_or("unknown", Kind::name);
                format!("{}  {kind:<9}  {event}", printer.position(event.position()))
            },
        )
    }
}
