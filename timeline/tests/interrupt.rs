//! Every search ends when it is cancelled, and tells a position behind which nothing was missed, on the sample trace. How soon it
//! ends is measured by `benches/time-travel.sh`.

use std::ops::ControlFlow;
use std::sync::Arc;

use ktrace_format::Position;
use ktrace_timeline::events::nearest::{first_events, last_events};
use ktrace_timeline::events::{Kind, Kinds};
use ktrace_timeline::search::calls::calls;
use ktrace_timeline::search::list::{Ended, Query, list};
use ktrace_timeline::search::registers::{Question, last_write};
use ktrace_timeline::search::{AddressSpace, Condition, MemoryRange, Watched, Watchpoint};
use ktrace_timeline::{Program, Recording, Replay, Stop, StopAt, sample};

fn program() -> Arc<Program> {
    Arc::new(Program::open(&sample::directory().unwrap()).unwrap())
}

/// Cancels a search when it asks for the n-th time.
fn cancel_at(nth: usize) -> impl FnMut() -> bool {
    let mut asked = 0;
    move || {
        asked += 1;
        asked >= nth
    }
}

/// An instruction that runs often.
fn often(program: &Arc<Program>) -> u32 {
    let mut recording = Recording::new(Arc::clone(program));
    recording.seek(Position(recording.end().0 / 2)).unwrap();
    recording.registers().unwrap()[15].unwrap()
}

#[test]
fn runs_stop_where_nothing_was_missed() {
    let program = program();
    let end = program.trace().instructions();
    // A word that nothing writes, and a condition that never holds.
    let range = MemoryRange::new(AddressSpace::Physical, 0x5000_0000, 4).unwrap();
    let watch =
        StopAt { watchpoints: vec![Watchpoint { range, watched: Watched::Write }], ..StopAt::default() };
    let condition = StopAt {
        addresses: vec![often(&program)],
        condition: Some(Condition::new(|_| false)),
        ..StopAt::default()
    };
    for stop in [&watch, &condition] {
        for nth in [1, 2, 3] {
            let mut recording = Recording::new(Arc::clone(&program));
            let stopped = recording.run_forward(stop, &mut cancel_at(nth)).unwrap();
            assert!(stopped == Stop::Cancelled || nth > 1 && stopped == Stop::End, "{stopped:?}");
            assert!(recording.registers().unwrap()[15].is_some());
            recording.seek(Position(end)).unwrap();
            let stopped = recording.run_backward(stop, &mut cancel_at(nth)).unwrap();
            assert!(stopped == Stop::Cancelled || nth > 1 && stopped == Stop::Start, "{stopped:?}");
            assert!(nth > 1 || recording.position().0 > 0);
        }
    }
}

/// How far a run gets until it is cancelled depends on the machine's load; that it never passes a hit does not.
#[test]
fn a_run_that_is_cancelled_and_repeated_misses_no_hit() {
    let program = program();
    let end = Position(program.trace().instructions());
    // What the registers hold at the last run of an instruction that runs often: a condition that holds late, for the first time.
    let mut recording = Recording::new(Arc::clone(&program));
    let mut stop = StopAt { addresses: vec![often(&program)], ..StopAt::default() };
    recording.seek(end).unwrap();
    assert_eq!(recording.run_backward(&stop, &mut || false).unwrap(), Stop::Address);
    let late = recording.registers().unwrap().to_vec();
    stop.condition = Some(Condition::new(move |moment| {
        late.iter().zip(0..).all(|(value, register)| moment.register(register) == *value)
    }));
    recording.seek(Position(0)).unwrap();
    assert_eq!(recording.run_forward(&stop, &mut || false).unwrap(), Stop::Address);
    let first = recording.position();
    assert!(first.0 > 0);

    recording.seek(Position(0)).unwrap();
    let (mut nth, mut before) = (1, Position(0));
    while recording.run_forward(&stop, &mut cancel_at(nth)).unwrap() == Stop::Cancelled {
        assert!(
            before <= recording.position() && recording.position() <= first,
            "{:?}",
            recording.position()
        );
        (nth, before) = (2 * nth, recording.position());
    }
    assert_eq!(recording.position(), first);
    assert!(nth > 1);
}

#[test]
fn a_registers_writer_is_told_or_how_far_it_was_looked_for() {
    let program = program();
    let end = program.trace().instructions();
    for (register, question) in [(4, Question::Write), (16, Question::Change)] {
        let whole = last_write(&program, register, end, question, &mut || false);
        assert!(whole.cancelled_at.is_none());
        let cancelled = last_write(&program, register, end, question, &mut || true);
        assert_eq!(cancelled.cancelled_at, Some(Position(end)), "{cancelled:?}");
        assert!(cancelled.certain.is_none());
    }
}

#[test]
fn a_list_has_all_that_is_before_the_position() {
    let program = program();
    let end = program.trace().instructions();
    let query = Query { addresses: vec![often(&program)], ..Query::default() };
    let mut all = Vec::new();
    let mut tell = |hit: ktrace_timeline::search::list::Hit| {
        all.push(hit.position());
        ControlFlow::Continue(())
    };
    assert_eq!(list(&program, &query, 0, end, &mut || false, &mut tell).unwrap(), Ended::Finished);
    let mut told = Vec::new();
    let ended = list(&program, &query, 0, end, &mut cancel_at(4), &mut |hit| {
        told.push(hit.position());
        ControlFlow::Continue(())
    });
    let Ok(Ended::Cancelled { position }) = ended else { panic!("{ended:?}") };
    let before: Vec<u64> = all.into_iter().filter(|here| *here < position).collect();
    assert_eq!(told, before);
}

#[test]
fn calls_and_events_end() {
    let program = program();
    let end = program.trace().instructions();
    let entry = often(&program);
    let at = calls(&program, &[entry], 0, end, &mut cancel_at(2), &mut |_| ControlFlow::Continue(()));
    assert!(at.is_some_and(|at| at.0 <= end), "{at:?}");
    let kinds = Kinds::from_iter([Kind::Gap]);
    let first = first_events(&program, kinds, Position(0), 10, &mut || true);
    assert_eq!((first.events.len(), first.cancelled_at), (0, Some(Position(0))));
    let last = last_events(&program, kinds, Position(0), Position(end), 10, &mut || true);
    assert!(last.events.is_empty() && last.cancelled_at.is_some(), "{last:?}");
}
