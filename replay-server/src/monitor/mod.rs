//! gdb's `monitor` commands: where in time are we, go elsewhere, what is recorded.

mod events;

use std::fmt::Write;

use crate::target::Guest;
use ktrace_timeline::destination::{Destination, parse_number};
use ktrace_timeline::guest_address;
use ktrace_timeline::provenance::{Provenance, runs};

/// Events, and lines of provenance, that are shown at most: gdb waits for them.
const LINES_SHOWN: usize = 1000;
/// Bytes whose provenance can be asked for at once.
const PROVENANCE_LIMIT: u32 = 1 << 16;

const HELP: &str = "\
monitor when        the position: instructions since the start of the recording
monitor goto N      go to position N; also N% of the recording, +N or -N
                    instructions from here, start, end
monitor info        what is recorded
monitor events [irq|exception|dma|io|gap] [N] [back]
                    the next N (10) events of a kind, or of all, from here on:
                    interrupts, exceptions, writes of devices to memory,
                    accesses of the program to devices; back: the last N before
monitor goto-event [irq|exception|dma|io|gap] [back]
                    go to the next event of a kind, or of any; back: to the
                    one before
monitor provenance ADDR [LEN]
                    where the bytes of memory at a virtual address come from:
                    the instruction that stored them, a device, ...
monitor help        this text

Ctrl-C ends a command that takes long, and it says how far it has come.
gdb does not notice a `monitor goto`: type `maintenance flush register-cache`
afterwards, or `source gdb-scripts/ktreplay.py` once and use `kt goto`, which
shows the new place at once. The position is also the register $ktpos.
gdb's watch, rwatch and awatch work forward and backward: `watch` something and
`reverse-continue` to find who wrote it.
";

/// Carries out a command and returns what to print: lines that end in a newline. A long one ends early, and says so, when
/// `cancelled` returns true.
pub fn execute(guest: &mut Guest, command: &str, cancelled: &mut dyn FnMut() -> bool) -> String {
    let mut words = command.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("when"), None, _) => when(guest),
        (Some("goto"), Some(destination), None) => goto(guest, destination),
        (Some("goto"), None, _) => {
            "monitor goto needs a position, for example `monitor goto 50%`\n".to_owned()
        }
        (Some("info"), None, _) => format!("{}\nposition {}", guest.replay.summary().trim_end(), when(guest)),
        (Some("events"), one, two) => events::list(guest, one.into_iter().chain(two).chain(words), cancelled),
        (Some("goto-event"), one, two) => {
            events::go_to(guest, one.into_iter().chain(two).chain(words), cancelled)
        }
        (Some("provenance"), Some(address), length) if words.next().is_none() => {
            provenance(guest, address, length)
        }
        (Some("provenance"), None, _) => {
            "monitor provenance needs an address, for example `monitor provenance 0x40001000 16`\n".to_owned()
        }
        (Some("help"), ..) | (None, ..) => HELP.to_owned(),
        _ => format!("unknown command `{}`; `monitor help` lists them\n", command.trim()),
    }
}

fn goto(guest: &mut Guest, destination: &str) -> String {
    let found = Destination::find(destination, guest.replay.position(), guest.replay.end());
    let sought = match found {
        Ok(position) => guest.replay.seek(position).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match sought {
        Ok(()) => when(guest),
        Err(reason) => format!("not moved: {reason}\n"),
    }
}

/// Where memory comes from: a line for each run of bytes with the same provenance.
fn provenance(guest: &mut Guest, address: &str, length: Option<&str>) -> String {
    let Some(start) = number(address) else { return format!("`{address}` is no 32-bit address\n") };
    let length = match length.map(|length| (length, number(length))) {
        None => 1,
        Some((_, Some(length))) if (1..=PROVENANCE_LIMIT).contains(&length) => length,
        Some((text, _)) => return format!("`{text}` is no length from 1 to {PROVENANCE_LIMIT}\n"),
    };
    // The address space ends; this does not go on at its start.
    let length = u64::from(length).min((1 << 32) - u64::from(start)) as usize;
    let mut bytes = vec![Provenance::Unknown; length];
    if let Err(error) = guest.replay.provenance(start, &mut bytes) {
        return format!("not known: {error}\n");
    }
    let mut text = String::new();
    for (shown, (range, provenance)) in runs(&bytes).enumerate() {
        if shown == LINES_SHOWN {
            text += &format!("and more from {:#010x} on\n", start + range.start as u32);
            break;
        }
        let (first, last) = (start + range.start as u32, start + (range.end - 1) as u32);
        text += &format!("{first:#010x}-{last:#010x}  {provenance}\n");
    }
    text
}

/// An address or another number of 32 bits: hexadecimal with 0x, else decimal.
fn number(text: &str) -> Option<u32> {
    parse_number(text).and_then(guest_address)
}

/// The position first, so that a script need only read a number.
fn when(guest: &mut Guest) -> String {
    let (here, end) = (guest.replay.position(), guest.replay.end());
    let mut text = format!("{here} of {end}");
    // Writing to a String can't fail.
    let _ = match guest.replay.registers().map(|core| guest.program_counter_of(&core)) {
        Err(reason) => write!(text, ", registers unknown: {reason}"),
        Ok(None) => write!(text, ", pc unknown"),
        Ok(Some(address)) => write!(text, ", pc {address:#010x}"),
    };
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execute(guest: &mut Guest, command: &str) -> String {
        super::execute(guest, command, &mut || false)
    }

    use crate::recording::SyntheticRecording;
    use ktrace_format::Position;

    #[test]
    fn goto_moves_and_when_says_where() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        assert_eq!(execute(&mut guest, "when"), "0 of 26, pc 0x00008000\n");
        for (command, position) in [
            ("goto 3", 3),
            ("goto +2", 5),
            ("goto -1", 4),
            ("goto 50%", 13),
            ("goto end", 26),
            (" goto  start ", 0),
        ] {
            let answer = execute(&mut guest, command);
            assert!(answer.starts_with(&format!("{position} of 26, pc 0x")), "{command}: {answer}");
            assert_eq!(guest.replay.position(), Position(position), "{command}");
        }
    }

    #[test]
    fn what_can_not_be_done_is_explained_and_nothing_moves() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        for (command, words) in [
            ("goto", "needs a position"),
            ("goto 27", "positions are 0 to 26"),
            ("goto -1", "out of the recording"),
            ("goto somewhere", "is no position"),
            ("goto 1 2", "unknown command"),
            ("provenance", "needs an address"),
            ("provenance here", "`here` is no 32-bit address"),
            ("provenance 0x100000000", "no 32-bit address"),
            ("provenance 0 0", "`0` is no length from 1 to 65536"),
            ("provenance 0 0x10001", "no length"),
            ("provenance 0 1 1", "unknown command"),
            ("dance", "unknown command `dance`; `monitor help`"),
        ] {
            let answer = execute(&mut guest, command);
            assert!(answer.contains(words), "{command}: {answer}");
            assert_eq!(guest.replay.position(), Position(0), "{command}");
        }
    }

    #[test]
    fn provenance_is_told_by_runs() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        assert_eq!(execute(&mut guest, "provenance 0x9000 4"), "0x00009000-0x00009003  not known\n");
        execute(&mut guest, "goto 9");
        assert_eq!(
            execute(&mut guest, "provenance 0x8ffe 8"),
            "0x00008ffe-0x00008fff  not known\n\
             0x00009000-0x00009003  stored by the instruction at position 7\n\
             0x00009004-0x00009005  not known\n"
        );
        assert_eq!(
            execute(&mut guest, "provenance 32768"),
            "0x00008000-0x00008000  from the initial memory\n"
        );
        let end = execute(&mut guest, "provenance 0xfffffffe 0x10000");
        assert_eq!(end, "0xfffffffe-0xffffffff  from the initial memory\n", "it does not wrap around");
    }

    #[test]
    fn info_and_help_inform() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        assert!(execute(&mut guest, "info").contains("synthetic"));
        assert!(execute(&mut guest, "info").ends_with("\nposition 0 of 26, pc 0x00008000\n"));
        for words in ["gdb-scripts/ktreplay.py", "monitor events", "monitor provenance"] {
            assert!(execute(&mut guest, "help").contains(words), "{words}");
        }
    }
}
