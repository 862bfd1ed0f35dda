//! QEMU's program: whether it is one that ktracer can record, and its command line with the plugin added.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use super::terminal::option_name;

/// The first version whose plugin interface (API 4) gives the values of memory accesses.
const OLDEST_VERSION: (u32, u32) = (9, 2);

/// How the names of programs begin that are recorded.
const RECORDED: [&str; 2] = ["qemu-system-arm", "qemu-system-mips"];

/// A program that was found fit for recording.
#[derive(Debug)]
pub struct Program {
    /// As the user gave it, or where `--patched` found it.
    pub path: OsString,
    /// The first line of its `--version`, as in `QEMU emulator version 10.0.2 (Debian …)`.
    pub version: String,
}

/// What the plugin is told on QEMU's command line.
#[derive(Debug)]
pub struct PluginOptions<'a> {
    pub library: &'a Path,
    pub output: &'a Path,
    pub control_socket: &'a Path,
    pub stop_after: Option<u64>,
    pub start_at: Option<u64>,
}

impl Program {
    /// Checks a program by its name and by what it says of itself.
    pub fn check(path: &OsStr) -> Result<Program> {
        check_name(path)?;
        let output = Command::new(path).arg("--version").stdin(Stdio::null()).output().map_err(|error| {
            let shown = Path::new(path).display();
            match error.kind() {
                io::ErrorKind::NotFound if is_mips(path) => anyhow!(
                    "{shown}: there is no such program. MIPS takes the patched QEMU: `make qemu` builds it, and `ktracer record \
                     --patched` finds it"
                ),
                io::ErrorKind::NotFound => anyhow!(
                    "{shown}: there is no such program. On Debian 13 `apt-get install qemu-system-arm` installs it; \
                     Debian 12 needs its bookworm-backports suite (scripts/setup.sh does both)"
                ),
                _ => anyhow!("{shown} cannot be executed: {error}"),
            }
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or_default().trim().to_owned();
        check_version(&version).with_context(|| Path::new(path).display().to_string())?;
        Ok(Program { path: path.to_owned(), version })
    }
}

fn is_mips(path: &OsStr) -> bool {
    Path::new(path).file_name().is_some_and(|name| name.to_string_lossy().starts_with("qemu-system-mips"))
}

fn check_name(path: &OsStr) -> Result<()> {
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    if name == "qemu-system-aarch64" {
        bail!("{name}: ktracer records 32-bit ARM only; use qemu-system-arm");
    }
    if name.starts_with("qemu-system-mips64") {
        bail!("{name}: ktracer records 32-bit MIPS only; use qemu-system-mips or qemu-system-mipsel");
    }
    if !RECORDED.iter().any(|recorded| name.starts_with(recorded)) {
        bail!(
            "{name}: not a QEMU that ktracer can record; the command after `--` must be qemu-system-arm, qemu-system-mips \
             or qemu-system-mipsel"
        );
    }
    Ok(())
}

fn check_version(line: &str) -> Result<()> {
    let (major, minor) = line
        .strip_prefix("QEMU emulator version ")
        .and_then(|rest| {
            let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
            Some((numbers.next()?.parse::<u32>().ok()?, numbers.next()?.parse::<u32>().ok()?))
        })
        .ok_or_else(|| anyhow!("does not say which version of QEMU it is; `--version` printed {line:?}"))?;
    if (major, minor) < OLDEST_VERSION {
        let (need_major, need_minor) = OLDEST_VERSION;
        bail!(
            "QEMU {major}.{minor} is too old: recording needs {need_major}.{need_minor} or newer. Debian 12 has 10.0 in \
             bookworm-backports (scripts/setup.sh installs it)"
        );
    }
    Ok(())
}

/// Refuses arguments under which nothing could be recorded.
pub fn check_arguments(arguments: &[OsString]) -> Result<()> {
    for (index, argument) in arguments.iter().enumerate() {
        let Some(option) = option_name(argument) else { continue };
        let value = arguments.get(index + 1).map_or(&b""[..], |value| value.as_bytes());
        let accelerator = match option {
            b"daemonize" => bail!("-daemonize: ktracer must stay QEMU's parent; use the shell's & instead"),
            b"enable-kvm" => Some(&b"kvm"[..]),
            b"accel" => value.split(|&byte| byte == b',').next(),
            b"machine" | b"M" => value
                .split(|&byte| byte == b',')
                .find_map(|part| part.strip_prefix(b"accel="))
                .and_then(|list| list.split(|&byte| byte == b':').next()),
            _ => None,
        };
        if let Some(accelerator) = accelerator.filter(|name| !name.is_empty() && *name != b"tcg") {
            bail!(
                "the accelerator {}: only TCG, QEMU's emulator, can be recorded",
                String::from_utf8_lossy(accelerator)
            );
        }
    }
    Ok(())
}

/// The user's arguments, and after them those that load the plugin and open a monitor for ktracer.
pub fn with_plugin(arguments: &[OsString], plugin: &PluginOptions<'_>, qmp_socket: &Path) -> Vec<OsString> {
    let mut option = OsString::from("file=");
    option.push(escape(plugin.library));
    option.push(",out=");
    option.push(escape(plugin.output));
    option.push(",control=");
    option.push(escape(plugin.control_socket));
    if let Some(count) = plugin.stop_after {
        option.push(format!(",stop_after={count}"));
    }
    if let Some(address) = plugin.start_at {
        option.push(format!(",start_at={address:#x}"));
    }
    let mut monitor = OsString::from("unix:");
    monitor.push(escape(qmp_socket));
    monitor.push(",server=on,wait=off");
    let mut all = arguments.to_vec();
    all.extend([OsString::from("-plugin"), option, OsString::from("-qmp"), monitor]);
    all
}

/// In an option's value QEMU takes two commas for one that does not separate.
fn escape(path: &Path) -> OsString {
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        escaped.push(byte);
        if byte == b',' {
            escaped.push(byte);
        }
    }
    OsString::from_vec(escaped)
}

/// The longest path that a UNIX socket can have, less its closing zero (`unix(7)`).
const MAX_SOCKET_PATH: usize = 107;

/// A private directory for sockets, whose paths must be short: the usual place for temporary files, or else /tmp.
pub fn socket_directory(longest_name: &str) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("ktracer-");
    let directory = builder.tempdir().context("cannot create a directory for sockets")?;
    if directory.path().join(longest_name).as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(directory);
    }
    builder.tempdir_in("/tmp").context("cannot create a directory for sockets below /tmp")
}

/// Both sockets of a recording.
#[derive(Debug)]
pub struct Sockets {
    /// Where the plugin connects.
    pub control: PathBuf,
    /// QEMU's monitor.
    pub qmp: PathBuf,
    /// Removes them in the end.
    _directory: tempfile::TempDir,
}

impl Sockets {
    /// Names for both, in a directory that only this user can enter.
    pub fn create() -> Result<Sockets> {
        let directory = socket_directory("control")?;
        Ok(Sockets {
            control: directory.path().join("control"),
            qmp: directory.path().join("qmp"),
            _directory: directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(arguments: &[&str]) -> Vec<OsString> {
        arguments.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_plugin_follows_the_users_arguments() {
        let plugin = PluginOptions {
            library: Path::new("/lib/a,b.so"),
            output: Path::new("/t,,x"),
            control_socket: Path::new("/s/control"),
            stop_after: Some(10),
            start_at: Some(0x4000_0000),
        };
        let all = with_plugin(&strings(&["-M", "virt"]), &plugin, Path::new("/s/q,m"));
        let expected = [
            "-M",
            "virt",
            "-plugin",
            "file=/lib/a,,b.so,out=/t,,,,x,control=/s/control,stop_after=10,start_at=0x40000000",
            "-qmp",
            "unix:/s/q,,m,server=on,wait=off",
        ];
        assert_eq!(all, strings(&expected));
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(check_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)").is_ok());
        assert!(check_version("QEMU emulator version 9.2.0").is_ok());
        assert!(check_version("QEMU emulator version 11.0").is_ok());
        let old = check_version("QEMU emulator version 7.2.17 (Debian)").unwrap_err().to_string();
        assert!(old.contains("QEMU 7.2 is too old"), "{old}");
        assert!(check_version("").is_err());
        assert!(check_version("GNU bash, version 5.2").is_err());
    }

    #[test]
    fn only_emulators_of_32_bits_are_recorded() {
        assert!(check_name(OsStr::new("/opt/bin/qemu-system-arm")).is_ok());
        assert!(check_name(OsStr::new("qemu-system-arm-10")).is_ok());
        let error = |name: &str| check_name(OsStr::new(name)).unwrap_err().to_string();
        assert!(check_name(OsStr::new("/usr/bin/qemu-system-mipsel")).is_ok());
        assert!(check_name(OsStr::new("qemu-system-mips")).is_ok());
        assert!(error("qemu-system-mips64el").contains("32-bit MIPS only"));
        assert!(error("qemu-system-aarch64").contains("32-bit"));
        assert!(error("ls").contains("must be qemu-system-arm, "));
        assert!(error("").contains("must be qemu-system-arm, "));
    }

    #[test]
    fn a_missing_program_is_told_from_a_broken_one() {
        let missing = Program::check(OsStr::new("/nowhere/qemu-system-arm")).unwrap_err();
        assert!(missing.to_string().contains("no such program"), "{missing}");
        let missing = Program::check(OsStr::new("/nowhere/qemu-system-mipsel")).unwrap_err();
        assert!(missing.to_string().contains("--patched"), "{missing}");
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("qemu-system-arm");
        std::fs::write(&file, "not a program").unwrap();
        let broken = Program::check(file.as_os_str()).unwrap_err();
        assert!(broken.to_string().contains("cannot be executed"), "{broken}");
    }

    #[test]
    fn arguments_that_rule_recording_out_are_refused() {
        for good in
            [&["-accel", "tcg,thread=single"][..], &["-M", "virt,accel=tcg"], &["-M", "virt"], &["-accel"]]
        {
            assert!(check_arguments(&strings(good)).is_ok(), "{good:?}");
        }
        for bad in
            [&["-daemonize"][..], &["--enable-kvm"], &["-accel", "kvm"], &["-machine", "virt,accel=kvm:tcg"]]
        {
            assert!(check_arguments(&strings(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sockets_get_a_short_private_directory() {
        let directory = socket_directory(&"n".repeat(80)).unwrap();
        assert!(directory.path().join("n".repeat(80)).as_os_str().len() <= MAX_SOCKET_PATH);
        let sockets = Sockets::create().unwrap();
        assert_ne!(sockets.control, sockets.qmp);
        assert!(sockets.control.parent().is_some_and(Path::is_dir));
    }
}
