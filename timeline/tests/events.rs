//! Events of recordings that are made by hand, so that what each of them says is known: where an interrupt came, which
//! instruction is at fault, what is said where nothing is known.

use std::path::Path;
use std::sync::Arc;

use ktrace_format::header::{self, Architecture, ByteOrder, Header};
use ktrace_format::record::{RecordWriter, records};
use ktrace_format::segment::encoder::{
    BlockTraits, Encoder, Finished, NameId, OpaqueInstruction, UnknownMemory,
};
use ktrace_format::shadow::Target;
use ktrace_format::writer::{TRACE_FILE, kind};
use ktrace_format::{Position, TraceWriter};
use ktrace_machine::{Block, Cause, InstructionSet, Mode};
use ktrace_timeline::Program;
use ktrace_timeline::events::nearest::{first_events, last_events};
use ktrace_timeline::events::{Discontinuity, Event, Events, Kind, Kinds};

const MOV: u32 = 0xe3a0_0001;
const SVC: u32 = 0xef00_0000;
const BKPT: u32 = 0xe120_0070;
const UNDEFINED: u32 = 0xe7f0_00f0;
/// ldr r0, [r1]
const LDR: u32 = 0xe591_0000;
/// movs pc, lr
const RETURN: u32 = 0xe1b0_f00e;

/// Records blocks of ARM code. Each is at an address of its own, and ends in a discontinuity that leads to the next.
struct Recorder {
    trace: TraceWriter,
    encoder: Encoder<UnknownMemory>,
    address: u32,
    position: u64,
}

fn registers(address: u32) -> [u32; 17] {
    let mut registers = [0; 17];
    registers[15] = address;
    registers[16] = 0x13;
    registers
}

impl Recorder {
    fn new(directory: &Path) -> Recorder {
        let header = Header {
            format_version: 2,
            arch: Architecture::Arm,
            byte_order: ByteOrder::Little,
            cpu: String::new(),
            path: header::Path::Fast,
            qemu_version: String::new(),
            command_line: Vec::new(),
            tracer_version: "0".into(),
            host: String::new(),
            started: String::new(),
        };
        let mut recorder = Recorder {
            trace: TraceWriter::create(directory, header).unwrap(),
            encoder: Encoder::new(UnknownMemory).unwrap(),
            address: 0x8000,
            position: 0,
        };
        recorder.encoder.begin_segment(0, 0, &registers(0x8000));
        recorder
    }

    /// Runs a block of which `started` instructions start; causes of the discontinuities behind it.
    fn run(&mut self, code: &[u32], started: u32, causes: &[u8]) {
        let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        let decoded = Block::decode(InstructionSet::Arm, self.address, Mode::default(), &bytes).unwrap();
        let opaque = decoded.opaque_indices().iter().map(|&index| {
            let opaque = decoded.opaque(index.into()).unwrap();
            OpaqueInstruction { index, memory: opaque.memory, name: NameId(0) }
        });
        let (address, instructions) = (self.address, code.len() as u16);
        let id = self.trace.block(address, 0, &bytes);
        assert_eq!(
            self.encoder.define_block(BlockTraits {
                address,
                mode: 0,
                instructions,
                opaque: opaque.collect()
            }),
            id
        );
        self.encoder.enter_block(id);
        self.address += 0x100;
        self.encoder.discontinuity(causes[0], &registers(self.address));
        causes[1..].iter().for_each(|cause| self.encoder.further_discontinuity(*cause));
        self.encoder.end_block(started);
        self.position += u64::from(started);
    }

    fn end_segment(&mut self) {
        let mut finished = Finished::default();
        self.encoder.finish_segment(false, &mut finished).unwrap();
        self.trace.segment(&finished).unwrap();
        self.encoder.begin_segment(self.position, 0, &registers(self.address));
    }
}

fn events(directory: &Path, kinds: Kinds, from: u64, to: u64) -> Vec<Event> {
    Events::new(Arc::new(Program::open(directory).unwrap()), kinds, from, to).collect()
}

fn only(kind: Kind) -> Kinds {
    Kinds::from_iter([kind])
}

#[test]
fn a_discontinuity_says_where_it_came_and_who_is_at_fault() {
    let directory = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(directory.path());
    let runs: [(&[u32], u32, &[u8]); 13] = [
        (&[MOV, MOV], 1, &[6]),
        (&[MOV, MOV], 2, &[7]),
        (&[MOV, SVC], 2, &[2]),
        (&[UNDEFINED], 1, &[1]),
        (&[MOV], 1, &[3]),
        (&[BKPT], 1, &[3]),
        (&[MOV, LDR], 2, &[4]),
        (&[LDR], 1, &[6]),
        (&[RETURN], 1, &[6]),
        (&[MOV], 0, &[4]),
        (&[SVC], 1, &[2, 6, 77]),
        (&[SVC], 1, &[9]),
        (&[MOV], 1, &[8]),
    ];
    for (code, started, causes) in runs {
        recorder.run(code, started, causes);
    }
    recorder.end_segment();
    recorder.trace.close("exit").unwrap();
    let expected = [
        (1, 6, None, Some(0x8004), Some(0x8100)),
        (3, 7, None, Some(0x8108), Some(0x8200)),
        (5, 2, Some(4), Some(0x8204), Some(0x8300)),
        (6, 1, Some(5), Some(0x8300), Some(0x8400)),
        // The next instruction could not be fetched; the one before it is innocent.
        (7, 3, None, Some(0x8404), Some(0x8500)),
        (8, 3, Some(7), Some(0x8500), Some(0x8600)),
        (10, 4, Some(9), Some(0x8604), Some(0x8700)),
        // It made no access: it may not have completed. Nor does anybody know where the next one led.
        (11, 6, None, None, Some(0x8800)),
        (12, 6, None, None, Some(0x8900)),
        // Of this block nothing started.
        (12, 4, None, Some(0x8900), Some(0x8a00)),
        (13, 2, Some(12), Some(0x8a00), None),
        (13, 6, None, None, None),
        (13, 77, None, None, Some(0x8b00)),
        (14, 9, Some(13), Some(0x8b00), Some(0x8c00)),
        (15, 8, None, Some(0x8c04), Some(0x8d00)),
    ];
    let expected = expected.map(|(position, cause, raised_by, pc, to)| {
        let cause = Cause::new(InstructionSet::Arm, cause);
        Event::Discontinuity(Discontinuity { position, cause, raised_by, pc, to })
    });
    let found = events(directory.path(), Kinds::ALL, 0, u64::MAX);
    assert_eq!(found, expected);
    let kinds = |kind| found.iter().filter(|event| event.kind() == Some(kind)).count();
    assert_eq!((kinds(Kind::Interrupt), kinds(Kind::Exception)), (5, 10));
    let texts: Vec<String> = found.iter().map(Event::to_string).collect();
    assert_eq!(texts[0], "IRQ, before 0x00008004, to 0x00008100");
    assert_eq!(texts[2], "supervisor call, by 0x00008204 at position 4, to 0x00008300");
    assert_eq!(texts[10], "supervisor call, by 0x00008a00 at position 12, at once followed by another");
    assert_eq!(texts[12], "cause 77, to 0x00008b00");
}

/// Three segments with an interrupt in the middle and at the end of each, and device writes at the very start and end.
fn three_segments(directory: &Path) {
    let mut recorder = Recorder::new(directory);
    recorder.encoder.device_write(0x1000, &[1, 2]);
    for number in 0..3 {
        recorder.run(&[MOV], 1, &[6]);
        recorder.run(&[MOV], 1, &[6]);
        if number == 2 {
            recorder.encoder.device_write(0x2000, &[1]);
        }
        recorder.end_segment();
    }
    recorder.trace.close("exit").unwrap();
}

fn last(directory: &Path, kinds: Kinds, to: u64, count: usize) -> Vec<Event> {
    let program = Arc::new(Program::open(directory).unwrap());
    last_events(&program, kinds, Position::START, Position(to), count, &mut || false).events
}

fn positions(events: &[Event]) -> Vec<(u64, Option<Kind>)> {
    events.iter().map(|event| (event.position(), event.kind())).collect()
}

#[test]
fn what_is_at_the_border_of_two_segments_is_found_from_there() {
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    let (irq, dma) = (Some(Kind::Interrupt), Some(Kind::Dma));
    let found = events(directory.path(), Kinds::ALL, 2, 4);
    assert_eq!(positions(&found), [(2, irq), (3, irq), (4, irq)]);
    let found = events(directory.path(), Kinds::ALL, 6, 6);
    assert_eq!(positions(&found), [(6, irq), (6, dma)]);
    let found = events(directory.path(), only(Kind::Dma), 0, u64::MAX);
    assert_eq!(positions(&found), [(0, dma), (6, dma)]);
    assert_eq!(found[1].to_string(), "1 byte to physical 0x00002000");
    assert_eq!(events(directory.path(), only(Kind::Dma), 1, 5), []);
    assert_eq!(events(directory.path(), Kinds::default(), 0, u64::MAX), []);
}

#[test]
fn the_last_ones_are_found_backward() {
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    let (irq, dma) = (Some(Kind::Interrupt), Some(Kind::Dma));
    let found = |kinds, to, count| positions(&last(directory.path(), kinds, to, count));
    assert_eq!(found(Kinds::ALL, 6, 2), [(6, irq), (6, dma)]);
    assert_eq!(found(Kinds::ALL, u64::MAX, 3), [(5, irq), (6, irq), (6, dma)]);
    assert_eq!(found(Kinds::ALL, 2, 2), [(1, irq), (2, irq)]);
    assert_eq!(found(Kinds::ALL, 1, 9), [(0, dma), (1, irq)]);
    assert_eq!(found(only(Kind::Dma), 5, 1), [(0, dma)]);
    assert_eq!(found(only(Kind::Exception), 6, 1), []);
    assert_eq!(found(Kinds::ALL, 6, 0), []);
}

/// Backward, it has found all behind the position that it tells.
#[test]
fn a_cancelled_search_says_how_far_it_has_come() {
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    let program = Arc::new(Program::open(directory.path()).unwrap());
    for (answers, expected) in [(0, vec![]), (1, vec![5, 6]), (2, vec![3, 4, 5, 6])] {
        let mut asked = 0;
        let mut cancelled = || {
            asked += 1;
            asked > answers
        };
        let (start, end, kinds) = (Position::START, Position(6), only(Kind::Interrupt));
        let found = last_events(&program, kinds, start, end, 10, &mut cancelled);
        let at: Vec<u64> = found.events.iter().map(Event::position).collect();
        assert_eq!((at, found.cancelled_at), (expected, Some(Position(6 - 2 * answers))));
        asked = 0;
        let mut cancelled = || {
            asked += 1;
            asked > answers
        };
        let found = first_events(&program, kinds, start, 10, &mut cancelled);
        let at: Vec<u64> = found.events.iter().map(Event::position).collect();
        assert_eq!((at, found.cancelled_at), ((1..=2 * answers).collect(), Some(Position(2 * answers))));
    }
}

/// Writes the trace again without its table, with changed records.
fn rewrite(directory: &Path, change: impl Fn(usize, u32, &mut Vec<u8>) -> bool) {
    let file = std::fs::read(directory.join(TRACE_FILE)).unwrap();
    let mut writer = RecordWriter::new(Vec::new());
    let mut segments = 0;
    for record in records(&file).map(|record| record.unwrap()) {
        let mut payload = record.payload().unwrap().to_vec();
        let keep = record.kind != kind::END && change(segments, record.kind, &mut payload);
        segments += usize::from(record.kind == kind::SEGMENT);
        if keep {
            writer.append(record.kind, &[&payload]).unwrap();
        }
    }
    std::fs::write(directory.join(TRACE_FILE), writer.into_inner()).unwrap();
}

#[test]
fn a_missing_segment_is_told_and_passed() {
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    rewrite(directory.path(), |segment, kind, _| kind != kind::SEGMENT || segment != 1);
    let irq = Some(Kind::Interrupt);
    let found = events(directory.path(), only(Kind::Interrupt), 0, u64::MAX);
    assert_eq!(positions(&found), [(1, irq), (2, irq), (2, None), (5, irq), (6, irq)]);
    assert!(matches!(&found[2], Event::Unknown(unknown) if (unknown.from, unknown.to) == (2, 4)));
    let text = found[2].to_string();
    assert!(text.starts_with("nothing is known up to position 4: the trace has no segment"), "{text}");
    // Also where the list begins or ends in it; and not where it does not reach it.
    assert_eq!(positions(&events(directory.path(), only(Kind::Interrupt), 3, 3)), [(3, None)]);
    assert_eq!(positions(&events(directory.path(), only(Kind::Interrupt), 4, 5)), [(5, irq)]);
    assert_eq!(positions(&events(directory.path(), only(Kind::Interrupt), 0, 1)), [(1, irq)]);
    let last = |to, count| positions(&last(directory.path(), only(Kind::Interrupt), to, count));
    assert_eq!(last(6, 3), [(2, None), (5, irq), (6, irq)]);
    assert_eq!(last(6, 4), [(2, irq), (2, None), (5, irq), (6, irq)]);
    assert_eq!(last(3, 1), [(2, None)]);
    assert_eq!(last(1, 2), [(1, irq)]);
}

#[test]
fn what_is_not_proved_is_not_told() {
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    // The third begins with another register than the second ends with.
    rewrite(directory.path(), |segment, kind, payload| {
        if kind == kind::SEGMENT && segment == 2 {
            payload[44] ^= 1;
        }
        true
    });
    let irq = Some(Kind::Interrupt);
    let found = events(directory.path(), only(Kind::Interrupt), 0, u64::MAX);
    assert_eq!(positions(&found), [(1, irq), (2, irq), (2, None), (5, irq), (6, irq)]);
    assert!(found[2].to_string().contains("at the next keyframe register 0"), "{}", found[2]);
    assert_eq!(positions(&events(directory.path(), only(Kind::Interrupt), 3, 3)), [(3, None)]);
    // It has no device writes, so nobody looks at it for them.
    assert!(
        events(directory.path(), only(Kind::Dma), 0, u64::MAX).iter().all(|event| event.kind().is_some())
    );
}

/// All that the digests say is right, and still the segment is not what its head says.
#[test]
fn what_is_wrong_at_the_end_is_told() {
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    rewrite(directory.path(), |segment, kind, payload| {
        if kind == kind::SEGMENT && segment == 1 {
            payload[32] += 1;
        }
        true
    });
    let irq = Some(Kind::Interrupt);
    let found = events(directory.path(), only(Kind::Interrupt), 0, u64::MAX);
    let all = [(1, irq), (2, irq), (3, irq), (4, irq), (4, None), (5, irq), (6, irq)];
    assert_eq!(positions(&found), all);
    assert!(found[4].to_string().contains("number of accesses"), "{}", found[4]);
}

/// Segments without what is wanted are not executed: not even one that could not be.
#[test]
fn a_segment_without_an_exception_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    rewrite(directory.path(), |segment, kind, payload| {
        if kind == kind::SEGMENT && segment == 1 {
            payload[32] += 1;
        }
        true
    });
    assert_eq!(events(directory.path(), only(Kind::Exception), 0, u64::MAX), []);
    assert_eq!(events(directory.path(), only(Kind::Io), 0, u64::MAX), []);
}

/// An access's position is its instruction's, wherever in a block that is, and from wherever one looks.
#[test]
fn accesses_to_devices_have_their_instructions_positions() {
    let directory = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(directory.path());
    let name = recorder.trace.name("uart");
    let code = [MOV, LDR, MOV, LDR, MOV];
    recorder.encoder.map(0, Target::Device);
    let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    let block = recorder.trace.block(0x8000, 0, &bytes);
    recorder.encoder.define_block(BlockTraits {
        address: 0x8000,
        mode: 0,
        instructions: 5,
        opaque: [].into(),
    });
    recorder.encoder.enter_block(block);
    for (value, physical) in [(0x11, 0x900_0000), (0x22, u64::MAX)] {
        recorder.encoder.device(name, physical);
        recorder.encoder.load(0, 4, value);
    }
    recorder.encoder.discontinuity(6, &registers(0x8100));
    recorder.encoder.end_block(5);
    recorder.address = 0x8100;
    recorder.position = 5;
    recorder.end_segment();
    recorder.trace.close("exit").unwrap();
    let found = |from| events(directory.path(), only(Kind::Io), from, u64::MAX);
    let at = |events: &[Event]| events.iter().map(Event::position).collect::<Vec<_>>();
    assert_eq!(
        [0, 1, 2, 3, 4].map(|from| at(&found(from))),
        [vec![1, 3], vec![1, 3], vec![3], vec![3], vec![]]
    );
    let texts: Vec<String> = found(0).iter().map(Event::to_string).collect();
    assert_eq!(texts[0], "read 0x00000011  [00000000] uart at physical 0x09000000");
    assert_eq!(texts[1], "read 0x00000022  [00000000] uart at an unknown physical address");
}
