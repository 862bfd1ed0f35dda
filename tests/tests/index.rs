//! Indexes of real recordings that `ktracer index` makes again are those that the recorder wrote, byte for byte: of U-Boot on
//! the stock QEMU and on the patched one, and of the tests' MIPS guest in both byte orders.
//!
//! Needs QEMU, the patched QEMU (make qemu), U-Boot and the cross compilers (all from scripts/setup.sh), and
//! `cargo build --release --workspace`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ktrace_format::index_file::{INDEX_FILE, IndexFile};
use ktrace_format::record::{HEAD_BYTES, record_at};
use ktrace_format::segment::index::PackedIndex;
use ktrace_format::writer::TRACE_FILE;
use ktrace_format::{Trace, header};
use ktracer_tests::mips;
use ktracer_tests::programs::{Guest, program};
use ktracer_tests::qemu::Qemu;
use ktracer_tests::session::Session;

/// Damages every index of a recording, has them made again, and compares.
fn make_again(directory: &Path) -> Result<()> {
    let trace = Trace::open(directory)?;
    let path = directory.join(TRACE_FILE);
    let mut bytes = fs::read(&path)?;
    let mut own = Vec::new();
    for segment in trace.segments() {
        let offset = segment.index.context("a segment has no index")?;
        let record = record_at(&bytes, offset).context("a record")??;
        own.push(record.payload()?.to_vec());
        bytes[offset as usize + HEAD_BYTES + 20] ^= 0x10;
    }
    ensure!(own.len() > 2, "{} segments prove little", own.len());
    drop(trace);
    // A mapped file must not change, so another takes its place.
    let damaged = directory.join("damaged");
    fs::write(&damaged, bytes)?;
    fs::rename(damaged, path)?;
    fs::remove_file(directory.join(INDEX_FILE))?;

    let made = Command::new(program("ktracer")?).arg("index").arg(directory).output()?;
    let said = String::from_utf8_lossy(&made.stdout);
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    ensure!(said.contains(&format!("{} of them had no readable index", own.len())), "{said}");
    let trace = Trace::open(directory)?;
    let file = IndexFile::open(directory, &trace).context("an index")?;
    for (number, own) in own.iter().enumerate() {
        let made = file.replacement_bytes(number).with_context(|| format!("segment {number} has none"))?;
        if made != own {
            let (made, own) = (PackedIndex::new(made)?, PackedIndex::new(own)?);
            ensure!(made.index()? == own.index()?, "the index of segment {number} is another");
            ensure!(made.contents()? == own.contents()?, "the contents of segment {number} are others");
            ensure!(false, "segment {number}: the same, but packed in another way");
        }
    }
    Ok(())
}

#[test]
fn of_u_boot_on_the_stock_qemu() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let session = Session::start(scratch.path(), &["--stop-after", "6M"], Guest::UBoot.arguments("")?)?;
    make_again(&session.finish()?)
}

#[test]
fn of_u_boot_on_the_patched_qemu() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let qemu = Qemu::patched()?;
    assert_eq!(qemu.path(), header::Path::Fast);
    let arguments = Guest::UBoot.arguments("")?;
    let session = Session::start_on(&qemu, scratch.path(), &["--stop-after", "20M"], arguments)?;
    make_again(&session.finish()?)
}

#[test]
fn of_a_mips_guest() -> Result<()> {
    for big_endian in [false, true] {
        let scratch = tempfile::tempdir()?;
        let qemu = Qemu::patched_mips(big_endian)?;
        let arguments = mips::arguments(&mips::build(scratch.path(), big_endian)?, 400);
        let mut session = Session::start_on(&qemu, scratch.path(), &[], arguments)?;
        session.wait_for_console("done")?;
        session.wait_for_shutdown()?;
        make_again(&session.quit()?)?;
    }
    Ok(())
}
