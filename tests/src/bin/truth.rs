//! Compares long stretches of recordings with QEMU's log of the same runs, at every position, forward and backward, and
//! prints a report. tests/truth.sh runs it; it takes some minutes and some GB below the directory for temporary files.
//! With the argument `--patched` they are recorded on the fast path, on the patched QEMU.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::agreement::{self, Comparison, Coverage, Registers};
use ktracer_tests::arm;
use ktracer_tests::memory;
use ktracer_tests::programs::Guest;
use ktracer_tests::qemu::Qemu;
use ktracer_tests::report;
use ktracer_tests::session::{FIRST_LOG, Session, logging};

/// Positions of U-Boot from reset.
const U_BOOT_POSITIONS: usize = 1_000_000;
/// The kernel's windows start when this many instructions or more are in the trace: two while it decompresses itself, the
/// others from its first instructions with the MMU on, some 2.1 G into the run, to shortly before its end, at 3.3 G.
fn window_starts() -> impl Iterator<Item = u64> {
    [500_000_000, 1_500_000_000].into_iter().chain((0..12).map(|number| 2_180_000_000 + number * 65_000_000))
}
/// Positions in each.
const WINDOW_POSITIONS: u64 = 50_000;
/// Positions of Thumb-2.
const THUMB_POSITIONS: usize = 300_000;

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

fn u_boot(qemu: &Qemu) -> Result<bool> {
    println!("U-Boot from reset");
    let scratch = tempfile::tempdir()?;
    let arguments = Guest::UBoot.arguments("")?;
    let arguments = arguments.iter().map(String::as_str).chain(logging());
    let mut session = Session::start_on(qemu, scratch.path(), &[], arguments)?;
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

fn thumb(qemu: &Qemu) -> Result<bool> {
    println!("The tests' own guest in Thumb-2, from reset");
    let scratch = tempfile::tempdir()?;
    let image = arm::thumb(scratch.path())?.display().to_string();
    let arguments = ["-M", "virt", "-nic", "none", "-display", "none", "-bios", &image];
    let arguments = arguments.into_iter().chain(logging());
    let trace = Session::start_on(qemu, scratch.path(), &["--stop-after", "400k"], arguments)?.finish()?;
    let states = agreement::read_log(&scratch.path().join(FIRST_LOG), THUMB_POSITIONS)?;
    let mut outcome = Outcome::default();
    outcome.compare(&mut Recording::open(&trace)?, &states, 0)?;
    Ok(outcome.finish())
}

fn kernel(qemu: &Qemu) -> Result<bool> {
    println!("Debian's armhf kernel, {} windows in its boot", window_starts().count());
    let scratch = tempfile::tempdir()?;
    let mut session = Session::start_on(qemu, scratch.path(), &[], Guest::Kernel.arguments("")?)?;
    let mut windows = Vec::new();
    for (number, start) in window_starts().enumerate() {
        session.monitor.run()?;
        session.wait_for_instructions(start)?;
        session.monitor.stop()?;
        let log = scratch.path().join(format!("window-{number}.log"));
        windows.push((session.instructions_written(), log.clone()));
        session.log_window(&log, WINDOW_POSITIONS + WINDOW_POSITIONS / 20)?;
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
    ensure!(outcome.coverage.high >= 300_000, "too few positions are in the kernel itself");
    ensure!(outcome.coverage.interrupts > 0, "no interrupt was taken in any window");
    Ok(outcome.finish())
}

fn main() -> Result<ExitCode> {
    let qemu = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => Qemu::stock()?,
        [option] if option == "--patched" => Qemu::patched()?,
        other => bail!("the only argument is --patched, not {other:?}"),
    };
    println!("{}\n", report::heading(&qemu)?);
    let agree = u_boot(&qemu)? & thumb(&qemu)? & kernel(&qemu)?;
    println!("{}", if agree { "no mismatch" } else { "MISMATCHES" });
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
