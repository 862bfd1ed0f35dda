//! The recording says at every position what QEMU logged there in the same run: r0 to r15 and CPSR, forward and
//! backward, and which interrupts and exceptions come between. At its end it has the memory that QEMU has. Every test runs
//! on both paths. `tests/truth.sh` does the same with far more positions.
//!
//! Needs QEMU, the patched QEMU (make qemu), the firmware that scripts/setup.sh unpacks, and
//! `cargo build --release --workspace`.

use std::path::Path;

use anyhow::{Result, ensure};
use ktrace_format::header;
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::agreement::{self, Coverage, Registers};
use ktracer_tests::arm;
use ktracer_tests::exceptions::{self, HOST_CALL, Logged};
use ktracer_tests::memory;
use ktracer_tests::programs::Guest;
use ktracer_tests::qemu::Qemu;
use ktracer_tests::session::{FIRST_LOG, Session, logging};

/// Positions that are compared in each test.
const POSITIONS: usize = 25_000;
/// Interrupts that the kernel takes in its test at least.
const INTERRUPTS: usize = 40;

/// Causes of exceptions: their vectors (DDI 0406C, B1.8.1).
const UNDEFINED: u8 = 1;
const SUPERVISOR_CALL: u8 = 2;
const PREFETCH_ABORT: u8 = 3;
const DATA_ABORT: u8 = 4;
const IRQ: u8 = 6;

/// Runs each test on both paths.
macro_rules! on_both_paths {
    ($($test:ident),*) => {
        mod portable {
            $(#[test] fn $test() -> anyhow::Result<()> { super::$test(&super::Qemu::stock()?) })*
        }
        mod fast {
            $(#[test] fn $test() -> anyhow::Result<()> { super::$test(&super::Qemu::patched()?) })*
        }
    };
}

on_both_paths!(
    u_boot_from_reset,
    a_kernel_that_takes_interrupts,
    a_guest_in_thumb,
    the_memory_that_u_boot_leaves
);

fn assert_true(recording: &mut Recording, states: &[Registers], first: u64) -> Result<()> {
    for comparison in
        [agreement::forward(recording, states, first)?, agreement::backward(recording, states, first)?]
    {
        assert_eq!(comparison.mismatches, 0, "{}", comparison.described.join("\n"));
        assert_eq!(comparison.positions, states.len() as u64);
    }
    Ok(())
}

/// The recording's memory at its end is QEMU's. On the fast path all of it is known.
fn assert_memory(qemu: &Qemu, recording: &mut Recording, guest: Guest, image: &Path) -> Result<()> {
    let end = recording.end().0;
    let compared = memory::compare(recording, end, guest.virtual_ram(), &std::fs::read(image)?)?;
    println!("{compared}");
    assert_eq!(compared.wrong, 0, "{compared}");
    assert!(compared.equal > 1 << 20, "{compared}");
    assert!(compared.unknown == 0 || qemu.path() == header::Path::Portable, "{compared}");
    Ok(())
}

/// The exceptions in a log that the path sees: calls that QEMU answers in place of firmware look like any instruction on the
/// portable one.
fn exceptions_in(qemu: &Qemu, log: &Path) -> Result<Vec<Logged>> {
    let mut logged = exceptions::read_log(log)?;
    logged.retain(|logged| logged.cause != HOST_CALL || qemu.path() == header::Path::Fast);
    Ok(logged)
}

fn u_boot_from_reset(qemu: &Qemu) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let arguments = Guest::UBoot.arguments("")?;
    let arguments = arguments.iter().map(String::as_str).chain(logging());
    let trace = Session::start_on(qemu, scratch.path(), &["--stop-after", "26000"], arguments)?.finish()?;
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

fn a_kernel_that_takes_interrupts(qemu: &Qemu) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let log = |name: &str| scratch.path().join(name);
    let mut arguments = Guest::Kernel.arguments("earlycon")?;
    arguments.extend(["-d", "int", "-D", FIRST_LOG].map(str::to_owned));
    let mut session = Session::start_on(qemu, scratch.path(), &[], arguments)?;
    session.wait_for_console("Calibrating delay loop")?;
    session.monitor.stop()?;
    let from = session.instructions_written();
    session.log_window(&log("window"), POSITIONS as u64 + 1000)?;
    session.monitor.log_exceptions(&log("last"))?;
    session.monitor.run()?;
    session.wait_for("there were enough interrupts", |_| {
        (exceptions::read_log(&log("last")).ok()?.len() >= INTERRUPTS).then_some(())
    })?;
    session.monitor.stop()?;
    session.monitor.end_log()?;
    let image = log("memory");
    session.monitor.save_memory(Guest::RAM_START, Guest::Kernel.ram_bytes(), &image)?;
    let mut recording = Recording::open(&session.quit()?)?;

    let states = agreement::read_log(&log("window"), usize::MAX)?;
    let coverage = Coverage::of(&states);
    println!("{coverage}");
    ensure!(coverage.positions >= POSITIONS as u64, "{coverage}");
    ensure!(coverage.high == coverage.positions && coverage.interrupts > 0, "{coverage}");
    let end = recording.end().0;
    let first = agreement::find(&mut recording, &states, from, end)?;
    assert_true(&mut recording, &states, first)?;

    let mut logged = exceptions_in(qemu, &log("window"))?;
    let counts = exceptions::compare(&mut recording, &states, &logged, first)?;
    println!("in the window: {counts}");
    assert!(counts.of(IRQ) > 0);
    // Over the whole run the log says in which order they came.
    logged.splice(0..0, exceptions_in(qemu, &log(FIRST_LOG))?);
    logged.extend(exceptions_in(qemu, &log("last"))?);
    let counts = exceptions::compare_order(&mut recording, &logged)?;
    println!("in all: {counts}");
    assert!(counts.of(IRQ) >= INTERRUPTS as u64);
    assert_memory(qemu, &mut recording, Guest::Kernel, &image)
}

fn a_guest_in_thumb(qemu: &Qemu) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let image = arm::thumb(scratch.path())?.display().to_string();
    let arguments = ["-M", "virt", "-nic", "none", "-display", "none", "-bios", &image];
    let arguments = arguments.into_iter().chain(logging());
    let trace = Session::start_on(qemu, scratch.path(), &["--stop-after", "100k"], arguments)?.finish()?;
    let states = agreement::read_log(&scratch.path().join(FIRST_LOG), 4 * POSITIONS)?;
    let coverage = Coverage::of(&states);
    println!("{coverage}");
    ensure!(coverage.thumb * 10 > coverage.positions * 9, "{coverage}");
    ensure!(coverage.interrupts > 0 && coverage.exceptions > 0, "{coverage}");
    let mut recording = Recording::open(&trace)?;
    assert_true(&mut recording, &states, 0)?;

    let logged = exceptions_in(qemu, &scratch.path().join(FIRST_LOG))?;
    let counts = exceptions::compare(&mut recording, &states, &logged, 0)?;
    println!("{counts}");
    for cause in [UNDEFINED, SUPERVISOR_CALL, PREFETCH_ABORT, DATA_ABORT, IRQ] {
        assert!(counts.of(cause) > 0, "{cause} in {counts}");
    }
    assert_eq!(counts.of(HOST_CALL) > 0, qemu.path() == header::Path::Fast, "{counts}");

    // The comparison would notice one that is missing, and one too many.
    let (mut fewer, mut more) = (logged.clone(), logged);
    fewer.remove(20);
    more.insert(20, Logged { before: fewer[20].before - 1, ..fewer[20] });
    for wrong in [fewer, more] {
        assert!(exceptions::compare(&mut recording, &states, &wrong, 0).is_err());
    }
    Ok(())
}

fn the_memory_that_u_boot_leaves(qemu: &Qemu) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut session = Session::start_on(qemu, scratch.path(), &[], Guest::UBoot.arguments("")?)?;
    session.wait_for_instructions(5_000_000)?;
    session.monitor.stop()?;
    let image = scratch.path().join("memory");
    session.monitor.save_memory(Guest::RAM_START, Guest::UBoot.ram_bytes(), &image)?;
    let mut recording = Recording::open(&session.quit()?)?;
    assert_memory(qemu, &mut recording, Guest::UBoot, &image)
}
