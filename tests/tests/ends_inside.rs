//! A guest that ends QEMU from inside a block, so that no block follows which would tell what became of the last one: what
//! was executed is all there, on both paths.
//!
//! Needs both QEMUs, the compiler that scripts/setup.sh installs, and `cargo build --release --workspace`.

use std::process::Command;

use anyhow::{Result, ensure};
use ktrace_format::Position;
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::arm;
use ktracer_tests::programs::program;
use ktracer_tests::qemu::Qemu;

/// Instructions of tests/guests/exit.S that are executed, without the SVC that ends QEMU.
const BEFORE_THE_CALL: u64 = 3 + 7 * 4 + 4;

#[test]
fn all_that_was_executed_is_there() -> Result<()> {
    for qemu in [Qemu::stock()?, Qemu::patched()?] {
        let scratch = tempfile::tempdir()?;
        let trace = scratch.path().join("trace");
        let image = arm::exit(scratch.path())?;
        let recorded = Command::new(program("ktracer")?)
            .args(["record", "-o"])
            .args([&trace, std::path::Path::new("--"), qemu.program()])
            .args(["-M", "virt", "-cpu", "cortex-a15", "-m", "16", "-display", "none", "-nic", "none"])
            .args(["-semihosting", "-bios"])
            .arg(&image)
            .output()?;
        ensure!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
        let verified = Command::new(program("ktracer")?).arg("verify").arg(&trace).output()?;
        ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

        let mut recording = Recording::open(&trace)?;
        let end = recording.end().0;
        ensure!(end == BEFORE_THE_CALL || end == BEFORE_THE_CALL + 1, "it ends at {end}");
        recording.seek(Position(BEFORE_THE_CALL))?;
        let registers = recording.registers()?;
        let expected =
            [(0, 0x18), (1, 0x20026), (4, 0x4000_0100), (5, 0), (6, 1), (7, 0x4000_0100), (15, 0x2c)];
        for (number, value) in expected {
            assert_eq!(registers.get(number), Some(&Some(value)), "r{number}");
        }
        let mut memory = [None; 8];
        recording.read_memory(0x4000_0100, &mut memory)?;
        assert_eq!(memory, [1, 0, 0, 0, 0, 1, 0, 0x40].map(Some));
    }
    Ok(())
}
