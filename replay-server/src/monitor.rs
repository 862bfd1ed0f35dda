//! gdb's `monitor` commands: where in time are we, go elsewhere, what is recorded.

use std::convert::Infallible;
use std::fmt::Write;

use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};

use crate::target::Guest;
use ktrace_timeline::destination::Destination;

const HELP: &str = "\
monitor when        the position: instructions since the start of the recording
monitor goto N      go to position N; also N% of the recording, +N or -N
                    instructions from here, start, end
monitor info        what is recorded
monitor help        this text

gdb does not notice a `monitor goto`: type `maintenance flush register-cache`
afterwards, or `source gdb-scripts/ktreplay.py` once and use `kt goto`, which
shows the new place at once. The position is also the register $ktpos.
For watchpoints type `set can-use-hw-watchpoints 0` first; gdb then watches one
instruction at a time, forward or backward.
";

impl MonitorCmd for Guest {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut output: ConsoleOutput<'_>,
    ) -> Result<(), Infallible> {
        output.write_raw(execute(self, &String::from_utf8_lossy(command)).as_bytes());
        Ok(())
    }
}

/// Carries out a command and returns what to print: lines that end in a newline.
fn execute(guest: &mut Guest, command: &str) -> String {
    let mut words = command.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("when"), None, _) => when(guest),
        (Some("goto"), Some(destination), None) => goto(guest, destination),
        (Some("goto"), None, _) => {
            "monitor goto needs a position, for example `monitor goto 50%`\n".to_owned()
        }
        (Some("info"), None, _) => format!("{}\nposition {}", guest.replay.summary().trim_end(), when(guest)),
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
            ("dance", "unknown command `dance`; `monitor help`"),
        ] {
            let answer = execute(&mut guest, command);
            assert!(answer.contains(words), "{command}: {answer}");
            assert_eq!(guest.replay.position(), Position(0), "{command}");
        }
    }

    #[test]
    fn info_and_help_inform() {
        let mut guest = Guest::new(Box::new(SyntheticRecording::short()));
        assert!(execute(&mut guest, "info").contains("synthetic"));
        assert!(execute(&mut guest, "info").ends_with("\nposition 0 of 26, pc 0x00008000\n"));
        assert!(execute(&mut guest, "help").contains("gdb-scripts/ktreplay.py"));
    }
}
