//! What the reports of the long proofs have in common.

use std::process::Command;

use anyhow::{Context, Result};

use crate::qemu::Qemu;

/// When it was made and with which versions.
pub fn heading(qemu: &Qemu) -> Result<String> {
    let ktracer = first_line(Command::new("git").args(["describe", "--always", "--dirty"]))?;
    let version = first_line(qemu.command().arg("--version"))?;
    Ok(format!(
        "date: {}\nktracer: {ktracer}\nQEMU: {version}, {:?} path",
        jiff::Timestamp::now(),
        qemu.path()
    ))
}

fn first_line(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}
