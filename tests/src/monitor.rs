//! QEMU's monitor (QMP) through a socket of the tests' own, beside the recorder's.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take for a command; generous, as it only passes by when something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection that is ready for commands.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the socket of a QEMU that has just been started.
    pub fn connect(socket: &Path) -> Result<Monitor> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Monitor { stream: BufReader::new(stream) };
        monitor.message().context("QEMU's greeting")?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("QEMU's monitor")?;
        if line.is_empty() {
            bail!("QEMU has closed its monitor");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor said {line:?}"))
    }

    /// Executes a command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        // In one piece: QEMU obeys once the object ends, and if that is `quit` nothing can be sent to it any more.
        let request = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        let sent = self.stream.get_mut().write_all(request.as_bytes());
        sent.with_context(|| format!("sending {command}"))?;
        loop {
            let mut message = self.message().with_context(|| command.to_owned())?;
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
        }
    }

    /// Executes a command of the monitor for people; what it prints is an error, as the commands used here are silent.
    pub fn human(&mut self, command: &str) -> Result<()> {
        match self.execute("human-monitor-command", json!({ "command-line": command }))?.as_str() {
            Some("") => Ok(()),
            other => bail!("QEMU answered {command} with {other:?}"),
        }
    }

    /// Stops the guest between two blocks.
    pub fn stop(&mut self) -> Result<()> {
        self.execute("stop", json!({})).map(drop)
    }

    /// Lets it run on.
    pub fn run(&mut self) -> Result<()> {
        self.execute("cont", json!({})).map(drop)
    }

    /// From here on QEMU logs all registers before each instruction, and each exception, into `file`, which must be new. The guest is stopped.
    pub fn start_log(&mut self, file: &Path) -> Result<()> {
        self.human(&format!("logfile {}", file.display()))?;
        self.human("one-insn-per-tb on")?;
        self.human("log cpu,exec,int,nochain")
    }

    /// From here on QEMU logs exceptions into `file`, which must be new. The guest is stopped.
    pub fn log_exceptions(&mut self, file: &Path) -> Result<()> {
        self.human(&format!("logfile {}", file.display()))?;
        self.human("log int")
    }

    /// Ends either. The guest is stopped; the log is whole then.
    pub fn end_log(&mut self) -> Result<()> {
        self.human("log none")?;
        self.human("one-insn-per-tb off")
    }

    /// Writes `size` bytes of physical memory from `address` on into `file`. The guest is stopped.
    pub fn save_memory(&mut self, address: u64, size: u64, file: &Path) -> Result<()> {
        self.execute("pmemsave", json!({ "val": address, "size": size, "filename": file })).map(drop)
    }

    /// The bytes at virtual addresses, within a page, by QEMU's own debugger: `None` if nothing is mapped there. They pass through
    /// `file`. The guest is stopped.
    pub fn virtual_memory(&mut self, address: u32, size: u64, file: &Path) -> Result<Option<Vec<u8>>> {
        let arguments = json!({ "val": address, "size": size, "filename": file });
        match self.execute("memsave", arguments) {
            Ok(_) => Ok(Some(std::fs::read(file)?)),
            Err(error) if error.to_string().contains("Invalid addr") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells QEMU to end.
    pub fn quit(&mut self) -> Result<()> {
        match self.execute("quit", json!({})) {
            Ok(_) => Ok(()),
            // It may end before it answers.
            Err(error) if error.root_cause().to_string() == "QEMU has closed its monitor" => Ok(()),
            Err(error) => Err(error),
        }
    }
}
