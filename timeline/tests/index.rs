//! Indexes that are made again, of segments whose own are damaged, are those that the recorder wrote.

mod synthetic;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ktrace_format::index_file::{INDEX_FILE, IndexFile};
use ktrace_format::record::{HEAD_BYTES, record_at};
use ktrace_format::segment::index::{Index, PackedIndex};
use ktrace_format::writer::TRACE_FILE;
use ktrace_format::{Position, Trace};
use ktrace_timeline::{
    IndexError, IndexOutcome, IndexProgress, Program, Recording, Replay, sample, write_index,
};
use proptest::prelude::*;
use synthetic::{record, setup, steps};

/// The payloads of all index records.
fn indexes(directory: &Path) -> Vec<Vec<u8>> {
    let trace = Trace::open(directory).unwrap();
    let bytes = fs::read(directory.join(TRACE_FILE)).unwrap();
    let offsets = trace.segments().iter().map(|segment| segment.index.unwrap());
    offsets.map(|offset| record_at(&bytes, offset).unwrap().unwrap().payload().unwrap().to_vec()).collect()
}

fn damage_indexes(directory: &Path, segments: impl IntoIterator<Item = usize>) {
    let trace = Trace::open(directory).unwrap();
    let mut bytes = fs::read(directory.join(TRACE_FILE)).unwrap();
    for segment in segments {
        bytes[trace.segments()[segment].index.unwrap() as usize + HEAD_BYTES] ^= 1;
    }
    fs::write(directory.join(TRACE_FILE), bytes).unwrap();
}

fn write(directory: &Path) -> IndexOutcome {
    let program = Arc::new(Program::open(directory).unwrap());
    write_index(&program, directory, &|_| {}, &|| false).unwrap()
}

/// Of the sample that is in the repository.
fn copy_of_sample() -> tempfile::TempDir {
    let (from, to) = (sample::directory().unwrap(), tempfile::tempdir().unwrap());
    for file in ["trace.json", "trace.kt", "memory.kt"] {
        fs::copy(from.join(file), to.path().join(file)).unwrap();
    }
    to
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn they_are_the_recorders(setup in setup(), steps in steps(1..300), all: bool, chosen: u64) {
        let recorded = record(setup, &steps);
        let directory = recorded.directory.path();
        let own = indexes(directory);
        let damaged: Vec<usize> = (0..own.len()).filter(|number| all || chosen >> (number % 64) & 1 != 0).collect();
        damage_indexes(directory, damaged.iter().copied());
        let outcome = write(directory);
        prop_assert_eq!((outcome.executed, outcome.kept, outcome.unknown), (damaged.len(), 0, 0));
        let trace = Trace::open(directory).unwrap();
        let file = IndexFile::open(directory, &trace).unwrap();
        for (number, own) in own.iter().enumerate() {
            let expected = damaged.contains(&number).then_some(&own[..]);
            if file.replacement_bytes(number) != expected {
                let index = |bytes: &[u8]| PackedIndex::new(bytes).unwrap().index().unwrap();
                prop_assert_eq!(file.replacement_bytes(number).map(index), expected.map(index), "segment {}", number);
                prop_assert!(false, "the contents of segment {} differ", number);
            }
        }
        let again = write(directory);
        prop_assert_eq!((again.executed, again.kept, again.unknown), (0, damaged.len(), 0));
    }
}

/// The sample's recorder named more lines as read than those of which the trace tells that a load was not foreseen.
#[test]
fn those_of_an_older_recorder_say_no_less_than_they_must() {
    let copy = copy_of_sample();
    let own = indexes(copy.path());
    damage_indexes(copy.path(), 0..own.len());
    assert_eq!(write(copy.path()).executed, own.len());
    let trace = Trace::open(copy.path()).unwrap();
    let file = IndexFile::open(copy.path(), &trace).unwrap();
    for (number, own) in own.iter().enumerate() {
        let (own, made) = (PackedIndex::new(own).unwrap(), file.replacement(number).unwrap());
        assert!(own.contents().unwrap() == made.contents().unwrap(), "segment {number}");
        let (own, made) = (own.index().unwrap(), made.index().unwrap());
        let without_read = |index: &Index| {
            let mut index = index.clone();
            // A page of which lines were only read can be there or not.
            index.pages.retain(|page| page.written != 0);
            index.pages.iter_mut().for_each(|page| page.read = 0);
            index
        };
        assert_eq!(without_read(&made), without_read(&own), "segment {number}");
        let pages: BTreeSet<u64> = own.pages.iter().chain(&made.pages).map(|page| page.page).collect();
        for page in pages {
            let read = |index: &Index| index.page(page).map_or(0, |lines| lines.read);
            let written = made.page(page).map_or(0, |lines| lines.written);
            assert_eq!(read(&made) & !read(&own), 0, "segment {number}, page {page:#x}");
            assert_eq!(read(&own) & !(read(&made) | written), 0, "segment {number}, page {page:#x}");
        }
    }
}

#[test]
fn a_damaged_one_is_not_used() {
    let copy = copy_of_sample();
    let whole = indexes(copy.path());
    damage_indexes(copy.path(), [2, 3]);
    write(copy.path());
    let path = copy.path().join(INDEX_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let trace = Trace::open(copy.path()).unwrap();
    let made = IndexFile::open(copy.path(), &trace).unwrap().replacement_bytes(2).unwrap().to_vec();
    let at = bytes.windows(made.len()).position(|window| window == made).unwrap();
    bytes[at + made.len() / 2] ^= 1;
    fs::write(&path, bytes).unwrap();

    // A word that the segment behind has not touched is looked up in them.
    let program = Arc::new(Program::open(copy.path()).unwrap());
    let segment = program.trace().segments()[4];
    let left = PackedIndex::new(&whole[2]).unwrap().index().unwrap();
    let line = left.pages.iter().find(|page| page.written != 0).unwrap();
    let address = ((line.page << 12) + 64 * u64::from(line.written.trailing_zeros())) as u32;
    let read = |program: &Arc<Program>| {
        let mut recording = Recording::new(Arc::clone(program));
        recording.seek(Position(segment.first)).unwrap();
        let mut bytes = [None; 64];
        recording.read_memory(address, &mut bytes).unwrap();
        bytes
    };
    let bytes = read(&program);
    assert_eq!(bytes, read(&Arc::new(Program::open(&sample::directory().unwrap()).unwrap())));
    assert!(program.executed_instead() > 0, "it was executed");
    let outcome = write(copy.path());
    assert_eq!((outcome.executed, outcome.kept), (1, 1));
    let program = Arc::new(Program::open(copy.path()).unwrap());
    assert_eq!((read(&program), program.executed_instead()), (bytes, 0));
}

#[test]
fn a_segment_of_which_nothing_is_known_has_none() {
    let copy = copy_of_sample();
    damage_indexes(copy.path(), [1, 2, 3, 5]);
    let trace = Trace::open(copy.path()).unwrap();
    let own = indexes(&sample::directory().unwrap());
    let mut bytes = fs::read(copy.path().join(TRACE_FILE)).unwrap();
    bytes[trace.segments()[2].offset as usize + 200] ^= 1;
    fs::write(copy.path().join(TRACE_FILE), bytes).unwrap();
    let outcome = write(copy.path());
    assert_eq!((outcome.executed, outcome.unknown), (3, 1));
    let trace = Trace::open(copy.path()).unwrap();
    let file = IndexFile::open(copy.path(), &trace).unwrap();
    let made = |number: usize| file.replacement(number).map(|packed| packed.index().unwrap());
    assert!(made(2).is_none());
    // What the segments behind it have not touched is not taken from those before.
    let unknown = |index: &Index| -> u32 {
        index.pages.iter().flat_map(|page| &page.known).map(|known| known.count_zeros()).sum()
    };
    let own = |number: usize| PackedIndex::new(&own[number]).unwrap().index().unwrap();
    assert_eq!(unknown(&made(1).unwrap()), unknown(&own(1)));
    assert!(unknown(&made(3).unwrap()) > unknown(&own(3)));
    for number in [3, 5] {
        let (made, own) = (made(number).unwrap(), own(number));
        for page in &own.pages {
            let lines = made.page(page.page).map_or(0, |lines| lines.written);
            assert_eq!(page.written & !lines, 0, "nothing that it wrote is missing");
        }
    }
}

#[test]
fn without_damage_nothing_is_executed_and_interrupted_nothing_is_written() {
    let copy = copy_of_sample();
    let segments = Trace::open(copy.path()).unwrap().segments().to_vec();
    let told = AtomicU64::new(0);
    let program = Arc::new(Program::open(copy.path()).unwrap());
    let tell = |IndexProgress { executed, .. }: IndexProgress| told.store(executed, Ordering::Relaxed);
    let outcome = write_index(&program, copy.path(), &tell, &|| false).unwrap();
    assert_eq!((outcome.executed, told.load(Ordering::Relaxed)), (0, 0));
    let before = fs::read(copy.path().join(INDEX_FILE)).unwrap();

    damage_indexes(copy.path(), 0..segments.len());
    let program = Arc::new(Program::open(copy.path()).unwrap());
    let stop = AtomicBool::new(false);
    let tell_and_stop = |IndexProgress { executed, of }: IndexProgress| {
        assert_eq!(of, segments.iter().map(|segment| segment.instructions).sum::<u64>());
        told.store(executed, Ordering::Relaxed);
        stop.store(executed > 0, Ordering::Relaxed);
    };
    let interrupted = write_index(&program, copy.path(), &tell_and_stop, &|| stop.load(Ordering::Relaxed));
    assert!(matches!(interrupted, Err(IndexError::Cancelled)), "{interrupted:?}");
    assert!((1..program.trace().instructions()).contains(&told.load(Ordering::Relaxed)));
    assert_eq!(fs::read(copy.path().join(INDEX_FILE)).unwrap(), before);
    assert!(!copy.path().join("index.kt.new").exists());
    assert_eq!(write(copy.path()).executed, segments.len());
}

#[test]
fn a_directory_that_cannot_be_written_to_is_told() {
    let copy = copy_of_sample();
    let program = Arc::new(Program::open(copy.path()).unwrap());
    let nowhere = copy.path().join("nowhere");
    let error = write_index(&program, &nowhere, &|_| {}, &|| false).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}
