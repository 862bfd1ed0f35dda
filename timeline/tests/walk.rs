//! Walks through the sample trace, against the cursor that `ktreplay` uses.

use std::path::PathBuf;
use std::sync::Arc;

use ktrace_format::Position;
use ktrace_machine::KnownRegisters;
use ktrace_timeline::walk::{Event, Instruction, Walk};
use ktrace_timeline::{Program, Recording, Replay, sample};

fn directory() -> PathBuf {
    sample::directory().expect("tests/samples/arm-u-boot is in the repository")
}

fn instructions(program: &Arc<Program>, from: u64, count: usize) -> Vec<Instruction> {
    let walk = Walk::new(Arc::clone(program), from).take(count);
    walk.map(|event| match event {
        Event::Instruction(instruction) => instruction,
        other => panic!("{other:?}"),
    })
    .collect()
}

/// Where to look: the start, the end, and around the borders of segments.
fn places(program: &Program) -> Vec<u64> {
    let segments = program.trace().segments();
    assert!(segments.len() > 2, "the sample is too short to test anything");
    let borders = segments.iter().skip(1).map(|segment| segment.first - 20);
    [0, 1, program.trace().instructions() - 40].into_iter().chain(borders).collect()
}

#[test]
fn a_walk_sees_what_a_cursor_sees() {
    let program = Arc::new(Program::open(&directory()).unwrap());
    let mut cursor = Recording::new(Arc::clone(&program));
    for from in places(&program) {
        let walked = instructions(&program, from, 40);
        assert_eq!(walked.len(), 40);
        for (position, instruction) in (from..).zip(&walked) {
            assert_eq!(instruction.position, position);
            cursor.seek(Position(position)).unwrap();
            let before = cursor.registers().unwrap();
            assert_eq!(before, instruction.before.iter().collect::<Vec<_>>(), "before position {position}");
            assert_eq!(Some(instruction.address), instruction.before.get(15));
            let mut code = vec![None; instruction.code().len()];
            cursor.read_memory(instruction.address, &mut code).unwrap();
            let expected: Vec<_> = instruction.code().iter().copied().map(Some).collect();
            assert_eq!(code, expected, "code at position {position}");
            cursor.seek(Position(position + 1)).unwrap();
            let after: Vec<_> = instruction.after.iter().flat_map(KnownRegisters::iter).collect();
            assert_eq!(cursor.registers().unwrap(), after, "after position {position}");
        }
    }
}

#[test]
fn what_an_instruction_accessed_is_in_memory_after_it() {
    let program = Arc::new(Program::open(&directory()).unwrap());
    let mut cursor = Recording::new(Arc::clone(&program));
    let (mut loads, mut stores) = (0, 0);
    for from in places(&program) {
        for instruction in instructions(&program, from, 40) {
            cursor.seek(Position(instruction.position + 1)).unwrap();
            for access in instruction.accesses.iter().filter(|access| access.device.is_none()) {
                let mut memory = vec![None; usize::from(access.bytes)];
                cursor.read_memory(access.address, &mut memory).unwrap();
                let expected: Vec<_> =
                    access.value.to_le_bytes().iter().copied().take(memory.len()).map(Some).collect();
                assert_eq!(memory, expected, "{access:x?} at position {}", instruction.position);
                *(if access.store { &mut stores } else { &mut loads }) += 1;
            }
        }
    }
    assert!(loads > 20 && stores > 20, "{loads} loads and {stores} stores prove little");
}

#[test]
fn a_walk_ends_at_the_end() {
    let program = Arc::new(Program::open(&directory()).unwrap());
    let end = program.trace().instructions();
    assert_eq!(Walk::new(Arc::clone(&program), end - 3).count(), 3);
    assert_eq!(Walk::new(Arc::clone(&program), end).count(), 0);
    assert_eq!(Walk::new(program, u64::MAX).count(), 0);
}

#[test]
fn a_walk_says_what_it_does_not_know_and_goes_on_behind_it() {
    let scratch = std::env::temp_dir().join(format!("ktracer-walk-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    let mut bytes = std::fs::read(directory().join("trace.kt")).unwrap();
    let damaged = Program::open(&directory()).unwrap().trace().segments()[1];
    bytes[damaged.offset as usize + 100] ^= 4;
    std::fs::write(scratch.join("trace.kt"), bytes).unwrap();
    let program = Arc::new(Program::open(&scratch).unwrap());
    let mut walk = Walk::new(Arc::clone(&program), damaged.first - 2);
    let mut next = || match walk.next() {
        Some(Event::Instruction(instruction)) => (instruction.position, instruction.position + 1),
        Some(Event::Unknown(unknown)) => (unknown.from, unknown.to),
        other => panic!("{other:?}"),
    };
    let (first, end) = (damaged.first, damaged.end());
    assert_eq!([next(), next()], [(first - 2, first - 1), (first - 1, first)]);
    assert_eq!([next(), next()], [(first, end), (end, end + 1)]);
    std::fs::remove_dir_all(scratch).unwrap();
}

#[test]
fn every_known_byte_has_a_provenance_and_no_other_has() {
    use ktrace_format::Position;
    use ktrace_timeline::provenance::Provenance;
    use ktrace_timeline::{Recording, Replay};
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/samples/arm-u-boot");
    let mut recording = Recording::open(&directory).unwrap();
    let end = recording.end().0;
    let (mut stored, mut loaded, mut left, mut initial) = (0, 0, 0, 0);
    for position in [0, 1, end / 3, end / 2, end] {
        recording.seek(Position(position)).unwrap();
        let stack = recording.registers().unwrap()[13].unwrap_or_default();
        for (address, length) in [(0, 0x4000), (stack, 0x800)] {
            let mut bytes = vec![None; length];
            let mut provenances = vec![Provenance::Initial; length];
            recording.read_memory(address, &mut bytes).unwrap();
            recording.provenance(address, &mut provenances).unwrap();
            for (number, (byte, provenance)) in bytes.into_iter().zip(provenances).enumerate() {
                assert_eq!(
                    byte.is_none(),
                    provenance == Provenance::Unknown,
                    "{position} {address:#x} + {number:#x} {provenance:?}"
                );
                match provenance {
                    Provenance::Store { at } => stored += u32::from(at < position),
                    Provenance::Load { at } => loaded += u32::from(at < position),
                    Provenance::LeftBy { by, device } => left += u32::from(by <= position && !device),
                    Provenance::Device { .. } => panic!("a stock QEMU tells nothing of devices' writes"),
                    Provenance::Initial => initial += 1,
                    Provenance::Executing | Provenance::Unknown => {}
                }
            }
        }
    }
    assert!(stored > 0 && left > 0 && initial > 0, "{stored} {loaded} {left} {initial}");
}
