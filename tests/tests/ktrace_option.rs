//! QEMU's own option `-ktrace`: it records without `ktracer record`, with the initial memory, and says what is wrong.
//!
//! Needs the patched QEMU (`make qemu`), the firmware that scripts/setup.sh unpacks, and
//! `cargo build --release --workspace`.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ktracer_tests::programs::{Guest, program};
use ktracer_tests::qemu::Qemu;
use serde_json::Value;

fn qemu() -> Result<Command> {
    let mut command = Qemu::patched()?.command();
    command.env("KTRACER_PLUGIN", program("libktracer.so")?).stdin(Stdio::null());
    Ok(command)
}

fn option(directory: &Path, more: &str) -> [String; 2] {
    ["-ktrace".to_owned(), format!("dir={}{more}", directory.display())]
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn verify(trace: &Path) -> Result<Output> {
    Ok(Command::new(program("ktracer")?).arg("verify").arg(trace).output()?)
}

#[test]
fn qemu_records_by_itself() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let trace = scratch.path().join("trace");
    let mut guest = qemu()?
        .args(Guest::UBoot.arguments("")?)
        .args(["-serial", "null"])
        .args(option(&trace, ""))
        .stderr(Stdio::piped())
        .spawn()?;
    // Until some segments are in the file; the limit only passes when something is wrong.
    let is_long = || trace.join("trace.kt").metadata().is_ok_and(|file| file.len() > 100_000);
    for _ in 0..1200 {
        if is_long() || guest.try_wait()?.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(guest.id() as i32).context("QEMU's process number")?,
        rustix::process::Signal::TERM,
    )?;
    let output = guest.wait_with_output()?;
    ensure!(text(&output).contains("ktracer: recorded "), "{}", text(&output));
    let summary: Value = serde_json::from_slice(&std::fs::read(trace.join("trace.json"))?)?;
    assert_eq!((&summary["path"], &summary["closed"]), (&Value::from("fast"), &Value::from(true)));
    ensure!(summary["qemu_version"].as_str().is_some_and(|text| text.contains("QEMU")), "{summary}");
    ensure!(summary["command_line"].to_string().contains("-ktrace"), "{summary}");
    ensure!(trace.join("memory.kt").is_file(), "the initial memory is missing");
    let verified = verify(&trace)?;
    ensure!(verified.status.success(), "{}", text(&verified));

    // A trace is not written over.
    let again =
        qemu()?.args(["-M", "virt", "-nic", "none", "-display", "none"]).args(option(&trace, "")).output()?;
    ensure!(!again.status.success() && text(&again).contains("trace.kt"), "{}", text(&again));
    Ok(())
}

#[test]
fn it_explains_itself() -> Result<()> {
    let help = qemu()?.args(["-ktrace", "help"]).output()?;
    ensure!(help.status.success() && text(&help).contains("stop-after="), "{}", text(&help));
    let scratch = tempfile::tempdir()?;
    for (wrong, named) in [(",stop=1", "stop"), (",stop-after=many", "stop-after")] {
        let output = qemu()?.args(["-M", "virt"]).args(option(scratch.path(), wrong)).output()?;
        ensure!(!output.status.success() && text(&output).contains(named), "{wrong}: {}", text(&output));
    }
    let mut missing = qemu()?;
    missing.env("KTRACER_PLUGIN", "/nowhere/libktracer.so");
    let output = missing.args(["-M", "virt"]).args(option(&scratch.path().join("t"), "")).output()?;
    ensure!(!output.status.success() && text(&output).contains("/nowhere"), "{}", text(&output));
    Ok(())
}
