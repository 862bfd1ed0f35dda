//! The events next to a position: the first ones from it on, and the last ones up to it.
//!
//! Backward, segments are looked through from the latest one on, each from its start to its end: of its events only as many are
//! kept as are still wanted.

use std::collections::VecDeque;
use std::sync::Arc;

use ktrace_format::Position;

use super::stream::{Events, segments_with};
use super::{Event, Kinds};
use crate::program::Program;

/// What a search for events found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundEvents {
    /// In the order in which they happened. A stretch about which nothing is known is one of them.
    pub events: Vec<Event>,
    /// The search was cancelled, and this is where it had got to: between the position where it began and this one it has found
    /// all.
    pub cancelled_at: Option<Position>,
    /// Kinds that were asked for and that the recorder did not see: that there are none of them says nothing.
    pub not_recorded: Kinds,
}

/// The first `count` events of some kinds at positions from `from` on. `cancelled` is asked every 10 ms or so.
pub fn first_events(
    program: &Arc<Program>,
    kinds: Kinds,
    from: Position,
    count: usize,
    cancelled: &mut dyn FnMut() -> bool,
) -> FoundEvents {
    let mut stream = Events::new(Arc::clone(program), kinds, from.0, u64::MAX);
    let not_recorded = kinds.without(program.recorded_kinds());
    let mut found = FoundEvents { not_recorded, ..FoundEvents::default() };
    let mut stopped = false;
    while found.events.len() < count {
        let next = stream.next_unless(&mut || {
            stopped |= cancelled();
            stopped
        });
        match next {
            Some(event) => found.events.push(event),
            None => break,
        }
    }
    found.cancelled_at = stopped.then(|| Position(stream.reached()));
    found
}

/// The last `count` events of some kinds at positions from `from` to `to`, both included. `cancelled` is asked every 10 ms or so.
pub fn last_events(
    program: &Arc<Program>,
    kinds: Kinds,
    from: Position,
    to: Position,
    count: usize,
    cancelled: &mut dyn FnMut() -> bool,
) -> FoundEvents {
    let mut stream = Events::new(Arc::clone(program), kinds, from.0, to.0);
    let mut events = VecDeque::new();
    let mut cancelled_at = None;
    for number in segments_with(program, from.0, to.0).rev() {
        if events.len() == count {
            break;
        }
        let mut stopped = false;
        let mut ask = || {
            stopped |= cancelled();
            stopped
        };
        let room = count - events.len();
        let mut of_segment = VecDeque::new();
        stream.look_through(number..number + 1);
        while let Some(event) = stream.next_unless(&mut ask) {
            if of_segment.len() == room {
                of_segment.pop_front();
            }
            of_segment.push_back(event);
        }
        if stopped {
            let end = program.trace().segments().get(number).map_or(0, |segment| segment.end());
            cancelled_at = Some(Position(end.min(to.0)));
            break;
        }
        while let Some(event) = of_segment.pop_back() {
            events.push_front(event);
        }
    }
    let not_recorded = kinds.without(program.recorded_kinds());
    FoundEvents { events: events.into(), cancelled_at, not_recorded }
}
