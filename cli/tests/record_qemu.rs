//! `ktracer record` with the real QEMU and the real plugin. Needs `cargo build --release --workspace` before, and what
//! scripts/setup.sh installs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ktrace_format::memory::Image;

fn firmware() -> PathBuf {
    let cache = std::env::var_os("KTRACER_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from).expect("HOME is set");
        std::env::var_os("XDG_CACHE_HOME").map_or(home.join(".cache"), PathBuf::from).join("ktracer")
    });
    let file = cache.join("firmware/u-boot-qemu/usr/lib/u-boot/qemu_arm/u-boot.bin");
    assert!(
        file.is_file(),
        "this test needs Debian's package u-boot-qemu, unpacked by scripts/setup.sh: {} is missing",
        file.display()
    );
    file
}

fn plugin() -> PathBuf {
    let programs = Path::new(env!("CARGO_BIN_EXE_ktracer")).parent().unwrap();
    let file = programs.join("../release/libktracer.so");
    assert!(file.is_file(), "{} is missing: cargo build --release --workspace", file.display());
    file
}

/// Records U-Boot in a directory of its own; the trace is `trace` in it. `wrapper` goes in front of the command.
fn record(scratch: &Path, wrapper: &[&str], options: &[&str]) -> Output {
    let words: Vec<&str> = wrapper.iter().copied().chain([env!("CARGO_BIN_EXE_ktracer")]).collect();
    Command::new(words[0])
        .args(&words[1..])
        .args(["record", "-o", "trace"])
        .args(options)
        .args(["--", "qemu-system-arm", "-M", "virt", "-m", "64", "-nic", "none", "-display", "none"])
        .args(["-serial", "file:console", "-bios"])
        .arg(firmware())
        .env("KTRACER_PLUGIN", plugin())
        .current_dir(scratch)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn summary(scratch: &Path) -> serde_json::Value {
    let text = std::fs::read(scratch.join("trace/trace.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn u_boot_is_recorded_with_its_memory() {
    let scratch = tempfile::tempdir().unwrap();
    let output = record(scratch.path(), &[], &["--stop-after", "2M"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("replay it with: ktreplay trace"), "{errors}");
    assert!(!errors.contains("warning"), "{errors}");

    let summary = summary(scratch.path());
    assert_eq!(summary["closed"], true);
    assert!(summary["qemu_version"].as_str().unwrap().starts_with("QEMU emulator version"));
    assert_eq!(summary["command_line"][0], "qemu-system-arm");
    assert!(summary["totals"]["instructions"].as_u64().unwrap() >= 2_000_000);

    let image = Image::open(&scratch.path().join("trace")).unwrap();
    assert_eq!(image.check(), Vec::<String>::new());
    let firmware = std::fs::read(firmware()).unwrap();
    let mut flash = vec![0; firmware.len()];
    assert_eq!(image.read(0, &mut flash), vec![0..firmware.len()]);
    assert!(flash == firmware, "the image is from before the first instruction");
}

#[test]
fn a_signal_closes_the_trace() {
    let scratch = tempfile::tempdir().unwrap();
    let output = record(scratch.path(), &["timeout", "--preserve-status", "-s", "INT", "3"], &[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(summary(scratch.path())["closed"], true, "{errors}");
}
