//! Talks to the plugin inside QEMU: JSON messages, one a line, over a UNIX socket that the plugin connects to.
//!
//! | from | message |
//! |---|---|
//! | ktracer | `{"hello":{"qemu_version":…,"command_line":[…],"started":…}}`, first of all |
//! | plugin | `{"memory_wanted":{}}`: the processor stands still before the first recorded instruction |
//! | ktracer | `{"memory_ready":{"captured":true}}` or `{"memory_ready":{"captured":false,"reason":…}}` |
//! | plugin | `{"memory_captured":{"bytes":N,"error":…}}`: it did so itself, inside a patched QEMU |
//! | plugin | `{"progress":{"instructions":N,"bytes":N}}`, some times a second |
//! | plugin | `{"finished":{…}}`, last of all ([`Finished`]) |
//!
//! While the plugin waits for an answer the guest stands still, so there always is one, or the connection closes.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::json;

use super::Event;
use super::capture::{CaptureError, capture};
use super::guest::Guest;
use super::lines::LineStream;
use super::qmp::Qmp;

/// What the plugin says when the recording has ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Finished {
    /// Instructions recorded.
    pub instructions: u64,
    /// Translation blocks recorded.
    pub blocks: u64,
    /// Segments written.
    pub segments: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Whether the trace was closed properly.
    pub closed: bool,
    /// Why it ended.
    pub reason: Reason,
    /// What went wrong, if something did.
    pub error: Option<String>,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The asked number of instructions was reached.
    StopAfter,
    /// QEMU has ended.
    Exit,
    /// The recorder has failed; the guest runs on.
    Error,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    MemoryWanted {},
    MemoryCaptured { bytes: u64, error: Option<String> },
    Progress { instructions: u64, bytes: u64 },
    Finished(Finished),
}

/// The thread that serves the plugin.
#[derive(Debug)]
pub struct Controller {
    /// Where the plugin connects.
    pub listener: UnixListener,
    /// What it is told first: the contents of `hello`.
    pub hello: serde_json::Value,
    /// QEMU's monitor.
    pub qmp_socket: PathBuf,
    /// The trace's directory, absolute.
    pub directory: PathBuf,
    /// Whether QEMU goes on when enough was recorded.
    pub keep_running: bool,
    /// Set when a signal has come, so that nothing waits for a QEMU that is ending.
    pub cancelled: Arc<AtomicBool>,
    /// For the case that the monitor does not answer.
    pub guest: Arc<Guest>,
    /// Where to report.
    pub events: Sender<Event>,
}

impl Controller {
    /// Serves the plugin until it closes the connection.
    pub fn run(self) {
        let mut monitor = None;
        if let Err(error) = self.serve(&mut monitor) {
            self.report(Event::Note(format!("the connection to the plugin failed: {error}")));
        }
        self.report(Event::Disconnected);
    }

    fn serve(&self, monitor: &mut Option<Qmp>) -> std::io::Result<()> {
        let (stream, _) = self.listener.accept()?;
        let mut lines = LineStream::new(stream, Arc::clone(&self.cancelled))?;
        self.report(Event::Connected);
        lines.write_line(&json!({ "hello": self.hello }))?;
        while let Some(line) = lines.read_line(None)? {
            match serde_json::from_slice(&line) {
                Ok(Message::MemoryWanted {}) => {
                    self.report(Event::Capturing);
                    let result = self.capture(monitor);
                    let answer = match &result {
                        Ok(_) => json!({ "captured": true }),
                        Err(error) => json!({ "captured": false, "reason": error.to_string() }),
                    };
                    self.report(Event::Captured(result));
                    lines.write_line(&json!({ "memory_ready": answer }))?;
                }
                Ok(Message::MemoryCaptured { bytes, error }) => {
                    self.report(Event::Captured(match error {
                        None => Ok(bytes),
                        Some(error) => Err(CaptureError::Plugin(error)),
                    }));
                }
                Ok(Message::Progress { instructions, bytes }) => {
                    self.report(Event::Progress { instructions, bytes });
                }
                Ok(Message::Finished(finished)) => {
                    let quit = finished.reason == Reason::StopAfter && !self.keep_running;
                    self.report(Event::Finished(finished));
                    if quit {
                        self.quit(monitor);
                    }
                }
                Err(error) => self.report(Event::Note(format!(
                    "the plugin said something unexpected ({error}): {}",
                    String::from_utf8_lossy(&line)
                ))),
            }
        }
        Ok(())
    }

    fn capture(&self, monitor: &mut Option<Qmp>) -> Result<u64, CaptureError> {
        let qmp = self.monitor(monitor)?;
        capture(qmp, &self.directory)
    }

    /// The connection to QEMU's monitor, made when it is first needed: by then QEMU listens.
    fn monitor<'a>(&self, monitor: &'a mut Option<Qmp>) -> Result<&'a mut Qmp, super::qmp::QmpError> {
        match monitor {
            Some(qmp) => Ok(qmp),
            None => Ok(monitor.insert(Qmp::connect(&self.qmp_socket, Arc::clone(&self.cancelled))?)),
        }
    }

    fn quit(&self, monitor: &mut Option<Qmp>) {
        if let Err(error) = self.monitor(monitor).and_then(Qmp::quit) {
            self.report(Event::Note(format!("QEMU did not take `quit` ({error}); sent it SIGTERM")));
            self.guest.signal(Signal::TERM);
        }
    }

    fn report(&self, event: Event) {
        // The receiver is gone only when ktracer is on its way out.
        let _ = self.events.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read() {
        let finished = r#"{"finished":{"instructions":10,"blocks":3,"segments":1,"bytes":400,"closed":true,
            "reason":"stop-after","error":null}}"#;
        let Message::Finished(finished) = serde_json::from_str(finished).unwrap() else { panic!() };
        assert_eq!((finished.instructions, finished.reason, finished.error), (10, Reason::StopAfter, None));
        assert!(matches!(serde_json::from_str(r#"{"memory_wanted":{}}"#), Ok(Message::MemoryWanted {})));
        let progress = serde_json::from_str(r#"{"progress":{"instructions":7,"bytes":8}}"#);
        assert!(matches!(progress, Ok(Message::Progress { instructions: 7, bytes: 8 })));
        assert!(serde_json::from_str::<Message>(r#"{"progress":{"instructions":-7,"bytes":8}}"#).is_err());
    }
}
