//! SIGKILL on QEMU in the middle of a recording: what was written until then opens, says what is missing, verifies, and
//! replays.
//!
//! Needs QEMU, gdb-multiarch, U-Boot (all from scripts/setup.sh) and `cargo build --release --workspace`.

use std::sync::Arc;

use anyhow::{Context, Result};
use ktrace_format::Position;
use ktrace_timeline::verify::verify;
use ktrace_timeline::{Program, Recording, Replay};
use ktracer_tests::programs::Guest;
use ktracer_tests::server::Server;
use ktracer_tests::session::Session;
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn what_was_written_is_good() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut session = Session::start(scratch.path(), &[], Guest::UBoot.arguments("")?)?;
    let before = session.wait_for_instructions(6_000_000)?;
    let qemu = Pid::from_raw(session.qemu()? as i32).context("a process number")?;
    kill_process(qemu, Signal::KILL)?;
    let trace = session.trace();
    assert_eq!(session.wait()?.code(), Some(137));

    let program = Arc::new(Program::open(&trace)?);
    assert!(program.trace().totals().is_none(), "nobody closed it");
    assert!(program.trace().segments().len() > 2);
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(trace.join("trace.json"))?)?;
    assert_eq!(summary["closed"], false);

    let report = verify(&program, &|_| (), &|| false);
    assert!(report.is_complete(), "{:?}", report.divergences);

    let mut recording = Recording::new(Arc::clone(&program));
    let end = recording.end().0;
    assert!(end >= before, "{before} instructions were in the file, {end} are");
    assert!(recording.summary().contains("not closed properly"), "{}", recording.summary());
    recording.seek(Position(end))?;
    let last = recording.registers()?;
    recording.seek(Position(end - 1))?;
    let registers = recording.registers()?;
    assert!(registers.iter().all(Option::is_some), "{registers:?}");

    let server = Server::start(&trace)?;
    let said = format!("it ends at position {end}, what the guest did after that is missing");
    assert!(server.messages.iter().any(|line| line.contains(&said)), "{:?}", server.messages);
    let place = |registers: &[Option<u32>]| -> Result<String> {
        let value = |number: usize| registers[number].context("a register is unknown");
        Ok(format!("pc {:08x} sp {:08x} r0 {:08x}", value(15)?, value(13)?, value(0)?))
    };
    let show = r#"printf "at %lu pc %08x sp %08x r0 %08x\n", $ktpos, $pc, $sp, $r0"#;
    let output = server.gdb(&["continue", show, "reverse-stepi", show, "reverse-continue", show])?;
    assert!(output.contains(&format!("at {} {}\n", end - 1, place(&registers)?)), "{output}");
    // What the last instruction read from the system was perhaps not written any more.
    if last.iter().all(Option::is_some) {
        assert!(output.contains(&format!("at {end} {}\n", place(&last)?)), "{output}");
    }
    assert!(output.contains("\nat 0 pc 00000000 "), "{output}");
    Ok(())
}

#[test]
fn a_tear_at_any_byte_costs_what_follows_it() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let arguments = Guest::UBoot.arguments("")?;
    let trace = Session::start(scratch.path(), &["--stop-after", "3M"], arguments)?.finish()?;
    let whole = Program::open(&trace)?;
    let file = std::fs::read(trace.join("trace.kt"))?;
    let torn = scratch.path().join("torn");
    std::fs::create_dir(&torn)?;
    let segments = whole.trace().segments();
    assert!(segments.len() > 2);
    for (number, segment) in segments.iter().enumerate() {
        for cut in [
            segment.offset,
            segment.offset + 11,
            segment.offset + 1000,
            segment.index.context("an index")? + 5,
        ] {
            std::fs::write(torn.join("trace.kt"), &file[..cut as usize])?;
            let program = Arc::new(Program::open(&torn)?);
            // A segment whose index is lost is there.
            let kept = number + usize::from(Some(cut) > segment.index);
            assert_eq!(program.trace().segments().len(), kept, "cut at {cut}");
            assert_eq!(
                program.trace().instructions(),
                if kept > number { segment.end() } else { segment.first }
            );
            let report = verify(&program, &|_| (), &|| false);
            assert_eq!(
                (report.proved, report.divergences),
                (program.trace().instructions(), vec![]),
                "cut at {cut}"
            );
        }
    }
    Ok(())
}
