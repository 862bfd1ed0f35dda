//! A MIPS guest that is made by hand, in both byte orders: what each of its positions shows is written down.

#[path = "support/mips.rs"]
mod guest;

use std::sync::Arc;

use guest::{
    ADDRESS_ERROR, DATA, DATA_ADDRESS, FAULT, LOOP, LOOP_POSITION, MAPPED, OTHER_SPACE, REMAPPED,
    SECOND_SEGMENT, TURNS, record,
};
use ktrace_format::Position;
use ktrace_format::header::ByteOrder::{self, Big, Little};
use ktrace_timeline::events::{Cause, Discontinuity, Event, Kinds};
use ktrace_timeline::walk::{self, Walk};
use ktrace_timeline::{Program, Recording, Replay, Stop, StopAt, verify};

#[test]
fn every_position_shows_what_the_guest_did() {
    for order in [Little, Big] {
        let directory = tempfile::tempdir().unwrap();
        let states = record(directory.path(), order);
        let program = Arc::new(Program::open(directory.path()).unwrap());
        let report = verify::verify(&program, &|_| (), &|| false);
        assert!(report.is_complete(), "{order:?}: {report:?}");
        assert_eq!(report.proved, LOOP_POSITION + 3 * TURNS);
        let mut recording = Recording::new(Arc::clone(&program));
        for position in (0..states.len()).chain((0..states.len()).rev()) {
            recording.seek(Position(position as u64)).unwrap();
            assert_eq!(recording.registers().unwrap(), states[position], "{order:?} at {position}");
        }
        // A walk that steps one by one sees the same.
        for event in Walk::new(program, 0) {
            if let walk::Event::Instruction(instruction) = event {
                let position = instruction.position as usize;
                let before: Vec<_> = instruction.before.iter().collect();
                assert_eq!(before, states[position]);
                let after = instruction.after.map(|after| after.iter().collect::<Vec<_>>());
                // At a segment's border the next one's keyframe knows Cause, but that is no more the instruction's result.
                let knows = |after: &Vec<Option<u32>>| *after == states[position + 1] || position == 14;
                assert!(after.is_none_or(|after| knows(&after)), "{order:?} at {position}");
            }
        }
    }
}

/// Reads eight bytes of memory at a position and an address of a recording.
fn reader(order: ByteOrder) -> impl FnMut(u64, u32) -> [Option<u8>; 8] {
    let directory = tempfile::tempdir().unwrap();
    record(directory.path(), order);
    let mut recording = Recording::open(directory.path()).unwrap();
    move |position, address| {
        // The files stay as long as they are read.
        let _ = &directory;
        let mut bytes = [None; 8];
        recording.seek(Position(position)).unwrap();
        recording.read_memory(address, &mut bytes).unwrap();
        bytes
    }
}

#[test]
fn memory_is_shown_through_the_fixed_segments() {
    for order in [Little, Big] {
        let mut read = reader(order);
        // kseg0 and kseg1, before any access; kuseg says nothing.
        assert_eq!(read(0, DATA_ADDRESS), DATA.map(Some));
        assert_eq!(read(0, DATA_ADDRESS | 0x2000_0000), DATA.map(Some));
        assert_eq!(read(0, DATA_ADDRESS & 0x1fff_ffff), [None; 8]);
        let stored = match order {
            Little => [0x77, 0x88, 0, 0, 0x55, 0x66, 0x77, 0x88],
            Big => [0, 0x22, 0x33, 0x44, 0x55, 0, 0, 0],
        };
        for position in [12, FAULT, LOOP_POSITION + 3 * TURNS] {
            assert_eq!(read(position, 0xa000_2008), stored.map(Some), "{order:?} at {position}");
        }
        assert_eq!(read(9, 0xa000_2008), [Some(0); 8]);
    }
}

#[test]
fn memory_is_shown_through_the_tlb_where_it_is_known() {
    for order in [Little, Big] {
        let mut read = reader(order);
        let (unknown, data) = ([None; 8], DATA.map(Some));
        let end = LOOP_POSITION + 3 * TURNS;
        for (position, expected) in [
            (0, [unknown, unknown]),
            (SECOND_SEGMENT - 1, [unknown, unknown]),
            (SECOND_SEGMENT, [data, [Some(0); 8]]),
            (OTHER_SPACE - 1, [data, [Some(0); 8]]),
            (OTHER_SPACE, [unknown, unknown]),
            (REMAPPED - 1, [unknown, unknown]),
            (REMAPPED, [[Some(0); 8], data]),
            (end, [[Some(0); 8], data]),
            (FAULT, [data, [Some(0); 8]]),
        ] {
            let shown = [read(position, MAPPED), read(position, MAPPED + 0x1000)];
            assert_eq!(shown, expected, "{order:?} at {position}");
            assert_eq!(read(position, MAPPED + 0x2000), unknown);
            assert_eq!(read(position, DATA_ADDRESS), data);
        }
    }
}

#[test]
fn the_exception_in_the_slot_is_told() {
    let directory = tempfile::tempdir().unwrap();
    record(directory.path(), Big);
    let recording = Recording::open(directory.path()).unwrap();
    let expected = Event::Discontinuity(Discontinuity {
        position: FAULT + 1,
        cause: Cause::new(recording.program().instruction_set(), ADDRESS_ERROR),
        raised_by: Some(FAULT),
        pc: Some(0x8000_106c),
        to: Some(0x8000_0180),
    });
    assert_eq!(
        recording.events(Kinds::ALL, &mut || false).collect::<Vec<_>>(),
        std::slice::from_ref(&expected)
    );
    assert!(
        expected.to_string().starts_with("address error on a load or fetch, by 0x8000106c"),
        "{expected}"
    );
}

#[test]
fn breakpoints_are_found_in_both_directions() {
    let directory = tempfile::tempdir().unwrap();
    record(directory.path(), Little);
    let mut recording = Recording::open(directory.path()).unwrap();
    let stop = StopAt { addresses: vec![LOOP], ..StopAt::default() };
    for turn in 0..TURNS {
        assert_eq!(recording.run_forward(&stop, &mut || false).unwrap(), Stop::Address);
        assert_eq!(recording.position(), Position(LOOP_POSITION + 3 * turn));
    }
    // The slot that is a block of its own.
    let slot = StopAt { addresses: vec![0x8000_103c], ..StopAt::default() };
    assert_eq!(recording.run_backward(&slot, &mut || false).unwrap(), Stop::Address);
    assert_eq!(recording.position(), Position(12));
}
