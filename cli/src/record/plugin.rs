//! Finds libktracer.so, the plugin that QEMU loads.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const FILE_NAME: &str = "libktracer.so";

/// Names the plugin and overrides the search.
const VARIABLE: &str = "KTRACER_PLUGIN";

/// The plugin's absolute path.
pub fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE) {
        let path = std::path::absolute(&path)
            .with_context(|| format!("{VARIABLE} does not name a file: {path:?}"))?;
        if !path.is_file() {
            bail!("{VARIABLE} names {}, which is not there", path.display());
        }
        return Ok(path);
    }
    let program = env::current_exe().context("cannot find out where ktracer itself is installed")?;
    let directory = program.parent().unwrap_or(Path::new("/"));
    let candidates = candidates(directory);
    if let Some(found) = candidates.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let tried: Vec<String> = candidates.iter().map(|path| format!("\n  {}", path.display())).collect();
    bail!(
        "the QEMU plugin {FILE_NAME} is missing; looked for:{}\n`cargo build --release --workspace` builds it, \
         or set {VARIABLE} to where it is",
        tried.concat()
    )
}

/// Where the plugin can be, given where ktracer is: cargo puts both in one directory, an installation puts the plugin
/// below `lib`, and cargo's test programs are one level down.
fn candidates(directory: &Path) -> Vec<PathBuf> {
    let mut candidates = vec![directory.join(FILE_NAME), directory.join("../lib/ktracer").join(FILE_NAME)];
    if directory.ends_with("deps") {
        candidates.extend(directory.parent().map(|up| up.join(FILE_NAME)));
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_beside_the_program() {
        let of = |directory: &str| {
            candidates(Path::new(directory)).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("/usr/bin"), ["/usr/bin/libktracer.so", "/usr/bin/../lib/ktracer/libktracer.so"]);
        assert_eq!(of("target/debug/deps").last().unwrap(), "target/debug/libktracer.so");
    }
}
