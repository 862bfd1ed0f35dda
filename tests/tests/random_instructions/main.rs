//! Random A32 and T32 sequences run in QEMU and in the model, which must agree in r0 to r15 and CPSR at every
//! instruction.
//!
//! `KTRACER_FUZZ_SEED` chooses other sequences, `KTRACER_FUZZ_INSTRUCTIONS` how many instructions of each instruction
//! set run. A failure names the seed of its image; that seed with one instruction runs just this image again.

mod assembler;
mod check;
mod generate;
mod image;
mod layout;
mod patterns;

use std::env;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use check::{Checker, Counts};
use generate::Drawn;
use image::{Image, Shape};
use ktracer_tests::oracle::Oracle;
use ktracer_tests::qemu::Qemu;
use layout::CODE;

/// Sequences in one image.
const SEQUENCES: usize = 400;
/// Instructions in one sequence.
const LENGTH: usize = 50;

fn setting(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")),
        Err(_) => default,
    }
}

#[test]
fn a32() {
    run(false);
}

#[test]
fn t32() {
    run(true);
}

fn run(thumb: bool) {
    let seed = setting("KTRACER_FUZZ_SEED", 1);
    let instructions = setting("KTRACER_FUZZ_INSTRUCTIONS", 100_000) as usize;
    let mut total = Counts::default();
    let mut drawn = Drawn::new();
    let mut image_seed = seed;
    while total.positions < instructions {
        let counts = match run_image(image_seed, thumb, &mut drawn) {
            Ok(counts) => counts,
            Err(error) => panic!("KTRACER_FUZZ_SEED={image_seed} KTRACER_FUZZ_INSTRUCTIONS=1: {error:?}"),
        };
        total.add(counts);
        image_seed += 1;
    }
    eprintln!("{total:#?}");
    // Most of what runs must be modelled and go on, or this test would compare little.
    assert!(total.modelled * 10 > total.positions * 8, "{total:?}");
    assert!(total.exceptions * 30 < total.positions, "{total:?}");
    assert!(total.blocks * 20 > total.positions, "{total:?}");
    if total.positions >= 100_000 {
        let tables: &[(&str, &[patterns::Pattern])] = if thumb {
            &[("T32 narrow", patterns::NARROW), ("T32 wide", patterns::WIDE)]
        } else {
            &[("A32", patterns::A32)]
        };
        for (set, table) in tables {
            for pattern in *table {
                assert!(drawn.contains_key(&(*set, pattern.name)), "{set}: {} was never drawn", pattern.name);
            }
        }
    }
}

fn run_image(seed: u64, thumb: bool, drawn: &mut Drawn) -> anyhow::Result<Counts> {
    let image = Image::generate(seed, Shape { thumb, sequences: SEQUENCES, length: LENGTH }, drawn);
    let directory = tempfile::tempdir().context("making a directory for the image and the log")?;
    let file = directory.path().join("image.bin");
    std::fs::write(&file, &image.bytes).context("writing the image")?;
    let log = directory.path().join("log");
    run_qemu(&file, &log)?;

    let mut checker = Checker::new(&image, seed);
    let mut oracle = Oracle::new(File::open(&log).context("opening QEMU's log")?);
    let mut before = oracle.next().context("QEMU's log is empty")??;
    ensure!(before.registers[15] == CODE, "the guest starts at {:#010x}", before.registers[15]);
    for after in oracle {
        let after = after?;
        checker.step(&before, &after)?;
        before = after;
    }
    checker.finish()?;
    let end = *image.sequences.last().context("there are no sequences")?;
    ensure!(
        image.switches_off(before.registers[15]),
        "the guest did not come to its end behind {end:#010x}, but to {:#010x}",
        before.registers[15]
    );
    Ok(checker.counts)
}

/// Runs the image to its end, which it reaches in a fraction of a second.
fn run_qemu(image: &Path, log: &Path) -> anyhow::Result<()> {
    let mut loader = std::ffi::OsString::from("loader,addr=0x40200000,cpu-num=0,file=");
    loader.push(image);
    let output = Qemu::stock()?
        .command()
        .args([
            "-M",
            "virt",
            "-cpu",
            "cortex-a15",
            "-m",
            "64",
            "-display",
            "none",
            "-nodefaults",
            "-nic",
            "none",
        ])
        .args(["-accel", "tcg,one-insn-per-tb=on", "-d", "cpu,nochain,exec", "-D"])
        .arg(log)
        .arg("-device")
        .arg(loader)
        .stdin(Stdio::null())
        .output()
        .context("running qemu-system-arm")?;
    ensure!(
        output.status.success(),
        "qemu-system-arm failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.positions += other.positions;
        self.modelled += other.modelled;
        self.exceptions += other.exceptions;
        self.blocks += other.blocks;
        for (mnemonic, count) in other.opaque {
            *self.opaque.entry(mnemonic).or_default() += count;
        }
    }
}
