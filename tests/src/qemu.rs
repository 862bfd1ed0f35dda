//! The QEMU that the tests run.

use std::process::Command;

/// A QEMU that tests can use is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// It does not start.
    #[error(
        "cannot run qemu-system-arm: {0}\nInstall the Debian package qemu-system-arm; on Debian 12 it must be \
         version 10.0 from bookworm-backports. scripts/setup.sh installs it."
    )]
    Missing(#[from] std::io::Error),
    /// It starts, but does not say a version that these tests know.
    #[error(
        "qemu-system-arm is not version 10.0 but says: {0}\nInstall the Debian package qemu-system-arm 10.0; on \
         Debian 12 it is in bookworm-backports. scripts/setup.sh installs it."
    )]
    Version(String),
}

/// A command that starts `qemu-system-arm`, once it has answered that it is version 10.0: the model is compared with
/// what that version computes.
pub fn arm_system() -> Result<Command, QemuError> {
    const PROGRAM: &str = "qemu-system-arm";
    let answer = Command::new(PROGRAM).arg("--version").output()?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let first = text.lines().next().unwrap_or_default();
    if !first.starts_with("QEMU emulator version 10.0") {
        return Err(QemuError::Version(first.to_owned()));
    }
    Ok(Command::new(PROGRAM))
}
