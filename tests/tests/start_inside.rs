//! A recording that starts in the middle of a block, on both paths: right behind an instruction whose results the recorder
//! reads, which is not part of the recording.
//!
//! Needs both QEMUs, the firmware that scripts/setup.sh unpacks, and `cargo build --release --workspace`.

use anyhow::Result;
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::programs::{Guest, program};
use ktracer_tests::qemu::Qemu;

/// In U-Boot's start: behind an MRS, and behind an MRC.
const STARTS: [u32; 2] = [0x300, 0x31c];

#[test]
fn every_instruction_is_proved() -> Result<()> {
    for qemu in [Qemu::stock()?, Qemu::patched()?] {
        for start in STARTS {
            let scratch = tempfile::tempdir()?;
            let trace = scratch.path().join("trace");
            let recorded = std::process::Command::new(program("ktracer")?)
                .args(["record", "--stop-after", "100k", "--start-at", &format!("{start:#x}"), "-o"])
                .args([&trace, std::path::Path::new("--"), qemu.program()])
                .args(Guest::UBoot.arguments("")?)
                .args(["-serial", "null"])
                .output()?;
            assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
            let verified =
                std::process::Command::new(program("ktracer")?).arg("verify").arg(&trace).output()?;
            assert!(verified.status.success(), "{start:#x}: {}", String::from_utf8_lossy(&verified.stdout));
            let registers = Recording::open(&trace)?.registers()?;
            assert_eq!(registers.get(15), Some(&Some(start)));
        }
    }
    Ok(())
}
