//! Finds the QEMU that `qemu-patches/build.sh` has built, for `--patched`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Names the directory in which a patched QEMU is installed, and overrides the search.
const VARIABLE: &str = "KTRACER_QEMU";

/// The program of the patched QEMU that has this name.
pub fn find(name: &OsStr) -> Result<OsString> {
    let prefix = prefix(|variable| env::var_os(variable).filter(|value| !value.is_empty()))?;
    Ok(program(name, &prefix)?.into_os_string())
}

/// Where a patched QEMU is installed.
#[derive(Debug, PartialEq)]
struct Prefix {
    path: PathBuf,
    /// It is what `KTRACER_QEMU` says, and not where build.sh puts its builds.
    named: bool,
}

fn prefix(variable: impl Fn(&str) -> Option<OsString>) -> Result<Prefix> {
    if let Some(path) = variable(VARIABLE) {
        return Ok(Prefix { path: path.into(), named: true });
    }
    // As the scripts find it.
    let cache = variable("KTRACER_CACHE")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_CACHE_HOME").map(|directory| Path::new(&directory).join("ktracer")))
        .or_else(|| variable("HOME").map(|directory| Path::new(&directory).join(".cache/ktracer")));
    let Some(cache) = cache else {
        bail!(
            "where the patched QEMU is cannot be found out: none of {VARIABLE}, KTRACER_CACHE and HOME is set"
        );
    };
    Ok(Prefix { path: cache.join("qemu/current"), named: false })
}

/// The program of this name below `prefix`, by a path that a later build does not change.
fn program(name: &OsStr, prefix: &Prefix) -> Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        bail!(
            "{}: --patched says already which QEMU to take, so the command after `--` must be a name without a path, \
             such as qemu-system-arm; or leave --patched out",
            Path::new(name).display()
        );
    }
    let shown = prefix.path.display();
    let Ok(directory) = prefix.path.canonicalize() else {
        if prefix.named {
            bail!(
                "{VARIABLE} names {shown}, which is not there; `qemu-patches/build.sh --prefix DIR` installs a patched \
                 QEMU in a directory"
            );
        }
        bail!(
            "the patched QEMU is not built yet: `make qemu` in ktracer's source builds it ({shown} is missing)"
        );
    };
    let path = directory.join("bin").join(name);
    if !path.is_file() {
        bail!(
            "{} is not part of the patched QEMU in {shown}; `make qemu` in ktracer's source builds what can be recorded",
            Path::new(name).display()
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Result<Prefix> {
        prefix(|wanted| {
            variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn it_is_looked_for_where_the_scripts_put_it() {
        let path = |variables| found(variables).unwrap().path;
        assert_eq!(path(&[("HOME", "/h")]), Path::new("/h/.cache/ktracer/qemu/current"));
        assert_eq!(path(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/ktracer/qemu/current"));
        assert_eq!(path(&[("HOME", "/h"), ("KTRACER_CACHE", "/k")]), Path::new("/k/qemu/current"));
        assert_eq!(path(&[("KTRACER_CACHE", "/k"), ("KTRACER_QEMU", "/q")]), Path::new("/q"));
        assert!(found(&[]).is_err());
    }

    #[test]
    fn the_program_is_named_by_its_build() {
        let scratch = tempfile::tempdir().unwrap();
        let build = scratch.path().canonicalize().unwrap().join("0123");
        std::fs::create_dir_all(build.join("bin")).unwrap();
        std::fs::write(build.join("bin/qemu-system-arm"), "").unwrap();
        let current = scratch.path().join("current");
        std::os::unix::fs::symlink("0123", &current).unwrap();
        let prefix = Prefix { path: current, named: false };
        let path = program(OsStr::new("qemu-system-arm"), &prefix).unwrap();
        assert_eq!(path, build.join("bin/qemu-system-arm"));
        let error = program(OsStr::new("qemu-system-mips"), &prefix).unwrap_err().to_string();
        assert!(error.starts_with("qemu-system-mips is not part of the patched QEMU"), "{error}");
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let error = |name: &str, named| {
            let prefix = Prefix { path: "/nowhere".into(), named };
            program(OsStr::new(name), &prefix).unwrap_err().to_string()
        };
        assert!(error("qemu-system-arm", false).contains("`make qemu`"));
        assert!(error("qemu-system-arm", true).starts_with("KTRACER_QEMU names /nowhere"));
        assert!(error("/usr/bin/qemu-system-arm", false).contains("leave --patched out"));
        assert!(error("./qemu-system-arm", false).contains("leave --patched out"));
    }
}
