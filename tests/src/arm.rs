//! Builds guests for ARM that are not Debian's U-Boot and kernel, which are A32 throughout and do nothing on purpose.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const GUESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests");

/// Builds the guest in Thumb-2 in `scratch`, and returns an image for QEMU's `-bios`.
pub fn thumb(scratch: &Path) -> Result<PathBuf> {
    let machine = ["-mthumb", "-mfloat-abi=soft", "-O2", "-fno-tree-loop-distribute-patterns"];
    let linking = ["-Wl,--section-start=.start=0", "-Wl,-Ttext=0x1000", "-Wl,-e,0"];
    build(scratch, "thumb.c", &[machine.as_slice(), &linking].concat(), &["-lgcc"])
}

/// Builds the guest that ends QEMU in `scratch`, and returns an image for QEMU's `-bios`.
pub fn exit(scratch: &Path) -> Result<PathBuf> {
    build(scratch, "exit.S", &["-Wl,-Ttext=0"], &[])
}

/// Builds the guest that changes what an address shows in `scratch`, and returns an image for QEMU's `-bios`, and beside it the
/// executable with its labels. Its translation tables may be big-endian.
pub fn remap(scratch: &Path, big_endian_tables: bool) -> Result<(PathBuf, PathBuf)> {
    let tables = if big_endian_tables { &["-Wa,--defsym,BIG_ENDIAN_TABLES=1"][..] } else { &[] };
    let image = build(scratch, "remap.S", &[&["-Wl,-Ttext=0"], tables].concat(), &[])?;
    Ok((image, scratch.join(EXECUTABLE)))
}

/// The executable of which an image is made.
const EXECUTABLE: &str = "guest.elf";

fn build(scratch: &Path, source: &str, options: &[&str], libraries: &[&str]) -> Result<PathBuf> {
    let run = |program: &str, arguments: &[&str]| -> Result<()> {
        let output = Command::new(program).args(arguments).current_dir(scratch).output().with_context(|| {
            format!("{program} is missing: install the Debian packages gcc-arm-none-eabi and binutils-arm-none-eabi")
        })?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let source = format!("{GUESTS}/{source}");
    let all = ["-mcpu=cortex-a15", "-ffreestanding", "-nostdlib"];
    let files = ["-o", EXECUTABLE, &source];
    run("arm-none-eabi-gcc", &[&all[..], options, &files, libraries].concat())?;
    run("arm-none-eabi-objcopy", &["-O", "binary", EXECUTABLE, "guest.bin"])?;
    Ok(scratch.join("guest.bin"))
}
