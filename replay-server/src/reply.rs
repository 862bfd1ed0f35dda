//! Where gdbstub's replies go: into memory, since the session sends them, each in one write.

use std::convert::Infallible;

use gdbstub::conn::Connection;

/// The framed replies that gdbstub has written.
#[derive(Debug, Default)]
pub struct ReplyBuffer(pub Vec<u8>);

impl Connection for ReplyBuffer {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
