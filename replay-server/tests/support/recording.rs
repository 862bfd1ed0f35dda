//! A small recording made up for tests: a loop of real ARM instructions, run by hand.
//!
//! ```text
//! 0x8000  mov r0, #0
//! 0x8004  mov r1, #0x9000
//! 0x8008  add r0, r0, #1        LOOP_START
//! 0x800c  str r0, [r1]
//! 0x8010  cmp r0, #5
//! 0x8014  bne 0x8008
//! 0x8018  mov r2, r0            AFTER_LOOP
//! 0x801c  b 0x801c
//! ```
//!
//! Position 2 is the first time round the loop, 22 the instruction after it, and from 23 on it spins.

use std::ops::Range;

use ktrace_format::Position;
use ktrace_timeline::events::nearest::FoundEvents;
use ktrace_timeline::events::{Cause, DeviceWrite, Discontinuity, Event, Kind, Kinds};
use ktrace_timeline::provenance::Provenance;
use ktrace_timeline::replay::RegisterDescription;
use ktrace_timeline::search::{Moment, Watched, Watchpoint, Who};
use ktrace_timeline::verify::Unproved;
use ktrace_timeline::{InstructionSet, MachineDescription, Replay, ReplayError, Stop, StopAt};

pub const PROGRAM_ADDRESS: u32 = 0x8000;
pub const LOOP_START: u32 = 0x8008;
pub const AFTER_LOOP: u32 = 0x8018;
/// The word that the loop writes: unknown before it is written first.
pub const COUNTER_ADDRESS: u32 = 0x9000;

const PROGRAM: [u32; 8] =
    [0xe3a0_0000, 0xe3a0_1a09, 0xe280_0001, 0xe581_0000, 0xe350_0005, 0x1aff_fffb, 0xe1a0_2000, 0xeaff_fffe];
const ZERO_FLAG: u32 = 0x4000_0000;
const PROGRAM_COUNTER: usize = 15;
const STATUS: usize = 16;

const CORE: &str = "org.gnu.gdb.arm.core";
const fn register(name: &'static str, number: usize, kind: &'static str) -> RegisterDescription {
    RegisterDescription { name, feature: CORE, number, kind }
}
const REGISTERS: &[RegisterDescription] = &[
    register("r0", 0, "int"),
    register("r1", 1, "int"),
    register("r2", 2, "int"),
    register("r3", 3, "int"),
    register("r4", 4, "int"),
    register("r5", 5, "int"),
    register("r6", 6, "int"),
    register("r7", 7, "int"),
    register("r8", 8, "int"),
    register("r9", 9, "int"),
    register("r10", 10, "int"),
    register("r11", 11, "int"),
    register("r12", 12, "int"),
    register("sp", 13, "data_ptr"),
    register("lr", 14, "int"),
    register("pc", PROGRAM_COUNTER, "code_ptr"),
    register("cpsr", 25, "int"),
];

#[derive(Clone, Copy, PartialEq)]
struct State {
    registers: [u32; 17],
    counter: Option<u32>,
}

impl State {
    fn reset() -> Self {
        let mut registers = [0; 17];
        for (number, register) in registers.iter_mut().enumerate().take(13).skip(2) {
            *register = 0x1111_0000 + number as u32;
        }
        (registers[13], registers[14]) = (0x2_0000, 0xffff_ffff);
        (registers[PROGRAM_COUNTER], registers[STATUS]) = (PROGRAM_ADDRESS, 0x1d3);
        Self { registers, counter: None }
    }

    fn execute(mut self) -> Self {
        let r = &mut self.registers;
        let mut next = r[PROGRAM_COUNTER] + 4;
        match r[PROGRAM_COUNTER] {
            0x8000 => r[0] = 0,
            0x8004 => r[1] = COUNTER_ADDRESS,
            0x8008 => r[0] += 1,
            0x800c => self.counter = Some(r[0]),
            0x8010 if r[0] == 5 => r[STATUS] |= ZERO_FLAG,
            0x8010 => r[STATUS] &= !ZERO_FLAG,
            0x8014 if r[STATUS] & ZERO_FLAG == 0 => next = LOOP_START,
            0x8014 => {}
            0x8018 => r[2] = r[0],
            0x801c => next = 0x801c,
            elsewhere => unreachable!("no instruction at {elsewhere:#x}"),
        }
        r[PROGRAM_COUNTER] = next;
        self
    }
}

/// The recording, standing at one position.
pub struct SyntheticRecording {
    description: MachineDescription,
    /// States up to the spin; later ones equal the last.
    states: Vec<State>,
    end: Position,
    position: Position,
    unknown_register: Option<usize>,
    /// Where no events are known.
    unknown_events: Range<u64>,
    not_recorded: Kinds,
}

impl SyntheticRecording {
    /// 26 instructions.
    pub fn short() -> Self {
        let mut states = vec![State::reset()];
        while let Some(last) = states.last().copied() {
            let next = last.execute();
            if next == last {
                break;
            }
            states.push(next);
        }
        Self {
            description: MachineDescription {
                architecture: "arm",
                big_endian: false,
                gdb_architecture: "armv7",
                registers: REGISTERS,
                program_counter: PROGRAM_COUNTER,
            },
            states,
            end: Position(26),
            position: Position::START,
            unknown_register: None,
            unknown_events: 0..0,
            not_recorded: Kinds::default(),
        }
    }

    /// So long that running through it takes hours; its end needs more than 32 bits.
    #[allow(dead_code, reason = "not every test that includes this file needs it")]
    pub fn endless() -> Self {
        Self { end: Position(1 << 40), ..Self::short() }
    }

    /// The same with a register that is not proved anywhere.
    #[allow(dead_code, reason = "not every test that includes this file needs it")]
    pub fn without_register(self, index: usize) -> Self {
        Self { unknown_register: Some(index), ..self }
    }

    /// The same, where nothing is known of events at some positions.
    #[allow(dead_code, reason = "not every test that includes this file needs it")]
    pub fn without_events(self, at: Range<u64>) -> Self {
        Self { unknown_events: at, ..self }
    }

    /// The same from a recorder that does not see some kinds of events.
    #[allow(dead_code, reason = "not every test that includes this file needs it")]
    pub fn without_kinds(self, kinds: &[Kind]) -> Self {
        Self { not_recorded: kinds.iter().copied().collect(), ..self }
    }

    fn state(&self, position: Position) -> State {
        let last = self.states.len() - 1;
        self.states[usize::try_from(position.0).map_or(last, |index| index.min(last))]
    }

    fn stops_at(&self, stop: &StopAt) -> Option<Stop> {
        let address = self.state(self.position).registers[PROGRAM_COUNTER];
        let counts =
            || stop.condition.as_ref().is_none_or(|condition| condition.holds(&Then { recording: self }));
        if self.position != self.end && stop.addresses.binary_search(&address).is_ok() && counts() {
            return Some(Stop::Address);
        }
        (stop.position == Some(self.position)).then_some(Stop::Position)
    }
}

/// The present position.
struct Then<'a> {
    recording: &'a SyntheticRecording,
}

impl Moment for Then<'_> {
    fn position(&self) -> u64 {
        self.recording.position.0
    }

    fn register(&self, number: usize) -> Option<u32> {
        let known = self.recording.unknown_register != Some(number);
        self.recording.state(self.recording.position).registers.get(number).copied().filter(|_| known)
    }

    fn read_memory(&self, address: u32, into: &mut [Option<u8>]) {
        self.recording.memory(address, into);
    }
}

impl SyntheticRecording {
    /// The access of a watched range that the instruction at a position makes: the only one stores to the counter.
    fn access(&self, position: Position, stop: &StopAt) -> Option<Stop> {
        if self.state(position).registers[PROGRAM_COUNTER] != LOOP_START + 4 {
            return None;
        }
        let (first, last) = (u64::from(COUNTER_ADDRESS), u64::from(COUNTER_ADDRESS) + 3);
        let touches = |watchpoint: &Watchpoint| {
            watchpoint.watched != Watched::Read
                && watchpoint.range.first() <= last
                && watchpoint.range.last() >= first
                // Only the counter's lowest byte changes, after the first time.
                && (watchpoint.watched != Watched::Change || watchpoint.range.first() == first || position.0 == 3)
        };
        let number = stop.watchpoints.iter().position(touches)?;
        Some(Stop::Watchpoint { number, address: first, who: Who::Store })
    }

    fn memory(&self, address: u32, into: &mut [Option<u8>]) {
        let last = u64::from(address) + into.len() as u64;
        if address > COUNTER_ADDRESS + 3 && last <= 0xffff_fffc || last <= PROGRAM_ADDRESS.into() {
            // Most of the address space, fast.
            into.fill(None);
            return;
        }
        let counter = self.state(self.position).counter;
        for (offset, byte) in into.iter_mut().enumerate() {
            let address = address.wrapping_add(offset as u32);
            let word = match address & !3 {
                COUNTER_ADDRESS => counter,
                // The last word of the address space, to test what happens there.
                0xffff_fffc => Some(0x1234_5678),
                word => word
                    .checked_sub(PROGRAM_ADDRESS)
                    .and_then(|offset| PROGRAM.get(offset as usize / 4).copied()),
            };
            *byte = word.map(|word| word.to_le_bytes()[address as usize % 4]);
        }
    }
}

impl SyntheticRecording {
    /// Made up: nothing of this shows in the states.
    fn event(&self, position: u64, kinds: Kinds) -> Option<Event> {
        if self.unknown_events.contains(&position) {
            let Range { start: from, end: to } = self.unknown_events;
            let unknown = Event::Unknown(Unproved { from, to, reason: "lost".to_owned() });
            return Some(unknown).filter(|_| position == from);
        }
        let event = match position % 4 {
            0 => {
                let (pc, to) = (Some(LOOP_START), Some(0x18));
                let cause = Cause::new(InstructionSet::Arm, 6);
                Event::Discontinuity(Discontinuity { position, cause, raised_by: None, pc, to })
            }
            2 => Event::DeviceWrite(DeviceWrite { position, physical: 0x4000_0000, bytes: position }),
            _ => return None,
        };
        Some(event).filter(|event| event.kind().is_some_and(|kind| kinds.contains(kind)))
    }

    fn find_events(
        &self,
        kinds: Kinds,
        mut positions: impl Iterator<Item = u64>,
        count: usize,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> FoundEvents {
        let not_recorded = self.not_recorded.intersection(kinds);
        let mut found = FoundEvents { not_recorded, ..FoundEvents::default() };
        while found.events.len() < count {
            let Some(position) =
                positions.find(|position| position % 2 == 0 || self.unknown_events.start == *position)
            else {
                break;
            };
            if cancelled() {
                found.cancelled_at = Some(Position(position));
                break;
            }
            found.events.extend(self.event(position, kinds));
        }
        found
    }
}

impl Replay for SyntheticRecording {
    fn description(&self) -> &MachineDescription {
        &self.description
    }

    fn position(&self) -> Position {
        self.position
    }

    fn end(&self) -> Position {
        self.end
    }

    fn seek(&mut self, to: Position) -> Result<(), ReplayError> {
        if to > self.end {
            return Err(ReplayError::OutOfRange { position: to, end: self.end });
        }
        self.position = to;
        Ok(())
    }

    fn registers(&mut self) -> Result<Vec<Option<u32>>, ReplayError> {
        let mut registers: Vec<_> = self.state(self.position).registers.map(Some).to_vec();
        if let Some(unknown) = self.unknown_register {
            registers[unknown] = None;
        }
        Ok(registers)
    }

    fn read_memory(&mut self, address: u32, into: &mut [Option<u8>]) -> Result<(), ReplayError> {
        self.memory(address, into);
        Ok(())
    }

    fn read_physical_memory(&mut self, address: u64, into: &mut [Option<u8>]) -> Result<(), ReplayError> {
        match u32::try_from(address) {
            Ok(address) => self.memory(address, into),
            Err(_) => into.fill(None),
        }
        Ok(())
    }

    fn provenance(&mut self, address: u32, into: &mut [Provenance]) -> Result<(), ReplayError> {
        let mut bytes = vec![None; into.len()];
        self.read_memory(address, &mut bytes)?;
        // The loop stores at positions 3, 7, 11, 15 and 19.
        let last = self.position.0.saturating_sub(1).clamp(3, 19);
        let stored = Provenance::Store { at: (last - 3) / 4 * 4 + 3 };
        for (offset, (into, byte)) in into.iter_mut().zip(bytes).enumerate() {
            *into = match byte {
                None => Provenance::Unknown,
                Some(_) if address.wrapping_add(offset as u32) & !3 == COUNTER_ADDRESS => stored,
                Some(_) => Provenance::Initial,
            };
        }
        Ok(())
    }

    fn first_events(
        &self,
        kinds: Kinds,
        from: Position,
        count: usize,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> FoundEvents {
        self.find_events(kinds, from.0..=self.end.0, count, cancelled)
    }

    fn last_events(
        &self,
        kinds: Kinds,
        to: Position,
        count: usize,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> FoundEvents {
        let mut found = self.find_events(kinds, (0..=to.0).rev(), count, cancelled);
        found.events.reverse();
        found
    }

    fn run_forward(
        &mut self,
        stop: &StopAt,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, ReplayError> {
        while self.position < self.end {
            if self.position.0.is_multiple_of(1024) && cancelled() {
                return Ok(Stop::Cancelled);
            }
            if let Some(stop) = self.access(self.position, stop) {
                return Ok(stop);
            }
            self.position.0 += 1;
            if let Some(stop) = self.stops_at(stop) {
                return Ok(stop);
            }
        }
        Ok(Stop::End)
    }

    fn run_backward(
        &mut self,
        stop: &StopAt,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, ReplayError> {
        while self.position > Position::START {
            if self.position.0.is_multiple_of(1024) && cancelled() {
                return Ok(Stop::Cancelled);
            }
            if let Some(stop) = self.access(Position(self.position.0 - 1), stop) {
                return Ok(stop);
            }
            self.position.0 -= 1;
            if let Some(stop) = self.stops_at(stop) {
                return Ok(stop);
            }
        }
        Ok(Stop::Start)
    }

    fn summary(&self) -> String {
        format!("synthetic ARM recording of {} instructions\n", self.end)
    }
}
