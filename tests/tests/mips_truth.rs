//! A recording of the tests' MIPS guest says at every position what QEMU logged there in the same run, forward and backward,
//! in both byte orders: general registers, HI, LO, Status, the program counter, the floating-point registers; and which
//! interrupts and exceptions come between. A recording without the log, which has the blocks that QEMU makes of itself, is
//! proved by `ktracer verify`. Both end with the memory that QEMU has.
//!
//! Needs the patched QEMU (make qemu), the cross compilers that scripts/setup.sh installs, and
//! `cargo build --release --workspace`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use ktrace_timeline::events::{Event, Kind};
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::agreement;
use ktracer_tests::mips;
use ktracer_tests::mips_agreement::{Coverage, read_log};
use ktracer_tests::mips_exceptions::{self, INTERRUPT, Logged};
use ktracer_tests::mips_oracle::State;
use ktracer_tests::programs::program;
use ktracer_tests::qemu::Qemu;
use ktracer_tests::session::{FIRST_LOG, Session};

/// Positions that are compared in each byte order.
const POSITIONS: usize = 300_000;
/// Rounds of the guest that have so many, with a log.
const LOGGED_ROUNDS: u32 = 6;
/// Rounds without a log.
const ROUNDS: u32 = 60;

/// ExcCodes (MD00090, table 9.52) that the guest raises, those in delay slots first.
const IN_SLOTS: [u8; 11] = [1, 2, 3, 4, 5, 8, 9, 10, 12, 13, 15];
const COPROCESSOR_UNUSABLE: u8 = 11;

/// Runs the guest to its end, and returns the trace and where its memory was saved.
fn record(scratch: &Path, big_endian: bool, rounds: u32, more: &[&str]) -> Result<(PathBuf, PathBuf)> {
    let qemu = Qemu::patched_mips(big_endian)?;
    let mut arguments = mips::arguments(&mips::build(scratch, big_endian)?, rounds);
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    let mut session = Session::start_on(&qemu, scratch, &[], arguments)?;
    session.wait_for_console("done")?;
    session.wait_for_shutdown()?;
    let image = scratch.join("memory");
    session.monitor.save_memory(0, mips::RAM_BYTES, &image)?;
    Ok((session.quit()?, image))
}

fn assert_true(recording: &mut Recording, states: &[State]) -> Result<()> {
    for comparison in [agreement::forward(recording, states, 0)?, agreement::backward(recording, states, 0)?]
    {
        assert_eq!(comparison.mismatches, 0, "{}", comparison.described.join("\n"));
        assert_eq!(comparison.positions, states.len() as u64);
    }
    Ok(())
}

/// Every register and every exception, against the log.
fn logged(big_endian: bool) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let logging = ["-accel", "tcg,one-insn-per-tb=on", "-d", "cpu,fpu,exec,int,nochain", "-D", FIRST_LOG];
    let (trace, image) = record(scratch.path(), big_endian, LOGGED_ROUNDS, &logging)?;
    let log = scratch.path().join(FIRST_LOG);
    let mut states = read_log(&log, usize::MAX)?;
    let coverage = Coverage::of(&states);
    println!("{coverage}");
    ensure!(coverage.positions >= POSITIONS as u64, "{coverage}");
    ensure!(coverage.slots > 5000 && coverage.nullified > 200 && coverage.user > 300, "{coverage}");
    let mut recording = Recording::open(&trace)?;
    assert_true(&mut recording, &states)?;

    let logged = mips_exceptions::read_log(&log)?;
    let (all, in_slots) = mips_exceptions::compare(&mut recording, &states, &logged, 0)?;
    println!("{all}\nin delay slots: {in_slots}");
    ensure!(all.of(INTERRUPT) > 100 && all.of(COPROCESSOR_UNUSABLE) > 0, "{all}");
    // With one instruction a block, interrupts come between branch and slot as well.
    for cause in IN_SLOTS.into_iter().chain([INTERRUPT]) {
        ensure!(in_slots.of(cause) > 0, "{cause} in {in_slots}");
    }
    mips::assert_memory(&mut recording, &image)?;

    // The comparisons would notice a single bit, an exception that is missing, and one too many.
    states[12_345].registers[34] ^= 1 << 29;
    let comparison = agreement::forward(&mut recording, &states[12_000..13_000], 12_000)?;
    assert_eq!((comparison.positions, comparison.mismatches), (1000, 1));
    let (mut fewer, mut more) = (logged.clone(), logged);
    fewer.remove(20);
    more.insert(20, Logged { before: more[20].before - 1, ..more[20] });
    for wrong in [fewer, more] {
        assert!(mips_exceptions::compare(&mut recording, &states, &wrong, 0).is_err());
    }
    Ok(())
}

/// Blocks as QEMU makes them: with slots in other blocks than their branch, and branches that run again.
fn unlogged(big_endian: bool) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (trace, image) = record(scratch.path(), big_endian, ROUNDS, &[])?;
    let verified = Command::new(program("ktracer")?).arg("verify").arg(&trace).output()?;
    let said = String::from_utf8_lossy(&verified.stdout);
    println!("{said}");
    ensure!(verified.status.success(), "{said}{}", String::from_utf8_lossy(&verified.stderr));
    let mut recording = Recording::open(&trace)?;
    ensure!(recording.end().0 > 1_000_000, "{} instructions only", recording.end().0);
    mips::assert_memory(&mut recording, &image)?;

    recording.seek(ktrace_format::Position::START)?;
    let (mut interrupts, mut at_slots) = (0, 0);
    for event in recording.events([Kind::Interrupt].into_iter().collect(), &mut || false) {
        let Event::Discontinuity(interrupt) = event else { anyhow::bail!("{event}") };
        interrupts += 1;
        // The only branches in front of a page's first word are those whose slot is in another block.
        at_slots += u32::from(interrupt.pc.is_some_and(|pc| pc & 0xfff == 0));
    }
    println!("{interrupts} interrupts, {at_slots} of them at the start of a page, where a delay slot is");
    ensure!(interrupts > 100, "{interrupts} interrupts only");
    Ok(())
}

#[test]
fn little_endian_against_the_log() -> Result<()> {
    logged(false)
}

#[test]
fn big_endian_against_the_log() -> Result<()> {
    logged(true)
}

#[test]
fn little_endian_in_blocks() -> Result<()> {
    unlogged(false)
}

#[test]
fn big_endian_in_blocks() -> Result<()> {
    unlogged(true)
}
