//! The plugin's arguments: `-plugin libktracer.so,out=DIR[,control=SOCKET][,stop_after=N][,start_at=ADDRESS]`.

use std::path::PathBuf;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The trace's directory: it exists and holds no trace.
    pub directory: PathBuf,
    /// The socket on which `ktracer record` listens, if it started QEMU.
    pub control: Option<PathBuf>,
    /// End the recording at the first block boundary at or after this many instructions.
    pub stop_after: Option<u64>,
    /// Start the recording when the instruction at this virtual address is first about to execute.
    pub start_at: Option<u32>,
}

/// An argument that the plugin does not understand.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    /// No such argument.
    #[error("unknown plugin argument '{0}': known are out=, control=, stop_after=, start_at=")]
    Unknown(String),
    /// A number that is none.
    #[error("'{0}' needs a number, decimal or with 0x")]
    Number(String),
    /// There is no place to write to.
    #[error("the plugin argument out=DIRECTORY is missing")]
    NoDirectory,
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl Options {
    /// Understands QEMU's list of `key=value` arguments.
    pub fn parse<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<Options, OptionError> {
        let mut directory = None;
        let mut options =
            Options { directory: PathBuf::new(), control: None, stop_after: None, start_at: None };
        for argument in arguments {
            let bad = || OptionError::Number(argument.to_owned());
            match argument.split_once('=') {
                Some(("out", value)) => directory = Some(PathBuf::from(value)),
                // How QEMU's own option -ktrace introduces itself.
                Some(("ktrace", "on")) => {}
                Some(("control", value)) => options.control = Some(PathBuf::from(value)),
                Some(("stop_after", value)) => options.stop_after = Some(number(value).ok_or_else(bad)?),
                Some(("start_at", value)) => {
                    let address =
                        number(value).and_then(|value| u32::try_from(value).ok()).ok_or_else(bad)?;
                    // Bit 0 is how tools mark Thumb code; instructions are never there.
                    options.start_at = Some(address & !1);
                }
                _ => return Err(OptionError::Unknown(argument.to_owned())),
            }
        }
        let directory = directory.ok_or(OptionError::NoDirectory)?;
        // QEMU may change its working directory (-daemonize).
        options.directory = std::path::absolute(&directory).unwrap_or(directory);
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_understood() {
        let all = ["out=/tmp/a=b", "ktrace=on", "control=/run/s", "stop_after=1000", "start_at=0x40001001"];
        let options = Options::parse(all.into_iter()).unwrap();
        assert_eq!(options.directory, PathBuf::from("/tmp/a=b"));
        assert_eq!(options.stop_after, Some(1000));
        assert_eq!(options.start_at, Some(0x4000_1000));
        assert_eq!(Options::parse(["stop_after=1"].into_iter()), Err(OptionError::NoDirectory));
        for wrong in ["nothing", "stop_after=x", "start_at=0x100000000", "stop=1"] {
            assert!(Options::parse(["out=/tmp", wrong].into_iter()).is_err(), "{wrong}");
        }
    }
}
