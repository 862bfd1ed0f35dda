//! The directory that the trace goes to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Either file makes a directory a trace.
const MARKS: [&str; 2] = ["trace.json", "trace.kt"];

/// What the files of a trace end with.
const EXTENSIONS: [&str; 4] = ["kt", "json", "new", "tmp"];

/// Creates an empty directory and returns its absolute path. One that exists is refused, or, with `force`, emptied if
/// it holds nothing but a trace.
pub fn create(path: &Path, force: bool) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("cannot use {path:?} as output"))?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    match fs::create_dir(&path) {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !force {
                bail!("{} exists already; --force replaces a trace", path.display());
            }
            remove_trace(&path)?;
            Ok(path)
        }
        Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
    }
}

/// Empties a directory, after a look at everything in it: --force is for traces, not for whatever -o happens to name.
fn remove_trace(path: &Path) -> Result<()> {
    let entries: Vec<fs::DirEntry> = fs::read_dir(path).and_then(Iterator::collect).with_context(|| {
        format!("cannot replace {}: it is not a directory that can be read", path.display())
    })?;
    let marked = entries.iter().any(|entry| MARKS.iter().any(|mark| entry.file_name() == *mark));
    if !entries.is_empty() && !marked {
        bail!("{} is not empty and holds no trace, so --force does not replace it", path.display());
    }
    for entry in &entries {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let is_ours = is_file
            && entry.path().extension().is_some_and(|found| EXTENSIONS.iter().any(|known| found == *known));
        if !is_ours {
            bail!(
                "{} holds something that is not of a trace, so --force does not replace it: {:?}",
                path.display(),
                entry.file_name()
            );
        }
    }
    for entry in &entries {
        fs::remove_file(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<PathBuf>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn a_new_directory_is_created_with_its_parents() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        assert_eq!(create(&path, false).unwrap(), path);
        assert!(path.is_dir());
    }

    #[test]
    fn a_relative_path_becomes_absolute() {
        assert!(create(Path::new(""), false).is_err());
        let absolute = create(Path::new("../target/relative-output-of-a-test"), true).unwrap();
        assert!(absolute.is_absolute() && absolute.is_dir());
        fs::remove_dir(absolute).unwrap();
    }

    #[test]
    fn an_existing_one_needs_force() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(message(create(scratch.path(), false)).contains("--force"));
        assert!(create(scratch.path(), true).is_ok(), "it is empty");
    }

    #[test]
    fn force_replaces_a_trace() {
        let scratch = tempfile::tempdir().unwrap();
        for name in ["trace.kt", "trace.json", "memory.kt"] {
            fs::write(scratch.path().join(name), "x").unwrap();
        }
        create(scratch.path(), true).unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn force_keeps_everything_else() {
        let scratch = tempfile::tempdir().unwrap();
        let (thesis, mark) = (scratch.path().join("thesis.txt"), scratch.path().join("trace.json"));
        fs::write(&thesis, "x").unwrap();
        assert!(message(create(scratch.path(), true)).contains("holds no trace"));
        fs::write(&mark, "x").unwrap();
        assert!(message(create(scratch.path(), true)).contains("thesis.txt"));
        assert!(thesis.exists() && mark.exists());
        fs::remove_file(&thesis).unwrap();
        fs::create_dir(scratch.path().join("sub.kt")).unwrap();
        assert!(message(create(scratch.path(), true)).contains("sub.kt"));
        assert!(message(create(&mark, true)).contains("not a directory"));
    }
}
