//! `monitor events` and `monitor goto-event`: what happened from outside the program, from here on or before.

use ktrace_format::Position;
use ktrace_timeline::events::nearest::FoundEvents;
use ktrace_timeline::events::{Event, Kind, Kinds};

use super::{LINES_SHOWN, when};
use crate::resume::Direction;
use crate::target::Guest;

/// Events that are shown where no number is given.
const EVENTS_SHOWN: usize = 10;

/// What a client asks for, in any order of the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    kinds: Kinds,
    count: usize,
    direction: Direction,
}

impl Wanted {
    fn parse<'a>(words: impl Iterator<Item = &'a str>, countable: bool) -> Result<Wanted, String> {
        let (mut kind, mut count, mut direction) = (None, None, Direction::Forward);
        for word in words {
            if word == "back" && direction == Direction::Forward {
                direction = Direction::Backward;
            } else if let Some(named) = Kind::with_name(word).filter(|_| kind.is_none()) {
                kind = Some(named);
            } else if let Some(number) = word
                .parse()
                .ok()
                .filter(|number| (1..=LINES_SHOWN).contains(number) && count.is_none() && countable)
            {
                count = Some(number);
            } else {
                let number = format!(", no number of events (1 to {LINES_SHOWN})");
                return Err(format!(
                    "`{word}` is no kind of event (irq, exception, dma, io, gap){} and not `back`, or there are two\n",
                    if countable { &number } else { "" }
                ));
            }
        }
        Ok(Wanted {
            kinds: kind.map_or(Kinds::ALL, |kind| Kinds::from_iter([kind])),
            count: count.unwrap_or(EVENTS_SHOWN),
            direction,
        })
    }

    /// Events from `here` on, or before it.
    fn find(
        self,
        guest: &Guest,
        here: Position,
        count: usize,
        cancelled: &mut dyn FnMut() -> bool,
    ) -> FoundEvents {
        match (self.direction, here.0.checked_sub(1)) {
            (Direction::Forward, _) => guest.replay.first_events(self.kinds, here, count, cancelled),
            (Direction::Backward, Some(before)) => {
                guest.replay.last_events(self.kinds, Position(before), count, cancelled)
            }
            (Direction::Backward, None) => FoundEvents::default(),
        }
    }

    /// The end of the recording that a search without a hit has come to.
    fn as_far_as(self) -> &'static str {
        match self.direction {
            Direction::Forward => "to the end of the recording",
            Direction::Backward => "back to its start",
        }
    }
}

fn line(event: &Event) -> String {
    let kind = event.kind().map_or("unknown", Kind::name);
    format!("{:>14}  {kind:<9}  {event}\n", event.position())
}

/// What the recorder did not see; nothing, if it saw all that was asked for.
fn not_recorded(found: &FoundEvents) -> String {
    if found.not_recorded.is_empty() {
        String::new()
    } else {
        format!("not recorded here, so that nothing is known of them: {}\n", found.not_recorded)
    }
}

/// Lists events in the order in which they happened.
pub(super) fn list<'a>(
    guest: &Guest,
    words: impl Iterator<Item = &'a str>,
    cancelled: &mut dyn FnMut() -> bool,
) -> String {
    let wanted = match Wanted::parse(words, true) {
        Ok(wanted) => wanted,
        Err(reason) => return reason,
    };
    let found = wanted.find(guest, guest.replay.position(), wanted.count, cancelled);
    let mut text: String = found.events.iter().map(line).collect();
    text += &not_recorded(&found);
    match (found.cancelled_at, wanted.direction) {
        (Some(position), Direction::Forward) => {
            text += &format!("interrupted at position {position}: there may be more from there on\n");
        }
        (Some(position), Direction::Backward) => {
            text += &format!("interrupted at position {position}: there may be more before\n");
        }
        (None, _) if found.events.is_empty() && found.not_recorded != wanted.kinds => {
            text += &format!("none from here {}\n", wanted.as_far_as());
        }
        (None, _) => {}
    }
    text
}

/// Goes to the nearest event in one direction. Where nothing is known on the way, that is told.
pub(super) fn go_to<'a>(
    guest: &mut Guest,
    words: impl Iterator<Item = &'a str>,
    cancelled: &mut dyn FnMut() -> bool,
) -> String {
    let wanted = match Wanted::parse(words, false) {
        Ok(wanted) => wanted,
        Err(reason) => return reason,
    };
    // What happens here has been gone to already.
    let here = guest.replay.position();
    let start = if wanted.direction == Direction::Forward { Position(here.0 + 1) } else { here };
    let mut count = 1;
    let found = loop {
        let found = wanted.find(guest, start, count, cancelled);
        let known = found.events.iter().any(|event| event.kind().is_some());
        if known || found.events.len() < count || found.cancelled_at.is_some() {
            break found;
        }
        // All that is near is not known: what is behind?
        count *= 2;
    };
    let mut nearest = found.events.iter().filter(|event| event.kind().is_some());
    let nearest = match wanted.direction {
        Direction::Forward => nearest.next(),
        Direction::Backward => nearest.next_back(),
    };
    let Some(nearest) = nearest else {
        let mut text: String = found.events.iter().map(line).collect();
        text += &not_recorded(&found);
        text += &match found.cancelled_at {
            Some(position) => {
                format!("not moved: interrupted at position {position}, there is none up to there\n")
            }
            None if found.not_recorded == wanted.kinds => "not moved\n".to_owned(),
            None => format!("not moved: there is none from here {}\n", wanted.as_far_as()),
        };
        return text;
    };
    let passed = found.events.iter().filter(|event| {
        event.kind().is_none()
            && (event.position() < nearest.position()) == (wanted.direction == Direction::Forward)
    });
    if let Err(reason) = guest.replay.seek(Position(nearest.position())) {
        return format!("not moved: {reason}\n");
    }
    let on_the_way: String = passed.map(line).collect();
    // The position comes first, for scripts.
    format!("{}{}{on_the_way}", when(guest), line(nearest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::execute;
    use crate::recording::SyntheticRecording;

    fn ask(guest: &mut Guest, command: &str) -> String {
        execute(guest, command, &mut || false)
    }

    fn lines(guest: &mut Guest, command: &str) -> Vec<String> {
        ask(guest, command).lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_search_for_events_can_be_interrupted() {
        for (command, at, words) in [
            ("events io", 5, "interrupted at position 2004: there may be more from there on"),
            ("events io back", 1 << 30, "interrupted at position 1073739824: there may be more before"),
            ("goto-event io", 4, "not moved: interrupted at position 2004, there is none up to there"),
        ] {
            let mut guest = Guest::new(Box::new(SyntheticRecording::endless()));
            guest.replay.seek(Position(at)).expect("in the recording");
            let mut questions = 0;
            let text = execute(&mut guest, command, &mut || {
                questions += 1;
                questions == 1000
            });
            assert_eq!(questions, 1000);
            assert!(text.contains("interrupted at position"), "{command}: {text}");
            assert_eq!(text.trim_end(), words);
            assert_eq!(guest.replay.position(), Position(at));
        }
    }

    #[test]
    fn events_are_told_from_here_on_and_before() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        let all = lines(&mut guest, "events");
        assert_eq!(all.len(), EVENTS_SHOWN);
        assert_eq!(all[0], "             0  irq        IRQ, before 0x00008008, to 0x00000018");
        assert_eq!(all[1], "             2  dma        2 bytes to physical 0x40000000");
        assert_eq!(lines(&mut guest, "events 3"), all[..3]);
        assert_eq!(lines(&mut guest, "events 1000").len(), 14, "up to the end");
        assert_eq!(ask(&mut guest, "events back"), "none from here back to its start\n");
        ask(&mut guest, "goto 4");
        assert_eq!(lines(&mut guest, "events irq 2"), [&all[2][..], &all[4]]);
        assert_eq!(lines(&mut guest, "events dma 1"), [&all[3][..]]);
        assert_eq!(lines(&mut guest, "events back"), all[..2], "not what happens here");
        assert_eq!(lines(&mut guest, "events 1 back irq"), [&all[0][..]]);
        assert_eq!(guest.replay.position(), Position(4), "it only looks");
        assert_eq!(ask(&mut guest, "events io"), "none from here to the end of the recording\n");
    }

    #[test]
    fn one_goes_from_event_to_event() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        for (command, position) in [
            ("goto-event irq", 4),
            ("goto-event irq", 8),
            ("goto-event", 10),
            ("goto-event irq back", 8),
            ("goto-event back", 6),
            ("goto-event back dma", 2),
        ] {
            let told = lines(&mut guest, command);
            assert!(told[0].starts_with(&format!("{position} of 26, pc 0x")), "{command}: {told:?}");
            assert!(told[1].trim_start().starts_with(&format!("{position}  ")), "{command}: {told:?}");
            assert_eq!((guest.replay.position(), told.len()), (Position(position), 2), "{command}");
        }
        assert_eq!(
            ask(&mut guest, "goto-event io"),
            "not moved: there is none from here to the end of the recording\n"
        );
        assert_eq!(
            ask(&mut guest, "goto-event io back"),
            "not moved: there is none from here back to its start\n"
        );
        assert_eq!(guest.replay.position(), Position(2));
    }

    /// What can't be told is no event to go to, and is not passed over in silence.
    #[test]
    fn what_is_not_known_on_the_way_is_told() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short().without_events(5..17)));
        for (from, command, position) in [(4, "goto-event irq", 20), (18, "goto-event irq back", 4)] {
            guest.replay.seek(Position(from)).expect("in the recording");
            let told = lines(&mut guest, command);
            assert!(told[0].starts_with(&format!("{position} of 26")), "{command}: {told:?}");
            assert!(told[2].contains("nothing is known up to position 17: lost"), "{command}: {told:?}");
        }
        guest.replay.seek(Position(4)).expect("in the recording");
        let told = ask(&mut guest, "goto-event io");
        assert!(
            told.contains("nothing is known up to position 17: lost\nnot moved: there is none"),
            "{told}"
        );
    }

    #[test]
    fn what_was_not_recorded_is_not_said_to_be_missing() {
        let mut guest =
            Guest::new(Box::new(SyntheticRecording::short().without_kinds(&[Kind::Io, Kind::Gap])));
        let not_known = "not recorded here, so that nothing is known of them: ";
        assert_eq!(ask(&mut guest, "events io"), format!("{not_known}accesses to devices\n"));
        assert_eq!(ask(&mut guest, "goto-event io"), format!("{not_known}accesses to devices\nnot moved\n"));
        let told = ask(&mut guest, "events 2");
        assert!(told.ends_with(&format!("\n{not_known}accesses to devices and gaps\n")), "{told}");
        assert_eq!(told.lines().count(), 3);
    }

    #[test]
    fn words_that_mean_nothing_are_named() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        for (command, word) in [
            ("events never", "never"),
            ("events irq 0", "0"),
            ("events irq 1001", "1001"),
            ("events irq 1 1", "1"),
            ("events irq dma", "dma"),
            ("events back back", "back"),
            ("goto-event 3", "3"),
        ] {
            let answer = ask(&mut guest, command);
            assert!(
                answer.starts_with(&format!("`{word}` is no kind of event (irq, ")),
                "{command}: {answer}"
            );
            let countable = command.starts_with("events");
            assert_eq!(answer.contains("no number of events (1 to 1000)"), countable, "{answer}");
        }
        assert_eq!(guest.replay.position(), Position(0));
    }
}
