//! Compares long stretches of recordings with QEMU's log of the same runs, at every position, forward and backward, and
//! prints a report. tests/truth.sh runs it; it takes some minutes and some GB below the directory for temporary files.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::agreement::{self, Comparison, Coverage, Registers};
use ktracer_tests::memory;
use ktracer_tests::programs::Guest;
use ktracer_tests::session::{FIRST_LOG, Session, logging};

/// Positions of U-Boot from reset.
const U_BOOT_POSITIONS: usize = 1_000_000;
/// The kernel's windows start when at least this many instructions are in the trace, and twice as many, and so on: the
/// boot has 3.3 G.
const WINDOW_DISTANCE: u64 = 180_000_000;
const WINDOWS: u64 = 16;
/// Positions in each.
const WINDOW_POSITIONS: u64 = 40_000;

#[derive(Default)]
struct Outcome {
    coverage: Coverage,
    forward: Comparison,
    backward: Comparison,
    wrong_bytes: u64,
}

impl Outcome {
    fn compare(&mut self, recording: &mut Recording, states: &[Registers], first: u64) -> Result<()> {
        let coverage = Coverage::of(states);
        let forward = agreement::forward(recording, states, first)?;
        let backward = agreement::backward(recording, states, first)?;
        println!("  from position {first}, pc {:#010x}: {coverage}", states[0][15]);
        println!("    forward {} compared, {} mismatches", forward.positions, forward.mismatches);
        println!("    backward {} compared, {} mismatches", backward.positions, backward.mismatches);
        for description in forward.described.iter().chain(&backward.described) {
            println!("    {description}");
        }
        self.coverage.add(&coverage);
        self.forward.add(&forward);
        self.backward.add(&backward);
        Ok(())
    }

    /// The memory at the end against QEMU's.
    fn compare_memory(&mut self, recording: &mut Recording, guest: Guest, image: &Path) -> Result<()> {
        let actual = std::fs::read(image)?;
        let end = recording.end().0;
        let compared = memory::compare(recording, end, guest.virtual_ram(), &actual)?;
        println!("  all {} bytes of RAM at the end, position {end}: {compared}", actual.len());
        self.wrong_bytes += compared.wrong;
        Ok(())
    }

    fn finish(&self) -> bool {
        println!("  in all: {}", self.coverage);
        println!(
            "  in all: forward {} compared, {} mismatches; backward {} compared, {} mismatches; {} wrong bytes\n",
            self.forward.positions,
            self.forward.mismatches,
            self.backward.positions,
            self.backward.mismatches,
            self.wrong_bytes
        );
        self.forward.mismatches + self.backward.mismatches + self.wrong_bytes == 0
    }
}

fn u_boot() -> Result<bool> {
    println!("U-Boot from reset");
    let scratch = tempfile::tempdir()?;
    let arguments = Guest::UBoot.arguments("")?;
    let arguments = arguments.iter().map(String::as_str).chain(logging());
    let mut session = Session::start(scratch.path(), &[], arguments)?;
    let log = scratch.path().join(FIRST_LOG);
    session.wait_for_log(&log, U_BOOT_POSITIONS as u64 + 1)?;
    session.monitor.stop()?;
    session.monitor.end_log()?;
    let image = scratch.path().join("memory");
    session.monitor.save_memory(Guest::RAM_START, Guest::UBoot.ram_bytes(), &image)?;
    let mut recording = Recording::open(&session.quit()?)?;
    let mut outcome = Outcome::default();
    let states = agreement::read_log(&log, usize::MAX)?;
    ensure!(states.len() >= U_BOOT_POSITIONS, "the log has {} records only", states.len());
    outcome.compare(&mut recording, &states, 0)?;
    outcome.compare_memory(&mut recording, Guest::UBoot, &image)?;
    Ok(outcome.finish())
}

fn kernel() -> Result<bool> {
    println!("Debian's armhf kernel, {WINDOWS} windows in its boot");
    let scratch = tempfile::tempdir()?;
    let mut session = Session::start(scratch.path(), &[], Guest::Kernel.arguments("")?)?;
    let mut windows = Vec::new();
    for number in 1..=WINDOWS {
        session.wait_for_instructions(number * WINDOW_DISTANCE)?;
        session.monitor.stop()?;
        let log = scratch.path().join(format!("window-{number}.log"));
        windows.push((session.instructions_written(), log.clone()));
        session.log_window(&log, WINDOW_POSITIONS + WINDOW_POSITIONS / 20)?;
        if number < WINDOWS {
            session.monitor.run()?;
        }
    }
    let image = scratch.path().join("memory");
    session.monitor.save_memory(Guest::RAM_START, Guest::Kernel.ram_bytes(), &image)?;
    let mut recording = Recording::open(&session.quit()?)?;
    let mut outcome = Outcome::default();
    for (number, (from, log)) in windows.iter().enumerate() {
        let to = windows.get(number + 1).map_or(recording.end().0, |(next, _)| *next);
        let states = agreement::read_log(log, usize::MAX)?;
        let first = agreement::find(&mut recording, &states, *from, to)
            .with_context(|| format!("window {}", number + 1))?;
        outcome.compare(&mut recording, &states, first)?;
    }
    outcome.compare_memory(&mut recording, Guest::Kernel, &image)?;
    ensure!(outcome.coverage.interrupts > 0, "no interrupt was taken in any window");
    Ok(outcome.finish())
}

fn first_line(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

fn main() -> Result<ExitCode> {
    println!("date: {}", jiff::Timestamp::now());
    println!("ktracer: {}", first_line("git", &["describe", "--always", "--dirty"])?);
    println!("QEMU: {}\n", first_line("qemu-system-arm", &["--version"])?);
    let agree = u_boot()? & kernel()?;
    println!("{}", if agree { "no mismatch" } else { "MISMATCHES" });
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
