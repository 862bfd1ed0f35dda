//! Memory at a virtual address after the guest has changed what is behind it, and before an access shows it: what was there
//! before is not shown, on both paths.
//!
//! Needs both QEMUs, the compiler that scripts/setup.sh installs, and `cargo build --release --workspace`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ktrace_format::Position;
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::arm;
use ktracer_tests::programs::program;
use ktracer_tests::qemu::Qemu;

/// The address whose mapping tests/guests/remap.S changes.
const CHANGED: u32 = 0x8000_0000;
/// What is known of it at each label: by an access, by nothing that agrees, by an access again, and that nothing is there.
const EXPECTED: [(&str, Option<u8>); 5] = [
    ("shown", Some(0x11)),
    ("rewritten", None),
    ("switched", None),
    ("shown_again", Some(0x22)),
    ("taken_away", None),
];

/// The position at which the guest gets to a label of its executable.
fn position(trace: &Path, executable: &Path, label: &str) -> Result<u64> {
    let output = Command::new(program("ktracer")?)
        .args([Path::new("query"), trace, Path::new("--elf"), executable])
        .args(["--json", "--count", "1", "exec", label])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = String::from_utf8(output.stdout)?;
    let found: serde_json::Value = serde_json::from_str(line.lines().next().context("it was not executed")?)?;
    found["position"].as_u64().with_context(|| found.to_string())
}

#[test]
fn what_was_there_before_is_not_shown() -> Result<()> {
    let both = || -> Result<_> { Ok([Qemu::stock()?, Qemu::patched()?]) };
    let cases =
        both()?.into_iter().map(|qemu| (qemu, false)).chain(both()?.into_iter().map(|qemu| (qemu, true)));
    for (qemu, big_endian_tables) in cases {
        let scratch = tempfile::tempdir()?;
        let trace = scratch.path().join("trace");
        let (image, executable) = arm::remap(scratch.path(), big_endian_tables)?;
        let recorded = Command::new(program("ktracer")?)
            .args(["record", "-o"])
            .args([&trace, Path::new("--"), qemu.program()])
            .args(["-M", "virt", "-cpu", "cortex-a15", "-m", "16", "-display", "none", "-nic", "none"])
            .args(["-semihosting", "-bios"])
            .arg(&image)
            .output()?;
        ensure!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
        let mut recording = Recording::open(&trace)?;
        for (label, expected) in EXPECTED {
            recording.seek(Position(position(&trace, &executable, label)?))?;
            let mut bytes = [None; 4];
            recording.read_memory(CHANGED, &mut bytes)?;
            // Big-endian tables can't be walked: once the guest may have changed them, no access proves what is there.
            let expected = expected.filter(|_| !big_endian_tables || label == "shown");
            assert_eq!(bytes, [expected; 4], "{label}, {}, {big_endian_tables}", qemu.program().display());
        }
        // An address that nothing accesses but the tables map, where QEMU has put the device tree, which begins so; and one that
        // was accessed before there were tables.
        let device_tree = [0xd0, 0x0d, 0xfe, 0xed].map(|byte| Some(byte).filter(|_| !big_endian_tables));
        for (address, expected) in [(0x4000_0000, device_tree), (0x4020_0000, [None; 4])] {
            let mut bytes = [Some(0xff); 4];
            recording.read_memory(address, &mut bytes)?;
            assert_eq!(bytes, expected, "{address:#x}, {}", qemu.program().display());
        }
    }
    Ok(())
}
