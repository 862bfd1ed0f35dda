//! Standard output, and what happens when its reader has seen enough.

use std::io::{self, ErrorKind, StdoutLock, Write};

/// Writes with `write` to standard output. A reader that leaves early, as `head` does, is no error.
pub fn print(write: impl FnOnce(&mut StdoutLock<'static>) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let result = write(&mut out).and_then(|()| out.flush());
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes `value` as JSON for people and scripts, with a newline.
pub fn write_json(out: &mut dyn Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}
