//! `ktracer index`: makes `index.kt` again.

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use ktrace_timeline::{IndexError, IndexProgress, Program, write_index};

use crate::interrupt::{self, Interrupt};

/// The command line of `ktracer index`.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub struct Arguments {
    /// The trace: a directory that `ktracer record -o` wrote
    #[arg(value_name = "DIR")]
    trace: PathBuf,
}

const NOTES: &str = "\
Writes DIR/index.kt. What was there before is replaced when all of it is on the disk, and stays if that fails, or on Ctrl-C;
what the recorder wrote is never changed.

Each segment of a recording has an index of its own, which says what it did. Where one is damaged or missing, the segment is
executed and what is found is kept in index.kt, so that later searches need not execute it. That takes 10 ms or so for each.
A segment that is damaged itself, or that is not proved, has none: every search looks into it.

Exit status:
  0    the index was made
  1    it was not
  130  Ctrl-C";

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let interrupted = Interrupt::catch()?;
    let program = Arc::new(Program::open(&arguments.trace)?);
    let bar = progress_bar();
    let progress = |IndexProgress { executed, of }: IndexProgress| {
        bar.set_length(of);
        bar.set_position(executed);
    };
    let outcome = write_index(&program, &arguments.trace, &progress, &|| interrupted.came());
    bar.finish_and_clear();
    let outcome = match outcome {
        Err(error @ IndexError::Cancelled) => {
            eprintln!("ktracer: {error}");
            return Ok(interrupt::exit_code());
        }
        outcome => outcome?,
    };
    let segments = HumanCount(program.trace().segments().len() as u64);
    println!("indexed {segments} segments in {} groups", outcome.groups);
    if outcome.executed > 0 {
        println!(
            "{} of them had no readable index of their own and were executed: index.kt has one now",
            outcome.executed
        );
    }
    if outcome.kept > 0 {
        println!("{} of them have one in index.kt from before", outcome.kept);
    }
    if outcome.unknown > 0 {
        println!("{} are damaged or not proved: every search looks into them", outcome.unknown);
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows how far the execution of segments is, to a person who looks.
fn progress_bar() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template(
        "{bar:30} {percent:>3}%  {human_pos} instructions of segments without index, {eta} left",
    ) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Makes the index of a trace that has just been recorded. Without it everything works, only slower, so that a failure is only
/// told.
pub fn after_recording(directory: &Path) {
    let written = Program::open(directory)
        .map_err(anyhow::Error::from)
        .and_then(|program| Ok(write_index(&Arc::new(program), directory, &|_| {}, &|| false)?));
    if let Err(error) = written {
        eprintln!(
            "ktracer: note: the index could not be written, so that searches will take longer: {error:#}"
        );
    }
}
