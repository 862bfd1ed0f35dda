//! Who owns the terminal: with options such as `-nographic` the guest's console does, and ktracer keeps quiet.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, stderr, stdin, stdout};
use std::os::unix::ffi::OsStrExt;

/// What makes an option of QEMU connect the guest or the monitor to the terminal.
enum Claim {
    /// The option alone.
    Always,
    /// A value that is `stdio`, or `mon:stdio` (with the monitor on the same line).
    Stdio,
    /// A value whose first part is this.
    First(&'static str),
}

/// QEMU's options that can claim the terminal (`qemu-options.hx`). With semihosting the guest prints to it directly.
const CLAIMS: &[(&str, Claim)] = &[
    ("nographic", Claim::Always),
    ("curses", Claim::Always),
    ("semihosting", Claim::Always),
    ("semihosting-config", Claim::Always),
    ("serial", Claim::Stdio),
    ("parallel", Claim::Stdio),
    ("monitor", Claim::Stdio),
    ("qmp", Claim::Stdio),
    ("qmp-pretty", Claim::Stdio),
    ("debugcon", Claim::Stdio),
    ("gdb", Claim::Stdio),
    ("chardev", Claim::First("stdio")),
    ("display", Claim::First("curses")),
];

/// Whether QEMU, started with these arguments from this process, shares a terminal with ktracer's standard error.
pub fn belongs_to_guest(arguments: &[OsString]) -> bool {
    stderr().is_terminal() && (stdin().is_terminal() || stdout().is_terminal()) && claims_stdio(arguments)
}

fn claims_stdio(arguments: &[OsString]) -> bool {
    arguments.iter().enumerate().any(|(index, argument)| {
        let Some(option) = option_name(argument) else { return false };
        let value = arguments.get(index + 1).map_or(&b""[..], |value| value.as_bytes());
        CLAIMS.iter().any(|(name, claim)| {
            option == name.as_bytes()
                && match claim {
                    Claim::Always => true,
                    Claim::Stdio => matches!(value, b"stdio" | b"mon:stdio"),
                    Claim::First(first) => value.split(|&byte| byte == b',').next() == Some(first.as_bytes()),
                }
        })
    })
}

/// An option's name without the one or two dashes that QEMU takes.
pub fn option_name(argument: &OsStr) -> Option<&[u8]> {
    let bytes = argument.as_bytes();
    bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(line: &str) -> bool {
        claims_stdio(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_that_claim_the_terminal() {
        for line in [
            "-M virt -nographic",
            "--nographic -M virt",
            "-serial stdio",
            "-display none -serial mon:stdio",
            "-monitor stdio",
            "-chardev stdio,id=console,mux=on -serial chardev:console",
            "-chardev stdio",
            "-curses",
            "-display curses,charset=CP437",
            "-semihosting -kernel a.elf",
        ] {
            assert!(claims(line), "{line}");
        }
    }

    #[test]
    fn options_that_do_not() {
        for line in [
            "",
            "-M virt -display none",
            "-serial file:log -monitor none",
            "-chardev socket,id=stdio,path=s",
            "-serial",
            "nographic",
            "-display gtk",
            "-name stdio",
        ] {
            assert!(!claims(line), "{line}");
        }
    }
}
