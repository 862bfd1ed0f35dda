//! The QEMUs that the tests run: Debian's, and the one with ktracer's patches.

use std::io;
use std::path::PathBuf;
use std::process::Command;

use ktrace_format::header;

use crate::programs::cache;

/// A QEMU that tests can use is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// Debian's does not start.
    #[error(
        "cannot run qemu-system-arm: {0}\nInstall the Debian package qemu-system-arm; on Debian 12 it must be \
         version 10.0 from bookworm-backports. scripts/setup.sh installs it."
    )]
    Missing(#[from] io::Error),
    /// The patched one does not start.
    #[error("cannot run the patched QEMU, {}: {source}\nRun make qemu, which builds it.", .program.display())]
    PatchedMissing {
        /// Where it should be.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not known where the patched one should be.
    #[error(
        "cannot find the patched QEMU: none of KTRACER_QEMU, KTRACER_CACHE, XDG_CACHE_HOME and HOME is set"
    )]
    NoCache,
    /// It starts, but does not say a version that these tests know.
    #[error(
        "{} is not version 10.0 but says: {answer}\nInstall the Debian package qemu-system-arm 10.0; on Debian 12 it \
         is in bookworm-backports, and scripts/setup.sh installs it. `make qemu` builds the patched one.",
        .program.display()
    )]
    Version {
        /// What was run.
        program: PathBuf,
        /// What it said.
        answer: String,
    },
}

/// A `qemu-system-arm` that has answered that it is version 10.0: the model is compared with what that version computes.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    path: header::Path,
}

impl Qemu {
    /// Debian's, on which ktracer records on the portable path.
    pub fn stock() -> Result<Qemu, QemuError> {
        let program = PathBuf::from("qemu-system-arm");
        let answer = Command::new(&program).arg("--version").output()?;
        Qemu::that_answered(program, header::Path::Portable, &answer.stdout)
    }

    /// The one with ktracer's patches, on which it records on the fast path: what `make qemu` has built, or what is below
    /// the directory that `KTRACER_QEMU` names.
    pub fn patched() -> Result<Qemu, QemuError> {
        Qemu::patched_system("qemu-system-arm")
    }

    fn patched_system(name: &str) -> Result<Qemu, QemuError> {
        let directory = std::env::var_os("KTRACER_QEMU").map(PathBuf::from);
        let directory =
            directory.or_else(|| Some(cache()?.join("qemu/current"))).ok_or(QemuError::NoCache)?;
        let program = directory.join("bin").join(name);
        match Command::new(&program).arg("--version").output() {
            Ok(answer) => Qemu::that_answered(program, header::Path::Fast, &answer.stdout),
            Err(source) => Err(QemuError::PatchedMissing { program, source }),
        }
    }

    /// The same for MIPS, in one byte order.
    pub fn patched_mips(big_endian: bool) -> Result<Qemu, QemuError> {
        Qemu::patched_system(if big_endian { "qemu-system-mips" } else { "qemu-system-mipsel" })
    }

    fn that_answered(program: PathBuf, path: header::Path, answer: &[u8]) -> Result<Qemu, QemuError> {
        let text = String::from_utf8_lossy(answer);
        let first = text.lines().next().unwrap_or_default();
        if !first.starts_with("QEMU emulator version 10.0") {
            return Err(QemuError::Version { program, answer: first.to_owned() });
        }
        Ok(Qemu { program, path })
    }

    /// Its file, or its name to be found in `PATH`.
    pub fn program(&self) -> &std::path::Path {
        &self.program
    }

    /// The path that recordings on it take.
    pub fn path(&self) -> header::Path {
        self.path
    }

    /// A command that starts it.
    pub fn command(&self) -> Command {
        Command::new(&self.program)
    }
}
