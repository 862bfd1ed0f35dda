//! Builds the guest for MIPS, in either byte order, and says how it is run; and where Debian's kernel for malta is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ktrace_timeline::{Recording, Replay};

use crate::memory;
use crate::programs::cache;

const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/build-mips.sh");

/// Bytes of the guest's memory. It is at physical address 0.
pub const RAM_BYTES: u64 = 32 << 20;

/// Where memory is, virtually: through kseg0.
pub const VIRTUAL_RAM: u32 = 0x8000_0000;

/// Builds it in `scratch`, and returns an executable for QEMU's `-kernel`.
pub fn build(scratch: &Path, big_endian: bool) -> Result<PathBuf> {
    build_source(scratch, "mips.c", big_endian, &[])
}

/// Builds another guest, as [`build`], with more flags for the compiler.
pub fn build_source(scratch: &Path, source: &str, big_endian: bool, flags: &[&str]) -> Result<PathBuf> {
    let executable = scratch.join(if big_endian { "mips" } else { "mipsel" });
    let output = Command::new(BUILD)
        .arg(if big_endian { "mips" } else { "mipsel" })
        .arg(source)
        .arg(&executable)
        .args(flags)
        .output()
        .context("running tests/guests/build-mips.sh")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(executable)
}

/// QEMU's arguments for it, without those for the console. It works for so many rounds, of some 60,000 instructions each,
/// and then resets the board; QEMU stays, and holds its memory.
pub fn arguments(executable: &Path, rounds: u32) -> Vec<String> {
    let (executable, rounds) = (executable.display().to_string(), rounds.to_string());
    let arguments = ["-M", "malta", "-m", "32", "-vga", "none", "-nic", "none", "-display", "none"];
    let ending = ["-no-reboot", "-no-shutdown", "-kernel", &executable, "-append", &rounds];
    arguments.into_iter().chain(ending).map(str::to_owned).collect()
}

/// At its end a recording of such a guest has the memory that QEMU saved: every byte. Fails if not.
pub fn assert_memory(recording: &mut Recording, saved: &Path) -> Result<()> {
    let end = recording.end().0;
    let compared = memory::compare(recording, end, VIRTUAL_RAM, &std::fs::read(saved)?)?;
    println!("{compared}");
    ensure!((compared.wrong, compared.unknown, compared.equal) == (0, 0, RAM_BYTES), "{compared}");
    Ok(())
}

/// Bytes of the kernel's memory. It is at physical address 0.
pub const KERNEL_RAM_BYTES: u64 = 256 << 20;

fn firmware(name: &str) -> Result<String> {
    let cache = cache().context("none of KTRACER_CACHE, XDG_CACHE_HOME and HOME is set")?;
    let file = cache.join("firmware").join(name);
    ensure!(
        file.is_file(),
        "the Debian package debian-installer-12-netboot-mipsel is not unpacked: {} is missing. Run scripts/setup.sh test; \
         Debian has that package up to release 12, so apt's sources must name bookworm",
        file.display()
    );
    Ok(file.display().to_string())
}

/// QEMU's arguments for Debian's installer on malta, little-endian: the kernel, and programs. It does not end.
pub fn installer_arguments() -> Result<Vec<String>> {
    let files =
        "debian-installer-12-netboot-mipsel/usr/lib/debian-installer/images/12/mipsel/malta/initrd.gz";
    let mut arguments = kernel_arguments()?;
    arguments.extend(["-initrd".to_owned(), firmware(files)?]);
    Ok(arguments)
}

/// QEMU's arguments for Debian's kernel for malta, little-endian, without an initial file system: it panics and resets the
/// board. QEMU stays, and holds its memory.
pub fn kernel_arguments() -> Result<Vec<String>> {
    let kernel = firmware("vmlinuz-mipsel")?;
    let arguments = ["-M", "malta", "-m", "256", "-vga", "none", "-nic", "none", "-display", "none"];
    let ending = ["-no-reboot", "-no-shutdown", "-kernel", &kernel, "-append", "console=ttyS0 panic=-1"];
    Ok(arguments.into_iter().chain(ending).map(str::to_owned).collect())
}
