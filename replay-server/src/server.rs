//! Accepts clients, one after the other, for as long as the program runs.
//!
//! A second client that comes while the first is served waits until that one has left.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use ktrace_timeline::Replay;

use crate::session;
use crate::target::Guest;

/// Serves one recording on one address.
pub struct Server {
    listener: TcpListener,
    guest: Guest,
}

impl Server {
    /// Listens on `host` (a name or an address) and `port`; port 0 is any free one.
    pub fn bind(host: &str, port: u16, replay: Box<dyn Replay>) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind((host, port))?, guest: Guest::new(replay) })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves clients for ever. Nothing that a client does ends it.
    pub fn run(mut self) -> ! {
        loop {
            match self.listener.accept() {
                Ok((stream, client)) => {
                    log::info!("{client} connected");
                    match session::serve(stream, &mut self.guest) {
                        Ok(()) => log::info!("{client} left at position {}", self.guest.replay.position()),
                        Err(error) => log::warn!("{client}: {error}"),
                    }
                }
                Err(error) => {
                    log::warn!("no client can connect: {error}");
                    // Likely out of file descriptors or memory, which another program may give back.
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}
