//! Records the boot of Debian's mipsel kernel on the malta board, from reset to its panic, on the patched QEMU: compares windows of
//! it with QEMU's log of the same run, at every position, forward and backward, with their interrupts and exceptions; has
//! `ktracer verify` prove all of it; and holds the memory at its end against QEMU's. Prints a report. tests/mips.sh runs it;
//! it takes a few minutes. With the argument `--short` the recording ends behind the first four windows.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::agreement::{self, Comparison};
use ktracer_tests::mips::{self, KERNEL_RAM_BYTES, VIRTUAL_RAM};
use ktracer_tests::mips_agreement::{Coverage, read_log};
use ktracer_tests::mips_exceptions::{self, INTERRUPT};
use ktracer_tests::programs::program;
use ktracer_tests::qemu::Qemu;
use ktracer_tests::session::Session;
use ktracer_tests::{memory, report};

/// When this many instructions or more are in the trace a window starts, and how many positions it has at least; there are some
/// 3.8 G. Most are late: at first the kernel decompresses itself. One is long.
const WINDOWS: [(u64, u64); 8] = [
    (30_000_000, 50_000),
    (1_200_000_000, 50_000),
    (2_200_000_000, 50_000),
    (2_600_000_000, 50_000),
    (2_900_000_000, 50_000),
    (3_100_000_000, 300_000),
    (3_300_000_000, 50_000),
    (3_500_000_000, 50_000),
];
/// Of these, with `--short`.
const SHORT: usize = 4;
/// The long one must have so many that follow one another.
const CONSECUTIVE: usize = 300_000;

/// Fewer states than this are a loop that waits for an interrupt, where a log says little and fits in many places.
const DIFFERENT_STATES: usize = 1000;
/// How much later the next window is tried then.
const LATER: u64 = 40_000_000;

/// A part of the run that was logged: behind which position it is, and the log.
type Window = (u64, PathBuf);

/// Compares the windows with the recording. True if all agree.
fn truth(recording: &mut Recording, windows: &[Window]) -> Result<bool> {
    let (mut coverage, mut forward, mut backward) =
        (Coverage::default(), Comparison::default(), Comparison::default());
    let (mut interrupts, mut longest) = (0, 0);
    for (number, (from, log)) in windows.iter().enumerate() {
        let to = windows.get(number + 1).map_or(recording.end().0, |(next, _)| *next);
        let states = read_log(log, usize::MAX)?;
        let first = agreement::find(recording, &states, *from, to)
            .with_context(|| format!("window {}", number + 1))?;
        let covered = Coverage::of(&states);
        println!("  from position {first}: {covered}");
        for (name, sum, compared) in [
            ("forward", &mut forward, agreement::forward(recording, &states, first)?),
            ("backward", &mut backward, agreement::backward(recording, &states, first)?),
        ] {
            println!("    {name} {} compared, {} mismatches", compared.positions, compared.mismatches);
            for description in &compared.described {
                println!("    {description}");
            }
            sum.add(&compared);
        }
        let logged = mips_exceptions::read_log(log)?;
        let (all, in_slots) = mips_exceptions::compare(recording, &states, &logged, first)?;
        println!("    {all}");
        println!("    of these in delay slots: {in_slots}");
        interrupts += all.of(INTERRUPT);
        coverage.add(&covered);
        longest = longest.max(states.len());
    }
    println!("  in all: {coverage}");
    println!(
        "  in all: forward {} compared, {} mismatches; backward {} compared, {} mismatches; {interrupts} interrupts",
        forward.positions, forward.mismatches, backward.positions, backward.mismatches
    );
    ensure!(windows.len() == SHORT || interrupts > 0, "no interrupt was taken in any window");
    ensure!(windows.len() == SHORT || longest >= CONSECUTIVE, "the longest window has {longest} positions");
    Ok(forward.mismatches + backward.mismatches == 0)
}

/// Whether a log is of a loop that waits.
fn is_waiting(log: &Path) -> Result<bool> {
    let states = read_log(log, usize::MAX)?;
    let different: HashSet<_> = states.iter().map(|state| state.registers).collect();
    Ok(different.len() < DIFFERENT_STATES)
}

fn main() -> Result<ExitCode> {
    let short = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [option] if option == "--short" => true,
        other => bail!("the only argument is --short, not {other:?}"),
    };
    let qemu = Qemu::patched_mips(false)?;
    let arguments = mips::kernel_arguments()?;
    println!("{}\n", report::heading(&qemu)?);
    println!("Debian's kernel on malta, {}", if short { "the first part" } else { "to its panic" });
    let scratch = tempfile::tempdir()?;
    let mut session = Session::start_on(&qemu, scratch.path(), &[], arguments)?;
    let planned = if short { &WINDOWS[..SHORT] } else { &WINDOWS[..] };
    let mut windows: Vec<Window> = Vec::new();
    for (number, (start, positions)) in planned.iter().enumerate() {
        let log = scratch.path().join(format!("window-{number}.log"));
        let mut start = *start;
        let window = loop {
            session.monitor.run()?;
            session.wait_for_instructions(start)?;
            session.monitor.stop()?;
            let written = session.instructions_written();
            // Records are three times as long as ARM's, and the exceptions' lines come between.
            session.log_window(&log, 3 * positions)?;
            if !is_waiting(&log)? {
                break written;
            }
            std::fs::remove_file(&log)?;
            start = written + LATER;
        };
        windows.push((window, log));
    }
    if !short {
        session.monitor.run()?;
        session.wait_for_console("Kernel panic")?;
        session.wait_for_shutdown()?;
    }
    let image = scratch.path().join("memory");
    session.monitor.save_memory(0, KERNEL_RAM_BYTES, &image)?;
    let trace = session.quit()?;

    let verified = Command::new(program("ktracer")?).arg("verify").arg(&trace).output()?;
    print!("  {}", String::from_utf8_lossy(&verified.stdout));
    let proved = verified.status.success();
    let mut recording = Recording::open(&trace)?;
    let agree = truth(&mut recording, &windows)?;
    let end = recording.end().0;
    let compared = memory::compare(&mut recording, end, VIRTUAL_RAM, &std::fs::read(image)?)?;
    println!("  RAM at the end, position {end}: {compared}\n");
    let good = proved && agree && compared.wrong + compared.unknown == 0;
    println!(
        "{}",
        if good { "all is proved, no mismatch, and all memory is QEMU's" } else { "SOMETHING IS WRONG" }
    );
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
