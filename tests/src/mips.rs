//! Builds the guest for MIPS, in either byte order, and says how it is run; and where Debian's kernel for malta is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::programs::cache;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/mips.c");
const LAYOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/mips.ld");

/// Bytes of the guest's memory. It is at physical address 0.
pub const RAM_BYTES: u64 = 32 << 20;

/// Where memory is, virtually: through kseg0.
pub const VIRTUAL_RAM: u32 = 0x8000_0000;

/// Builds it in `scratch`, and returns an executable for QEMU's `-kernel`.
pub fn build(scratch: &Path, big_endian: bool) -> Result<PathBuf> {
    let architecture = if big_endian { "mips" } else { "mipsel" };
    let program = format!("{architecture}-linux-gnu-gcc");
    let machine = ["-march=mips32r2", "-mabi=32", "-mfp32", "-msoft-float", "-mbranch-likely"];
    let place = ["-mno-abicalls", "-mno-shared", "-fno-pic", "-G0", "-static", "-no-pie"];
    let options = ["-O2", "-g", "-Wall", "-Wextra", "-Werror"];
    let freestanding = ["-ffreestanding", "-nostdlib", "-fno-tree-loop-distribute-patterns"];
    // The directory is nobody's business: the sample traces name none.
    let prefix = format!("-ffile-prefix-map={}=.", env!("CARGO_MANIFEST_DIR"));
    let linking = ["-Wl,--build-id=none", "-T", LAYOUT, "-o", architecture, SOURCE];
    let output = Command::new(&program)
        .args(machine)
        .args(place)
        .args(options)
        .args(freestanding)
        .arg(prefix)
        .args(linking)
        .current_dir(scratch)
        .output()
        .with_context(|| {
            format!("{program} is missing: install the Debian package gcc-{architecture}-linux-gnu")
        })?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(scratch.join(architecture))
}

/// QEMU's arguments for it, without those for the console. It works for so many rounds, of some 60,000 instructions each,
/// and then resets the board; QEMU stays, and holds its memory.
pub fn arguments(executable: &Path, rounds: u32) -> Vec<String> {
    let (executable, rounds) = (executable.display().to_string(), rounds.to_string());
    let arguments = ["-M", "malta", "-m", "32", "-vga", "none", "-nic", "none", "-display", "none"];
    let ending = ["-no-reboot", "-no-shutdown", "-kernel", &executable, "-append", &rounds];
    arguments.into_iter().chain(ending).map(str::to_owned).collect()
}

/// Bytes of the kernel's memory. It is at physical address 0.
pub const KERNEL_RAM_BYTES: u64 = 256 << 20;

/// QEMU's arguments for Debian's kernel for malta, little-endian, without an initial file system: it panics and resets the
/// board. QEMU stays, and holds its memory.
pub fn kernel_arguments() -> Result<Vec<String>> {
    let cache = cache().context("none of KTRACER_CACHE, XDG_CACHE_HOME and HOME is set")?;
    let kernel = cache.join("firmware/vmlinuz-mipsel");
    ensure!(
        kernel.is_file(),
        "the Debian package debian-installer-12-netboot-mipsel is not unpacked: {} is missing. Run scripts/setup.sh test; \
         Debian has that package up to release 12, so apt's sources must name bookworm",
        kernel.display()
    );
    let kernel = kernel.display().to_string();
    let arguments = ["-M", "malta", "-m", "256", "-vga", "none", "-nic", "none", "-display", "none"];
    let ending = ["-no-reboot", "-no-shutdown", "-kernel", &kernel, "-append", "console=ttyS0 panic=-1"];
    Ok(arguments.into_iter().chain(ending).map(str::to_owned).collect())
}
