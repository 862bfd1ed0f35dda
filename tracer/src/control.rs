//! The conversation with `ktracer record`: one JSON object a line over a UNIX socket.
//!
//! Without a socket (QEMU was started by hand, or records by itself with `-ktrace`) everything still works, but on a stock
//! QEMU no initial memory is captured.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// What `ktracer record` tells when the plugin connects.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The first line of `qemu-system-… --version`.
    pub qemu_version: String,
    /// QEMU and its arguments as the user gave them.
    pub command_line: Vec<String>,
    /// When, RFC 3339.
    pub started: String,
}

impl Hello {
    /// What this process, QEMU, can find out about itself.
    pub fn of_this_process() -> Self {
        let command_line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
        let words =
            command_line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut command_line: Vec<String> = words.collect();
        // Each word ends with a zero.
        command_line.pop();
        let version = Command::new("/proc/self/exe").arg("--version").stdin(Stdio::null()).output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        Hello {
            qemu_version: version.unwrap_or_default().lines().next().unwrap_or_default().to_owned(),
            command_line,
            started: jiff::Timestamp::now().to_string(),
        }
    }
}

#[derive(Deserialize)]
struct Captured {
    captured: bool,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Received {
    Hello(Hello),
    MemoryReady(Captured),
}

/// What the plugin tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The vCPU stands still before the first recorded instruction: capture memory and answer.
    MemoryWanted {},
    /// The plugin has captured memory itself.
    MemoryCaptured {
        /// Bytes of the guest's memory.
        bytes: u64,
        /// Why there is none.
        error: Option<String>,
    },
    /// How far the recording is.
    Progress {
        /// Instructions in finished segments.
        instructions: u64,
        /// Bytes written.
        bytes: u64,
    },
    /// The recording is over.
    Finished {
        /// Instructions that started.
        instructions: u64,
        /// Blocks that were entered.
        blocks: u64,
        /// Segments.
        segments: u64,
        /// Bytes written.
        bytes: u64,
        /// The trace is closed properly.
        closed: bool,
        /// `stop-after`, `exit` or `error`.
        reason: &'static str,
        /// What went wrong.
        error: Option<String>,
    },
}

/// The two directions, used from different threads.
pub struct Control {
    reader: Mutex<Option<BufReader<UnixStream>>>,
    writer: Mutex<Option<UnixStream>>,
}

impl Control {
    /// Nobody to talk to.
    pub fn absent() -> Self {
        Control { reader: Mutex::new(None), writer: Mutex::new(None) }
    }

    /// `ktracer record` listens.
    pub fn is_present(&self) -> bool {
        self.writer.lock().is_ok_and(|writer| writer.is_some())
    }

    /// Connects and waits for the greeting.
    pub fn connect(path: &Path) -> io::Result<(Self, Hello)> {
        let stream = UnixStream::connect(path)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let hello = match receive(&mut reader)? {
            Received::Hello(hello) => hello,
            Received::MemoryReady(_) => {
                return Err(io::Error::other("expected a greeting from ktracer record"));
            }
        };
        Ok((Control { reader: Mutex::new(Some(reader)), writer: Mutex::new(Some(stream)) }, hello))
    }

    /// Tells something. When nobody listens any more (ktracer record was killed), the recording goes on alone.
    pub fn tell(&self, message: &Message) {
        let Ok(mut writer) = self.writer.lock() else { return };
        if let Some(stream) = writer.as_mut() {
            let told = serde_json::to_vec(message).map_err(io::Error::from).and_then(|mut line| {
                line.push(b'\n');
                stream.write_all(&line)
            });
            if told.is_err() {
                *writer = None;
            }
        }
    }

    /// Asks for the initial memory and waits until it is captured. `Err` says why there is none.
    pub fn capture_memory(&self) -> Result<(), String> {
        self.tell(&Message::MemoryWanted {});
        let Ok(mut reader) = self.reader.lock() else {
            return Err("the control socket's reader failed".into());
        };
        let Some(reader) = reader.as_mut() else {
            return Err("QEMU was not started by ktracer record".into());
        };
        match receive(reader) {
            Ok(Received::MemoryReady(Captured { captured: true, .. })) => Ok(()),
            Ok(Received::MemoryReady(Captured { reason, .. })) => Err(reason),
            Ok(Received::Hello(_)) => Err("ktracer record greeted twice".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn receive(reader: &mut BufReader<UnixStream>) -> io::Result<Received> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "ktracer record went away"));
    }
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_whole_conversation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let other_side = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            writeln!(
                stream,
                r#"{{"hello":{{"qemu_version":"10.0.2","command_line":["q"],"started":"now"}}}}"#
            )
            .unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), r#"{"memory_wanted":{}}"#);
            writeln!(stream, r#"{{"memory_ready":{{"captured":false,"reason":"no QMP"}}}}"#).unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), r#"{"progress":{"instructions":5,"bytes":6}}"#);
        });
        let (control, hello) = Control::connect(&path).unwrap();
        assert_eq!(hello.qemu_version, "10.0.2");
        assert_eq!(control.capture_memory(), Err("no QMP".to_owned()));
        control.tell(&Message::Progress { instructions: 5, bytes: 6 });
        other_side.join().unwrap();
        assert!(control.capture_memory().is_err(), "the other side is gone");
    }
}
