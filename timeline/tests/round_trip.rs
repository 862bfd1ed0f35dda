//! What a recorder tells the encoder comes back from a replay: all registers at every position, and memory as far as it
//! can be known, forward, backward and at random.

mod synthetic;

use std::sync::Arc;

use ktrace_format::segment::CHECKPOINT_BLOCKS;
use ktrace_format::segment::encoder::{BlockTraits, Encoder, Finished, UnknownMemory};
use ktrace_format::{Position, TraceWriter};
use ktrace_machine::ByteOrder;
use ktrace_timeline::events::nearest::{first_events, last_events};
use ktrace_timeline::events::{Event, Events, Kind, Kinds};
use ktrace_timeline::provenance::Provenance;
use ktrace_timeline::walk::{self, Walk};
use ktrace_timeline::{InstructionSet, Program, Recording, Replay, counts, verify};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use synthetic::{Recorded, Sample, Setup, Step, record, setup, steps, without_next};

fn registers_at(recording: &mut Recording, position: u64) -> Vec<Option<u32>> {
    recording.seek(Position(position)).unwrap();
    recording.registers().unwrap()
}

/// Compares a trace with its guest's log.
fn check(recorded: &Recorded) -> Result<(), TestCaseError> {
    let program = Arc::new(Program::open(recorded.directory.path()).unwrap());
    prop_assert!(program.trace().faults().is_empty());
    let end = recorded.registers.len() as u64;
    prop_assert_eq!(program.trace().instructions(), end);
    prop_assert_eq!(program.trace().segments().len() as u64, recorded.segments);
    let report = verify::verify(&program, &|_| (), &|| false);
    prop_assert!(report.divergences.is_empty(), "{:?}", report.divergences);
    prop_assert_eq!(report.proved, end);
    let discontinuities = recorded.discontinuities.iter().map(|one| one.causes.len() as u64).sum();
    prop_assert_eq!(counts::discontinuities(program.trace()), Some(discontinuities));

    check_events(&program, recorded)?;

    let mut recording = Recording::new(program);
    let expected = |position: u64| recorded.at(position).iter().collect::<Vec<_>>();
    for position in 0..=end {
        prop_assert_eq!(registers_at(&mut recording, position), expected(position), "position {}", position);
    }
    for position in (0..=end).rev() {
        prop_assert_eq!(registers_at(&mut recording, position), expected(position), "back at {}", position);
    }
    let mut samples = recorded.samples.clone();
    check_samples(&mut recording, &samples, end)?;
    samples.reverse();
    check_samples(&mut recording, &samples, end)?;
    // In an order that jumps between segments and inside them; each jump in a long segment takes its time.
    fastrand::Rng::with_seed(end).shuffle(&mut samples);
    samples.truncate(4000);
    for sample in samples {
        prop_assert_eq!(registers_at(&mut recording, sample.position), expected(sample.position));
        check_samples(&mut recording, &[sample], end)?;
    }
    Ok(())
}

/// Compares the events with the guest's log: all of them, and some kinds in some range.
fn check_events(program: &Arc<Program>, recorded: &Recorded) -> Result<(), TestCaseError> {
    let end = recorded.registers.len() as u64;
    let logged = recorded.events(program);
    let mut random = fastrand::Rng::with_seed(end);
    let borders: Vec<u64> = program.trace().segments().iter().map(|segment| segment.first).collect();
    for round in 0..12 {
        let (mut from, mut to) = (random.u64(0..=end), random.u64(0..=end + 1));
        if round % 2 == 0 {
            (from, to) = (borders[random.usize(..borders.len())], borders[random.usize(..borders.len())]);
        }
        let mut kinds: Kinds = Kind::ALL.into_iter().filter(|_| random.bool()).collect();
        if round == 0 {
            (from, to, kinds) = (0, u64::MAX, Kinds::ALL);
        }
        let told: Vec<Event> = Events::new(Arc::clone(program), kinds, from, to).map(without_next).collect();
        prop_assert!(told.is_sorted_by_key(Event::position), "{:?}", told);
        for kind in Kind::ALL {
            let of_kind = |event: &&Event| event.kind() == Some(kind);
            let wanted = |event: &&Event| {
                of_kind(event) && kinds.contains(kind) && (from..=to).contains(&event.position())
            };
            let expected: Vec<_> = logged.iter().filter(wanted).collect();
            let found: Vec<_> = told.iter().filter(of_kind).collect();
            prop_assert_eq!(found, expected, "from {} to {}", from, to);
        }
        for count in [0, 1, random.usize(..told.len() + 2), usize::MAX] {
            let (start, limit) = (Position(from), Position(to));
            let last = last_events(program, kinds, start, limit, count, &mut || false);
            let last_ones: Vec<Event> = last.events.into_iter().map(without_next).collect();
            prop_assert_eq!(&last_ones[..], &told[told.len() - count.min(told.len())..], "last {}", count);
            let first = first_events(program, kinds, start, count, &mut || false);
            let within = first.events.into_iter().map(without_next);
            let first_ones: Vec<Event> = within.take_while(|event| event.position() <= to).collect();
            prop_assert_eq!(&first_ones[..], &told[..count.min(told.len())], "first {}", count);
            prop_assert_eq!((last.cancelled_at, first.cancelled_at), (None, None));
        }
    }
    Ok(())
}

/// Compares samples of memory in this order. In a long recording, which is `end` instructions, only some are asked where
/// they come from: that executes their segment again.
fn check_samples(recording: &mut Recording, samples: &[Sample], end: u64) -> Result<(), TestCaseError> {
    for (number, sample) in samples.iter().enumerate() {
        recording.seek(Position(sample.position)).unwrap();
        let mut byte = [None];
        recording.read_memory(sample.address, &mut byte).unwrap();
        prop_assert_eq!(byte[0], sample.byte, "{:?}", sample);
        if end < 2000 || number % 2000 == 1 {
            let mut provenance = [Provenance::Initial];
            recording.provenance(sample.address, &mut provenance).unwrap();
            prop_assert_eq!(provenance[0], sample.provenance, "{:?}", sample);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_shows_what_was_recorded(setup in setup(), steps in steps(1..160)) {
        check(&record(setup, &steps))?;
    }
}

/// Where no access has shown memory, the code of the block about to execute is shown, and no other: what else is at its
/// address at other times is not there now.
#[test]
fn code_is_shown_while_it_executes() {
    let directory = tempfile::tempdir().unwrap();
    let mut trace = TraceWriter::create(directory.path(), synthetic::header(InstructionSet::Arm)).unwrap();
    let mut encoder = Encoder::new(UnknownMemory).unwrap();
    let mut registers = [0; 17];
    registers[15] = 0x8000;
    encoder.begin_segment(0, 0, &registers);
    // mov r0, #1 or #2; b 0x8000
    for value in [1, 2] {
        trace.block(0x8000, 0, &[value, 0, 0xa0, 0xe3, 0xfd, 0xff, 0xff, 0xea]);
        let traits = BlockTraits { address: 0x8000, mode: 0, instructions: 2, opaque: [].into() };
        let block = encoder.define_block(traits);
        encoder.enter_block(block);
        encoder.end_block(2);
    }
    let mut finished = Finished::default();
    encoder.finish_segment(false, &mut finished).unwrap();
    trace.segment(&finished).unwrap();
    trace.close("exit").unwrap();
    let mut recording = Recording::open(directory.path()).unwrap();
    for (position, value) in [(0, 1), (1, 1), (2, 2), (3, 2), (0, 1)] {
        let mut bytes = [None; 6];
        recording.seek(Position(position)).unwrap();
        recording.read_memory(0x7fff, &mut bytes).unwrap();
        assert_eq!(bytes, [None, Some(value), Some(0), Some(0xa0), Some(0xe3), Some(0xfd)], "{position}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1,
        max_shrink_iters: 30,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn so_does_one_of_a_segment_with_checkpoints(setup in setup(), steps in steps(8_000..8_001)) {
        let steps: Vec<Step> = steps.into_iter().filter(|step| !matches!(step, Step::Cut)).collect();
        let recorded = record(Setup { remaps: false, ..setup }, &steps);
        let program = Program::open(recorded.directory.path()).unwrap();
        prop_assert!(program.trace().segments()[0].blocks > CHECKPOINT_BLOCKS);
        check(&recorded)?;
    }
}

/// What the random MIPS code is for does happen: slots of both kinds in blocks of their own, exceptions, opaque instructions.
#[test]
fn random_mips_guests_split_branches_from_their_slots() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let steps = steps(2000..2001).new_tree(&mut runner).unwrap().current();
        let set = InstructionSet::mips(order);
        let recorded = record(
            Setup { set, image: true, open_end: None, last_dma: false, remaps: true, seed: 1 },
            &steps,
        );
        let program = Arc::new(Program::open(recorded.directory.path()).unwrap());
        let modes = (0..program.trace().block_count()).filter_map(|id| program.trace().block(id as u32));
        let modes: Vec<u16> = modes.map(|block| block.mode).collect();
        let with = |bit: u16| modes.iter().filter(|mode| **mode & bit != 0).count();
        let (in_slot, likely) = (with(1 << 4), with(1 << 5));
        let (mut opaque, mut cause_known) = (0, 0);
        for event in Walk::new(program, 0) {
            let walk::Event::Instruction(instruction) = event else { continue };
            opaque += u32::from(instruction.opaque.is_some());
            cause_known += u32::from(instruction.before.get(36).is_some());
        }
        let all = recorded.registers.len() as u32;
        assert!(in_slot > 5 && likely > 2 && opaque > 100, "{in_slot} {likely} {opaque} of {all}");
        assert!(cause_known > 20 && cause_known < all / 2, "{cause_known} of {all}");
    }
}
