//! Copies the guest's memory into the trace while its processor stands still before the first recorded instruction.
//!
//! QEMU's `pmemsave` writes plain files, so memory goes through one small file at a time, which is gone before the next
//! is asked for. The machine is not paused with `stop`: that would wait for the very processor that waits for us.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ktrace_format::memory::{FILE_NAME, ImageError, ImageWriter, Region};
use serde_json::json;

use super::mtree::{MtreeError, memory_regions};
use super::qmp::{Qmp, QmpError};

/// Bytes that go through a file at a time: little room on the disk, and no command that takes long.
const PIECE_BYTES: u64 = 64 << 20;

/// The file's name in the trace's directory.
const PIECE_NAME: &str = "memory-piece.tmp";

/// Why memory could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The monitor failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The monitor's list of memory cannot be read.
    #[error(transparent)]
    Mtree(#[from] MtreeError),
    /// The image cannot be written, or QEMU's files cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The plugin captures memory itself, in a patched QEMU, and could not.
    #[error("{0}")]
    Plugin(String),
    /// QEMU takes file names as JSON, and so as UTF-8.
    #[error("the path {} is not UTF-8", .0.display())]
    Path(PathBuf),
}

/// Captures all memory that the processors see into `memory.kt` in `directory`, which must be absolute, as QEMU may
/// have a working directory of its own. Returns the number of bytes of guest memory. After an error nothing is left.
pub fn capture(qmp: &mut Qmp, directory: &Path) -> Result<u64, CaptureError> {
    let piece = directory.join(PIECE_NAME);
    let result = capture_into(qmp, directory, &piece);
    if result.is_err() {
        for file in [&piece, &directory.join(FILE_NAME)] {
            // That it is not there is what is wanted, and nothing better can be done if it stays.
            let _ = fs::remove_file(file);
        }
    }
    result
}

fn capture_into(qmp: &mut Qmp, directory: &Path, piece: &Path) -> Result<u64, CaptureError> {
    let piece = piece.to_str().ok_or_else(|| CaptureError::Path(directory.to_owned()))?;
    let regions = memory_regions(&qmp.human_monitor_command("info mtree -f -o")?)?;
    let mut image = ImageWriter::create(directory)?;
    let mut bytes = 0;
    for region in &regions {
        if image.is_alias(region) {
            image.add_alias(region)?;
        } else {
            image.add_region(region, GuestMemory::new(qmp, piece, region))?;
            bytes += region.length;
        }
    }
    image.finish()?;
    Ok(bytes)
}

/// Reads guest-physical memory of a running QEMU.
struct GuestMemory<'a> {
    qmp: &'a mut Qmp,
    piece_path: &'a str,
    piece: Option<File>,
    /// Where the next piece starts.
    address: u64,
    end: u64,
}

impl<'a> GuestMemory<'a> {
    fn new(qmp: &'a mut Qmp, piece_path: &'a str, region: &Region) -> Self {
        GuestMemory { qmp, piece_path, piece: None, address: region.start, end: region.end() }
    }

    fn next_piece(&mut self) -> io::Result<File> {
        let length = (self.end - self.address).min(PIECE_BYTES);
        let arguments = json!({ "val": self.address, "size": length, "filename": self.piece_path });
        self.qmp.execute("pmemsave", arguments).map_err(io::Error::other)?;
        let file = File::open(self.piece_path)?;
        fs::remove_file(self.piece_path)?;
        // QEMU does not say so when the last of its writes fails.
        if file.metadata()?.len() != length {
            return Err(io::Error::other("QEMU wrote too little: is the disk full?"));
        }
        self.address += length;
        Ok(file)
    }
}

impl Read for GuestMemory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(piece) = &mut self.piece {
                let count = piece.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
            }
            if self.address == self.end {
                return Ok(0);
            }
            self.piece = Some(self.next_piece()?);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};
    use std::{env, thread};

    use ktrace_format::memory::{Image, RegionKind};

    use super::*;

    /// A QEMU that stands before its first instruction; it goes when the test ends.
    struct Machine {
        qemu: Child,
        scratch: tempfile::TempDir,
    }

    impl Machine {
        fn start(arguments: &[&str]) -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let qmp = format!("unix:{},server=on,wait=off", scratch.path().join("qmp").display());
            let qemu = Command::new("qemu-system-arm")
                .args(["-S", "-display", "none", "-serial", "null", "-qmp", &qmp])
                .args(arguments)
                .stdin(Stdio::null())
                .spawn()
                .expect("this test needs Debian's package qemu-system-arm (scripts/setup.sh installs it)");
            Machine { qemu, scratch }
        }

        fn monitor(&self) -> Qmp {
            let socket = self.scratch.path().join("qmp");
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                match Qmp::connect(&socket, Default::default()) {
                    Ok(qmp) => return qmp,
                    Err(error) if Instant::now() > end => panic!("QEMU's monitor does not answer: {error}"),
                    Err(_) => thread::sleep(Duration::from_millis(20)),
                }
            }
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = self.qemu.kill();
            let _ = self.qemu.wait();
        }
    }

    fn u_boot() -> PathBuf {
        let cache = env::var_os("KTRACER_CACHE").map(PathBuf::from).unwrap_or_else(|| {
            let home = env::var_os("HOME").map(PathBuf::from).expect("HOME is set");
            env::var_os("XDG_CACHE_HOME").map_or(home.join(".cache"), PathBuf::from).join("ktracer")
        });
        let file = cache.join("firmware/u-boot-qemu/usr/lib/u-boot/qemu_arm/u-boot.bin");
        assert!(
            file.is_file(),
            "this test needs Debian's package u-boot-qemu, unpacked by scripts/setup.sh: {} is missing",
            file.display()
        );
        file
    }

    #[test]
    fn the_memory_of_a_board_is_captured() {
        let u_boot = u_boot();
        let machine = Machine::start(&["-M", "virt", "-m", "512", "-bios", u_boot.to_str().unwrap()]);
        let trace = machine.scratch.path().join("trace, \"quoted\"");
        fs::create_dir(&trace).unwrap();
        let bytes = capture(&mut machine.monitor(), &trace).unwrap();
        assert_eq!(bytes, (64 + 64 + 512) << 20);
        let left: Vec<_> = fs::read_dir(&trace).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [FILE_NAME]);

        let image = Image::open(&trace).unwrap();
        assert_eq!(image.check(), Vec::<String>::new());
        assert_eq!(image.region(0).unwrap().kind, RegionKind::RomDevice);
        let firmware = fs::read(&u_boot).unwrap();
        let mut captured = vec![0; firmware.len()];
        assert_eq!(image.read(0, &mut captured), vec![0..firmware.len()]);
        assert!(captured == firmware, "the flash holds U-Boot");
        let mut magic = [0; 4];
        assert_eq!(image.read(0x4000_0000, &mut magic), vec![0..4]);
        assert_eq!(magic, [0xd0, 0x0d, 0xfe, 0xed], "the device tree lies at the start of RAM");
        let mut last = [1; 8];
        assert_eq!(image.read(0x5fff_fffc, &mut last), vec![0..4]);
        assert_eq!(last, [0, 0, 0, 0, 1, 1, 1, 1]);
        let mut device = [1; 4];
        assert!(image.read(0x900_0000, &mut device).is_empty(), "the serial port is not memory");
    }

    #[test]
    fn memory_at_two_addresses_is_captured_once() {
        let machine = Machine::start(&["-M", "vexpress-a15", "-m", "32", "-audio", "none"]);
        let trace = machine.scratch.path().join("trace");
        fs::create_dir(&trace).unwrap();
        capture(&mut machine.monitor(), &trace).unwrap();
        let image = Image::open(&trace).unwrap();
        assert_eq!(image.canonical(0x800_1234), 0x1234);
        let mut word = [1; 4];
        assert_eq!(image.read(0x800_1234, &mut word), vec![0..4]);
        assert_eq!(word, [0; 4]);
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let mut machine = Machine::start(&["-M", "virt", "-m", "64"]);
        let mut qmp = machine.monitor();
        let nowhere = machine.scratch.path().join("nowhere");
        assert!(matches!(capture(&mut qmp, &nowhere), Err(CaptureError::Image(_))));
        let trace = machine.scratch.path().join("trace");
        fs::create_dir(&trace).unwrap();
        machine.qemu.kill().unwrap();
        assert!(matches!(capture(&mut qmp, &trace), Err(CaptureError::Qmp(_))));
        assert_eq!(fs::read_dir(&trace).unwrap().count(), 0);
    }
}
