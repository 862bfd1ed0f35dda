//! `ktracer verify`: executes a whole trace again and says how much of it is proved.

use std::io::{self, IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use ktrace_timeline::Program;
use ktrace_timeline::verify::{Report, Unproved, verify};
use serde::Serialize;
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::condition::Condition;
use crate::output;
use crate::record::progress::metric;

/// The command line of `ktracer verify`.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub struct Arguments {
    /// The trace: a directory that `ktracer record -o` wrote
    #[arg(value_name = "DIR")]
    trace: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Threads to use; 0 takes one for each of the machine's processors
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    jobs: usize,
}

const NOTES: &str = "\
An instruction is proved if executing it again leads to the digest that the recorder computed over what QEMU did, and if
the registers at the end of its segment are those that the recorder read. The indexes and the memory image are checked too.

Exit status:
  0    the trace is closed and undamaged, and every instruction is proved
  1    anything else: something is not proved, damaged, or missing. Of a trace that was not closed everything that is there
       can be proved, but not that this is all that the guest did: it is 1, too
  130  Ctrl-C; what was done until then is printed

An imported recording has neither: of it only the trace itself is checked.

JSON: instructions, proved, divergences (a list of {from, to, reason}: the positions from `from` to before `to` are not
proved), instructions_per_second, closed, faults (a list of texts).";

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Verdict {
    instructions: u64,
    proved: u64,
    divergences: Vec<Unproved>,
    instructions_per_second: f64,
    closed: bool,
    faults: Vec<String>,
    /// See [`Program::is_imported`].
    #[serde(skip)]
    imported: bool,
    #[serde(skip)]
    notes: Vec<String>,
    #[serde(skip)]
    interrupted: bool,
}

/// Everything that `ktracer verify` checks.
fn examine(arguments: &Arguments, interrupted: &AtomicBool) -> Result<Verdict> {
    let program = Arc::new(Program::open(&arguments.trace)?);
    let trace = program.trace();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(arguments.jobs)
        .build()
        .context("cannot start threads")?;
    let bar = progress_bar(trace.instructions());
    let started = Instant::now();
    let report: Report = pool.install(|| {
        verify(&program, &|instructions| bar.inc(instructions), &|| interrupted.load(Ordering::Relaxed))
    });
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let interrupted = interrupted.load(Ordering::Relaxed);
    // Whoever pressed Ctrl-C does not wait for the rest to be looked at.
    let Condition { faults, notes } = if interrupted {
        Condition::default()
    } else {
        pool.install(|| Condition::of(&arguments.trace, trace))
    };
    Ok(Verdict {
        instructions: report.instructions,
        proved: report.proved,
        divergences: report.divergences,
        instructions_per_second: report.proved as f64 / seconds.max(1e-9),
        closed: trace.totals().is_some(),
        imported: program.is_imported(),
        faults,
        notes,
        interrupted,
    })
}

fn progress_bar(instructions: u64) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(instructions);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {percent:>3}%  {human_pos} instructions, {eta} left")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl Verdict {
    fn all_proved(&self) -> bool {
        self.divergences.is_empty() && self.proved == self.instructions && self.instructions > 0
    }

    fn exit_code(&self) -> ExitCode {
        if self.interrupted {
            ExitCode::from(128 + SIGINT as u8)
        } else if self.closed && self.faults.is_empty() && self.all_proved() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn describe(&self, out: &mut dyn Write) -> io::Result<()> {
        let (proved, all) = (HumanCount(self.proved), HumanCount(self.instructions));
        let rate = metric(self.instructions_per_second);
        if self.interrupted {
            writeln!(out, "interrupted: {proved} of {all} instructions are proved so far ({rate}/s)")?;
        } else if self.instructions == 0 {
            writeln!(out, "NOT PROVED: the trace has no instructions")?;
        } else if self.all_proved() && !self.closed {
            writeln!(
                out,
                "all {all} instructions that are there are proved ({rate}/s), but the trace is torn"
            )?;
        } else if self.all_proved() && self.imported {
            writeln!(
                out,
                "all {all} instructions are as they were imported ({rate}/s): nothing was recorded that could prove more"
            )?;
        } else if self.all_proved() {
            writeln!(out, "all {all} instructions are proved ({rate}/s)")?;
        } else {
            writeln!(out, "NOT PROVED: {proved} of {all} instructions are proved ({rate}/s)")?;
        }
        let unproved = self.divergences.iter().filter(|unproved| unproved.from < unproved.to);
        for Unproved { from, to, reason } in unproved {
            writeln!(out, "  positions {from} to {}: {reason}", to - 1)?;
        }
        if !self.faults.is_empty() {
            writeln!(out, "damaged or missing:")?;
        }
        for fault in &self.faults {
            writeln!(out, "  {fault}")?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        Ok(())
    }
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let interrupted = Arc::new(AtomicBool::new(false));
    // The second Ctrl-C ends the program at once: this comes first, so the first one does not see the flag set yet.
    flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, Arc::clone(&interrupted))
        .and_then(|_| flag::register(SIGINT, Arc::clone(&interrupted)))
        .context("cannot take Ctrl-C")?;
    let verdict = examine(arguments, &interrupted)?;
    output::print(
        |out| {
            if arguments.json { output::write_json(out, &verdict) } else { verdict.describe(out) }
        },
    )?;
    Ok(verdict.exit_code())
}

/// Verifies a trace for people; false unless everything is proved.
pub fn describe(directory: PathBuf, out: &mut dyn Write) -> Result<bool> {
    let arguments = Arguments { trace: directory, json: false, jobs: 0 };
    let verdict = examine(&arguments, &AtomicBool::new(false))?;
    verdict.describe(out)?;
    Ok(verdict.exit_code() == ExitCode::SUCCESS)
}
