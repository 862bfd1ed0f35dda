//! Records Debian's installer on the malta board, a kernel with programs in address spaces of their own, on the patched QEMU. It stops
//! the guest now and then and holds what QEMU's debugger shows at virtual addresses, through the TLB, against what the recording shows
//! at the same place, which QEMU's log of what comes next tells. Prints a report. tests/mips-user.sh runs it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use ktrace_format::Position;
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::mips_agreement::read_log;
use ktracer_tests::qemu::Qemu;
use ktracer_tests::session::Session;
use ktracer_tests::{agreement, mips, report};

/// What the kernel says when the first program starts.
const FIRST_PROGRAM: &str = "Run /init as init process";
/// Looks after that, and how many instructions there are at least between two.
const LOOKS: usize = 8;
const BETWEEN: u64 = 40_000_000;
/// Instructions that are logged behind each.
const LOGGED: u64 = 20_000;

const PAGE: u32 = 4096;
/// Where mappings may be: what the kernel allocates, programs, their libraries, their stacks.
const PLACES: [(u32, u32); 4] = [
    (0xc000_0000, 0xc040_0000),
    (0x0040_0000, 0x0060_0000),
    (0x7700_0000, 0x7800_0000),
    (0x7f80_0000, 0x8000_0000),
];

/// Where the guest stood still.
struct Look {
    /// It is behind this position.
    from: u64,
    log: PathBuf,
    /// Pages, and what QEMU showed there.
    pages: Vec<(u32, Option<Vec<u8>>)>,
}

/// The sums of all looks.
#[derive(Debug, Default)]
struct Sums {
    /// Pages that QEMU shows, of user space and of the kernel's.
    mapped: [u64; 2],
    /// Pages of user space of which neither shows anything.
    unmapped: u64,
    /// Of the pages that QEMU shows.
    equal: u64,
    unknown: u64,
    wrong: u64,
    /// Pages of which only the recording shows something, though the processor could access them.
    invented: u64,
}

fn look(session: &mut Session, scratch: &Path, number: usize) -> Result<Look> {
    session.monitor.stop()?;
    let from = session.instructions_written();
    let mut pages = Vec::new();
    for (first, behind) in PLACES {
        for address in (first..behind).step_by(PAGE as usize) {
            let bytes = session.monitor.virtual_memory(address, PAGE.into(), &scratch.join("page"))?;
            pages.push((address, bytes));
        }
    }
    let log = scratch.join(format!("look-{number}.log"));
    session.log_window(&log, LOGGED)?;
    Ok(Look { from, log, pages })
}

fn compare(recording: &mut Recording, look: &Look, sums: &mut Sums) -> Result<()> {
    const USER_MODE: u32 = 0x10;
    const EXCEPTION: u32 = 6;
    let states = read_log(&look.log, usize::MAX)?;
    let end = recording.end().0;
    let position = agreement::find(recording, &states, look.from, end)?;
    recording.seek(Position(position))?;
    let status = recording.registers()?[32].context("Status")?;
    let in_user_mode = status & USER_MODE != 0 && status & EXCEPTION == 0;
    let before = sums.mapped;
    for (address, expected) in &look.pages {
        let is_kernel = *address >= 0x8000_0000;
        let mut shown = vec![None; PAGE as usize];
        recording.read_memory(*address, &mut shown)?;
        match expected {
            Some(bytes) => {
                sums.mapped[usize::from(is_kernel)] += 1;
                for (shown, actual) in shown.iter().zip(bytes) {
                    match shown {
                        None => sums.unknown += 1,
                        Some(shown) if shown == actual => sums.equal += 1,
                        Some(_) => sums.wrong += 1,
                    }
                }
            }
            // QEMU's debugger may not look where the processor may not; what is mapped there is shown all the same.
            None if is_kernel && in_user_mode => {}
            None if shown.iter().all(Option::is_none) => sums.unmapped += 1,
            None => {
                println!("    {address:#010x} is shown, though nothing is mapped there");
                sums.invented += 1;
            }
        }
    }
    let [user, kernel] = [0, 1].map(|which| sums.mapped[which] - before[which]);
    let mode = if in_user_mode { "user" } else { "kernel" };
    println!(
        "  position {position}, in {mode} mode: {user} pages of user space and {kernel} of kseg2 are mapped"
    );
    Ok(())
}

fn main() -> Result<ExitCode> {
    let qemu = Qemu::patched_mips(false)?;
    println!("{}\n", report::heading(&qemu)?);
    println!("Debian's installer on malta");
    let scratch = tempfile::tempdir()?;
    let mut session = Session::start_on(&qemu, scratch.path(), &[], mips::installer_arguments()?)?;
    session.wait_for_console(FIRST_PROGRAM)?;
    let mut looks: Vec<Look> = Vec::new();
    for number in 0..LOOKS {
        let written = session.instructions_written();
        session.monitor.run()?;
        session.wait_for_instructions(written + BETWEEN)?;
        looks.push(look(&mut session, scratch.path(), number)?);
    }
    let trace = session.quit()?;
    let mut recording = Recording::open(&trace)?;
    let mut sums = Sums::default();
    for look in &looks {
        compare(&mut recording, look, &mut sums)?;
    }
    println!("  in all: {sums:?}");
    ensure!(sums.mapped[0] > 100, "too few pages were mapped: {sums:?}");
    let good = sums.wrong + sums.unknown + sums.invented == 0;
    println!("\n{}", if good { "all that is mapped is QEMU's" } else { "SOMETHING IS WRONG" });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
