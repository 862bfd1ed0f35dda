//! Ctrl-C while something is looked for: the search stops, what it has found so far is printed, and the exit status is the
//! shell's for it. A second Ctrl-C ends the program at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::SIGINT;
use signal_hook::flag;

/// 128 and the signal's number, as a shell has it.
const STATUS: u8 = 128 + SIGINT as u8;

/// Whether Ctrl-C came.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches it from now on.
    pub fn catch() -> Result<Interrupt> {
        let came = Arc::new(AtomicBool::new(false));
        // In this order: the first one only sets the flag.
        flag::register_conditional_shutdown(SIGINT, STATUS.into(), Arc::clone(&came))
            .and_then(|_| flag::register(SIGINT, Arc::clone(&came)))
            .context("Ctrl-C can't be caught")?;
        Ok(Interrupt(came))
    }

    /// Whether it came.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Tells a person how far the search came, and is the program's status.
    pub fn end(&self, reached: &str) -> ExitCode {
        eprintln!("ktracer: interrupted at position {reached}");
        exit_code()
    }
}

/// The program's status after it.
pub fn exit_code() -> ExitCode {
    ExitCode::from(STATUS)
}
