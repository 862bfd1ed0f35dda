//! A device writes to the memory of a guest for MIPS, in both byte orders: the bytes are there from the position of the write
//! on, the device's by provenance, long before an instruction looks at them; and all of memory at the end is QEMU's.
//!
//! Needs the patched QEMU (make qemu), the cross compilers that scripts/setup.sh installs, and
//! `cargo build --release --workspace`.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, ensure};
use ktrace_format::Position;
use ktrace_timeline::events::{Event, Kind};
use ktrace_timeline::provenance::Provenance;
use ktrace_timeline::walk::{self, Walk};
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::mips;
use ktracer_tests::programs::program;
use ktracer_tests::qemu::Qemu;
use ktracer_tests::session::Session;

/// Where tests/guests/mips_dma.c has the bytes written: one buffer after the other.
const BUFFERS: u64 = 0x0050_0100;
const BUFFER_BYTES: usize = 4096;
const BUFFER_COUNT: usize = 3;

/// Instructions that the guest does after the last write before it looks at what was written.
const ELSEWHERE: u64 = 3000;

fn shown(recording: &mut Recording, position: u64, physical: u64, bytes: usize) -> Result<Vec<Option<u8>>> {
    recording.seek(Position(position))?;
    let mut shown = vec![None; bytes];
    recording.read_memory(mips::VIRTUAL_RAM + physical as u32, &mut shown)?;
    Ok(shown)
}

/// Position of the first instruction that loads a byte of the buffers.
fn first_load(recording: &Recording) -> Option<u64> {
    let end = BUFFERS + (BUFFER_COUNT * BUFFER_BYTES) as u64;
    Walk::new(Arc::clone(recording.program()), 0).find_map(|event| {
        let walk::Event::Instruction(instruction) = event else { return None };
        let loads = instruction.accesses.iter().any(|access| {
            !access.store && access.physical.is_some_and(|physical| (BUFFERS..end).contains(&physical))
        });
        loads.then_some(instruction.position)
    })
}

fn device_writes_are_seen(big_endian: bool) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut entropy = vec![0; BUFFER_COUNT * BUFFER_BYTES];
    fastrand::Rng::with_seed(0x6b74).fill(&mut entropy);
    let file = scratch.path().join("entropy");
    std::fs::write(&file, &entropy)?;

    let qemu = Qemu::patched_mips(big_endian)?;
    let mut arguments =
        mips::arguments(&mips::build_source(scratch.path(), "mips_dma.c", big_endian, &[])?, 0);
    let source = format!("rng-random,filename={},id=entropy", file.display());
    arguments
        .extend(["-object", &source, "-device", "virtio-rng-pci,rng=entropy,addr=0x13"].map(str::to_owned));
    let mut session = Session::start_on(&qemu, scratch.path(), &[], arguments)?;
    session.wait_for_console("done")?;
    session.wait_for_shutdown()?;
    let image = scratch.path().join("memory");
    session.monitor.save_memory(0, mips::RAM_BYTES, &image)?;
    let trace = session.quit()?;
    let verified = Command::new(program("ktracer")?).arg("verify").arg(&trace).output()?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

    let mut recording = Recording::open(&trace)?;
    let events: Vec<Event> = recording.events([Kind::Dma].into_iter().collect(), &mut || false).collect();
    let mut written = [false; BUFFER_COUNT * BUFFER_BYTES];
    let mut last = 0;
    for event in events {
        let Event::DeviceWrite(write) = event else { panic!("it is not a write of a device: {event}") };
        let Some(from) = write.physical.checked_sub(BUFFERS).map(|from| from as usize) else { continue };
        let length = write.bytes as usize;
        let Some(expected) = entropy.get(from..from + length) else { continue };
        last = write.position;

        let expected: Vec<Option<u8>> = expected.iter().copied().map(Some).collect();
        assert_eq!(shown(&mut recording, write.position, write.physical, length)?, expected);
        let mut provenance = vec![Provenance::Unknown; length];
        recording.provenance(mips::VIRTUAL_RAM + write.physical as u32, &mut provenance)?;
        // Between two segments it belongs to the one before.
        let by_device = [
            Provenance::Device { at: write.position },
            Provenance::LeftBy { by: write.position, device: true },
        ];
        ensure!(provenance.iter().all(|found| by_device.contains(found)), "{provenance:?}");

        let before = shown(&mut recording, write.position - 1, write.physical, length)?;
        assert_eq!(before, vec![Some(0); length], "at {}, before the device writes", write.position - 1);
        written[from..from + length].fill(true);
    }
    ensure!(written.iter().all(|written| *written), "not all that the device wrote was recorded");
    let first = first_load(&recording);
    ensure!(
        first.is_some_and(|first| first > last + ELSEWHERE),
        "the device wrote at {last}, and the guest loads first at {first:?}"
    );

    mips::assert_memory(&mut recording, &image)
}

#[test]
fn little_endian() -> Result<()> {
    device_writes_are_seen(false)
}

#[test]
fn big_endian() -> Result<()> {
    device_writes_are_seen(true)
}
