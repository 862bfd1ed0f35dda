//! Random MIPS32 sequences run in QEMU and in the model, in both byte orders, which must agree in all registers that QEMU
//! logs at every instruction, delay slots included.
//!
//! `KTRACER_FUZZ_SEED` chooses other sequences, `KTRACER_FUZZ_INSTRUCTIONS` how many instructions run in each test. A
//! failure names the seed of its image; that seed with one instruction runs just this image again.

mod assembler;
mod check;
mod generate;
mod image;
mod layout;
mod patterns;

use std::env;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use check::{Checker, Counts};
use generate::Drawn;
use image::{Image, Shape};
use ktracer_tests::mips_oracle::MipsOracle;
use ktracer_tests::qemu::Qemu;
use layout::{KERNEL, START};
use patterns::{Needs, PATTERNS};

/// Sequences in one image.
const SEQUENCES: usize = 150;
/// Units in one sequence.
const LENGTH: usize = 150;

fn setting(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
        Err(_) => default,
    }
}

fn shape(big_endian: bool) -> Shape {
    Shape { big_endian, release_2: true, fpu: false, sequences: SEQUENCES, length: LENGTH }
}

#[test]
fn little_endian() {
    run(shape(false), "24Kf", 100_000);
}

#[test]
fn big_endian() {
    run(shape(true), "24Kf", 100_000);
}

/// QEMU's log has ten times as much for each of these instructions.
#[test]
fn little_endian_with_fpu() {
    run(Shape { fpu: true, ..shape(false) }, "24Kf", 30_000);
}

#[test]
fn big_endian_with_fpu() {
    run(Shape { fpu: true, ..shape(true) }, "24Kf", 30_000);
}

/// What release 2 added is reserved here, or something else.
#[test]
fn release_1() {
    run(Shape { release_2: false, ..shape(false) }, "4Kc", 30_000);
}

fn run(shape: Shape, processor: &str, default: u64) {
    let seed = setting("KTRACER_FUZZ_SEED", 1);
    let instructions = setting("KTRACER_FUZZ_INSTRUCTIONS", default) as usize;
    let mut total = Counts::default();
    let mut drawn = Drawn::new();
    let mut image_seed = seed;
    while total.positions < instructions {
        let counts = match run_image(image_seed, shape, processor, &mut drawn) {
            Ok(counts) => counts,
            Err(error) => panic!("KTRACER_FUZZ_SEED={image_seed} KTRACER_FUZZ_INSTRUCTIONS=1: {error:?}"),
        };
        total.add(counts);
        image_seed += 1;
    }
    eprintln!("{total:#?}");
    // Most of what runs must be modelled and go on, or this test would compare little.
    let exceptions: usize = total.exceptions.values().sum();
    assert!(total.modelled * 10 > total.positions * 8, "{total:?}");
    assert!(exceptions * 25 < total.positions, "{total:?}");
    assert!(total.blocks * 20 > total.positions, "{total:?}");
    assert!(total.slots * 30 > total.positions, "{total:?}");
    if total.positions >= 30_000 {
        assert!(total.across_pages > 0, "{total:?}");
        for pattern in PATTERNS {
            let possible = match pattern.needs {
                Needs::Nothing => true,
                Needs::Release2 => shape.release_2,
                Needs::Fpu => shape.fpu,
            };
            assert!(!possible || drawn.contains(pattern.name), "{} was never drawn", pattern.name);
        }
    }
}

fn run_image(seed: u64, shape: Shape, processor: &str, drawn: &mut Drawn) -> anyhow::Result<Counts> {
    let image = Image::generate(seed, shape, drawn);
    let directory = tempfile::tempdir().context("making a directory for the image")?;
    let file = directory.path().join("image.bin");
    std::fs::write(&file, &image.bytes).context("writing the image")?;
    let checker = Checker::new(&image, seed);
    let counts = compare(&file, shape, processor, checker)?;
    Ok(counts)
}

/// Runs the image to its end, which it reaches in a fraction of a second, and checks its log meanwhile: it is too long for
/// a file.
fn compare(image: &Path, shape: Shape, processor: &str, mut checker: Checker) -> anyhow::Result<Counts> {
    let mut file = std::ffi::OsString::from("loader,addr=0,force-raw=on,file=");
    file.push(image);
    let log = if shape.fpu { "cpu,fpu,nochain,exec" } else { "cpu,nochain,exec" };
    let mut child = Qemu::patched_mips(shape.big_endian)?
        .command()
        .args(["-M", "malta", "-cpu", processor, "-m", "64", "-display", "none", "-nodefaults", "-no-reboot"])
        .args(["-accel", "tcg,one-insn-per-tb=on", "-d", log, "-device"])
        .arg(file)
        .args(["-device", &format!("loader,addr={START},cpu-num=0")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // Without a file for it the log is written there.
        .stderr(Stdio::piped())
        .spawn()
        .context("starting QEMU")?;
    let log = child.stderr.take().context("QEMU has no log")?;
    let checked = check(MipsOracle::new(log), &mut checker);
    if checked.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().context("waiting for QEMU")?;
    checked?;
    ensure!(status.success(), "QEMU failed ({status})");
    Ok(checker.counts)
}

fn check(mut oracle: MipsOracle<impl std::io::Read>, checker: &mut Checker) -> anyhow::Result<()> {
    let mut before = oracle.next().context("QEMU's log is empty")??;
    ensure!(before.address() == START, "the guest starts at {:#010x}", before.address());
    // The start-up code runs at a low address, then in the kernel.
    let mut started = false;
    let mut last_sequence = false;
    for after in oracle {
        let after = after?;
        started = started || before.address() >= KERNEL;
        if started {
            checker.step(&before, &after)?;
            last_sequence = last_sequence || checker.is_at_end(&before);
        }
        before = after;
    }
    checker.finish()?;
    ensure!(last_sequence, "the guest did not come to its end, but to {:#010x}", before.address());
    Ok(())
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.positions += other.positions;
        self.modelled += other.modelled;
        self.slots += other.slots;
        self.blocks += other.blocks;
        self.across_pages += other.across_pages;
        for (mnemonic, count) in other.opaque {
            *self.opaque.entry(mnemonic).or_default() += count;
        }
        for (code, count) in other.exceptions {
            *self.exceptions.entry(code).or_default() += count;
        }
    }
}
