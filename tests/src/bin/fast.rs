//! Records ten seconds of U-Boot and the whole boot of Debian's armhf kernel to its panic on the patched QEMU, proves every
//! instruction, counts the events, and holds the kernel's interrupts and its memory at the panic against QEMU's. Prints a
//! report. tests/fast.sh runs it; it takes a few minutes.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ktrace_format::Position;
use ktrace_timeline::events::{Kind, Kinds};
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::programs::{Guest, program};
use ktracer_tests::qemu::Qemu;
use ktracer_tests::session::{FIRST_LOG, Session};
use ktracer_tests::{exceptions, memory, report};

/// How long U-Boot is recorded.
const U_BOOT_SECONDS: u64 = 10;

/// Proves a recording with `ktracer verify`, and prints its path and how many events it has.
fn examine(trace: &Path) -> Result<Recording> {
    let verified = Command::new(program("ktracer")?).arg("verify").arg(trace).output()?;
    print!("  {}", String::from_utf8_lossy(&verified.stdout));
    if !verified.status.success() {
        bail!("ktracer verify: {}", String::from_utf8_lossy(&verified.stderr));
    }
    let mut recording = Recording::open(trace)?;
    let path = recording.program().trace().header().path;
    recording.seek(Position::START)?;
    let mut counts = [0_u64; Kind::ALL.len()];
    for event in recording.events(Kinds::ALL, &mut || false) {
        let kind = event.kind().with_context(|| format!("at position {}: {event}", event.position()))?;
        let count = Kind::ALL.iter().zip(&mut counts).find(|(known, _)| **known == kind);
        *count.context("a kind of its own")?.1 += 1;
    }
    let counts: Vec<String> =
        Kind::ALL.iter().zip(counts).map(|(kind, count)| format!("{count} {}", kind.name())).collect();
    println!("  {path:?} path; events: {}", counts.join(", "));
    Ok(recording)
}

fn u_boot(qemu: &Qemu) -> Result<()> {
    println!("U-Boot for {U_BOOT_SECONDS} seconds");
    let scratch = tempfile::tempdir()?;
    let session = Session::start_on(qemu, scratch.path(), &[], Guest::UBoot.arguments("")?)?;
    sleep(Duration::from_secs(U_BOOT_SECONDS));
    examine(&session.quit()?)?;
    println!();
    Ok(())
}

fn kernel(qemu: &Qemu) -> Result<bool> {
    println!("The kernel to its panic");
    let scratch = tempfile::tempdir()?;
    // It stays after the panic, so that its memory can be saved.
    let mut arguments = Guest::Kernel.arguments("panic=0")?;
    arguments.extend(["-d", "int", "-D", FIRST_LOG].map(str::to_owned));
    let mut session = Session::start_on(qemu, scratch.path(), &[], arguments)?;
    session.wait_for_console("end Kernel panic")?;
    session.monitor.stop()?;
    session.monitor.human("log none")?;
    let image = scratch.path().join("memory");
    session.monitor.save_memory(Guest::RAM_START, Guest::Kernel.ram_bytes(), &image)?;
    let mut recording = examine(&session.quit()?)?;
    let logged = exceptions::read_log(&scratch.path().join(FIRST_LOG))?;
    let counts = exceptions::compare_order(&mut recording, &logged)?;
    println!("  all exceptions are those that QEMU logged, in order: {counts}");
    let end = recording.end().0;
    let compared = memory::compare(&mut recording, end, Guest::Kernel.virtual_ram(), &std::fs::read(image)?)?;
    println!("  RAM at the end, position {end}: {compared}\n");
    Ok(compared.wrong + compared.unknown == 0)
}

fn main() -> Result<ExitCode> {
    let qemu = Qemu::patched()?;
    println!("{}\n", report::heading(&qemu)?);
    u_boot(&qemu)?;
    let agree = kernel(&qemu)?;
    println!(
        "{}",
        if agree { "all is proved, and all memory is QEMU's" } else { "THE MEMORY IS NOT QEMU'S" }
    );
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
