//! Newline-delimited messages over a UNIX socket, read with a bound on time and size: what QMP and the plugin speak.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Far more than the longest answer of QEMU's monitor that ktracer asks for.
const MAX_LINE_BYTES: usize = 16 << 20;

/// How soon a cancelled read ends.
const POLL: Duration = Duration::from_millis(50);

/// Both directions of a connection.
#[derive(Debug)]
pub struct LineStream {
    stream: UnixStream,
    /// Bytes that were read and not yet handed out.
    pending: Vec<u8>,
    /// How much of `pending` is known to hold no newline.
    searched: usize,
    cancelled: Arc<AtomicBool>,
}

impl LineStream {
    /// Takes a connection over. When `cancelled` becomes true, a read with a time limit ends with
    /// [`io::ErrorKind::Interrupted`].
    pub fn new(stream: UnixStream, cancelled: Arc<AtomicBool>) -> io::Result<Self> {
        stream.set_read_timeout(Some(POLL))?;
        Ok(LineStream { stream, pending: Vec::new(), searched: 0, cancelled })
    }

    /// The next line without its newline; `None` when the other side has closed. Without a limit, waits for ever.
    pub fn read_line(&mut self, limit: Option<Duration>) -> io::Result<Option<Vec<u8>>> {
        let end = limit.map(|limit| Instant::now() + limit);
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(at) = self.pending[self.searched..].iter().position(|&byte| byte == b'\n') {
                let at = self.searched + at;
                let mut line: Vec<u8> = self.pending.drain(..=at).collect();
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.pending.len();
            if self.pending.len() > MAX_LINE_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message without end"));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    let Some(end) = end else { continue };
                    if self.cancelled.load(Ordering::Relaxed) {
                        return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted by a signal"));
                    }
                    if Instant::now() >= end {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one message.
    pub fn write_line(&mut self, message: &serde_json::Value) -> io::Result<()> {
        let mut line = message.to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, LineStream, Arc<AtomicBool>) {
        let (other, ours) = UnixStream::pair().unwrap();
        let cancelled = Arc::new(AtomicBool::new(false));
        (other, LineStream::new(ours, Arc::clone(&cancelled)).unwrap(), cancelled)
    }

    #[test]
    fn lines_are_put_together_and_taken_apart() {
        let (mut other, mut lines, _) = pair();
        other.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(lines.read_line(None).unwrap().unwrap(), b"one");
        assert_eq!(lines.read_line(None).unwrap().unwrap(), b"two");
        let timeout = lines.read_line(Some(Duration::ZERO)).unwrap_err();
        assert_eq!(timeout.kind(), io::ErrorKind::TimedOut);
        other.write_all(b"ee\n").unwrap();
        assert_eq!(lines.read_line(None).unwrap().unwrap(), b"three");
        drop(other);
        assert_eq!(lines.read_line(None).unwrap(), None);
    }

    #[test]
    fn a_cancelled_wait_ends() {
        let (_other, mut lines, cancelled) = pair();
        cancelled.store(true, Ordering::Relaxed);
        let error = lines.read_line(Some(Duration::from_secs(3600))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let (mut other, mut lines, _) = pair();
        let writer = std::thread::spawn(move || {
            let block = [b'x'; 1 << 16];
            while other.write_all(&block).is_ok() {}
        });
        assert_eq!(lines.read_line(None).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(lines);
        writer.join().unwrap();
    }
}
