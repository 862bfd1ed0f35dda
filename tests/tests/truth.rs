//! The recording says at every position what QEMU logged there in the same run: r0 to r15 and CPSR, forward and
//! backward. `tests/truth.sh` does the same with far more positions.
//!
//! Needs QEMU, the firmware that scripts/setup.sh unpacks, and `cargo build --release --workspace`.

use anyhow::{Result, ensure};
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::agreement::{self, Coverage, Registers};
use ktracer_tests::memory;
use ktracer_tests::programs::Guest;
use ktracer_tests::session::{FIRST_LOG, Session, logging};
use ktracer_tests::thumb;

/// Positions that are compared in each test.
const POSITIONS: usize = 25_000;

fn assert_true(recording: &mut Recording, states: &[Registers], first: u64) -> Result<()> {
    for comparison in
        [agreement::forward(recording, states, first)?, agreement::backward(recording, states, first)?]
    {
        assert_eq!(comparison.mismatches, 0, "{}", comparison.described.join("\n"));
        assert_eq!(comparison.positions, states.len() as u64);
    }
    Ok(())
}

#[test]
fn u_boot_from_reset() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let arguments = Guest::UBoot.arguments("")?;
    let arguments = arguments.iter().map(String::as_str).chain(logging());
    let trace = Session::start(scratch.path(), &["--stop-after", "26000"], arguments)?.finish()?;
    let states = agreement::read_log(&scratch.path().join(FIRST_LOG), POSITIONS)?;
    assert_eq!(states.len(), POSITIONS);
    let mut recording = Recording::open(&trace)?;
    assert_true(&mut recording, &states, 0)?;

    // The comparison would notice a single bit.
    let mut wrong = states;
    wrong[12_345][16] ^= 1 << 29;
    for comparison in
        [agreement::forward(&mut recording, &wrong, 0)?, agreement::backward(&mut recording, &wrong, 0)?]
    {
        assert_eq!((comparison.positions, comparison.mismatches), (POSITIONS as u64, 1));
        assert!(comparison.described[0].starts_with("position 12345, pc "), "{:?}", comparison.described);
    }
    assert!(agreement::find(&mut recording, &wrong[12_000..], 0, POSITIONS as u64).is_err());
    assert_eq!(agreement::find(&mut recording, &wrong[14_000..], 0, POSITIONS as u64)?, 14_000);
    Ok(())
}

#[test]
fn a_kernel_that_takes_interrupts() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut session = Session::start(scratch.path(), &[], Guest::Kernel.arguments("earlycon")?)?;
    session.wait_for_console("Calibrating delay loop")?;
    session.monitor.stop()?;
    let from = session.instructions_written();
    let log = scratch.path().join("window.log");
    session.log_window(&log, POSITIONS as u64 + 1000)?;
    let trace = session.quit()?;
    let states = agreement::read_log(&log, usize::MAX)?;
    let coverage = Coverage::of(&states);
    println!("{coverage}");
    ensure!(coverage.positions >= POSITIONS as u64, "{coverage}");
    ensure!(coverage.high == coverage.positions && coverage.interrupts > 0, "{coverage}");
    let mut recording = Recording::open(&trace)?;
    let end = recording.end().0;
    let first = agreement::find(&mut recording, &states, from, end)?;
    assert_true(&mut recording, &states, first)
}

#[test]
fn a_guest_in_thumb() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let image = thumb::build(scratch.path())?.display().to_string();
    let arguments = ["-M", "virt", "-nic", "none", "-display", "none", "-bios", &image];
    let arguments = arguments.into_iter().chain(logging());
    let trace = Session::start(scratch.path(), &["--stop-after", "100k"], arguments)?.finish()?;
    let states = agreement::read_log(&scratch.path().join(FIRST_LOG), 4 * POSITIONS)?;
    let coverage = Coverage::of(&states);
    println!("{coverage}");
    ensure!(coverage.thumb * 10 > coverage.positions * 9, "{coverage}");
    ensure!(coverage.interrupts > 0 && coverage.exceptions > 0, "{coverage}");
    assert_true(&mut Recording::open(&trace)?, &states, 0)
}

#[test]
fn the_memory_that_u_boot_leaves() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut session = Session::start(scratch.path(), &[], Guest::UBoot.arguments("")?)?;
    session.wait_for_instructions(5_000_000)?;
    session.monitor.stop()?;
    let image = scratch.path().join("memory");
    session.monitor.save_memory(Guest::RAM_START, Guest::UBoot.ram_bytes(), &image)?;
    let mut recording = Recording::open(&session.quit()?)?;
    let end = recording.end().0;
    let compared = memory::compare(&mut recording, end, Guest::UBoot.virtual_ram(), &std::fs::read(image)?)?;
    println!("{compared}");
    assert_eq!(compared.wrong, 0, "{compared}");
    assert!(compared.equal > 1 << 20, "{compared}");
    Ok(())
}
