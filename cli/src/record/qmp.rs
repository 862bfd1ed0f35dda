//! A client of QMP, the machine protocol of QEMU's monitor: JSON messages, one a line (`docs/interop/qmp-spec.rst` in
//! QEMU's source).

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};

use super::lines::LineStream;

/// How long QEMU may take for one command. The longest that ktracer sends copies 64 MiB to a disk. QEMU never answers
/// if it was told to end meanwhile, hence a limit at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a command had no result.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The connection failed, or took too long.
    #[error("QEMU's monitor: {0}")]
    Io(#[from] io::Error),
    /// QEMU has closed the connection.
    #[error("QEMU has closed its monitor")]
    Closed,
    /// QEMU is about to end, and may never answer.
    #[error("QEMU is shutting down")]
    ShuttingDown,
    /// QEMU does not speak as expected.
    #[error("QEMU's monitor said something unexpected: {0}")]
    Unexpected(String),
    /// QEMU understood the command and refused it.
    #[error("QEMU refused {command}: {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        description: String,
    },
}

/// A connection that is ready for commands.
#[derive(Debug)]
pub struct Qmp {
    lines: LineStream,
}

impl Qmp {
    /// Connects to QEMU's socket and leaves the negotiation behind. When `cancelled` becomes true, waiting ends.
    pub fn connect(socket: &Path, cancelled: Arc<AtomicBool>) -> Result<Self, QmpError> {
        let mut qmp = Qmp { lines: LineStream::new(UnixStream::connect(socket)?, cancelled)? };
        let greeting = qmp.message()?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Unexpected(greeting.to_string()));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.lines.write_line(&json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let mut message = self.message()?;
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = message.get("error") {
                let description = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(QmpError::Refused {
                    command: command.to_owned(),
                    description: description.to_owned(),
                });
            }
            match message.get("event").and_then(Value::as_str) {
                Some("SHUTDOWN") => return Err(QmpError::ShuttingDown),
                Some(_) => {}
                None => return Err(QmpError::Unexpected(message.to_string())),
            }
        }
    }

    /// Executes a command of the monitor for people, and returns its output.
    pub fn human_monitor_command(&mut self, command: &str) -> Result<String, QmpError> {
        match self.execute("human-monitor-command", json!({ "command-line": command }))? {
            Value::String(output) => Ok(output),
            other => Err(QmpError::Unexpected(other.to_string())),
        }
    }

    /// Tells QEMU to end.
    pub fn quit(&mut self) -> Result<(), QmpError> {
        match self.execute("quit", json!({})) {
            // All three say that it is on its way out.
            Ok(_) | Err(QmpError::Closed | QmpError::ShuttingDown) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn message(&mut self) -> Result<Value, QmpError> {
        let line = self.lines.read_line(Some(PATIENCE))?.ok_or(QmpError::Closed)?;
        serde_json::from_slice(&line)
            .map_err(|_| QmpError::Unexpected(String::from_utf8_lossy(&line).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Answers each command with the next of `answers`, and returns the commands.
    fn conversation<T>(answers: &[&str], client: impl FnOnce(Result<Qmp, QmpError>) -> T) -> (T, Vec<Value>) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(b"{\"QMP\": {\"version\": {}}}\r\n").unwrap();
                let mut commands = BufReader::new(stream.try_clone().unwrap()).lines();
                let mut seen = Vec::new();
                for answer in answers {
                    let Some(Ok(command)) = commands.next() else { break };
                    seen.push(serde_json::from_str(&command).unwrap());
                    stream.write_all(answer.as_bytes()).unwrap();
                }
                seen
            });
            let result = client(Qmp::connect(&socket, Arc::default()));
            (result, server.join().unwrap())
        })
    }

    #[test]
    fn results_are_told_from_events() {
        let answers = ["{\"return\": {}}\r\n", "{\"event\": \"RESUME\"}\n{\"return\": \"a\\r\\nb\"}\n"];
        let (output, commands) =
            conversation(&answers, |qmp| qmp.unwrap().human_monitor_command("info mtree -f").unwrap());
        assert_eq!(output, "a\r\nb");
        assert_eq!(commands[0]["execute"], "qmp_capabilities");
        assert_eq!(commands[1]["arguments"]["command-line"], "info mtree -f");
    }

    #[test]
    fn a_refusal_carries_qemus_words() {
        let answers =
            ["{\"return\": {}}\n", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no disk\"}}\n"];
        let (error, _) =
            conversation(&answers, |qmp| qmp.unwrap().execute("pmemsave", json!({})).unwrap_err());
        assert_eq!(error.to_string(), "QEMU refused pmemsave: no disk");
    }

    #[test]
    fn the_end_of_qemu_ends_a_command() {
        let answers = ["{\"return\": {}}\n", "{\"event\": \"SHUTDOWN\", \"data\": {}}\n"];
        let (error, _) =
            conversation(&answers, |qmp| qmp.unwrap().execute("pmemsave", json!({})).unwrap_err());
        assert!(matches!(error, QmpError::ShuttingDown));
        let (error, _) =
            conversation(&answers[..1], |qmp| qmp.unwrap().execute("pmemsave", json!({})).unwrap_err());
        assert!(matches!(error, QmpError::Closed | QmpError::Io(_)), "{error}");
    }

    #[test]
    fn nonsense_is_an_error() {
        let (error, _) = conversation(&["}{\n"], |qmp| qmp.unwrap_err());
        assert!(matches!(error, QmpError::Unexpected(_)), "{error}");
    }
}
