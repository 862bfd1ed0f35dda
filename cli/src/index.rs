//! `ktracer index`: makes `index.kt` again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::HumanCount;
use ktrace_timeline::{Program, write_index};

/// The command line of `ktracer index`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The trace: a directory that `ktracer record -o` wrote
    #[arg(value_name = "DIR")]
    trace: PathBuf,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let program = Arc::new(Program::open(&arguments.trace)?);
    let outcome = write_index(&program, &arguments.trace)
        .with_context(|| format!("can't write the index to {}", arguments.trace.display()))?;
    let segments = HumanCount(program.trace().segments().len() as u64);
    println!("indexed {segments} segments in {} groups", outcome.groups);
    if outcome.executed > 0 {
        println!("{} of them had no readable index of their own and were executed", outcome.executed);
    }
    if outcome.unknown > 0 {
        println!("{} are damaged or not proved: every search looks into them", outcome.unknown);
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the index of a trace that has just been recorded. Without it everything works, only slower, so that a failure is only
/// told.
pub fn after_recording(directory: &Path) {
    let written = Program::open(directory)
        .map_err(anyhow::Error::from)
        .and_then(|program| Ok(write_index(&Arc::new(program), directory)?));
    if let Err(error) = written {
        eprintln!(
            "ktracer: note: the index could not be written, so that searches will take longer: {error:#}"
        );
    }
}
