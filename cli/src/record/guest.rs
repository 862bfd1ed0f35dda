//! The QEMU process: signals go to it as long as it runs, and its status is ours in the end.
//!
//! It stays in ktracer's process group, so that it can use the terminal that ktracer was started from.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// A running or finished QEMU.
#[derive(Debug)]
pub struct Guest {
    pid: Pid,
    /// `None` once it is reaped: from then on its process number can be another's.
    child: Mutex<Option<Child>>,
}

impl Guest {
    /// Starts QEMU.
    pub fn start(command: &mut Command) -> Result<Guest> {
        let child = command.spawn().context("cannot start QEMU")?;
        let pid = Pid::from_child(&child);
        Ok(Guest { pid, child: Mutex::new(Some(child)) })
    }

    /// Sends a signal, unless QEMU has ended.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if child.is_some() {
            // It can only fail if QEMU runs as another user now, and then the signal is for the user to send.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Waits for its end. Only one thread may.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        // First without reaping, and without the lock, which signals need meanwhile.
        loop {
            match waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        match child.take() {
            Some(mut child) => child.wait(),
            None => Err(io::Error::other("waited for twice")),
        }
    }
}

/// The status that a shell would give: the program's own, or 128 + the signal that killed it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Guest {
        Guest::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn its_status_is_passed_on() {
        assert_eq!(exit_code(shell("exit 3").wait().unwrap()), 3);
        assert_eq!(exit_code(shell("kill -KILL $$").wait().unwrap()), 137);
    }

    #[test]
    fn a_signal_reaches_it_and_a_late_one_reaches_nobody() {
        let guest = shell("exec sleep 1000");
        guest.signal(Signal::TERM);
        assert_eq!(exit_code(guest.wait().unwrap()), 143);
        guest.signal(Signal::TERM);
    }
}
