//! Who wrote a register last, and who changed it last.
//!
//! The dictionary of blocks says which instructions may write the register. Segments are looked through from the latest one on:
//! those that ran such a block, or had a discontinuity. In each only such blocks are executed instruction by instruction.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ktrace_format::Position;
use ktrace_format::group::{GROUP_SEGMENTS, Members};
use ktrace_format::segment::Stream;
use ktrace_machine::{Block, Cause, KnownRegisters, Mode, Writes};

use super::candidates;
use super::hunt::{GiveUp, Scouts, hunt};
use super::quarry::Quarry;
use crate::engine::{Divergence, Engine, Noted, NotedDiscontinuity};
use crate::journal::NoJournal;
use crate::program::Program;
use crate::verify::{self, Unproved};

/// Instructions that are executed between two looks at whether the search was cancelled.
const SLICE: u64 = 1 << 12;

/// What of a register is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who wrote it, be it with the value that it had.
    Write,
    /// Who changed its value, or what is known of it.
    Change,
}

/// Who wrote a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// An instruction that the machine model computes.
    Instruction,
    /// An instruction whose results are recorded, and its mnemonic.
    Opaque(&'static str),
    /// An exception, an interrupt or whatever else it was behind the instruction; or that instruction, where the two can't be told
    /// apart.
    Discontinuity(Cause),
}

/// A write of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Position of the instruction that wrote it, or behind which a discontinuity did.
    pub position: u64,
    /// Address of that instruction. `None`: a discontinuity came before it was known.
    pub address: Option<u32>,
    /// Who wrote it.
    pub by: Writer,
    /// Its value before and after. `None`: it is not known.
    pub values: [Option<u32>; 2],
}

/// The last writes of a register before a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWrite {
    /// The last one that is certain.
    pub certain: Option<Write>,
    /// Behind that one, the last that may have been one: its value stayed the same, and the model does not say.
    pub perhaps: Option<Write>,
    /// The latest positions behind the certain one about which nothing is known: it may have been written there.
    pub unknown: Option<Unproved>,
    /// The search was cancelled; it has come back to here.
    pub cancelled_at: Option<Position>,
}

/// The last write or change of a register (by its number in [`registers`](crate::Replay::registers)) before position `at`. Runs on
/// rayon's current thread pool (not from a thread of it).
pub fn last_write(
    program: &Arc<Program>,
    register: usize,
    at: u64,
    question: Question,
    cancelled: &mut dyn FnMut() -> bool,
) -> LastWrite {
    let segments = program.trace().segments();
    // A segment can begin with a discontinuity, before its first instruction.
    let end = segments.partition_point(|segment| segment.first <= at);
    let asked = Asked { register, at, question, quarry: writers(program, register, question) };
    let scouts = Scouts::new(Arc::clone(program));
    let work = |number: usize, give_up: &GiveUp| {
        scouts.with(|engine| asked.in_segment(engine, number, &|| give_up.now()))
    };
    let mut last = LastWrite::default();
    // Everything from here on has been looked at.
    let mut seen = at.min(program.trace().instructions());
    let take = &mut |number: usize, had: Had| {
        let behind = segments.get(number).map_or(0, |segment| segment.end());
        last.note_missing(program, number + 1, behind, seen);
        seen = segments.get(number).map_or(0, |segment| segment.first);
        last.perhaps = last.perhaps.or(had.perhaps);
        last.certain = had.certain;
        if let (None, Some(unproved)) = (&last.unknown, had.unproved) {
            last.unknown = Some(unproved);
        }
        if last.certain.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let found = hunt(Candidates { asked: &asked, program, rest: end, group: None }, &work, cancelled, take);
    match found {
        Err(_) => last.cancelled_at = Some(Position(seen)),
        Ok(()) if last.certain.is_none() => last.note_missing(program, 0, 0, seen),
        Ok(()) => {}
    }
    last
}

impl LastWrite {
    /// Segments from number `from` on, up to position `to`, have been passed; what is missing among them, from position `behind` on,
    /// may have written it.
    fn note_missing(&mut self, program: &Program, from: usize, behind: u64, to: u64) {
        if self.unknown.is_some() {
            return;
        }
        let mut end = behind;
        for segment in program.trace().segments().iter().skip(from) {
            if segment.first > end && end < to {
                self.unknown = Some(verify::missing_segment(end, segment.first.min(to)));
            }
            if segment.first >= to {
                break;
            }
            end = segment.end();
        }
    }
}

/// The blocks that may write a register, decoded as they must be to tell.
fn decode(program: &Program, id: u32) -> Option<Block> {
    let block = program.trace().block(id)?;
    let (set, mode) = (program.instruction_set(), Mode::from_bits(block.mode));
    Block::decode_with_dependencies(set, block.address, mode, program.trace().code(block)).ok()
}

/// Blocks with an instruction that may write it. `None`: any can.
fn writers(program: &Program, register: usize, question: Question) -> Option<Quarry> {
    let set = program.instruction_set();
    // The program counter moves with every instruction, and ITSTATE, which is in ARM's CPSR, with some.
    let by_all = register == set.program_counter()
        || register == set.status_register()
        || set.volatile_registers().contains(register);
    if by_all || question == Question::Change {
        return None;
    }
    let ids = 0..program.trace().block_count() as u32;
    let writes = |id: &u32| {
        decode(program, *id)
            .is_none_or(|block| (0..block.len()).any(|index| block.may_write(index).contains(register)))
    };
    Some(Quarry::of_blocks(program, ids.filter(writes)))
}

struct Asked {
    register: usize,
    at: u64,
    question: Question,
    /// The blocks that may write it. `None`: any can.
    quarry: Option<Quarry>,
}

/// What one segment had.
#[derive(Default)]
struct Had {
    certain: Option<Write>,
    perhaps: Option<Write>,
    unproved: Option<Unproved>,
}

impl Asked {
    /// Whether a segment can have anything, without executing it.
    fn may_be_in(&self, program: &Program, number: usize, members: Members) -> bool {
        if self.quarry.is_none() || members >> (number % GROUP_SEGMENTS) & 1 != 0 {
            return true;
        }
        let lengths = program
            .trace()
            .segments()
            .get(number)
            .and_then(|entry| program.trace().read_stream_lengths(entry).ok());
        // What can't be read is executed, to tell that it can't.
        lengths.is_none_or(|lengths| lengths.get(Stream::Keyframes as usize).is_none_or(|length| *length > 0))
    }

    fn marks(&self, block: u32) -> bool {
        self.quarry.as_ref().is_none_or(|quarry| quarry.marks(block))
    }

    fn in_segment(&self, engine: &mut Engine<NoJournal>, number: usize, stopped: &dyn Fn() -> bool) -> Had {
        let program = Arc::clone(engine.program());
        let segments = program.trace().segments();
        let Some(entry) = segments.get(number) else { return Had::default() };
        let unproved = verify::segment_unless(engine, entry, segments.get(number + 1), stopped).err();
        let proved = unproved.as_ref().map_or(entry.instructions, |unproved| unproved.from - entry.first);
        let mut unproved = unproved.filter(|unproved| unproved.from < self.at);
        if let Some(unproved) = &mut unproved {
            unproved.to = unproved.to.min(self.at);
        }
        let mut looking = Looking {
            asked: self,
            first: entry.first,
            until: proved.min(self.at.saturating_sub(entry.first)),
            // Behind what is proved is nothing to be told.
            to_the_end: proved == entry.instructions || self.at - entry.first < proved,
            imported: program.is_imported(),
            behind: self.keyframe_behind(engine, number),
            by_itself: program.instruction_set().volatile_registers().contains(self.register),
            blocks: HashMap::new(),
            had: Had { unproved, ..Had::default() },
        };
        let Ok(segment) = program.segment(number) else { return looking.had };
        engine.noted = Some(Vec::new());
        let executed = engine
            .begin(segment.0.clone(), Arc::clone(&segment.1))
            .and_then(|()| looking.look(engine, stopped));
        engine.noted = None;
        if let Err(divergence) = executed {
            // What was proved a moment ago can't be executed again: this is a mistake in ktracer.
            let reason = divergence.to_string();
            looking.had = Had {
                unproved: Some(Unproved { from: entry.first, to: entry.end().min(self.at), reason }),
                ..Had::default()
            };
        }
        looking.had
    }
}

impl Asked {
    /// If the register was asked for changes: what the next segment's keyframe says of it, and where that stands.
    fn keyframe_behind(&self, engine: &Engine<NoJournal>, number: usize) -> Option<(u64, u32)> {
        let trace = engine.program().trace();
        let (entry, next) = (trace.segments().get(number)?, trace.segments().get(number + 1)?);
        let told = self.question == Question::Change
            && next.first == entry.end()
            && !engine.missing_in_keyframe().contains(self.register);
        let head = if told { trace.read_head(next).ok()? } else { return None };
        Some((next.first, *head.registers.get(self.register)?))
    }
}

/// Looks through a segment.
struct Looking<'a> {
    asked: &'a Asked,
    first: u64,
    /// How many of its instructions count.
    until: u64,
    /// What comes between the last of them and the next one counts, too.
    to_the_end: bool,
    /// See [`Program::is_imported`].
    imported: bool,
    /// The register's value in the next segment's keyframe, at that position: it may be known there and not before.
    behind: Option<(u64, u32)>,
    /// The register changes without an instruction or a discontinuity, too.
    by_itself: bool,
    /// Blocks that have been met.
    blocks: HashMap<u32, Option<Block>>,
    had: Had,
}

impl Looking<'_> {
    fn look(&mut self, engine: &mut Engine<NoJournal>, stopped: &dyn Fn() -> bool) -> Result<(), Divergence> {
        let asked = self.asked;
        while engine.executed < self.until && !stopped() {
            let pause = (engine.executed + SLICE).min(self.until);
            let marked = engine.run_to_block(pause, |block| asked.marks(block))?;
            self.take_discontinuities(engine, None);
            if marked {
                self.block(engine)?;
            }
        }
        if self.to_the_end {
            engine.settle()?;
            self.take_discontinuities(engine, None);
        }
        Ok(())
    }

    /// Executes the block under way, which may write the register, as far as it counts.
    fn block(&mut self, engine: &mut Engine<NoJournal>) -> Result<(), Divergence> {
        let Some(run) = engine.run else { return Ok(()) };
        let program = Arc::clone(engine.program());
        let end = (engine.executed + u64::from(run.started - run.index)).min(self.until);
        let mut index = run.index as usize;
        while engine.executed < end {
            let block = self.blocks.entry(run.id).or_insert_with(|| decode(&program, run.id));
            let block = block.as_ref();
            let writes =
                block.map_or(Writes::Perhaps, |block| engine.cpu.writes(block, index, self.asked.register));
            // Of an imported recording only a block's first instruction is known to have been reached.
            let reached = !self.imported || index == 0;
            let opaque = block.and_then(|block| block.opaque(index)).map(|opaque| opaque.mnemonic);
            let instruction = Instruction {
                executed: engine.executed,
                address: engine.cpu.pc(),
                writes,
                reached,
                by: opaque.map_or(Writer::Instruction, Writer::Opaque),
                before: engine.registers(),
            };
            engine.run_to(engine.executed + 1)?;
            index += 1;
            let interrupted = self.take_discontinuities(engine, Some(&instruction));
            if !interrupted {
                self.instruction(&instruction, &engine.registers());
            }
        }
        Ok(())
    }

    /// An instruction has completed.
    fn instruction(&mut self, instruction: &Instruction, after: &KnownRegisters) {
        let Instruction { executed, address, writes, reached, by, ref before } = *instruction;
        let register = self.asked.register;
        let values = [before.get(register), after.get(register)];
        let write = Write { position: self.first + executed, address: Some(address), by, values };
        self.take(write, writes, reached);
    }

    /// Takes what came between instructions since the last time; the first of it came right behind `instruction`, if there is one.
    /// Returns whether anything did.
    fn take_discontinuities(
        &mut self,
        engine: &mut Engine<NoJournal>,
        instruction: Option<&Instruction>,
    ) -> bool {
        let mut instruction = instruction;
        let mut any = false;
        for noted in engine.noted.as_mut().map(std::mem::take).unwrap_or_default() {
            if let Noted::Discontinuity(noted) = noted {
                any = true;
                let set = engine.set;
                let further = noted.further.causes(&engine.memory.streams).iter();
                let may_write = further
                    .fold(noted.cause.may_write(), |all, cause| all | Cause::new(set, *cause).may_write());
                self.discontinuity(instruction.take(), &noted, may_write.contains(self.asked.register));
            }
        }
        any
    }

    fn discontinuity(
        &mut self,
        instruction: Option<&Instruction>,
        noted: &NotedDiscontinuity,
        may_write: bool,
    ) {
        let register = self.asked.register;
        let mut before = noted.before.get(register);
        let mut writes = if may_write { Writes::Perhaps } else { Writes::No };
        if let Some(instruction) = instruction {
            if noted.completed {
                self.instruction(instruction, &noted.before);
            } else {
                // Which of the two it was is not known.
                before = instruction.before.get(register);
                if instruction.writes != Writes::No {
                    writes = Writes::Perhaps;
                }
            }
        }
        // At the start of the recording nothing came before.
        let Some(position) = (self.first + noted.executed).checked_sub(1) else { return };
        let values = [before, noted.after.get(register)];
        self.take(
            Write { position, address: noted.last, by: Writer::Discontinuity(noted.cause), values },
            writes,
            true,
        );
    }

    fn take(&mut self, mut write: Write, writes: Writes, reached: bool) {
        let [before, after] = &mut write.values;
        if let (None, Some((first, value))) = (&after, self.behind)
            && write.position + 1 == first
        {
            *after = Some(value);
        }
        let (before, after) = (*before, *after);
        // That something else is known of it is no write.
        let other_value = before != after && before.is_some() && after.is_some();
        let certain = match self.asked.question {
            Question::Change => before != after,
            // A register that changes by itself may have got another value without having been written.
            Question::Write => (writes == Writes::Yes || other_value && !self.by_itself) && reached,
        };
        if certain {
            self.had.certain = Some(write);
            self.had.perhaps = None;
        } else if (writes != Writes::No || other_value) && self.asked.question == Question::Write {
            self.had.perhaps = Some(write);
        }
    }
}

/// An instruction that was executed.
struct Instruction {
    /// Instructions of the segment before it.
    executed: u64,
    address: u32,
    writes: Writes,
    /// That it was executed is certain.
    reached: bool,
    by: Writer,
    before: KnownRegisters,
}

/// Segments that may have something, latest first; `Some(None)` says that one was ruled out.
struct Candidates<'a> {
    asked: &'a Asked,
    program: &'a Program,
    /// Those before this one have not been looked at.
    rest: usize,
    /// The group at hand, and which of its members ran a block that may write the register.
    group: Option<(usize, Members)>,
}

impl Iterator for Candidates<'_> {
    type Item = Option<usize>;

    fn next(&mut self) -> Option<Option<usize>> {
        let number = self.rest.checked_sub(1)?;
        self.rest = number;
        let group = number / GROUP_SEGMENTS;
        let members = match (self.group, &self.asked.quarry) {
            (Some((known, members)), _) if known == group => members,
            (_, Some(quarry)) => {
                self.program.catalogue().prepare(self.program, group..group + 1);
                candidates::members(self.program, quarry, group)
            }
            (_, None) => Members::MAX,
        };
        self.group = Some((group, members));
        Some(Some(number).filter(|number| self.asked.may_be_in(self.program, *number, members)))
    }
}
