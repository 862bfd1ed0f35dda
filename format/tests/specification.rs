//! Whole traces, made by the encoder and the writer, against what `SPEC.md` says of their bytes; and what it reserves is
//! refused.

use ktrace_format::digest::Digest;
use ktrace_format::header::{Architecture, ByteOrder, Header, Path};
use ktrace_format::record::{RecordError, RecordWriter, records};
use ktrace_format::segment::cursor::{Cursor, Translation, translations};
use ktrace_format::segment::encoder::{
    BlockId, BlockTraits, Encoder, Finished, InitialMemory, NameId, OpaqueInstruction, UnknownMemory,
    entry_key,
};
use ktrace_format::segment::index::{DevicePage, Index, PackedIndex};
use ktrace_format::segment::{Head, STREAMS, SegmentError, Stream, Streams, access};
use ktrace_format::shadow::Target;
use ktrace_format::writer::{CLOSE_MARK, TRACE_FILE, kind};
use ktrace_format::{Trace, TraceError, TraceWriter};

fn header() -> Header {
    Header {
        format_version: 2,
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
    let known = Translation { from: 0, values: vec![1, 2, 3, 4] };
    assert_eq!(entries, [known, Translation { from: 2, values: vec![] }]);
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
    assert_eq!(digest.0, 0x575a_37fb_abfc_4b3c);
}

#[test]
fn what_is_reserved_is_refused() {
    let control = |flags: u8| {
        let mut streams = Streams::default();
        streams.0[Stream::Control as usize] = vec![flags, 1, 1, 1, 1, 1, 1, 1];
        Cursor::default().control(&streams)
    };
    assert!([7, 8, 36, 47].into_iter().all(|flags| control(flags).is_ok()));
    for bit in [16, 64, 128, 32, 32 | 3, 16 | 8, 16 | 4] {
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

/// A segment with device writes before, between and behind its two blocks, and several discontinuities in a row.
fn written_by_devices() -> Finished {
    let mut encoder = Encoder::new(Twice).unwrap();
    encoder.begin_segment(0, 0, &[7; 17]);
    let block = encoder.define_block(traits(0x8000));
    // Two pages of which the second is the first once more, then what lies behind both.
    encoder.device_write(0x2ffe, &[1, 2, 3]);
    encoder.device_write(0x1000, &[9]);
    encoder.enter_block(block);
    encoder.map(0x5000, Target::Ram(1));
    encoder.load(0x5000, 1, 9);
    encoder.store(0x5ffe, 1, 8);
    encoder.discontinuity(4, &[9; 17]);
    encoder.further_discontinuity(6);
    encoder.further_discontinuity(9);
    encoder.end_block(1);
    encoder.device_write(0x10, &[5; 4]);
    encoder.enter_block(block);
    encoder.map(0x6000, Target::Ram(0));
    encoder.load(0x6010, 2, 0x0605);
    encoder.end_block(1);
    encoder.device_write(0x40fe, &[7]);
    encoder.device_write(u64::MAX, &[6, 6]);
    let mut finished = Finished::default();
    encoder.finish_segment(false, &mut finished).unwrap();
    assert_eq!(finished.discontinuities, 3);
    finished
}

/// Physical page 2 is page 1 once more.
struct Twice;

impl InitialMemory for Twice {
    fn fill(&self, _: u64, _: &mut [u8; 4096], _: &mut [u64; 64]) {}

    fn is_read_only(&self, _: u64) -> bool {
        false
    }

    fn canonical(&self, page: u64) -> u64 {
        if page == 2 { 1 } else { page }
    }
}

#[test]
fn device_writes_are_where_the_specification_says() {
    let finished = written_by_devices();
    let Streams(streams) = streams(&finished);
    let control = [
        // Block 0: flags 1, 2, 4, 32, 8; number 0; 1 started; cause 4 after 2 accesses; 2 more causes; 3 writes.
        &[0, 47, 0, 1, 4, 2, 2, 6, 9, 3][..],
        // The next block, of which as much starts as the time before: 1 write.
        &[0, 8, 1],
        // The end: 2 writes.
        &[0, 8, 2],
    ];
    assert_eq!(streams[Stream::Control as usize], control.concat());
    let mut writes =
        vec![0xfe, 0x3f, 2, 1, 2, 0x80, 0x60, 1, 3, 0x80, 0x20, 1, 9, 0x10, 4, 5, 5, 5, 5, 0xfe, 0x81, 1];
    writes.extend([1, 7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 6]);
    assert_eq!(streams[Stream::DeviceWrites as usize], writes);
    // What a device wrote is no news to a load; what nobody wrote is.
    assert_eq!(streams[Stream::Values as usize], [0x05, 0x06]);
    let lengths = Streams::lengths(Head::read(&finished.segment).unwrap().1).unwrap();
    assert_eq!(lengths, streams.each_ref().map(|stream| stream.len() as u32));
}

#[test]
fn device_writes_come_back() {
    let streams = streams(&written_by_devices());
    let mut cursor = Cursor::default();
    let mut next = || (cursor.next_control(&streams).unwrap(), cursor.control(&streams).unwrap());
    let (gap, first) = next();
    assert_eq!((gap, first.device_writes, first.further.causes(&streams)), (Some(0), 3, &[6, 9][..]));
    let (gap, second) = next();
    assert_eq!((gap, second.device_writes, second.further.causes(&streams)), (Some(0), 1, &[][..]));
    assert_eq!(cursor.next_control(&streams), Ok(Some(0)));
    assert_eq!(cursor.control_at_end(&streams), Ok(2));
    assert_eq!(cursor.next_control(&streams), Ok(None));
    let writes: Vec<_> = (0..6).map(|_| cursor.device_write(&streams).unwrap()).collect();
    let writes: Vec<_> = writes.iter().map(|write| (write.physical, write.bytes)).collect();
    let expected: [(u64, &[u8]); 6] = [
        (0x1ffe, &[1, 2]),
        (0x3000, &[3]),
        (0x1000, &[9]),
        (0x10, &[5; 4]),
        (0x40fe, &[7]),
        (u64::MAX, &[6]),
    ];
    assert_eq!(writes, expected);
    assert!(cursor.at_end(&streams, Stream::DeviceWrites));
}

#[test]
fn the_index_says_which_bytes_a_device_wrote_last() {
    let finished = written_by_devices();
    let packed = PackedIndex::new(&finished.index).unwrap();
    let index = packed.index().unwrap();
    let page = |page, lines, bytes: &[u64]| DevicePage { page, lines, bytes: bytes.to_vec() };
    // Of page 1 the processor wrote byte 0xffe; in page 0 it found one of four bytes changed.
    let expected = [
        page(0, 1, &[0b1101 << 16]),
        page(1, 1 | 1 << 63, &[1, 1 << 63]),
        page(3, 1, &[1]),
        page(4, 1 << 3, &[1 << 62]),
        page((1 << 52) - 1, 1 << 63, &[1 << 63]),
    ];
    assert_eq!(index.device, expected);
    for (page, offset, by_device) in
        [(0, 16, true), (0, 17, false), (0, 80, false), (1, 0xfff, true), (1, 0xffe, false), (2, 0, false)]
    {
        assert_eq!(index.written_by_device(page, offset), by_device, "{page} {offset:#x}");
    }
    assert!(!index.written_by_device(0, 4096), "beyond the page");
    let lines: Vec<_> = index.pages.iter().map(|page| (page.page, page.written)).collect();
    let last = ((1 << 52) - 1, 1 << 63);
    assert_eq!(lines, [(0, 1), (1, 1 | 1 << 63), (3, 1), (4, 1 << 3), last]);
    assert_eq!(packed.contents().unwrap()[..19], [0; 16].into_iter().chain([5, 6, 5]).collect::<Vec<_>>());
}

/// An index whose sets are these.
fn index_of(sets: &[u8]) -> Result<Index, SegmentError> {
    let packed = zstd::bulk::compress(sets, 1).unwrap();
    let mut payload = (sets.len() as u32).to_le_bytes().to_vec();
    payload.extend((packed.len() as u32).to_le_bytes());
    payload.extend([0; 8]);
    payload.extend(packed);
    PackedIndex::new(&payload).unwrap().index()
}

#[test]
fn an_index_that_says_too_much_of_devices_is_refused() {
    // No block; page 5: nothing read, line 1 written and not complete, its bytes 0 and 1 known.
    let start = |mut sets: Vec<u8>| {
        for set in [0u64, 2, 0, 3] {
            sets.extend(set.to_le_bytes());
        }
        [&sets[..], &[0, 0]].concat()
    };
    let start = start(vec![0, 1, 5]);
    assert_eq!(index_of(&start).unwrap().device, [], "the first traces end here");
    let with = |pages: &[(u8, u64, &[u64])]| {
        let mut sets = start.clone();
        sets.push(pages.len() as u8);
        for (page, lines, bytes) in pages {
            sets.push(*page);
            sets.extend(lines.to_le_bytes());
            bytes.iter().for_each(|bytes| sets.extend(bytes.to_le_bytes()));
        }
        index_of(&sets)
    };
    assert!(with(&[]).is_ok() && with(&[(5, 2, &[3])]).is_ok());
    let bad: [&[(u8, u64, &[u64])]; 8] = [
        &[(4, 2, &[3])],
        &[(5, 2, &[7])],
        &[(5, 2, &[0])],
        &[(5, 0, &[])],
        &[(5, 1, &[1])],
        &[(5, 3, &[1, 1])],
        &[(5, 2, &[1]), (0, 2, &[1])],
        &[(5, 2, &[1, 1])],
    ];
    for pages in bad {
        assert_eq!(with(pages).map(drop), Err(SegmentError::Head), "{pages:?}");
    }
    let mut endless = start;
    endless.extend([0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(index_of(&endless).map(drop), Err(SegmentError::Head));
}

#[test]
fn device_writes_that_can_not_be_are_refused() {
    let write = |bytes: &[u8]| {
        let mut streams = Streams::default();
        streams.0[Stream::DeviceWrites as usize] = bytes.to_vec();
        Cursor::default().device_write(&streams).map(|write| (write.physical, write.bytes.to_vec()))
    };
    let last = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(write(&[&last[..], &[1, 6]].concat()), Ok((u64::MAX, vec![6])));
    let bad: [&[u8]; 6] = [
        &[],
        &[5],
        &[5, 0],
        &[5, 2, 1],
        &[&last[..], &[2, 6, 6]].concat(),
        &[&[5], &last[..], &[1]].concat(),
    ];
    for bytes in bad {
        assert_eq!(write(bytes), Err(SegmentError::Stream(Stream::DeviceWrites)), "{bytes:?}");
    }
}

#[test]
fn control_entries_that_can_not_be_are_refused() {
    let with = |bytes: &[u8]| {
        let mut streams = Streams::default();
        streams.0[Stream::Control as usize] = bytes.to_vec();
        streams
    };
    let refused = Err(SegmentError::Stream(Stream::Control));
    // No writes; no further causes, or fewer than it says.
    for bytes in [&[8, 0][..], &[8], &[36, 4, 0, 0], &[36, 4, 0, 2, 1], &[36, 4, 0]] {
        assert_eq!(Cursor::default().control(&with(bytes)), refused, "{bytes:?}");
    }
    let end = |bytes: &[u8]| Cursor::default().control_at_end(&with(bytes));
    assert_eq!(end(&[8, 3]), Ok(3));
    for bytes in
        [&[0][..], &[9, 1, 3], &[10, 1, 3], &[12, 1, 0, 3], &[44, 1, 0, 1, 1, 3], &[4, 1, 0], &[24, 1]]
    {
        assert_eq!(end(bytes), Err(SegmentError::Stream(Stream::Control)), "{bytes:?}");
    }
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
    writer.append(kind::HEADER, &[br#"{"format_version": 3, "arch": "vax"}"#]).unwrap();
    std::fs::write(directory.path().join(TRACE_FILE), writer.into_inner()).unwrap();
    let error = Trace::open(directory.path()).unwrap_err();
    assert!(matches!(error, TraceError::Newer { found: 3, .. }));
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

/// Whoever looks for accesses of a virtual page must find where they went, not where later ones would go.
#[test]
fn an_index_names_what_the_last_access_of_a_virtual_page_met() {
    let mut encoder = Encoder::new(UnknownMemory).unwrap();
    encoder.begin_segment(0, 0, &[7; 17]);
    let block = encoder.define_block(traits(0x8000));
    encoder.enter_block(block);
    encoder.map(0x1000, Target::Ram(0x40001));
    encoder.map(0x2000, Target::Ram(0x40002));
    encoder.store(0x1004, 4, 1);
    encoder.store(0x2004, 4, 1);
    encoder.end_block(1);
    encoder.map(0x1000, Target::Ram(0x40003));
    encoder.map(0x2000, Target::Ram(0x40004));
    encoder.enter_block(block);
    encoder.store(0x2004, 4, 1);
    encoder.end_block(1);
    let mut finished = Finished::default();
    encoder.finish_segment(false, &mut finished).unwrap();
    let index = PackedIndex::new(&finished.index).unwrap().index().unwrap();
    assert_eq!(index.mappings, [(1, Target::Ram(0x40001)), (2, Target::Ram(0x40004))]);
}
