//! A recording of U-Boot that a test file's tests share: its beginning with QEMU's log, the rest at full speed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use ktrace_format::Position;
use ktrace_timeline::{Program, Recording, Replay};

use crate::agreement::{Registers, read_log, registers_at};
use crate::programs::Guest;
use crate::session::{FIRST_LOG, Session, logging};

/// Instructions in the log at least.
const LOGGED: u64 = 60_000;
/// Instructions in the recording: several segments.
const RECORDED: &str = "3M";

/// See the [module](self).
#[derive(Debug)]
pub struct Sample {
    /// The trace's directory.
    pub trace: PathBuf,
    /// The trace, opened.
    pub program: Arc<Program>,
    /// QEMU's log of the first positions.
    pub logged: Vec<Registers>,
    addresses: OnceLock<Vec<u32>>,
}

impl Sample {
    /// Makes it in `scratch`, replacing what is there. A test file gives a directory below `CARGO_TARGET_TMPDIR`.
    pub fn record(scratch: &Path) -> Result<Sample> {
        if scratch.exists() {
            std::fs::remove_dir_all(scratch).with_context(|| scratch.display().to_string())?;
        }
        std::fs::create_dir_all(scratch).with_context(|| scratch.display().to_string())?;
        let arguments = Guest::UBoot.arguments("")?;
        let arguments = arguments.iter().map(String::as_str).chain(logging());
        let mut session = Session::start(scratch, &["--stop-after", RECORDED], arguments)?;
        let log = scratch.join(FIRST_LOG);
        session.wait_for_log(&log, LOGGED)?;
        session.monitor.stop()?;
        session.monitor.end_log()?;
        session.monitor.run()?;
        let trace = session.finish()?;
        let logged = read_log(&log, usize::MAX)?;
        std::fs::remove_file(log)?;
        ensure!(logged.len() as u64 >= LOGGED, "the log has {} records only", logged.len());
        let program = Arc::new(Program::open(&trace)?);
        ensure!(program.trace().segments().len() > 2, "the recording has too few segments");
        Ok(Sample { trace, program, logged, addresses: OnceLock::new() })
    }

    /// A view of it.
    pub fn recording(&self) -> Recording {
        Recording::new(Arc::clone(&self.program))
    }

    /// The registers at a position: QEMU's, or beyond the log a fresh view's.
    pub fn registers(&self, position: u64) -> Result<Registers> {
        if let Some(logged) = self.logged.get(position as usize) {
            return Ok(*logged);
        }
        let shown = registers_at(&mut self.recording(), position)?;
        let mut registers = [0; 17];
        for (register, value) in registers.iter_mut().zip(shown) {
            *register = value.with_context(|| format!("a register is unknown at position {position}"))?;
        }
        Ok(registers)
    }

    /// The address of the instruction at every position, found by walking: the searches of the library have no part in
    /// it.
    pub fn addresses(&self) -> &[u32] {
        self.addresses.get_or_init(|| {
            let mut recording = self.recording();
            let end = recording.end().0;
            let walk = (0..end).map(|position| {
                recording.seek(Position(position)).expect("the position is inside");
                recording.registers().expect("the trace is whole")[15].expect("the pc is known")
            });
            walk.collect()
        })
    }
}
