//! What happens to the processor from outside its program, in order: interrupts, exceptions, resets, writes of devices to
//! memory, and the program's own accesses to devices.
//!
//! [`stream`] tells them in the order in which they happened, [`nearest`] those next to a position, on either side of it.

pub mod nearest;
pub mod stream;

use std::fmt;

use ktrace_format::segment::CAUSE_UNKNOWN;
pub use ktrace_machine::Cause;

pub use stream::Events;

use crate::verify::Unproved;

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Interrupts: IRQ and FIQ.
    Interrupt = 1,
    /// Exceptions, and all other discontinuities: resets, host calls, jumps without an explanation.
    Exception = 2,
    /// Writes of devices to memory.
    Dma = 4,
    /// Accesses of the processor to devices.
    Io = 8,
    /// Gaps in the recording: what was executed there is not known, if anything was.
    Gap = 16,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Interrupt, Kind::Exception, Kind::Dma, Kind::Io, Kind::Gap];

    /// As one writes it on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Interrupt => "irq",
            Kind::Exception => "exception",
            Kind::Dma => "dma",
            Kind::Io => "io",
            Kind::Gap => "gap",
        }
    }

    /// The kind with a name.
    pub fn with_name(name: &str) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of a discontinuity.
    fn of_cause(cause: Cause) -> Kind {
        if cause.is_gap() {
            Kind::Gap
        } else if cause.is_interrupt() {
            Kind::Interrupt
        } else {
            Kind::Exception
        }
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// All kinds.
    pub const ALL: Kinds = Kinds(31);

    /// Whether a kind is among them.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & kind as u8 != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are among both.
    pub fn intersection(self, others: Kinds) -> Kinds {
        Kinds(self.0 & others.0)
    }

    /// Those that are not among the others.
    pub fn without(self, others: Kinds) -> Kinds {
        Kinds(self.0 & !others.0)
    }
}

/// A list for people.
impl fmt::Display for Kinds {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Kind::Interrupt, "interrupts"),
            (Kind::Exception, "exceptions"),
            (Kind::Dma, "writes of devices to memory"),
            (Kind::Io, "accesses to devices"),
            (Kind::Gap, "gaps"),
        ];
        let names: Vec<_> =
            names.into_iter().filter(|(kind, _)| self.contains(*kind)).map(|(_, name)| name).collect();
        match names.split_last() {
            Some((last, [])) => text.write_str(last),
            Some((last, others)) => write!(text, "{} and {last}", others.join(", ")),
            None => text.write_str("nothing"),
        }
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        Kinds(kinds.into_iter().fold(0, |set, kind| set | kind as u8))
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The processor went on elsewhere than its program says.
    Discontinuity(Discontinuity),
    /// A device wrote to memory.
    DeviceWrite(DeviceWrite),
    /// The processor accessed a device.
    DeviceAccess(DeviceAccess),
    /// Nothing is known about these positions; events go on behind them.
    Unknown(Unproved),
}

/// An interrupt, an exception, a reset, or whatever else makes the processor go on elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discontinuity {
    /// Position of the first instruction after it: of an exception's handler, if that begins at once.
    pub position: u64,
    /// Why.
    pub cause: Cause,
    /// Position of the instruction that caused it, if one did: the one before.
    pub raised_by: Option<u64>,
    /// Virtual address of that instruction; without one, of the instruction that would have been next. `None`: not known.
    pub pc: Option<u32>,
    /// Virtual address of the instruction at `position`. `None`: not known, since another discontinuity came first.
    pub to: Option<u32>,
}

/// A write of a device to memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWrite {
    /// The first position at which it is done.
    pub position: u64,
    /// Physical address.
    pub physical: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// An access of the processor to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAccess {
    /// Position of the instruction.
    pub position: u64,
    /// The device's name; empty if it is lost.
    pub device: String,
    /// Physical address, if it is known.
    pub physical: Option<u64>,
    /// Virtual address.
    pub address: u32,
    /// Size in bytes.
    pub bytes: u8,
    /// A store.
    pub store: bool,
    /// Value, zero-extended.
    pub value: u128,
}

impl Event {
    /// The first position at which it has happened; of an access to a device, and where nothing is known, the position at
    /// which it happens.
    pub fn position(&self) -> u64 {
        match self {
            Event::Discontinuity(event) => event.position,
            Event::DeviceWrite(event) => event.position,
            Event::DeviceAccess(event) => event.position,
            Event::Unknown(unproved) => unproved.from,
        }
    }

    /// Its kind; `None`: it is not known what happened.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Event::Discontinuity(event) => Some(Kind::of_cause(event.cause)),
            Event::DeviceWrite(_) => Some(Kind::Dma),
            Event::DeviceAccess(_) => Some(Kind::Io),
            Event::Unknown(_) => None,
        }
    }
}

/// The details for people, without position and kind.
impl fmt::Display for Event {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Discontinuity(event) => event.fmt(text),
            Event::DeviceWrite(DeviceWrite { physical, bytes, .. }) => {
                let plural = if *bytes == 1 { "" } else { "s" };
                write!(text, "{bytes} byte{plural} to physical {physical:#010x}")
            }
            Event::DeviceAccess(event) => event.fmt(text),
            Event::Unknown(Unproved { to, reason, .. }) => {
                write!(text, "nothing is known up to position {to}: {reason}")
            }
        }
    }
}

impl fmt::Display for Discontinuity {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.cause.name(), self.cause.code()) {
            (Some(name), _) => text.write_str(name)?,
            (None, CAUSE_UNKNOWN) => text.write_str("jump without an explanation")?,
            (None, cause) => write!(text, "cause {cause}")?,
        }
        match (self.pc, self.raised_by) {
            (Some(pc), Some(position)) => write!(text, ", by {pc:#010x} at position {position}")?,
            (None, Some(position)) => write!(text, ", by the instruction at position {position}")?,
            (Some(pc), None) => write!(text, ", before {pc:#010x}")?,
            (None, None) => {}
        }
        match self.to {
            Some(to) => write!(text, ", to {to:#010x}"),
            None => text.write_str(", at once followed by another"),
        }
    }
}

impl fmt::Display for DeviceAccess {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = 2 + 2 * usize::from(self.bytes);
        let what = if self.store { "write" } else { "read" };
        let device = if self.device.is_empty() { "unnamed device" } else { &self.device };
        write!(text, "{what} {:#0width$x}  [{:08x}] {device}", self.value, self.address)?;
        match self.physical {
            Some(physical) => write!(text, " at physical {physical:#010x}"),
            None => text.write_str(" at an unknown physical address"),
        }
    }
}
