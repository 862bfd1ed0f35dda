//! What the integration tests share: a server over the made-up recording, a client that speaks raw packets, and
//! gdb.

// Every test file includes all of this and uses some.
#![allow(dead_code)]

pub mod recording;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use recording::SyntheticRecording;
use replay_server::Server;
use replay_server::framing::{self, Decoder, Event};

/// How long a test waits for an answer before it fails; generous, as it only passes by when something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a server on a free port, which runs until the test ends.
pub fn start_server(recording: SyntheticRecording) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    // The recording is made to be used by one thread.
    thread::spawn(move || {
        let server = Server::bind("127.0.0.1", 0, Box::new(recording)).expect("a free port");
        sender.send(server.address().expect("an address")).expect("the test waits for it");
        server.run()
    });
    receiver.recv().expect("the server started")
}

/// A client that says just what it is told to.
pub struct RawClient {
    stream: TcpStream,
    decoder: Decoder,
    pending: std::collections::VecDeque<Event>,
}

impl RawClient {
    /// Connects, and leaves acknowledgements on.
    pub fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.set_nodelay(true).expect("an option that TCP has");
        Self { stream, decoder: Decoder::default(), pending: Default::default() }
    }

    /// Connects and turns acknowledgements off.
    pub fn connect_quietly(server: SocketAddr) -> Self {
        let mut client = Self::connect(server);
        assert_eq!(client.ask("QStartNoAckMode"), "OK");
        client
    }

    /// Sends bytes as they are; false if the server has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a packet.
    pub fn send_packet(&mut self, body: &[u8]) -> bool {
        let mut framed = Vec::new();
        framing::encode(body, &mut framed);
        self.send(&framed)
    }

    /// The next packet or acknowledgement from the server; `None` if it closed the connection.
    pub fn receive(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            let mut bytes = [0; 4096];
            let count = match self.stream.read(&mut bytes) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
                Err(error) => panic!("no answer: {error}"),
            };
            if count == 0 {
                return None;
            }
            let decoder = &mut self.decoder;
            self.pending.extend(bytes[..count].iter().filter_map(|byte| decoder.push(*byte)));
        }
    }

    /// The next packet's body, past acknowledgements.
    pub fn receive_packet(&mut self) -> Option<String> {
        loop {
            match self.receive()? {
                // The answer to a binary read need not be text; whoever wants its bytes receives it as it is.
                Event::Packet(body) => return Some(String::from_utf8_lossy(&body).into_owned()),
                Event::Acknowledged => {}
                other => panic!("the server sent {other:?}"),
            }
        }
    }

    /// Sends a packet and returns the answer.
    pub fn ask(&mut self, body: &str) -> String {
        assert!(self.send_packet(body.as_bytes()), "{body}: the server hung up");
        self.receive_packet().unwrap_or_else(|| panic!("{body}: the server hung up"))
    }
}

/// Runs gdb with these commands, where `target remote` and `target extended-remote` stand for connecting to the
/// server, and returns what it printed, errors too, in order.
pub fn gdb(server: SocketAddr, commands: &[&str]) -> String {
    // gdb runs under `timeout`, since some mistakes of a server make it wait for ever.
    let mut gdb = Command::new("timeout");
    gdb.arg(PATIENCE.as_secs().to_string()).args(["gdb-multiarch", "-nx", "-nh", "-q", "--batch"]);
    // One stream, so that errors come where they happened.
    gdb.args(["-ex", "python import os; os.dup2(1, 2)"]);
    for setting in ["set confirm off", "set width 0"] {
        gdb.args(["-ex", setting]);
    }
    for command in commands {
        let command = match *command {
            "target remote" | "target extended-remote" => format!("{command} {server}"),
            other => other.to_owned(),
        };
        gdb.args(["-ex", &command]);
    }
    let output = gdb.output().expect("`timeout` runs (Debian package coreutils)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(127) => panic!("these tests need gdb-multiarch: apt-get install gdb-multiarch"),
        Some(124) => panic!("gdb waits for ever:\n{text}"),
        _ => text,
    }
}
