//! Traces that are damaged, or made to do harm. Whatever a file holds: no panic, no endless loop, no memory without
//! bound. And where checksums tell what is damaged, all that is still shown is true.

mod synthetic;

use std::path::Path;

use ktrace_format::record::{RecordWriter, records};
use ktrace_format::segment::encoder::{BlockTraits, Encoder, Finished, UnknownMemory};
use ktrace_format::segment::{Head, STREAM_LIMIT, Stream, Streams};
use ktrace_format::writer::{CLOSE_MARK, TRACE_FILE, kind};
use ktrace_format::{Position, TraceWriter, memory};
use ktrace_timeline::events::{Event, Kind, Kinds};
use ktrace_timeline::provenance::Provenance;
use ktrace_timeline::{InstructionSet, Recording, Replay, StopAt, verify};
use proptest::prelude::*;
use synthetic::{Recorded, record, setup, steps};

/// All that these tests may allocate, far below what hostile lengths ask for.
const ADDRESS_SPACE: u64 = 6 << 30;

fn limit_memory() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit { current: Some(ADDRESS_SPACE), maximum: Some(ADDRESS_SPACE) };
    setrlimit(Resource::As, limit).unwrap();
}

/// What happens to a file by accident.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Vec<u64>),
    Zero(u64, u16),
    Cut(u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        prop::collection::vec(any::<u64>(), 1..4).prop_map(Damage::Flip),
        (any::<u64>(), 1..2000u16).prop_map(|(at, length)| Damage::Zero(at, length)),
        any::<u64>().prop_map(Damage::Cut),
    ]
}

fn apply(damage: &Damage, path: &Path) {
    let Ok(mut file) = std::fs::read(path) else { return };
    let length = file.len() as u64;
    match damage {
        Damage::Flip(bits) => {
            for bit in bits {
                file[(bit / 8 % length) as usize] ^= 1 << (bit % 8);
            }
        }
        Damage::Zero(at, count) => {
            let at = (at % length) as usize;
            let end = (at + usize::from(*count)).min(file.len());
            file[at..end].fill(0);
        }
        Damage::Cut(at) => file.truncate((at % length) as usize),
    }
    std::fs::write(path, file).unwrap();
}

/// Asks everything of a recording that a client can ask.
fn exercise(recording: &mut Recording, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let end = recording.end().0;
    for _ in 0..24 {
        recording.seek(Position(random.u64(0..=end))).unwrap();
        let _ = recording.registers().unwrap();
        let _ = recording.why_unknown();
        let mut bytes = [None; 300];
        for address in [0x1000_0f80, random.u32(..), u32::MAX - 100] {
            recording.read_memory(address, &mut bytes).unwrap();
        }
        let mut provenances = [Provenance::Initial; 300];
        recording.provenance(0x1000_0f80, &mut provenances).unwrap();
    }
    for kinds in Kind::ALL.map(|kind| Kinds::from_iter([kind])).into_iter().chain([Kinds::ALL]) {
        let events: Vec<_> = recording.events(kinds, &mut || false).take(100_000).collect();
        assert!(events.is_sorted_by_key(Event::position));
    }
    for slot in 0..6 {
        let mut addresses: Vec<u32> = (0..8).map(|index| 0x8000 + 64 * slot + 4 * index).collect();
        addresses.push(random.u32(..));
        addresses.sort_unstable();
        addresses.dedup();
        let stop = StopAt { addresses, ..StopAt::default() };
        let mut patience = 200;
        let mut cancelled = || {
            patience -= 1;
            patience == 0
        };
        let _ = recording.run_forward(&stop, &mut cancelled).unwrap();
        let _ = recording.run_backward(&stop, &mut || false).unwrap();
    }
    assert!(!recording.summary().is_empty());
}

/// Whatever a damaged trace still shows is what the guest's log says.
fn check_shown(recorded: &Recorded, recording: &mut Recording) -> Result<(), TestCaseError> {
    let program = std::sync::Arc::clone(recording.program());
    let segments = program.trace().segments();
    // Where the next segment is lost, blocks of which nothing started may be lost with it, and what devices wrote: the log
    // is past those.
    let before_a_loss = |position: u64| {
        let ended = segments.partition_point(|segment| segment.end() <= position);
        let ends_here = ended > 0 && segments[ended - 1].end() == position;
        ends_here && segments.get(ended).is_none_or(|next| next.first != position)
    };
    for position in (0..=recording.end().0).filter(|position| !before_a_loss(*position)) {
        recording.seek(Position(position)).unwrap();
        let expected = recorded.at(position);
        for (number, (shown, expected)) in
            recording.registers().unwrap().into_iter().zip(expected.iter()).enumerate()
        {
            prop_assert!(shown.is_none() || shown == expected, "register {} at {}", number, position);
        }
    }
    for sample in recorded.samples.iter().filter(|sample| !before_a_loss(sample.position)) {
        if recording.seek(Position(sample.position)).is_ok() {
            let mut byte = [None];
            recording.read_memory(sample.address, &mut byte).unwrap();
            prop_assert!(byte[0].is_none() || byte[0] == sample.byte, "{:?}, shown {:?}", sample, byte[0]);
            let mut provenance = [Provenance::Initial];
            recording.provenance(sample.address, &mut provenance).unwrap();
            prop_assert_eq!(byte[0].is_none(), provenance[0] == Provenance::Unknown);
            // What an earlier segment left may be lost; then it is only the load that is known.
            if matches!(provenance[0], Provenance::Store { .. } | Provenance::Device { .. }) {
                prop_assert_eq!(provenance[0], sample.provenance, "{:?}", sample);
            }
        }
    }
    // What is told has happened, in this order.
    recording.seek(Position(0)).unwrap();
    let mut logged = recorded.events(&program);
    let told: Vec<Event> = recording.events(Kinds::ALL, &mut || false).map(synthetic::without_next).collect();
    for kind in Kind::ALL {
        let of_kind = |event: &&mut Event| event.kind() == Some(kind);
        let mut expected = logged.iter_mut().filter(of_kind);
        for told in told.iter().filter(|event| event.kind() == Some(kind)) {
            let is_it = |logged: &mut Event| {
                // Names may be lost.
                if let (Event::DeviceAccess(logged), Event::DeviceAccess(told)) = (&mut *logged, told)
                    && told.device.is_empty()
                {
                    logged.device.clear();
                }
                *logged == *told
            };
            prop_assert!(expected.any(is_it), "{:?}", told);
        }
    }
    Ok(())
}

/// What somebody does to a trace who then makes all checksums right again.
#[derive(Clone, Debug)]
enum Forgery {
    /// Bits of a record's payload.
    Payload {
        record: u8,
        bits: Vec<u64>,
    },
    /// Bytes of a segment's head.
    Head {
        record: u8,
        at: u8,
        value: u8,
    },
    /// Bytes of a segment's stream before compression.
    Stream {
        record: u8,
        stream: u8,
        at: u64,
        value: u8,
    },
    /// A stream with other lengths in the table.
    Lengths {
        record: u8,
        stream: u8,
        raw: u32,
        packed: u32,
    },
    /// A stream that expands to as much as the table allows.
    Bomb {
        record: u8,
        stream: u8,
        byte: u8,
    },
    Remove {
        record: u8,
    },
    Duplicate {
        record: u8,
    },
    Swap {
        one: u8,
        other: u8,
    },
    Kind {
        record: u8,
        kind: u32,
    },
    /// Bytes of what an index says, before compression.
    Index {
        record: u8,
        at: u64,
        value: u8,
    },
}

fn forgery() -> impl Strategy<Value = Forgery> {
    let record = any::<u8>;
    prop_oneof![
        1 => (record(), prop::collection::vec(any::<u64>(), 1..4))
            .prop_map(|(record, bits)| Forgery::Payload { record, bits }),
        1 => (record(), 0..112u8, any::<u8>()).prop_map(|(record, at, value)| Forgery::Head { record, at, value }),
        8 => (record(), 0..11u8, any::<u64>(), any::<u8>())
            .prop_map(|(record, stream, at, value)| Forgery::Stream { record, stream, at, value }),
        1 => (record(), 0..11u8, any::<u32>(), any::<u32>())
            .prop_map(|(record, stream, raw, packed)| Forgery::Lengths { record, stream, raw, packed }),
        1 => record().prop_map(|record| Forgery::Remove { record }),
        1 => record().prop_map(|record| Forgery::Duplicate { record }),
        1 => (record(), record()).prop_map(|(one, other)| Forgery::Swap { one, other }),
        1 => (record(), 0..8u32).prop_map(|(record, kind)| Forgery::Kind { record, kind }),
        2 => (record(), any::<u64>(), any::<u8>())
            .prop_map(|(record, at, value)| Forgery::Index { record, at, value }),
    ]
}

type Records = Vec<(u32, Vec<u8>)>;

/// The `number`th segment record, counted around.
fn segment_record(records: &Records, number: u8) -> Option<usize> {
    let segments: Vec<usize> = (0..records.len()).filter(|&at| records[at].0 == kind::SEGMENT).collect();
    segments.get(usize::from(number) % segments.len().max(1)).copied()
}

fn pack(head: &[u8], streams: &Streams) -> Vec<u8> {
    let mut payload = head.to_vec();
    payload.extend((streams.0.len() as u32).to_le_bytes());
    let packed = streams.0.iter().map(|stream| match stream.len() {
        0 => Vec::new(),
        _ => zstd::bulk::compress(stream, 1).unwrap(),
    });
    let packed: Vec<Vec<u8>> = packed.collect();
    for (raw, packed) in streams.0.iter().zip(&packed) {
        payload.extend((raw.len() as u32).to_le_bytes());
        payload.extend((packed.len() as u32).to_le_bytes());
    }
    payload.extend(packed.concat());
    payload
}

fn forge(forgery: &Forgery, records: &mut Records) {
    let count = records.len().max(1);
    let at = |record: u8| usize::from(record) % count;
    if records.is_empty() {
        return;
    }
    match *forgery {
        Forgery::Payload { record, ref bits } => {
            let payload = &mut records[at(record)].1;
            for bit in bits.iter().filter(|_| !payload.is_empty()).copied().collect::<Vec<_>>() {
                let length = payload.len() as u64;
                payload[(bit / 8 % length) as usize] ^= 1 << (bit % 8);
            }
        }
        Forgery::Head { record, at, value } => {
            if let Some(byte) =
                segment_record(records, record).and_then(|number| records[number].1.get_mut(usize::from(at)))
            {
                *byte = value;
            }
        }
        Forgery::Stream { record, stream, at, value } => {
            let Some(number) = segment_record(records, record) else { return };
            let payload = &mut records[number].1;
            let Ok((_, rest)) = Head::read(payload) else { return };
            let Ok(mut streams) = Streams::read(rest) else { return };
            let head = payload[..payload.len() - rest.len()].to_vec();
            let stream = &mut streams.0[usize::from(stream)];
            let length = stream.len() as u64;
            match at % 4 {
                0 => stream.push(value),
                1 if length > 0 => drop(stream.remove((at / 4 % length) as usize)),
                _ if length > 0 => stream[(at / 4 % length) as usize] = value,
                _ => {}
            }
            *payload = pack(&head, &streams);
        }
        Forgery::Lengths { record, stream, raw, packed } => {
            let Some(number) = segment_record(records, record) else { return };
            let payload = &mut records[number].1;
            let Ok((_, rest)) = Head::read(payload) else { return };
            let entry = payload.len() - rest.len() + 4 + 8 * usize::from(stream);
            if let Some(entry) = payload.get_mut(entry..entry + 8) {
                entry[..4].copy_from_slice(&raw.to_le_bytes());
                if packed % 2 == 0 {
                    entry[4..].copy_from_slice(&packed.to_le_bytes());
                }
            }
        }
        Forgery::Bomb { record, stream, byte } => {
            let Some(number) = segment_record(records, record) else { return };
            let payload = &mut records[number].1;
            let Ok((_, rest)) = Head::read(payload) else { return };
            let head = payload[..payload.len() - rest.len()].to_vec();
            let mut streams = Streams::default();
            streams.0[usize::from(stream)] = vec![byte; STREAM_LIMIT as usize];
            *payload = pack(&head, &streams);
        }
        Forgery::Remove { record } => drop(records.remove(at(record))),
        Forgery::Duplicate { record } => {
            let copy = records[at(record)].clone();
            records.insert(at(record), copy);
        }
        Forgery::Swap { one, other } => records.swap(at(one), at(other)),
        Forgery::Kind { record, kind } => records[at(record)].0 = kind,
        Forgery::Index { record, at, value } => {
            let indexes: Vec<usize> = (0..records.len()).filter(|&at| records[at].0 == kind::INDEX).collect();
            let Some(&number) = indexes.get(usize::from(record) % indexes.len().max(1)) else { return };
            forge_index(&mut records[number].1, at, value);
        }
    }
}

/// Changes a byte of an index's sets, mostly of their end, where devices' bytes are.
fn forge_index(payload: &mut Vec<u8>, at: u64, value: u8) {
    let word = |payload: &[u8], at: usize| {
        payload.get(at..at + 4).map(|four| u32::from_le_bytes(four.try_into().unwrap()) as usize)
    };
    let (Some(raw), Some(packed)) = (word(payload, 0), word(payload, 4)) else { return };
    let sets =
        payload.get(16..16 + packed).and_then(|sets| zstd::bulk::decompress(sets, raw.min(1 << 20)).ok());
    let Some(mut sets) = sets.filter(|sets| !sets.is_empty()) else { return };
    let length = sets.len() as u64;
    let from_end = if at.is_multiple_of(2) { at / 2 % length.min(80) } else { at / 2 % length };
    sets[(length - 1 - from_end) as usize] = value;
    let repacked = zstd::bulk::compress(&sets, 1).unwrap();
    payload[4..8].copy_from_slice(&(repacked.len() as u32).to_le_bytes());
    payload.splice(16..16 + packed, repacked);
}

/// Reads all records, forges, and writes them again; the table at the end points where they are, as far as it can.
fn rewrite(path: &Path, forgeries: &[Forgery], closed: bool) {
    let file = std::fs::read(path).unwrap();
    let mut all: Records = Vec::new();
    let mut offsets = Vec::new();
    for record in records(&file) {
        let record = record.unwrap();
        offsets.push(record.offset);
        all.push((record.kind, record.payload().unwrap().to_vec()));
    }
    if !closed {
        all.retain(|(kind, _)| *kind != kind::END);
    }
    let before = all.len();
    forgeries.iter().for_each(|forgery| forge(forgery, &mut all));
    let mut writer = RecordWriter::new(Vec::new());
    let mut moved = Vec::new();
    for (kind, mut payload) in all {
        if kind == kind::END && payload.ends_with(&CLOSE_MARK) && offsets.len() == before {
            // Records may have other lengths now: put in the new offsets where the old ones stood.
            for (old, new) in offsets.iter().zip(&moved).rev() {
                let mut at = 4;
                while let Some(eight) = payload.get_mut(at..at + 8) {
                    if eight == u64::to_le_bytes(*old) && *old > 0 {
                        eight.copy_from_slice(&u64::to_le_bytes(*new));
                    }
                    at += 1;
                }
            }
            let tail = payload.len() - 16;
            payload[tail..tail + 8].copy_from_slice(&writer.offset().to_le_bytes());
        }
        moved.push(writer.append(kind, &[&payload]).unwrap());
    }
    std::fs::write(path, writer.into_inner()).unwrap();
}

fn open_and_exercise(directory: &Path, seed: u64) -> Result<(), TestCaseError> {
    let Ok(mut recording) = Recording::open(directory) else { return Ok(()) };
    let report = verify::verify(recording.program(), &|_| (), &|| false);
    prop_assert!(report.proved <= report.instructions);
    exercise(&mut recording, seed);
    Ok(())
}

/// Code that was overwritten: the new block's record is lost, and the old block would run without any contradiction.
#[test]
fn a_lost_block_is_not_replaced_by_an_older_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut trace = TraceWriter::create(directory.path(), synthetic::header(InstructionSet::Arm)).unwrap();
    let mut encoder = Encoder::new(UnknownMemory).unwrap();
    // mov r0, #n; b 0x8000 (or 0x9000, where it is never overwritten)
    let define = |encoder: &mut Encoder<UnknownMemory>, trace: &mut TraceWriter, address: u32, value: u8| {
        let code = [value, 0, 0xa0, 0xe3, 0xfd, 0xff, 0xff, 0xea];
        trace.block(address, 0, &code);
        encoder.define_block(BlockTraits { address, mode: 0, instructions: 2, opaque: [].into() })
    };
    let mut finished = Finished::default();
    let mut blocks = Vec::new();
    // What runs in which segment: block 2 replaces block 0; after the first time it is expected.
    let run = [1, 0, 2, 2, 1];
    let keyframe = |number: usize| {
        let mut registers = [0; 17];
        registers[15] = if run.get(number) == Some(&1) { 0x9000 } else { 0x8000 };
        registers
    };
    for (number, block) in run.into_iter().enumerate() {
        encoder.begin_segment(2 * number as u64, 0, &keyframe(number));
        if number == 0 {
            blocks.push(define(&mut encoder, &mut trace, 0x8000, 1));
            blocks.push(define(&mut encoder, &mut trace, 0x9000, 3));
        }
        if number == 2 {
            blocks.push(define(&mut encoder, &mut trace, 0x8000, 2));
        }
        encoder.enter_block(blocks[block]);
        encoder.discontinuity(255, &keyframe(number + 1));
        encoder.end_block(2);
        encoder.finish_segment(false, &mut finished).unwrap();
        trace.segment(&finished).unwrap();
    }
    trace.close("exit").unwrap();

    let r0_after_move = |number: u64| {
        let mut recording = Recording::open(directory.path()).unwrap();
        recording.seek(Position(2 * number + 1)).unwrap();
        recording.registers().unwrap()[0]
    };
    let all = |expected: [Option<u32>; 5]| assert_eq!([0, 1, 2, 3, 4].map(r0_after_move), expected);
    all([Some(3), Some(1), Some(2), Some(2), Some(3)]);
    let path = directory.path().join(TRACE_FILE);
    let mut file = std::fs::read(&path).unwrap();
    let lost =
        records(&file).map(|record| record.unwrap()).filter(|record| record.kind == kind::BLOCKS).nth(1);
    let payload = lost.unwrap().end() as usize - 1;
    file[payload] ^= 1;
    std::fs::write(&path, file).unwrap();
    all([Some(3), Some(1), None, None, Some(3)]);
}

/// Features that are reserved cost the segments that have them, and are never skipped.
#[test]
fn what_is_reserved_is_not_replayed() {
    let run = |seed| synthetic::Step::Run { which: 255, seed, stop: synthetic::Stop::Never };
    let setup = synthetic::Setup {
        set: InstructionSet::Arm,
        image: false,
        open_end: None,
        last_dma: false,
        remaps: true,
        seed: 7,
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>, &mut Streams);
    let all: [(&str, Change<'_>); 6] = [
        ("nothing", &|_, _| ()),
        ("device writes that are not there", &|_, streams| streams.0[Stream::Control as usize][1] |= 8),
        ("device writes without a flag", &|_, streams| streams.0[Stream::DeviceWrites as usize].push(0)),
        ("the gap before an entry that is not there", &|_, streams| {
            streams.0[Stream::Control as usize].push(5)
        }),
        ("another vCPU later", &|_, streams| streams.0[Stream::Control as usize][1] |= 16),
        ("another vCPU first", &|head, _| head[24] = 1),
    ];
    for (what, change) in all {
        let recorded = record(setup, &[run(1), run(2), run(3)]);
        change_segments(recorded.directory.path(), change);
        check_refused(recorded.directory.path(), what);
    }
}

/// Changes all segments of a trace.
fn change_segments(directory: &Path, change: &dyn Fn(&mut Vec<u8>, &mut Streams)) {
    let path = directory.join(TRACE_FILE);
    rewrite(&path, &[], false);
    let file = std::fs::read(&path).unwrap();
    let mut writer = RecordWriter::new(Vec::new());
    for record in records(&file).map(|record| record.unwrap()) {
        let mut payload = record.payload().unwrap().to_vec();
        if record.kind == kind::SEGMENT {
            let rest = Head::read(&payload).unwrap().1;
            let mut streams = Streams::read(rest).unwrap();
            let mut head = payload[..payload.len() - rest.len()].to_vec();
            change(&mut head, &mut streams);
            payload = pack(&head, &streams);
        }
        writer.append(record.kind, &[&payload]).unwrap();
    }
    std::fs::write(&path, writer.into_inner()).unwrap();
}

/// The recording's only segment is not shown, unless nothing was changed.
fn check_refused(directory: &Path, what: &str) {
    let mut recording = Recording::open(directory).unwrap();
    let report = verify::verify(recording.program(), &|_| (), &|| false);
    assert_eq!(report.is_complete(), what == "nothing", "{what}: {report:?}");
    let last = recording.end();
    recording.seek(last).unwrap();
    assert_eq!(recording.registers().unwrap().contains(&None), what != "nothing", "{what}");
}

#[test]
fn device_writes_that_can_not_be_are_not_replayed() {
    let setup = synthetic::Setup {
        set: InstructionSet::Arm,
        image: false,
        open_end: None,
        last_dma: true,
        remaps: true,
        seed: 7,
    };
    let steps = [
        synthetic::Step::Dma { seed: 1 },
        synthetic::Step::Run { which: 255, seed: 1, stop: synthetic::Stop::Never },
        synthetic::Step::Dma { seed: 2 },
        synthetic::Step::Run { which: 255, seed: 2, stop: synthetic::Stop::Never },
    ];
    const CONTROL: usize = Stream::Control as usize;
    const WRITES: usize = Stream::DeviceWrites as usize;
    // The stream ends in the entry behind the last block: gap, flag 8, count.
    let end = |streams: &mut Streams| {
        let control = &mut streams.0[CONTROL];
        let at = control.len() - 3;
        assert!(control[at] == 0 && control[at + 1] == 8 && control[at + 2] < 0x80);
        at
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>, &mut Streams);
    let all: [(&str, Change<'_>); 14] = [
        ("nothing", &|_, streams| assert!(end(streams) > 0)),
        ("no entry at the end", &|_, streams| {
            let at = end(streams);
            streams.0[CONTROL].truncate(at);
        }),
        ("fewer writes at the end", &|_, streams| {
            let at = end(streams) + 2;
            streams.0[CONTROL][at] += 1;
        }),
        ("more writes at the end", &|_, streams| streams.0[WRITES].extend([0, 1, 0])),
        ("endless writes at the end", &|_, streams| {
            streams.0[CONTROL].pop();
            streams.0[CONTROL].extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        }),
        ("a block behind the last", &|_, streams| {
            let at = end(streams) + 1;
            streams.0[CONTROL][at] |= 1;
            streams.0[CONTROL].insert(at + 1, 0);
        }),
        ("a discontinuity behind the end", &|_, streams| {
            let at = end(streams) + 1;
            streams.0[CONTROL].splice(at.., [12, 6, 0, 3]);
            streams.0[Stream::Keyframes as usize].extend([0; 68]);
        }),
        ("nothing at the end", &|_, streams| {
            let at = end(streams);
            streams.0[CONTROL].splice(at.., [0, 0]);
        }),
        ("two entries at the end", &|_, streams| streams.0[CONTROL].extend([0, 8, 1])),
        ("an entry beyond the end", &|_, streams| {
            let at = end(streams);
            streams.0[CONTROL][at] = 1;
        }),
        ("a gap behind the end", &|_, streams| streams.0[CONTROL].push(5)),
        ("a long write", &|_, streams| {
            streams.0[WRITES] = vec![0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0];
        }),
        ("a write beyond the last address", &|_, streams| {
            let mut writes = vec![0xff; 9];
            writes.extend([1, 2, 0, 0]);
            streams.0[WRITES].splice(0..0, writes);
        }),
        ("an empty write", &|_, streams| drop(streams.0[WRITES].splice(0..0, [0, 0]))),
    ];
    for (what, change) in all {
        let recorded = record(setup, &steps);
        change_segments(recorded.directory.path(), change);
        check_refused(recorded.directory.path(), what);
    }
}

/// More device writes than a journal keeps can be verified, but neither shown nor do they take all memory.
#[test]
fn millions_of_device_writes_do_no_harm() {
    limit_memory();
    let directory = tempfile::tempdir().unwrap();
    let mut trace = TraceWriter::create(directory.path(), synthetic::header(InstructionSet::Arm)).unwrap();
    let mut encoder = Encoder::new(UnknownMemory).unwrap();
    let mut registers = [0; 17];
    registers[15] = 0x8000;
    encoder.begin_segment(0, 0, &registers);
    // mov r0, #1
    let block = trace.block(0x8000, 0, &[1, 0, 0xa0, 0xe3]);
    encoder.define_block(BlockTraits { address: 0x8000, mode: 0, instructions: 1, opaque: [].into() });
    encoder.device_write(1, &[1]);
    encoder.enter_block(block);
    encoder.end_block(1);
    let mut finished = Finished::default();
    encoder.finish_segment(false, &mut finished).unwrap();
    trace.segment(&finished).unwrap();
    trace.close("exit").unwrap();
    change_segments(directory.path(), &|_, streams| {
        let control = &mut streams.0[Stream::Control as usize];
        assert_eq!(control.pop(), Some(1));
        // 2²⁵ in place of 1.
        control.extend([0x80, 0x80, 0x80, 0x10]);
        streams.0[Stream::DeviceWrites as usize] = vec![1; 3 << 25];
    });
    let mut recording = Recording::open(directory.path()).unwrap();
    assert!(verify::verify(recording.program(), &|_| (), &|| false).divergences.is_empty());
    recording.seek(Position(0)).unwrap();
    assert!(recording.registers().unwrap().iter().all(Option::is_none));
    assert!(recording.why_unknown().unwrap().contains("changes more memory than can be kept"));
    assert_eq!(recording.events(Kinds::ALL, &mut || false).count(), 1 << 25);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128, max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_damaged_trace_shows_nothing_wrong(
        setup in setup(),
        steps in steps(1..120),
        damages in prop::collection::vec(damage(), 1..3),
        image in any::<bool>(),
        closed in any::<bool>(),
        seed in any::<u64>(),
    ) {
        limit_memory();
        let recorded = record(setup, &steps);
        let path = recorded.directory.path();
        rewrite(&path.join(TRACE_FILE), &[], closed);
        damages.iter().for_each(|damage| apply(damage, &path.join(TRACE_FILE)));
        if image {
            apply(&damages[0], &path.join(memory::FILE_NAME));
        }
        if let Ok(mut recording) = Recording::open(path) {
            exercise(&mut recording, seed);
            check_shown(&recorded, &mut recording)?;
            let report = verify::verify(recording.program(), &|_| (), &|| false);
            prop_assert!(report.proved <= recorded.registers.len() as u64);
            prop_assert!(recording.program().trace().segments().len() as u64 <= recorded.segments);
        }
    }

    #[test]
    fn a_forged_trace_does_no_harm(
        setup in setup(),
        steps in steps(1..120),
        forgeries in prop::collection::vec(forgery(), 1..5),
        closed in any::<bool>(),
        seed in any::<u64>(),
    ) {
        limit_memory();
        let recorded = record(setup, &steps);
        rewrite(&recorded.directory.path().join(TRACE_FILE), &forgeries, closed);
        open_and_exercise(recorded.directory.path(), seed)?;
    }

    #[test]
    fn any_bytes_do_no_harm(bytes: Vec<u8>, records in prop::collection::vec((0..8u32, any::<Vec<u8>>()), 0..6)) {
        let directory = tempfile::tempdir().unwrap();
        for name in [TRACE_FILE, memory::FILE_NAME] {
            std::fs::write(directory.path().join(name), &bytes).unwrap();
            let _ = Recording::open(directory.path()).map(drop);
            let _ = memory::Image::open(directory.path()).map(drop);
            let mut writer = RecordWriter::new(Vec::new());
            for (kind, payload) in &records {
                writer.append(*kind, &[payload]).unwrap();
            }
            std::fs::write(directory.path().join(name), writer.into_inner()).unwrap();
            let _ = Recording::open(directory.path()).map(drop);
            let _ = memory::Image::open(directory.path()).map(drop);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_that_expand_to_much_do_no_harm(
        setup in setup(),
        steps in steps(1..60),
        record_number in any::<u8>(),
        stream in 0..11u8,
        byte in 0..3u8,
    ) {
        limit_memory();
        let recorded = record(setup, &steps);
        let bomb = Forgery::Bomb { record: record_number, stream, byte };
        rewrite(&recorded.directory.path().join(TRACE_FILE), &[bomb], false);
        open_and_exercise(recorded.directory.path(), 1)?;
    }
}
