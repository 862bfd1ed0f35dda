//! Builds the guest in Thumb-2: Debian's U-Boot and kernel are A32 throughout.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/thumb.c");

/// Builds it in `scratch`, and returns an image for QEMU's `-bios`.
pub fn build(scratch: &Path) -> Result<PathBuf> {
    let run = |program: &str, arguments: &[&str]| -> Result<()> {
        let output = Command::new(program).args(arguments).current_dir(scratch).output().with_context(|| {
            format!("{program} is missing: install the Debian packages gcc-arm-none-eabi and binutils-arm-none-eabi")
        })?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let machine = ["-mcpu=cortex-a15", "-mthumb", "-mfloat-abi=soft"];
    let options = ["-O2", "-ffreestanding", "-nostdlib", "-fno-tree-loop-distribute-patterns"];
    let linking =
        ["-Wl,--section-start=.start=0", "-Wl,-Ttext=0x1000", "-Wl,-e,0", "-o", "thumb", SOURCE, "-lgcc"];
    run("arm-none-eabi-gcc", &[&machine[..], &options, &linking].concat())?;
    run("arm-none-eabi-objcopy", &["-O", "binary", "thumb", "thumb.bin"])?;
    Ok(scratch.join("thumb.bin"))
}
