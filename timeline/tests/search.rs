//! Every search agrees with a walk over whole segments.

mod synthetic;

use std::sync::Arc;

use ktrace_format::Position;
use ktrace_machine::{Block, ByteOrder, Cpu, InstructionSet, Mode, Registers, Writes};
use ktrace_timeline::events::{Event as Happening, Events, Kind, Kinds};
use ktrace_timeline::search::registers::{Question, last_write};
use ktrace_timeline::search::{AddressSpace, Condition, MemoryRange, Watched, Watchpoint, Who};
use ktrace_timeline::walk::{Event, Walk};
use ktrace_timeline::{Program, Recording, Replay, Stop, StopAt};
use proptest::prelude::*;
use synthetic::{Recorded, Setup, Step, record, setup, steps};

/// An access as a walk sees it.
#[derive(Clone, Debug)]
struct Access {
    position: u64,
    who: Who,
    address: u32,
    physical: Option<u64>,
    bytes: u64,
}

/// What happened, instruction by instruction.
struct Log {
    addresses: Vec<u32>,
    registers: Vec<[Option<u32>; 17]>,
    accesses: Vec<Access>,
}

fn log(program: &Arc<Program>) -> Log {
    let mut log = Log { addresses: Vec::new(), registers: Vec::new(), accesses: Vec::new() };
    for event in Walk::new(Arc::clone(program), 0) {
        let Event::Instruction(instruction) = event else { continue };
        log.addresses.push(instruction.address);
        log.registers.push(std::array::from_fn(|number| instruction.before.get(number)));
        for access in &instruction.accesses {
            log.accesses.push(Access {
                position: instruction.position,
                who: if access.store { Who::Store } else { Who::Load },
                address: access.address,
                physical: access.physical.or(access.device.map(|(_, physical)| physical)),
                bytes: access.bytes.into(),
            });
        }
    }
    let writes = Events::new(Arc::clone(program), Kinds::from_iter([Kind::Dma]), 0, u64::MAX);
    for event in writes {
        if let Happening::DeviceWrite(write) = event
            && let Some(position) = write.position.checked_sub(1)
        {
            let (address, physical) = (0, Some(write.physical));
            log.accesses.push(Access { position, who: Who::Device, address, physical, bytes: write.bytes });
        }
    }
    log.accesses.sort_by_key(|access| access.position);
    log
}

fn read(recording: &mut Recording, position: u64, range: &MemoryRange) -> Vec<Option<u8>> {
    let mut bytes = vec![None; (range.last() - range.first() + 1) as usize];
    recording.seek(Position(position)).unwrap();
    match range.space() {
        AddressSpace::Virtual => recording.read_memory(range.first() as u32, &mut bytes).unwrap(),
        AddressSpace::Physical => recording.read_physical_memory(range.first(), &mut bytes).unwrap(),
    }
    bytes
}

/// Whether an access touches a range. Accesses that straddle pages have one physical address only, so ranges for these are
/// chosen such that it does not matter; so are those of devices' writes.
fn touches(access: &Access, range: &MemoryRange) -> bool {
    let overlaps =
        |first: u64| (0..access.bytes).any(|at| (range.first()..=range.last()).contains(&(first + at)));
    match range.space() {
        AddressSpace::Virtual => (0..access.bytes).any(|at| {
            let address = u64::from(access.address.wrapping_add(at as u32));
            (range.first()..=range.last()).contains(&address)
        }),
        AddressSpace::Physical => access.physical.is_some_and(overlaps),
    }
}

/// Positions at which a watchpoint is hit, rising. For what only memory itself can tell, memory is read.
fn hits(recording: &mut Recording, log: &Log, watchpoint: &Watchpoint) -> Vec<u64> {
    let range = &watchpoint.range;
    let mut hits = Vec::new();
    for access in &log.accesses {
        let wanted = matches!(
            (watchpoint.watched, access.who),
            (Watched::Read, Who::Load)
                | (Watched::Write, Who::Store | Who::Device)
                | (Watched::Access | Watched::Change, _)
        );
        if !wanted || !touches(access, range) {
            continue;
        }
        if watchpoint.watched == Watched::Change {
            let before = read(recording, access.position, range);
            let after = read(recording, access.position + 1, range);
            let changed = before.iter().zip(&after).any(|(before, after)| match (before, after) {
                (Some(before), Some(after)) => before != after,
                (None, Some(_)) => access.who != Who::Load,
                _ => false,
            });
            if !changed {
                continue;
            }
        }
        hits.push(access.position);
    }
    hits.dedup();
    hits
}

fn forward(recording: &mut Recording, from: u64, stop: &StopAt) -> (Stop, u64) {
    recording.seek(Position(from)).unwrap();
    let stopped = recording.run_forward(stop, &mut || false).unwrap();
    (stopped, recording.position().0)
}

fn backward(recording: &mut Recording, from: u64, stop: &StopAt) -> (Stop, u64) {
    recording.seek(Position(from)).unwrap();
    let stopped = recording.run_backward(stop, &mut || false).unwrap();
    (stopped, recording.position().0)
}

/// Compares searches from random places with lists of the positions of hits.
fn compare(
    recording: &mut Recording,
    random: &mut fastrand::Rng,
    stop: &StopAt,
    executed: &[u64],
    accessed: &[u64],
) -> Result<(), TestCaseError> {
    let end = recording.end().0;
    let mut places: Vec<u64> = (0..6).map(|_| random.u64(0..=end)).collect();
    let borders = recording.program().trace().segments();
    places.extend([0, end, borders[random.usize(..borders.len())].first]);
    places.extend(accessed.iter().chain(executed).take(2).flat_map(|hit| [*hit, hit + 1]));
    for from in places {
        let limit = if random.bool() { None } else { Some(random.u64(from..=end)) };
        let stop = StopAt { position: limit.map(Position), ..stop.clone() };
        let last = limit.unwrap_or(end);
        let instruction = executed.iter().copied().find(|hit| *hit > from && *hit <= last);
        let access = accessed.iter().copied().find(|hit| *hit >= from && *hit < last);
        let (stopped, position) = forward(recording, from, &stop);
        let expected = match (instruction, access) {
            (Some(instruction), Some(access)) if instruction <= access => (true, instruction),
            (_, Some(access)) => (false, access),
            (Some(instruction), None) => (true, instruction),
            (None, None) => {
                prop_assert!(
                    matches!(stopped, Stop::End | Stop::Position),
                    "{:?} at {} from {} to {:?} {:?}",
                    stopped,
                    position,
                    from,
                    limit,
                    stop
                );
                continue;
            }
        };
        prop_assert_eq!(
            (stopped == Stop::Address, position),
            expected,
            "from {} to {:?} {:?}",
            from,
            limit,
            stop
        );

        let limit = if random.bool() { None } else { Some(random.u64(0..=from)) };
        let stop = StopAt { position: limit.map(Position), ..stop };
        let last = limit.unwrap_or(0);
        let instruction = executed.iter().rev().copied().find(|hit| *hit < from && *hit >= last);
        let access = accessed.iter().rev().map(|hit| hit + 1).find(|hit| *hit <= from && *hit > last);
        let (stopped, position) = backward(recording, from, &stop);
        let expected = match (instruction, access) {
            (Some(instruction), Some(access)) if instruction >= access => (true, instruction),
            (_, Some(access)) => (false, access),
            (Some(instruction), None) => (true, instruction),
            (None, None) => {
                prop_assert!(
                    matches!(stopped, Stop::Start | Stop::Position),
                    "{:?} at {} back from {} to {:?} {:?}",
                    stopped,
                    position,
                    from,
                    limit,
                    stop
                );
                continue;
            }
        };
        prop_assert_eq!(
            (stopped == Stop::Address, position),
            expected,
            "back from {} to {:?} {:?}",
            from,
            limit,
            stop
        );
    }
    Ok(())
}

/// Ranges within a page, so that what a walk says of accesses is enough, mostly of what is accessed often.
fn watchpoint(log: &Log, random: &mut fastrand::Rng) -> Option<Watchpoint> {
    let access = &log.accesses[random.usize(..log.accesses.len())];
    let physical = random.bool() || access.who == Who::Device;
    let (space, start) = match physical {
        true => (AddressSpace::Physical, access.physical?),
        false => (AddressSpace::Virtual, access.address.into()),
    };
    let start = start.saturating_add(random.u64(0..5)).saturating_sub(2);
    let length = [1, 1, 4, 8, 40][random.usize(..5)];
    let watched = [Watched::Read, Watched::Write, Watched::Access, Watched::Change][random.usize(..4)];
    Some(Watchpoint { range: MemoryRange::new(space, start, length)?, watched })
}

/// Whether a walk can tell every access of a range: it does not say all physical addresses of an access that straddles pages,
/// nor what virtual addresses show what a device writes, nor what a range shows whose mapping changes. And memory is read at
/// positions only: what one access changes and the next one between the same two positions changes back is not seen there.
fn can_be_told(recording: &Recording, log: &Log, watchpoint: &Watchpoint) -> bool {
    let near = |access: &&Access| {
        let far = |first: u64, start: u64| {
            first > watchpoint.range.last() + 64 || start + access.bytes + 64 < watchpoint.range.first()
        };
        match watchpoint.range.space() {
            AddressSpace::Physical => access.physical.is_some_and(|start| !far(start, start)),
            AddressSpace::Virtual => access.who != Who::Device,
        }
    };
    let straddles =
        |access: &&Access| (access.address & 0xfff) as u64 + access.bytes > 4096 && access.who != Who::Device;
    let physical = watchpoint.range.space() == AddressSpace::Physical;
    let page = |address: u64| address >> 12;
    let one_page = page(watchpoint.range.first()) == page(watchpoint.range.last());
    if physical {
        let canonical = recording
            .program()
            .image()
            .is_none_or(|image| image.canonical(watchpoint.range.first()) == watchpoint.range.first());
        let touching = || log.accesses.iter().filter(|access| touches(access, &watchpoint.range));
        let has_two_at_once =
            touching().zip(touching().skip(1)).any(|(one, next)| one.position == next.position);
        return canonical
            && one_page
            && !(watchpoint.watched == Watched::Change && has_two_at_once)
            && !log.accesses.iter().filter(straddles).any(|access| {
                // Its second page may be any.
                let (low, high) = (watchpoint.range.first() & 0xfff, watchpoint.range.last() & 0xfff);
                low < 16 || high > 4080 || near(&access)
            });
    }
    match watchpoint.watched {
        Watched::Read => true,
        Watched::Change => false,
        Watched::Write | Watched::Access => !log.accesses.iter().any(|access| access.who == Who::Device),
    }
}

/// What a walk knows of the writes of a register, up to some position: a search must find none before `at_least`, and one of
/// `may_be`.
struct WalkedWrites {
    /// Position of the last change, and of the last instruction that cannot but have written it.
    at_least: Option<u64>,
    /// Positions of changes, of instructions that may have written it, and of instructions with a discontinuity behind them.
    may_be: Vec<u64>,
    /// Positions of the latter.
    discontinuities: Vec<u64>,
}

fn walked_writes(program: &Arc<Program>, register: usize, at: u64) -> WalkedWrites {
    let set = program.instruction_set();
    // Of a register that changes by itself another value proves no write.
    let by_itself = set.volatile_registers().contains(register);
    let mut walked = WalkedWrites { at_least: None, may_be: Vec::new(), discontinuities: Vec::new() };
    // The register before an instruction that a discontinuity followed.
    let mut before_discontinuity = None;
    let mut code_before = 0;
    for event in Walk::new(Arc::clone(program), 0) {
        match event {
            Event::Instruction(one) if one.position < at => {
                let mode = set.mode(|number| one.before.get(number)).expect("it is known");
                // Of MIPS's branch-likely that is never taken its slot is a part, which the walk leaves out; it may link.
                let block = Block::decode_with_dependencies(set, one.address, mode, one.code()).ok();
                let cpu = Cpu::new(set, &Registers::zero(set.register_count()));
                let writes = |block: &Block| cpu.writes(block, 0, register) == Writes::Yes;
                let changed = one.after.is_some_and(|after| {
                    let values = [one.before.get(register), after.get(register)];
                    values[0] != values[1] && !values.contains(&None)
                });
                // It does so whatever is in the registers, unless it is not executed at all.
                let certain = one.opaque.is_none()
                    && one.after.is_some()
                    && executes_in_any_case(set, one.code(), mode, code_before)
                    && block.as_ref().is_some_and(writes);
                let may_write =
                    block.as_ref().map_or(register == 31, |block| block.may_write(0).contains(register));
                if changed && !by_itself || certain {
                    walked.at_least = walked.at_least.max(Some(one.position));
                }
                if changed || may_write || register == set.program_counter() {
                    walked.may_be.push(one.position);
                }
                let word = one.code().try_into().unwrap_or([0; 4]);
                let big_endian = set.byte_order() == ByteOrder::Big;
                code_before = if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) };
                before_discontinuity = one.after.is_none().then(|| one.before.get(register));
            }
            Event::Discontinuity(one) if one.position <= at => {
                let Some(position) = one.position.checked_sub(1) else { continue };
                let values = [before_discontinuity.take().flatten(), one.after.get(register)];
                if values[0] != values[1] && !values.contains(&None) && !by_itself {
                    walked.at_least = walked.at_least.max(Some(position));
                }
                walked.may_be.push(position);
                walked.discontinuities.push(position);
            }
            Event::Unknown(unknown) => panic!("{unknown:?}"),
            _ => break,
        }
    }
    walked
}

/// The instruction is not conditional, by its code and that of the one before.
fn executes_in_any_case(set: InstructionSet, code: &[u8], mode: Mode, before: u32) -> bool {
    match set {
        InstructionSet::Arm => mode.bits() == 0 && code.last().is_some_and(|byte| byte >> 4 == 14),
        // BEQL to BGTZL, REGIMM and COP1, which have others.
        InstructionSet::Mips(_) => !matches!(before >> 26, 1 | 17 | 20..=23),
    }
}

/// The last write of a register lies where a walk says that it must.
fn check_registers(recording: &mut Recording, random: &mut fastrand::Rng) -> Result<(), TestCaseError> {
    let program = Arc::clone(recording.program());
    let set = program.instruction_set();
    let end = recording.end().0;
    let states: Vec<Vec<Option<u32>>> = (0..=end)
        .map(|position| {
            recording.seek(Position(position)).unwrap();
            recording.registers().unwrap()
        })
        .collect();
    for _ in 0..6 {
        let register = match random.u8(..8) {
            0 | 1 => random.usize(..set.register_count()),
            2 => random.choice(set.volatile_registers().iter().collect::<Vec<_>>()).unwrap_or_default(),
            _ => random.usize(..16),
        };
        let at = random.u64(0..=end);
        let found = last_write(&program, register, at, Question::Write, &mut || false);
        let walked = walked_writes(&program, register, at);
        let certain = found.certain.map(|write| write.position);
        prop_assert!(
            certain >= walked.at_least,
            "register {} at {}: {:?}, {:?}",
            register,
            at,
            found,
            walked.at_least
        );
        for write in found.certain.iter().chain(&found.perhaps) {
            prop_assert!(
                walked.may_be.contains(&write.position),
                "register {} at {}: {:?}",
                register,
                at,
                write
            );
        }
        if let Some(perhaps) = found.perhaps {
            prop_assert!(certain <= Some(perhaps.position));
            let [before, after] = perhaps.values;
            let by_itself = set.volatile_registers().contains(register);
            prop_assert!(
                by_itself || before == after || before.is_none() || after.is_none(),
                "{:?}",
                perhaps
            );
        }
        prop_assert_eq!((found.unknown, found.cancelled_at), (None, None));

        let change = last_write(&program, register, at, Question::Change, &mut || false).certain;
        let value = |position: u64| states[position as usize][register];
        let changed = (0..at).rev().find(|position| value(*position) != value(position + 1));
        let position = change.map(|change| change.position);
        // An instruction may have changed it, and what came right behind it changed it back.
        let there_and_back = position.is_some_and(|position| walked.discontinuities.contains(&position));
        prop_assert!(
            position == changed || position > changed && there_and_back,
            "{} at {}: {:?}",
            register,
            at,
            change
        );
    }
    Ok(())
}

/// Damages the indexes of some segments; everything can still be found by executing them.
fn damage_indexes(recorded: &Recorded, random: &mut fastrand::Rng) {
    let program = Program::open(recorded.directory.path()).unwrap();
    let path = recorded.directory.path().join("trace.kt");
    let mut bytes = std::fs::read(&path).unwrap();
    for segment in program.trace().segments().iter().filter(|_| random.bool()) {
        bytes[segment.index.unwrap() as usize + 30] ^= 1;
    }
    std::fs::write(path, bytes).unwrap();
}

/// Memory is what the guest's log says it is, all of it.
fn check_samples(recording: &mut Recording, recorded: &Recorded) -> Result<(), TestCaseError> {
    for sample in recorded.samples.iter().step_by(3) {
        recording.seek(Position(sample.position)).unwrap();
        let mut byte = [None];
        recording.read_memory(sample.address, &mut byte).unwrap();
        prop_assert_eq!(byte[0], sample.byte, "{:?}", sample);
    }
    Ok(())
}

fn check(recorded: &Recorded, indexed: bool, damaged: bool) -> Result<(), TestCaseError> {
    if damaged {
        damage_indexes(recorded, &mut fastrand::Rng::with_seed(recorded.registers.len() as u64));
    }
    let program = Arc::new(Program::open(recorded.directory.path()).unwrap());
    if indexed {
        let outcome =
            ktrace_timeline::write_index(&program, recorded.directory.path(), &|_| {}, &|| false).unwrap();
        prop_assert_eq!(outcome.unknown, 0);
    }
    let program = Arc::new(Program::open(recorded.directory.path()).unwrap());
    let log = log(&program);
    prop_assert_eq!(log.addresses.len() as u64, program.trace().instructions());
    if log.addresses.is_empty() {
        return Ok(());
    }
    let mut recording = Recording::new(Arc::clone(&program));
    check_samples(&mut recording, recorded)?;
    let mut random = fastrand::Rng::with_seed(log.addresses.len() as u64);
    for _ in 0..24 {
        let mut addresses: Vec<u32> =
            (0..random.usize(0..3)).map(|_| log.addresses[random.usize(..log.addresses.len())]).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let even = random.u8(..4) == 0;
        let condition = even.then(|| {
            Condition::new(|moment| {
                let mut memory = [None];
                moment.read_memory(moment.register(13).unwrap_or_default(), &mut memory);
                moment.register(1).is_some_and(|value| value % 2 == 0) || memory == [Some(1)]
            })
        });
        let executed: Vec<u64> = (0..)
            .zip(log.addresses.iter().zip(&log.registers))
            .filter(|(position, (address, registers))| {
                let counts = !even || registers[1].is_some_and(|value| value % 2 == 0) || {
                    let stack = registers[13].unwrap_or_default().into();
                    let range = MemoryRange::new(AddressSpace::Virtual, stack, 1).unwrap();
                    read(&mut recording, *position, &range) == [Some(1)]
                };
                addresses.binary_search(address).is_ok() && counts
            })
            .map(|(position, _)| position)
            .collect();
        let watchpoints: Vec<Watchpoint> = (0..random.usize(0..3))
            .filter_map(|_| if log.accesses.is_empty() { None } else { watchpoint(&log, &mut random) })
            .filter(|watchpoint| can_be_told(&recording, &log, watchpoint))
            .collect();
        let mut accessed: Vec<u64> =
            watchpoints.iter().flat_map(|watchpoint| hits(&mut recording, &log, watchpoint)).collect();
        accessed.sort_unstable();
        accessed.dedup();
        let stop = StopAt { addresses, condition, watchpoints, position: None };
        compare(&mut recording, &mut random, &stop, &executed, &accessed)?;
    }
    prop_assert!(!indexed || program.executed_instead() == 0, "every index can be read");
    check_registers(&mut recording, &mut random)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn searches_find_what_a_walk_finds(setup in setup(), steps in steps(1..160), indexed: bool, damaged: bool, dma: bool) {
        let steps: Vec<Step> = steps.into_iter().filter(|step| dma || !matches!(step, Step::Dma { .. })).collect();
        check(&record(Setup { last_dma: setup.last_dma && dma, ..setup }, &steps), indexed, damaged)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, max_shrink_iters: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn so_they_do_in_many_segments(setup in setup(), steps in steps(3000..3001)) {
        let setup = Setup { last_dma: false, ..setup };
        let cut = |(number, step): (usize, Step)| match step {
            _ if number % 15 == 14 => Step::Cut,
            Step::Dma { seed } => Step::Outside { seed },
            step => step,
        };
        let steps: Vec<Step> = steps.into_iter().enumerate().map(cut).collect();
        let recorded = record(setup, &steps);
        prop_assert!(recorded.segments > 130);
        check(&recorded, false, false)?;
        check(&recorded, true, true)?;
    }
}
