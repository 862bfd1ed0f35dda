//! `ktreplay` as a user starts it, and its clients: gdb, and packets sent by hand.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::programs::program;

/// How long an answer may take; generous, as it only passes by when something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, which ends with this value.
#[derive(Debug)]
pub struct Server {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it said before it listened.
    pub messages: Vec<String>,
}

impl Server {
    /// Serves a trace on a free port.
    pub fn start(trace: &Path) -> Result<Server> {
        let mut process = Command::new(program("ktreplay")?)
            .arg(trace)
            .args(["--port", "0"])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(process.stderr.take().context("a pipe")?).lines();
        let mut messages = Vec::new();
        let address = loop {
            let Some(line) = lines.next() else { bail!("ktreplay ended: {messages:?}") };
            let line = line?;
            if let Some(address) = line.strip_prefix("listening on ") {
                break address.parse()?;
            }
            messages.push(line);
        };
        // It goes on to talk of its clients, and must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Server { process, address, messages })
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.process.id()
    }

    /// Runs gdb-multiarch, connected, with a script of commands. Returns what it printed, errors too, in order.
    pub fn gdb(&self, commands: &[&str]) -> Result<String> {
        // `timeout`, as some mistakes of a server make gdb wait for ever.
        let mut gdb = Command::new("timeout");
        gdb.arg(PATIENCE.as_secs().to_string()).args(["gdb-multiarch", "-nx", "-nh", "-q", "--batch"]);
        let connect = format!("target remote {}", self.address);
        let settings = ["python import os; os.dup2(1, 2)", "set confirm off", "set width 0", &connect];
        for command in settings.iter().chain(commands) {
            gdb.args(["-ex", command]);
        }
        let output =
            gdb.stdin(Stdio::null()).output().context("timeout is missing (Debian package coreutils)")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.code() {
            Some(127) => bail!("gdb-multiarch is missing: install the Debian package gdb-multiarch"),
            Some(124) => bail!("gdb waits for ever:\n{text}"),
            _ => Ok(text),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It runs until it is killed; if it has ended by itself the test has seen so.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What became of a packet that was followed by Ctrl-C.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// How long it took from Ctrl-C to the answer. `None`: the answer was there before Ctrl-C was sent.
    pub latency: Option<Duration>,
    /// The answer.
    pub answer: String,
    /// What was printed on the console before.
    pub console: String,
}

/// A client that speaks gdb's remote protocol (gdb's manual, appendix E).
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    patience: Duration,
    /// The server wants every answer acknowledged.
    acknowledging: bool,
}

/// Fails unless an answer says that the guest has stopped.
pub fn stopped(answer: &str) -> Result<()> {
    ensure!(answer.starts_with('T'), "{answer} is no stop");
    Ok(())
}

impl Client {
    /// Connects, and turns acknowledgements off if the server can do without.
    pub fn connect(server: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut client = Client { stream: BufReader::new(stream), patience: PATIENCE, acknowledging: true };
        let answer = client.ask("QStartNoAckMode")?;
        // ktreplay can do without; QEMU's gdb server can't.
        ensure!(matches!(answer.as_str(), "OK" | ""), "QStartNoAckMode: {answer}");
        client.acknowledging = answer.is_empty();
        Ok(client)
    }

    /// Waits longer for answers than for those of ktreplay.
    pub fn wait_longer(&mut self, patience: Duration) -> Result<()> {
        self.patience = patience;
        Ok(self.stream.get_ref().set_read_timeout(Some(patience))?)
    }

    /// Sends a packet and returns the answer. Neither has characters that need an escape.
    pub fn ask(&mut self, body: &str) -> Result<String> {
        self.send(body)?;
        self.receive().with_context(|| body.to_owned())
    }

    /// The same with what is printed on the console before the answer, which is left out.
    pub fn ask_quietly(&mut self, body: &str) -> Result<String> {
        self.send(body)?;
        Ok(self.answer().with_context(|| body.to_owned())?.0)
    }

    /// The address of the next instruction, as packets have it: register 15 of ARM.
    pub fn program_counter(&mut self) -> Result<String> {
        let little_endian = self.ask("pf")?;
        let bytes: Vec<&str> = (0..4).rev().filter_map(|at| little_endian.get(2 * at..2 * at + 2)).collect();
        ensure!(bytes.len() == 4, "{little_endian} is no register");
        Ok(bytes.concat())
    }

    fn send(&mut self, body: &str) -> Result<()> {
        let sum = body.bytes().fold(0, u8::wrapping_add);
        Ok(write!(self.stream.get_mut(), "${body}#{sum:02x}")?)
    }

    /// Sends a packet, and Ctrl-C if there is no answer after so long.
    pub fn interrupt(&mut self, body: &str, after: Duration) -> Result<Interrupted> {
        self.send(body)?;
        self.stream.get_ref().set_read_timeout(Some(after))?;
        let answered = match self.stream.fill_buf() {
            Ok(_) => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(error) => return Err(error.into()),
        };
        self.stream.get_ref().set_read_timeout(Some(self.patience))?;
        let sent = Instant::now();
        if !answered {
            self.stream.get_mut().write_all(&[3])?;
        }
        let (answer, console) = self.answer().with_context(|| body.to_owned())?;
        let latency = (!answered).then(|| sent.elapsed());
        Ok(Interrupted { latency, answer, console })
    }

    /// The next answer, and what is printed on the console before it.
    fn answer(&mut self) -> Result<(String, String)> {
        let mut console = Vec::new();
        loop {
            let answer = self.receive()?;
            match answer.strip_prefix('O').filter(|text| *text != "K") {
                Some(text) => console.extend(bytes(text)?),
                None => return Ok((answer, String::from_utf8(console)?)),
            }
        }
    }

    /// Sends a command of gdb's `monitor`, and returns its output.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        self.send(&monitor_packet(command))?;
        let (answer, output) = self.answer()?;
        ensure!(answer == "OK" || !answer.starts_with('E'), "monitor {command}: {answer}");
        Ok(output)
    }

    fn receive(&mut self) -> Result<String> {
        self.stream.skip_until(b'$')?;
        let mut answer = Vec::new();
        self.stream.read_until(b'#', &mut answer)?;
        ensure!(answer.pop() == Some(b'#'), "the server has hung up");
        self.stream.read_exact(&mut [0; 2])?;
        if self.acknowledging {
            self.stream.get_mut().write_all(b"+")?;
        }
        Ok(String::from_utf8(answer)?)
    }
}

/// The packet that carries a command of gdb's `monitor`.
pub fn monitor_packet(command: &str) -> String {
    let hexadecimal: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("qRcmd,{hexadecimal}")
}

fn bytes(hexadecimal: &str) -> Result<Vec<u8>> {
    hexadecimal
        .as_bytes()
        .chunks(2)
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect()
}
