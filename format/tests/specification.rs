//! Whole traces, made by the encoder and the writer, against what `SPEC.md` says of their bytes; and what it reserves is
//! refused.

use ktrace_format::digest::Digest;
use ktrace_format::header::{Architecture, ByteOrder, Header, Path};
use ktrace_format::record::{RecordError, RecordWriter, records};
use ktrace_format::segment::cursor::{Cursor, Translation, translations};
use ktrace_format::segment::encoder::{
    BlockId, BlockTraits, Encoder, Finished, NameId, OpaqueInstruction, UnknownMemory, entry_key,
};
use ktrace_format::segment::{Head, STREAMS, SegmentError, Stream, Streams, access};
use ktrace_format::shadow::Target;
use ktrace_format::writer::{CLOSE_MARK, TRACE_FILE, kind};
use ktrace_format::{Trace, TraceError, TraceWriter};

fn header() -> Header {
    Header {
        format_version: 1,
        arch: Architecture::Arm,
        byte_order: ByteOrder::Little,
        cpu: String::new(),
        path: Path::Portable,
        qemu_version: String::new(),
        command_line: Vec::new(),
        tracer_version: "0".into(),
        host: String::new(),
        started: String::new(),
    }
}

/// A block of two instructions of which the second is opaque.
fn traits(address: u32) -> BlockTraits {
    BlockTraits {
        address,
        mode: 0,
        instructions: 2,
        opaque: [OpaqueInstruction { index: 1, memory: true, name: NameId(0) }].into(),
    }
}

/// One segment with a bit of everything.
fn segment() -> Finished {
    let mut encoder = Encoder::new(UnknownMemory).unwrap();
    encoder.begin_segment(0, 0, &[7; 17]);
    encoder.translation(0, &[1, 2, 3, 4]);
    let block = encoder.define_block(traits(0x8000));
    assert_eq!(block, BlockId(0));
    encoder.enter_block(block);
    encoder.map(0x1000, Target::Ram(0x40001));
    encoder.load(0x1004, 4, 0x1122_3344);
    encoder.opaque_access(1, 0x1008, access::STORE | 2, 0x5566_7788, 0);
    encoder.opaque_results(&[0xaabb_ccdd]);
    encoder.end_block(2);
    encoder.translation(0, &[]);
    encoder.enter_block(block);
    encoder.load(0x1006, 2, 0x1122);
    encoder.discontinuity(4, &[9; 17]);
    encoder.end_block(1);
    let mut finished = Finished::default();
    encoder.finish_segment(false, &mut finished).unwrap();
    finished
}

fn streams(finished: &Finished) -> Streams {
    Streams::read(Head::read(&finished.segment).unwrap().1).unwrap()
}

#[test]
fn streams_hold_what_the_specification_says() {
    let finished = segment();
    assert_eq!((finished.head.instructions, finished.head.blocks, finished.head.accesses), (3, 2, 3));
    let Streams(streams) = streams(&finished);
    // Block 0 is new: ordinal 0, flag 1, number 0. The next has no gap, flags 2 and 4, 1 started, cause 4, 1 access.
    assert_eq!(streams[Stream::Control as usize], [0, 1, 0, 0, 6, 1, 4, 1]);
    assert_eq!(streams[Stream::Values as usize], [0x44, 0x33, 0x22, 0x11]);
    assert!(streams[Stream::Surprises as usize].is_empty());
    assert_eq!(streams[Stream::Mappings as usize], [0, 0x81, 0x80, 0x10]);
    let accesses = [1, 10, 8, 0x10, 0, 0, 0x88, 0x77, 0x66, 0x55];
    assert_eq!(streams[Stream::OpaqueAccesses as usize], accesses);
    assert_eq!(streams[Stream::Results as usize], [0xdd, 0xcc, 0xbb, 0xaa]);
    assert_eq!(streams[Stream::Keyframes as usize], [9, 0, 0, 0].repeat(17));
    assert!(streams[Stream::DeviceWrites as usize].is_empty());
    let mut translation = vec![0, 4];
    [1u64, 2, 3, 4].iter().for_each(|value| translation.extend(value.to_le_bytes()));
    translation.extend([2, 0]);
    assert_eq!(streams[Stream::Translation as usize], translation);
}

#[test]
fn translation_entries_come_back() {
    let entries = translations(&streams(&segment())).unwrap();
    let known = Translation { from: 0, registers: vec![1, 2, 3, 4] };
    assert_eq!(entries, [known, Translation { from: 2, registers: vec![] }]);
    let mut bad = Streams::default();
    bad.0[Stream::Translation as usize] = vec![0, 17];
    assert_eq!(translations(&bad), Err(SegmentError::Stream(Stream::Translation)));
}

/// Computed by a few lines of Python from the formulas of the specification.
#[test]
fn the_digest_is_the_specified_function() {
    let mut digest = Digest::default();
    digest.access(0x1000_0ffe, 4, false, 0x1122_3344);
    digest.access(0xffff_fffc, 8, true, 0x8877_6655_4433_2211);
    digest.block(0x8000, 3);
    assert_eq!(digest.0, 0x71d5_445c_01d1_bab2);
}

#[test]
fn the_index_says_what_is_behind_a_page_at_the_end() {
    let mut encoder = Encoder::new(UnknownMemory).unwrap();
    encoder.begin_segment(0, 0, &[0; 17]);
    let block = encoder.define_block(traits(0x8000));
    encoder.enter_block(block);
    for page in [1, 2] {
        encoder.map(page << 12, Target::Ram(5));
        encoder.load(page << 12, 4, 0);
    }
    // Nothing looks there again.
    encoder.map(0x1000, Target::Device);
    encoder.map(0x2000, Target::Ram(6));
    encoder.end_block(1);
    let mut finished = Finished::default();
    encoder.finish_segment(false, &mut finished).unwrap();
    let index = ktrace_format::segment::index::PackedIndex::new(&finished.index).unwrap().index().unwrap();
    assert_eq!(index.mappings, [(1, Target::Device), (2, Target::Ram(6))]);
}

#[test]
fn what_is_reserved_is_refused() {
    let control = |flags: u8| {
        let mut streams = Streams::default();
        streams.0[Stream::Control as usize] = vec![flags, 0, 0, 0, 0];
        Cursor::default().control(&streams)
    };
    assert!(control(7).is_ok());
    for bit in [8, 16, 32, 64, 128] {
        assert_eq!(control(bit), Err(SegmentError::Stream(Stream::Control)), "flag {bit}");
    }
    let opaque = |flags: u8| {
        let mut streams = Streams::default();
        streams.0[Stream::OpaqueAccesses as usize] = vec![flags; 64];
        Cursor::default().opaque_access(&streams)
    };
    assert!(opaque(4 | 8 | 16).is_ok());
    for flags in [5, 6, 7, 32, 64, 128] {
        assert_eq!(opaque(flags), Err(SegmentError::Stream(Stream::OpaqueAccesses)), "flags {flags}");
    }
    let target = |bytes: &[u8]| {
        let mut streams = Streams::default();
        streams.0[Stream::Mappings as usize] = bytes.to_vec();
        Cursor::default().target(&streams)
    };
    assert_eq!(target(&[1, 5]), Ok(Target::Rom(5)));
    assert_eq!(target(&[3, 5]), Err(SegmentError::Stream(Stream::Mappings)));
    let too_high = [0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x08];
    assert!(target(&too_high).is_err(), "a physical page beyond 64 bits of address");

    let payload = segment().segment;
    assert!(Head::read(&payload).is_ok());
    for (at, value) in [(28, 2), (8, 0xff), (19, 1), (40, 200)] {
        let mut bad = payload.clone();
        bad[at] = value;
        if at == 8 {
            bad[8..12].fill(0xff);
        }
        assert_eq!(Head::read(&bad).map(drop), Err(SegmentError::Head), "byte {at}");
    }
    let rest = Head::read(&payload).unwrap().1;
    assert!(Streams::read(rest).is_ok());
    let older = [&10u32.to_le_bytes()[..], &[0; 80]].concat();
    assert_eq!(Streams::read(&older), Ok(Streams::default()), "without translation");
    let mut more_streams = rest.to_vec();
    more_streams[0] = STREAMS as u8 + 1;
    assert_eq!(Streams::read(&more_streams), Err(SegmentError::Head));
    assert_eq!(Streams::read(&[rest, &[0]].concat()), Err(SegmentError::Head), "a byte too many");
    let mut long = rest.to_vec();
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Streams::read(&long), Err(SegmentError::Head));
}

/// A trace of three segments, as records.
fn trace(directory: &std::path::Path) -> Vec<(u32, Vec<u8>)> {
    let mut writer = TraceWriter::create(directory, header()).unwrap();
    assert_eq!(writer.name("mcr").0, 0);
    for number in 0..3u64 {
        let mut encoder = Encoder::new(UnknownMemory).unwrap();
        for _ in 0..number {
            encoder.define_block(traits(0x8000));
        }
        let address = 0x8000 + 16 * number as u32;
        writer.block(address, 2, &[number as u8; 8]);
        encoder.begin_segment(2 * number, 0, &[0; 17]);
        let block = encoder.define_block(traits(address));
        encoder.enter_block(block);
        encoder.end_block(2);
        let mut finished = Finished::default();
        encoder.finish_segment(false, &mut finished).unwrap();
        writer.segment(&finished).unwrap();
    }
    writer.close("exit").unwrap();
    let file = std::fs::read(directory.join(TRACE_FILE)).unwrap();
    assert!(file.ends_with(&CLOSE_MARK));
    let records = records(&file).map(|record| record.unwrap());
    records.map(|record| (record.kind, record.payload().unwrap().to_vec())).collect()
}

fn rewrite(directory: &std::path::Path, records: &[(u32, Vec<u8>)]) -> Trace {
    let mut writer = RecordWriter::new(Vec::new());
    for (kind, payload) in records {
        writer.append(*kind, &[payload]).unwrap();
    }
    std::fs::write(directory.join(TRACE_FILE), writer.into_inner()).unwrap();
    Trace::open(directory).unwrap()
}

#[test]
fn an_open_trace_is_walked_and_a_closed_one_is_looked_up() {
    let directory = tempfile::tempdir().unwrap();
    let records = trace(directory.path());
    let kinds: Vec<u32> = records.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6]);
    let closed = Trace::open(directory.path()).unwrap();
    assert_eq!(closed.totals().unwrap().instructions, 6);
    let mut open = records.clone();
    open.retain(|(kind, _)| *kind != kind::END);
    // A kind of a later version is skipped.
    open.insert(4, (77, vec![1, 2, 3]));
    let directory = tempfile::tempdir().unwrap();
    let open = rewrite(directory.path(), &open);
    assert_eq!((open.totals(), open.faults()), (None, &[][..]));
    for trace in [&closed, &open] {
        assert_eq!((trace.instructions(), trace.block_count(), trace.name(0)), (6, 3, "mcr"));
        let block = trace.block(2).unwrap();
        assert_eq!((block.address, block.mode, trace.code(block)), (0x8020, 2, &[2; 8][..]));
        assert_eq!(trace.blocks_at(entry_key(0x8010, 2)), [1]);
        assert_eq!(trace.segments().len(), 3);
        for (number, segment) in (0..).zip(trace.segments()) {
            assert_eq!((segment.first, segment.end()), (2 * number, 2 * number + 2));
            assert_eq!(trace.read_segment(segment).unwrap().0.dictionary, number as u32);
        }
    }
    assert!(closed.segments().iter().all(|segment| closed.read_index(segment).unwrap().is_some()));
    let with_index = |at: usize| open.read_index(&open.segments()[at]).unwrap().is_some();
    assert!(
        !with_index(0) && with_index(1) && with_index(2),
        "something came between segment 0 and its index"
    );
}

#[test]
fn an_index_is_never_given_to_another_segment() {
    let directory = tempfile::tempdir().unwrap();
    let mut records = trace(directory.path());
    // The index of segment 0 and the record of segment 1 are lost.
    records.retain(|(kind, _)| *kind != kind::END);
    records.remove(6);
    records.remove(4);
    let trace = rewrite(directory.path(), &records);
    assert_eq!(trace.segments().len(), 2);
    assert!(trace.read_index(&trace.segments()[0]).unwrap().is_none());
    assert!(trace.read_index(&trace.segments()[1]).unwrap().is_some());
}

#[test]
fn segments_and_blocks_out_of_order_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let mut records = trace(directory.path());
    records.retain(|(kind, _)| *kind != kind::END);
    let (block, segment) = (records[2].clone(), records[3].clone());
    records.extend([block, segment]);
    let trace = rewrite(directory.path(), &records);
    assert_eq!((trace.segments().len(), trace.block_count()), (3, 3));
    assert!(trace.faults().iter().all(|fault| matches!(fault, RecordError::Unexpected { .. })));
    assert_eq!(trace.faults().len(), 2);
    assert_eq!(trace.newest_lost_block(3), None);

    let mut records: Vec<_> = records.into_iter().take(11).collect();
    records.remove(5);
    let trace = rewrite(directory.path(), &records);
    assert_eq!((trace.newest_lost_block(1), trace.newest_lost_block(3)), (None, Some(1)));
    assert_eq!(trace.newest_lost_block(9), Some(8), "also those behind the last record");
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = RecordWriter::new(Vec::new());
    writer.append(kind::HEADER, &[br#"{"format_version": 2, "arch": "vax"}"#]).unwrap();
    std::fs::write(directory.path().join(TRACE_FILE), writer.into_inner()).unwrap();
    let error = Trace::open(directory.path()).unwrap_err();
    assert!(matches!(error, TraceError::Newer { found: 2, .. }));
    assert!(error.to_string().contains("a newer ktracer is needed"));
}

/// Numbers of names and blocks that would need much memory, and lengths that would.
#[test]
fn hostile_numbers_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let records = trace(directory.path());
    let number = |value: u32| value.to_le_bytes();
    let empty = zstd::bulk::compress(&[], 1).unwrap();
    let blocks = |first: u32, count: u32, raw: u32| {
        (kind::BLOCKS, [&number(first)[..], &number(count), &number(raw), &empty].concat())
    };
    for bad in [
        (kind::NAMES, number(u32::MAX).to_vec()),
        (kind::NAMES, number(1 << 21).to_vec()),
        blocks(u32::MAX, 1, 0),
        blocks(1 << 24, 1, 0),
        blocks(0, u32::MAX, 16),
        blocks(0, 0, 16),
        blocks(0, 1, u32::MAX),
    ] {
        let trace = rewrite(directory.path(), &[records[0].clone(), bad.clone()]);
        assert_eq!(trace.faults().len(), 1, "{bad:?}");
        assert_eq!(trace.block_count(), 0);
    }
}
