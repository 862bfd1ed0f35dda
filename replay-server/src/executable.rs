//! An executable file without content, for gdb to learn from what no target description can say: that the guest is
//! big-endian. gdb assumes little-endian for MIPS, and so reads registers backwards, unless a file tells it otherwise.
//!
//! Where gdb has no executable, it asks the target for its name (`qXfer:exec-file:read`) and reads it through the remote
//! protocol's file transfer (`vFile`; *Debugging with GDB*, E.7). It is offered only where it is needed.

use ktrace_timeline::MachineDescription;

use crate::framing::hexadecimal;

/// The file's name, which gdb shows.
const NAME: &str = "/ktracer/big-endian-guest";
/// What is added to the features that gdbstub tells.
pub const FEATURE: &[u8] = b";qXfer:exec-file:read+";
/// The file's descriptor.
const DESCRIPTOR: u64 = 1;
/// Errors of the protocol's own (E.7.9): no such file, a bad descriptor, an argument that is not understood.
const NOT_FOUND: &[u8] = b"F-1,2";
const BAD_DESCRIPTOR: &[u8] = b"F-1,9";
const INVALID: &[u8] = b"F-1,16";

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Executable {
    bytes: Vec<u8>,
}

impl Executable {
    /// The file for a guest; `None` if gdb needs none.
    pub fn new(machine: &MachineDescription) -> Option<Executable> {
        // ELF's number of the architecture and the flags that choose 32 bits and their calling convention.
        let (number, flags): (u16, u32) = match machine.architecture {
            // EM_MIPS; EF_MIPS_ARCH_32R2, EF_MIPS_ABI_O32.
            "mips" if machine.big_endian => (8, 0x7000_1000),
            _ => return None,
        };
        // 32 bits, big-endian, version 1.
        let mut bytes = b"\x7fELF\x01\x02\x01".to_vec();
        bytes.resize(16, 0);
        // Executable.
        bytes.extend(2u16.to_be_bytes());
        bytes.extend(number.to_be_bytes());
        bytes.extend(1u32.to_be_bytes());
        // Neither entry point nor headers of segments or sections.
        bytes.extend([0; 12]);
        bytes.extend(flags.to_be_bytes());
        // The sizes of this header and of those that there are none of.
        bytes.extend([52, 32, 0, 40, 0, 0].map(u16::to_be_bytes).concat());
        Some(Executable { bytes })
    }

    /// The answer to a packet, if it is about the file or about files at all.
    pub fn answer(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let packet = std::str::from_utf8(packet).ok()?;
        if let Some(arguments) = packet.strip_prefix("qXfer:exec-file:read:") {
            return Some(name(arguments).unwrap_or_else(|| b"E22".to_vec()));
        }
        let (operation, arguments) = packet.strip_prefix("vFile:")?.split_once(':')?;
        let numbers = || {
            let numbers: Result<Vec<u64>, _> =
                arguments.split(',').map(|number| u64::from_str_radix(number, 16)).collect();
            numbers.unwrap_or_default()
        };
        Some(match operation {
            "setfs" => b"F0".to_vec(),
            "open" if arguments.split(',').next() == Some(&hexadecimal(NAME.as_bytes())) => {
                format!("F{DESCRIPTOR:x}").into_bytes()
            }
            "open" => NOT_FOUND.to_vec(),
            "close" if numbers() == [DESCRIPTOR] => b"F0".to_vec(),
            "fstat" if numbers() == [DESCRIPTOR] => self.status(),
            "pread" => match numbers()[..] {
                [DESCRIPTOR, count, offset] => self.read(count, offset),
                [_, _, _] => BAD_DESCRIPTOR.to_vec(),
                _ => INVALID.to_vec(),
            },
            "close" | "fstat" => BAD_DESCRIPTOR.to_vec(),
            _ => return None,
        })
    }

    fn read(&self, count: u64, offset: u64) -> Vec<u8> {
        let [count, offset] = [count, offset].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        let rest = self.bytes.get(offset..).unwrap_or_default();
        attached(rest.get(..count).unwrap_or(rest))
    }

    /// A `struct stat` of the protocol (E.7.10): a regular file that all may read.
    fn status(&self) -> Vec<u8> {
        const MODE: u32 = 0o100_444;
        let mut status = [0, 0, MODE, 1, 0, 0, 0].map(u32::to_be_bytes).concat();
        status.extend([self.bytes.len() as u64, 512, 1].map(u64::to_be_bytes).concat());
        status.resize(64, 0);
        attached(&status)
    }
}

/// The part of the name that a `qXfer` asks for: `annex:offset,length`.
fn name(arguments: &str) -> Option<Vec<u8>> {
    let (_, range) = arguments.split_once(':')?;
    let (offset, length) = range.split_once(',')?;
    let [offset, length] = [offset, length].map(|number| usize::from_str_radix(number, 16).ok());
    let rest = NAME.as_bytes().get(offset?..).unwrap_or_default();
    let (part, more) = rest.split_at(rest.len().min(length?));
    Some([if more.is_empty() { b"l" } else { b"m" }, part].concat())
}

/// A reply with binary data.
fn attached(data: &[u8]) -> Vec<u8> {
    let mut reply = format!("F{:x};", data.len()).into_bytes();
    for &byte in data {
        match byte {
            b'}' | b'$' | b'#' | b'*' => reply.extend([b'}', byte ^ 0x20]),
            _ => reply.push(byte),
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn executable(big_endian: bool) -> Option<Executable> {
        Executable::new(&MachineDescription {
            architecture: "mips",
            big_endian,
            gdb_architecture: "mips",
            registers: &[],
            program_counter: 0,
        })
    }

    #[test]
    fn the_file_is_read_in_pieces() {
        assert!(executable(false).is_none());
        let file = executable(true).unwrap();
        let ask = |packet: &str| file.answer(packet.as_bytes()).unwrap();
        assert_eq!(ask("qXfer:exec-file:read:1:0,ffb"), b"l/ktracer/big-endian-guest");
        assert_eq!(ask("qXfer:exec-file:read::0,3"), b"m/kt");
        let open = format!("vFile:open:{},0,1c0", hexadecimal(NAME.as_bytes()));
        assert_eq!(ask(&open), b"F1");
        assert_eq!(ask("vFile:open:2f657463,0,0"), NOT_FOUND);
        assert_eq!(ask("vFile:pread:1,4,0"), b"F4;\x7fELF");
        assert_eq!(ask("vFile:pread:1,ffff,32"), b"F2;\0\0");
        assert_eq!(ask("vFile:pread:1,ffff,34"), b"F0;");
        // 52 bytes, one block; the mode has a byte that is sent escaped.
        let status = ask("vFile:fstat:1");
        assert!(status.starts_with(b"F40;"), "{status:x?}");
        assert_eq!(status.len(), 4 + 64 + 1);
        assert_eq!(ask("vFile:fstat:2"), BAD_DESCRIPTOR);
        assert_eq!(ask("vFile:close:1"), b"F0");
        assert_eq!(file.answer(b"vFile:unlink:2f"), None);
        assert_eq!(file.answer(b"vCont;c"), None);
    }

    proptest! {
        #[test]
        fn any_packet_does_no_harm(
            operation in "(vFile:(open|pread|fstat|close|setfs)|qXfer:exec-file:read):", rest in "[0-9a-f,:-]{0,40}",
        ) {
            executable(true).unwrap().answer(format!("{operation}{rest}").as_bytes());
        }
    }
}
