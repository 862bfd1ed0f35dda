//! MIPS16e and microMIPS, in both byte orders: each instruction is recorded as opaque, in its own length, and a recording says
//! at every position what QEMU logged there in the same run, forward and backward; every instruction of a recording with blocks as
//! QEMU makes them is proved; and all of memory at the end is QEMU's.
//!
//! Needs the patched QEMU (make qemu), the cross compilers that scripts/setup.sh installs, and
//! `cargo build --release --workspace`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use ktrace_timeline::Recording;
use ktracer_tests::agreement;
use ktracer_tests::mips;
use ktracer_tests::mips_agreement::read_log;
use ktracer_tests::mips_exceptions;
use ktracer_tests::programs::program;
use ktracer_tests::qemu::Qemu;
use ktracer_tests::session::{FIRST_LOG, Session};

/// A compressed instruction set, and a processor that has it.
struct Compressed {
    /// The compiler's attribute of functions.
    attribute: &'static str,
    processor: &'static str,
}

const MIPS16E: Compressed = Compressed { attribute: "mips16", processor: "24Kf" };
const MICROMIPS: Compressed = Compressed { attribute: "micromips", processor: "M14Kc" };

/// `BREAK`s of tests/guests/mips_compressed.c, in 12 rounds of 3, and ExcCode of these (MD00090, table 9.52).
const BREAKS: u64 = 36;
const BREAKPOINT: u8 = 9;

/// Runs the guest to its end, and returns the trace and where its memory was saved.
fn record(scratch: &Path, set: &Compressed, big_endian: bool, more: &[&str]) -> Result<(PathBuf, PathBuf)> {
    let attribute = format!("-DCOMPRESSED={}", set.attribute);
    let flags = [&attribute, "-minterlink-compressed"];
    let executable = mips::build_source(scratch, "mips_compressed.c", big_endian, &flags)?;
    let mut arguments = mips::arguments(&executable, 0);
    arguments.extend(["-cpu", set.processor].iter().chain(more).map(|argument| (*argument).to_owned()));
    let mut session = Session::start_on(&Qemu::patched_mips(big_endian)?, scratch, &[], arguments)?;
    session.wait_for_console("done")?;
    session.wait_for_shutdown()?;
    let image = scratch.join("memory");
    session.monitor.save_memory(0, mips::RAM_BYTES, &image)?;
    Ok((session.quit()?, image))
}

fn assert_whole(trace: &Path, image: &Path) -> Result<Recording> {
    let verified = Command::new(program("ktracer")?).arg("verify").arg(trace).output()?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let mut recording = Recording::open(trace)?;
    mips::assert_memory(&mut recording, image)?;
    Ok(recording)
}

fn is_exact(set: &Compressed, big_endian: bool) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let logging = ["-accel", "tcg,one-insn-per-tb=on", "-d", "cpu,exec,int,nochain", "-D", FIRST_LOG];
    let (trace, image) = record(scratch.path(), set, big_endian, &logging)?;
    let log = scratch.path().join(FIRST_LOG);
    let states = read_log(&log, usize::MAX)?;
    let compressed = states.iter().filter(|state| state.registers[37] & 1 != 0).count();
    println!("{} positions, {compressed} of them in compressed code", states.len());
    ensure!(compressed > 30_000 && compressed < states.len() - 500, "{compressed} of {}", states.len());
    let mut recording = assert_whole(&trace, &image)?;
    for comparison in
        [agreement::forward(&mut recording, &states, 0)?, agreement::backward(&mut recording, &states, 0)?]
    {
        assert_eq!(comparison.mismatches, 0, "{}", comparison.described.join("\n"));
        assert_eq!(comparison.positions, states.len() as u64);
    }
    let logged = mips_exceptions::read_log(&log)?;
    let (all, _) = mips_exceptions::compare(&mut recording, &states, &logged, 0)?;
    ensure!(all.of(BREAKPOINT) == BREAKS, "{all}");

    let scratch = tempfile::tempdir()?;
    let (trace, image) = record(scratch.path(), set, big_endian, &[])?;
    assert_whole(&trace, &image)?;
    Ok(())
}

#[test]
fn mips16e_little_endian() -> Result<()> {
    is_exact(&MIPS16E, false)
}

#[test]
fn mips16e_big_endian() -> Result<()> {
    is_exact(&MIPS16E, true)
}

#[test]
fn micromips_little_endian() -> Result<()> {
    is_exact(&MICROMIPS, false)
}

#[test]
fn micromips_big_endian() -> Result<()> {
    is_exact(&MICROMIPS, true)
}
