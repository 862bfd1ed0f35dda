//! Where the programs under test and the guests' firmware are.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// A file of the release build, for example `ktracer` or `ktreplay`: beside this program's build directory, whatever
/// `CARGO_TARGET_DIR` says.
pub fn program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find out where this program is")?;
    let target = this
        .ancestors()
        .find(|path| path.file_name().is_some_and(|name| name == "debug" || name == "release"))
        .and_then(|path| path.parent())
        .context("this program is not in cargo's target directory")?;
    let file = target.join("release").join(name);
    ensure!(file.is_file(), "{} is missing: run cargo build --release --workspace", file.display());
    Ok(file)
}

/// Where firmware and the patched QEMU are kept. `None`: the environment does not say.
pub fn cache() -> Option<PathBuf> {
    std::env::var_os("KTRACER_CACHE").map(PathBuf::from).or_else(|| {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Some(std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("ktracer"))
    })
}

/// A guest that is recorded. scripts/setup.sh unpacks both from Debian packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Debian's U-Boot for QEMU's `virt`, from reset.
    UBoot,
    /// Debian's armhf kernel, without an initial file system.
    Kernel,
}

impl Guest {
    fn firmware(self) -> Result<PathBuf> {
        let cache = cache().context("none of KTRACER_CACHE, XDG_CACHE_HOME and HOME is set")?;
        let (package, file) = match self {
            Guest::UBoot => ("u-boot-qemu", "u-boot-qemu/usr/lib/u-boot/qemu_arm/u-boot.bin"),
            Guest::Kernel => ("debian-installer-13-netboot-armhf (12 on Debian 12)", "vmlinuz-armhf"),
        };
        let file = cache.join("firmware").join(file);
        ensure!(
            file.is_file(),
            "the Debian package {package} is not unpacked: {} is missing. Run scripts/setup.sh test",
            file.display()
        );
        Ok(file)
    }

    /// QEMU's arguments for it, without those for the console. `kernel_options` go to the end of the kernel's command line,
    /// where they win over what is there.
    pub fn arguments(self, kernel_options: &str) -> Result<Vec<String>> {
        let firmware = self.firmware()?.display().to_string();
        let append = format!("console=ttyAMA0 panic=-1 {kernel_options}");
        let arguments = match self {
            Guest::UBoot => vec!["-M", "virt", "-m", "64", "-bios", &firmware],
            Guest::Kernel => {
                vec!["-M", "virt", "-m", "512", "-no-reboot", "-kernel", &firmware, "-append", append.trim()]
            }
        };
        let fixed = ["-nic", "none", "-display", "none"];
        Ok(arguments.into_iter().chain(fixed).map(str::to_owned).collect())
    }

    /// Where its memory starts, physically.
    pub const RAM_START: u64 = 0x4000_0000;

    /// Bytes of its memory.
    pub fn ram_bytes(self) -> u64 {
        match self {
            Guest::UBoot => 64 << 20,
            Guest::Kernel => 512 << 20,
        }
    }

    /// The virtual address at which its memory starts once it runs with its page tables: U-Boot maps it to itself, the
    /// kernel linearly to `PAGE_OFFSET`.
    pub fn virtual_ram(self) -> u32 {
        match self {
            Guest::UBoot => 0x4000_0000,
            Guest::Kernel => 0xc000_0000,
        }
    }
}
