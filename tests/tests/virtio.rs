//! U-Boot loads a file from a virtio disk: what the disk wrote to memory is there from the position of each write on, also
//! before any instruction has looked at it.
//!
//! Needs the patched QEMU (make qemu), U-Boot (scripts/setup.sh), and `cargo build --release --workspace`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use ktrace_format::Position;
use ktrace_timeline::events::{DeviceWrite, Event, Kind};
use ktrace_timeline::provenance::{self, Provenance};
use ktrace_timeline::walk::{self, Walk};
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::memory;
use ktracer_tests::programs::{Guest, program};
use ktracer_tests::qemu::Qemu;
use ktracer_tests::session::Session;

/// Where U-Boot loads the file.
const LOADED_AT: u64 = 0x4100_0000;
/// The file's size: its last sector is not full.
const FILE_BYTES: usize = 300_001;
const SECTOR: usize = 512;
/// What is in memory before.
const FILLING: u8 = 0x5a;

/// The file: no two sectors are the same.
fn contents() -> Vec<u8> {
    let mut bytes = vec![0; FILE_BYTES];
    fastrand::Rng::with_seed(0x6b74).fill(&mut bytes);
    bytes
}

/// Makes a disk with a FAT file system and the file, which lies on it in many pieces, so that it takes many reads.
fn make_disk(image: &Path, contents: &[u8]) -> Result<()> {
    let mut disk = File::options().read(true).write(true).create_new(true).open(image)?;
    disk.set_len(4 << 20)?;
    fatfs::format_volume(&mut disk, FormatVolumeOptions::new().bytes_per_cluster(2048))?;
    let files = FileSystem::new(&mut disk, FsOptions::new())?;
    {
        let root = files.root_dir();
        let (mut file, mut other) = (root.create_file("file")?, root.create_file("other")?);
        for piece in contents.chunks(20 << 10) {
            file.write_all(piece)?;
            other.write_all(&[0xee; 2048])?;
        }
    }
    files.unmount()?;
    Ok(())
}

/// A write of the disk that holds sectors of the file.
struct FileWrite {
    write: DeviceWrite,
    /// The bytes that were shown at its position.
    bytes: Vec<u8>,
    /// The file's sectors among them: where each starts, and which one it is.
    sectors: Vec<(usize, usize)>,
    /// The first instruction that accesses any of it.
    first_access: Option<u64>,
}

impl FileWrite {
    /// It is where the file is loaded to. The last sector goes through a buffer of U-Boot's, since it is not full.
    fn is_direct(&self) -> bool {
        (LOADED_AT..LOADED_AT + FILE_BYTES as u64).contains(&self.write.physical)
    }

    fn is_at(&self, physical: u64, bytes: u64) -> bool {
        let DeviceWrite { physical: start, bytes: length, .. } = self.write;
        physical < start + length && start < physical + bytes
    }
}

/// Memory at a position, which must be known. U-Boot maps memory to itself.
fn shown(recording: &mut Recording, position: u64, physical: u64, bytes: u64) -> Result<Vec<u8>> {
    recording.seek(Position(position))?;
    let mut shown = vec![None; bytes as usize];
    recording.read_memory(physical as u32, &mut shown)?;
    let known: Option<Vec<u8>> = shown.into_iter().collect();
    known.with_context(|| {
        format!("not all of the {bytes} bytes from {physical:#x} are known at position {position}")
    })
}

fn provenance_at(recording: &mut Recording, position: u64, write: &DeviceWrite) -> Result<Vec<Provenance>> {
    recording.seek(Position(position))?;
    let mut shown = vec![Provenance::Unknown; write.bytes as usize];
    recording.provenance(write.physical as u32, &mut shown)?;
    Ok(shown)
}

/// What is printed when it is wrong.
fn runs(found: &[Provenance]) -> Vec<(Range<usize>, Provenance)> {
    provenance::runs(found).collect()
}

/// The writes of devices that hold sectors of the file, wherever in memory.
fn writes_of(recording: &mut Recording, contents: &[u8]) -> Result<Vec<FileWrite>> {
    let starts: HashMap<&[u8], usize> =
        contents.chunks(SECTOR).zip(0..).map(|(sector, number)| (&sector[..8], number)).collect();
    recording.seek(Position::START)?;
    let events: Vec<Event> = recording.events([Kind::Dma].into_iter().collect(), &mut || false).collect();
    let mut found = Vec::new();
    for event in events {
        let Event::DeviceWrite(write) = event else { panic!("it is not a write of a device: {event}") };
        let bytes = shown(recording, write.position, write.physical, write.bytes)?;
        let starts = bytes.windows(8).enumerate().filter_map(|(at, start)| Some((at, *starts.get(start)?)));
        let sectors: Vec<(usize, usize)> = starts
            .filter(|(at, number)| {
                let sector = contents.chunks(SECTOR).nth(*number).unwrap_or_default();
                bytes[*at..].starts_with(sector)
            })
            .collect();
        if !sectors.is_empty() {
            found.push(FileWrite { write, bytes, sectors, first_access: None });
        }
    }
    Ok(found)
}

/// Finds the first instruction that accesses what each write wrote, and checks what it loads.
fn find_first_accesses(recording: &Recording, writes: &mut [FileWrite]) -> Result<()> {
    let first = writes.first().context("no device has written the file")?.write.position;
    for event in Walk::new(Arc::clone(recording.program()), first) {
        let instruction = match event {
            walk::Event::Instruction(instruction) => instruction,
            walk::Event::Discontinuity(_) => continue,
            walk::Event::Unknown(unproved) => panic!("{unproved:?}"),
        };
        let position = instruction.position;
        for access in &instruction.accesses {
            let Some(physical) = access.physical else { continue };
            let mut missing = 0;
            for write in writes.iter_mut().filter(|write| write.first_access.is_none()) {
                missing += 1;
                if position < write.write.position || !write.is_at(physical, access.bytes.into()) {
                    continue;
                }
                write.first_access = Some(position);
                ensure!(!access.store, "the guest overwrites at position {position} what it never read");
                let loaded = access.value.to_le_bytes();
                for (address, byte) in (physical..).zip(&loaded[..access.bytes.into()]) {
                    let at = address.wrapping_sub(write.write.physical);
                    if let Some(written) = write.bytes.get(at as usize) {
                        assert_eq!(byte, written, "the load at position {position} of {address:#x}");
                    }
                }
            }
            if missing == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The first write fills a buffer for U-Boot's search for file systems, the last one that for the last sector.
fn check(recording: &mut Recording, file: &FileWrite) -> Result<()> {
    let FileWrite { write, bytes, first_access, .. } = file;
    let DeviceWrite { position, physical, bytes: length } = *write;
    let accessed = first_access
        .with_context(|| format!("nothing has read what the disk wrote at {position}: {write:?}"))?;
    // At its position and up to where somebody looks at it first, the device's bytes, written by the device right there.
    for at in [position, accessed] {
        assert_eq!(shown(recording, at, physical, length)?, *bytes, "at position {at}");
    }
    // Between two segments it belongs to the one before.
    let by_device = [Provenance::Device { at: position }, Provenance::LeftBy { by: position, device: true }];
    let found = provenance_at(recording, position, write)?;
    assert!(
        found.iter().all(|found| by_device.contains(found)),
        "at position {position}: {:?}",
        runs(&found)
    );
    let found = provenance_at(recording, accessed, write)?;
    let is_its = |found: &Provenance| match *found {
        Provenance::LeftBy { by, device } => device && by >= position,
        found => by_device.contains(&found),
    };
    assert!(found.iter().all(is_its), "at position {accessed}: {:?}", runs(&found));

    // One instruction before, what was there before.
    let before = shown(recording, position - 1, physical, length)?;
    if file.is_direct() {
        assert!(before.iter().all(|byte| *byte == FILLING), "at position {}", position - 1);
    }
    assert_ne!(before, *bytes, "at position {}", position - 1);
    let found = provenance_at(recording, position - 1, write)?;
    let is_older = |found: &Provenance| match *found {
        Provenance::Store { at } | Provenance::Load { at } | Provenance::Device { at } => at < position,
        Provenance::LeftBy { by, .. } => by < position,
        Provenance::Initial => true,
        Provenance::Executing | Provenance::Unknown => false,
    };
    assert!(found.iter().all(is_older), "at position {}: {:?}", position - 1, runs(&found));
    if file.is_direct() {
        let by_program = |found: &Provenance| {
            matches!(found, Provenance::Store { .. } | Provenance::LeftBy { device: false, .. })
        };
        assert!(found.iter().all(by_program), "at position {}: {:?}", position - 1, runs(&found));
    }
    Ok(())
}

#[test]
fn a_file_is_in_memory_before_it_is_looked_at() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let contents = contents();
    let disk = scratch.path().join("disk");
    make_disk(&disk, &contents)?;
    let mut arguments = Guest::UBoot.arguments("")?;
    let drive = format!("if=none,file={},format=raw,id=disk", disk.display());
    arguments.extend(["-drive", &drive, "-device", "virtio-blk-device,drive=disk"].map(str::to_owned));
    let mut session = Session::start_on(&Qemu::patched()?, scratch.path(), &[], &arguments)?;
    session.wait_for_console("Hit any key to stop autoboot")?;
    session.type_text(" ")?;
    session.wait_for_console("=> ")?;
    // The checksum makes the processor read what it has loaded, much later.
    session.type_text(&format!(
        "mw.b {LOADED_AT:x} {FILLING:x} {:x}; virtio scan; ls virtio 0; load virtio 0 {LOADED_AT:x} file; \
         crc32 {LOADED_AT:x} {FILE_BYTES:x}\n",
        FILE_BYTES + SECTOR
    ))?;
    session.wait_for_console(&format!("{FILE_BYTES} bytes read"))?;
    session.wait_for_console(" ==> ")?;
    session.monitor.stop()?;
    let image = scratch.path().join("memory");
    session.monitor.save_memory(Guest::RAM_START, Guest::UBoot.ram_bytes(), &image)?;
    let trace = session.quit()?;

    let image = std::fs::read(image)?;
    let loaded = (LOADED_AT - Guest::RAM_START) as usize;
    assert!(image[loaded..].starts_with(&contents), "U-Boot has not loaded the file");
    let verified = Command::new(program("ktracer")?).arg("verify").arg(&trace).output()?;
    let said = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success() && said.contains("instructions are proved"), "{verified:?}");
    print!("{said}");

    let mut recording = Recording::open(&trace)?;
    let mut writes = writes_of(&mut recording, &contents)?;
    let mut covered = vec![false; contents.len().div_ceil(SECTOR)];
    for (_, number) in writes.iter().flat_map(|write| &write.sectors) {
        covered[*number] = true;
    }
    let missing: Vec<usize> = (0..covered.len()).filter(|number| !covered[*number]).collect();
    assert!(missing.is_empty(), "no device has written the file's sectors {missing:?}");
    let direct = writes.iter().filter(|write| write.is_direct()).count();
    println!(
        "{} writes hold the file's {} sectors, {direct} to where it is loaded",
        writes.len(),
        covered.len()
    );
    assert!(direct >= 3);
    find_first_accesses(&recording, &mut writes)?;
    let last = writes.len() - 1;
    for number in [0, 1, last / 2, last - 1, last] {
        check(&mut recording, &writes[number])?;
    }

    let end = recording.end().0;
    let compared = memory::compare(&mut recording, end, Guest::UBoot.virtual_ram(), &image)?;
    println!("{compared}");
    assert_eq!((compared.wrong, compared.unknown), (0, 0), "{compared}");
    Ok(())
}
