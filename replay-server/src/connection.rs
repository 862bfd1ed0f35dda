//! The client's socket: packets in, replies out, and a look now and then for Ctrl-C while the guest runs.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::framing::{Decoder, Event};

/// How often the socket is looked at while the guest runs. A client must see its Ctrl-C obeyed within 50 ms.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// A client that does not take a reply for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many events may wait; a client waits for a reply before it sends its next packet, so it is never this many.
const MOST_PENDING: usize = 256;

/// The connection to one client.
pub struct ClientConnection {
    stream: TcpStream,
    decoder: Decoder,
    pending: VecDeque<Event>,
    /// The client has closed its side, or the socket failed.
    closed: bool,
    last_poll: Instant,
}

impl ClientConnection {
    /// Takes over an accepted socket.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        // Packets are small and each waits for its answer.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            pending: VecDeque::new(),
            closed: false,
            last_poll: Instant::now(),
        })
    }

    /// Waits for what the client sends next; `None` once it has gone.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            if self.closed {
                return Ok(None);
            }
            self.receive()?;
        }
    }

    /// Whether the client wants the guest to stop: it sent Ctrl-C, or it is gone. Asked as often as one likes while
    /// the guest runs; it looks at the socket every 10 ms only.
    pub fn wants_stop(&mut self) -> bool {
        if self.last_poll.elapsed() >= POLL_INTERVAL {
            self.poll();
            self.last_poll = Instant::now();
        }
        match self.pending.iter().position(|event| *event == Event::Interrupt) {
            Some(index) => {
                self.pending.remove(index);
                true
            }
            None => self.closed,
        }
    }

    /// Sends bytes at once.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn poll(&mut self) {
        if self.closed || self.pending.len() >= MOST_PENDING {
            return;
        }
        let received = self.stream.set_nonblocking(true).and_then(|()| self.receive());
        let restored = self.stream.set_nonblocking(false);
        let nothing_there = received.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        let outcome = if nothing_there { restored } else { received.and(restored) };
        if let Err(error) = outcome {
            log::debug!("while the guest runs: {error}");
            self.closed = true;
        }
    }

    /// Reads what there is, once.
    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.closed = true,
            Ok(count) => {
                let received = bytes.iter().take(count).filter_map(|byte| self.decoder.push(*byte));
                // Nobody waits for acknowledgements, so they need not be kept.
                self.pending.extend(received.filter(|event| *event != Event::Acknowledged));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
