//! Reads every packet before gdbstub does.
//!
//! gdbstub 0.7 ends the session over each packet that it finds odd: a missing field, a thread that it did not
//! expect, an address that is too wide (`gdb-notes.md` 1.4). So it is only handed packets that were understood here,
//! rewritten into a form that it accepts; the rest is answered here. Everything is parsed strictly: a packet that is
//! not understood is refused, not guessed at.
//!
//! A recording has one core, thread 1 of process 1.

use crate::breakpoints::BreakpointKind;
use crate::expression::{Condition, Expression};
use crate::framing::{self, PACKET_SIZE};

/// The most bytes of memory that one packet reads; a longer request gets a shorter answer, as the protocol allows. The
/// answer has up to two characters for each byte.
const MOST_MEMORY: u64 = (PACKET_SIZE / 4) as u64;

/// An error as a client hears it. The numbers are those that QEMU's stub sends, so that people recognise them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number, as the two digits that are sent.
    number: &'static str,
    /// The reason, for a person.
    pub reason: &'static str,
    /// Whether the reason is sent to every client. gdb shows the text of a failed register write even in versions
    /// before the `error-message` feature, and clients that don't know it see an error all the same.
    always_in_words: bool,
}

impl Refusal {
    /// Nothing is known of the memory that was asked for. gdb has better words for this than we, so it is a number.
    pub const NOTHING_KNOWN: &'static str = "E14";

    const fn malformed(reason: &'static str) -> Self {
        Self { number: "E22", reason, always_in_words: false }
    }

    /// The packet that tells a client, which may have said that it accepts messages.
    pub fn packet(&self, accepts_messages: bool) -> Vec<u8> {
        if accepts_messages || self.always_in_words {
            format!("E.{}", self.reason).into_bytes()
        } else {
            self.number.as_bytes().to_vec()
        }
    }
}

/// A write to registers or memory.
pub const READ_ONLY: Refusal = Refusal {
    number: "E30",
    reason: "a recording is read-only: registers and memory can't be changed",
    always_in_words: true,
};
/// A packet whose checksum is wrong, from a client that no longer acknowledges.
pub const DAMAGED: Refusal = Refusal::malformed("the packet arrived damaged");
/// A packet longer than was agreed.
pub const OVERSIZED: Refusal = Refusal::malformed("the packet is too long");
/// What gdbstub rejected although it was admitted.
pub const REJECTED: Refusal = Refusal::malformed("the packet can't be served");
/// More breakpoints, or longer conditions, than can be kept.
pub const TOO_MANY_BREAKPOINTS: Refusal = Refusal::malformed("too many breakpoints");
/// The client sent Ctrl-C.
pub const INTERRUPTED: Refusal = Refusal { number: "E04", reason: "interrupted", always_in_words: false };
/// A search that the client would not wait for.
pub const SEARCH_TOO_LONG: Refusal = Refusal {
    number: "E62",
    reason: "the search takes too long: search less memory at once",
    always_in_words: false,
};
/// A register number that no register has.
pub const NO_SUCH_REGISTER: Refusal = Refusal::malformed("no such register");

const MALFORMED: Refusal = Refusal::malformed("malformed packet");
const NO_SUCH_THREAD: Refusal = Refusal::malformed("no such thread: a recording has the one thread 1");
const TOO_WIDE: Refusal = Refusal::malformed("the address is wider than 32 bits");
const NO_COMMANDS: Refusal = Refusal::malformed("breakpoint commands are not supported");
const BAD_CONDITION: Refusal = Refusal::malformed("the breakpoint's condition is malformed");
const NO_JUMP: Refusal = Refusal::malformed("a recording can't be resumed at another address");
const NO_STOP_ACTION: Refusal = Refusal::malformed("non-stop mode is not supported");

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// gdbstub handles it, in this form.
    Forward(Vec<u8>),
    /// This is the answer.
    Answer(&'static str),
    /// It can't be served.
    Refuse(Refusal),
    /// The client says what it can do.
    Negotiate {
        /// It knows processes: thread ids may be written `p1.1`.
        multiprocess: bool,
        /// It accepts errors in words.
        accepts_messages: bool,
    },
    /// The client wants no more acknowledgements (`QStartNoAckMode`).
    StopAcknowledging,
    /// The value of one register.
    ReadRegister(usize),
    /// A breakpoint that counts only under a condition; it replaces the one that is there.
    ConditionalBreakpoint {
        /// Which of the two.
        kind: BreakpointKind,
        /// Virtual address.
        address: u32,
        /// When it counts.
        condition: Condition,
    },
    /// Memory, to be sent as it is.
    ReadMemory {
        /// Virtual address.
        address: u32,
        /// How many bytes at most.
        length: usize,
    },
    /// The first place where a pattern is in memory.
    SearchMemory {
        /// Virtual address of the first byte.
        start: u32,
        /// How many bytes of memory are looked at; they may end behind the address space.
        length: u64,
        /// What is looked for; not empty.
        pattern: Vec<u8>,
    },
    /// A `monitor` command.
    Monitor(Vec<u8>),
    /// The client wants the guest killed, that is: it leaves.
    Kill {
        /// Whether the packet has an answer.
        answered: bool,
    },
}

/// Not implemented, in the protocol's words.
const UNSUPPORTED: Admission = Admission::Answer("");

/// Decides about a packet's body.
pub fn admit(body: &[u8]) -> Admission {
    let Some((&first, _)) = body.split_first() else {
        return UNSUPPORTED;
    };
    // Writes first: their data need not be text.
    if matches!(first, b'G' | b'M' | b'P' | b'X') {
        return Admission::Refuse(READ_ONLY);
    }
    if let Some(arguments) = body.strip_prefix(b"qSearch:memory:") {
        return admit_search(arguments).unwrap_or_else(Admission::Refuse);
    }
    match std::str::from_utf8(body) {
        Ok(text) if text.is_ascii() => admit_text(text).unwrap_or_else(Admission::Refuse),
        // The other packet with binary data that is not a write (vFile:pwrite) is not implemented.
        _ => UNSUPPORTED,
    }
}

/// `ADDRESS;LENGTH;PATTERN`, the pattern in binary.
fn admit_search(arguments: &[u8]) -> Result<Admission, Refusal> {
    let mut fields = arguments.splitn(3, |byte| *byte == b';');
    let mut number = || fields.next().and_then(|field| std::str::from_utf8(field).ok()).ok_or(MALFORMED);
    let (start, length) = (guest_address(number()?)?, hexadecimal_number(number()?)?);
    let pattern = framing::unescape(fields.next().ok_or(MALFORMED)?).ok_or(MALFORMED)?;
    if pattern.is_empty() {
        return Err(MALFORMED);
    }
    Ok(Admission::SearchMemory { start, length, pattern })
}

fn admit_text(text: &str) -> Result<Admission, Refusal> {
    // All is ASCII, so that every index is the boundary of a character.
    let (name, arguments) = text.split_at(1);
    match name {
        "?" if arguments.is_empty() => forward("?"),
        "g" => match without_thread(arguments)? {
            "" => forward("g"),
            _ => Err(MALFORMED),
        },
        "p" => Ok(Admission::ReadRegister(
            usize::try_from(hexadecimal_number(without_thread(arguments)?)?).map_err(|_| NO_SUCH_REGISTER)?,
        )),
        "m" => {
            let (address, length) = without_thread(arguments)?.split_once(',').ok_or(MALFORMED)?;
            let length = hexadecimal_number(length)?.min(MOST_MEMORY);
            forward(format!("m{:x},{length:x}", guest_address(address)?))
        }
        "x" => {
            let (address, length) = without_thread(arguments)?.split_once(',').ok_or(MALFORMED)?;
            let length = hexadecimal_number(length)?.min(MOST_MEMORY) as usize;
            Ok(Admission::ReadMemory { address: guest_address(address)?, length })
        }
        "H" => {
            let (operation, thread) = arguments.split_at_checked(1).ok_or(MALFORMED)?;
            if !matches!(operation, "g" | "c") {
                return Err(MALFORMED);
            }
            // "All threads" and "any thread" are the one there is.
            thread_of_guest(thread)?;
            forward(format!("H{operation}1"))
        }
        "T" => {
            thread_of_guest(arguments)?;
            forward("T1")
        }
        "D" => match arguments.strip_prefix(';') {
            None if !arguments.is_empty() => Err(MALFORMED),
            None => forward("D"),
            Some(process) => {
                hexadecimal_number(process)?;
                forward("D")
            }
        },
        "k" if arguments.is_empty() => Ok(Admission::Kill { answered: false }),
        "c" | "s" if arguments.is_empty() => forward(name),
        "c" | "s" => hexadecimal_number(arguments).and(Err(NO_JUMP)),
        // Signals mean nothing to a recording.
        "C" | "S" => match arguments.split_once(';') {
            Some(_) => Err(NO_JUMP),
            None => hexadecimal_number(arguments).and_then(|_| forward(name.to_ascii_lowercase())),
        },
        "b" if matches!(arguments, "c" | "s") => forward(text),
        "Z" | "z" => admit_breakpoint(name, arguments),
        "q" | "Q" => admit_query(text),
        "v" => admit_verbose(text),
        "?" | "k" | "b" => Err(MALFORMED),
        _ => Ok(UNSUPPORTED),
    }
}

fn admit_breakpoint(name: &str, arguments: &str) -> Result<Admission, Refusal> {
    let (place, conditions) =
        arguments.split_once(';').map_or((arguments, ""), |(place, rest)| (place, rest));
    let mut fields = place.split(',');
    let (Some(kind), Some(address), Some(size), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(MALFORMED);
    };
    let (address, size) = (guest_address(address)?, hexadecimal_number(size)?);
    match kind {
        "0" | "1" if name == "Z" && !conditions.is_empty() => Ok(Admission::ConditionalBreakpoint {
            kind: if kind == "0" { BreakpointKind::Software } else { BreakpointKind::Hardware },
            address,
            condition: condition(conditions)?,
        }),
        _ if !conditions.is_empty() => Err(MALFORMED),
        "0" | "1" | "2" | "3" | "4" => forward(format!("{name}{kind},{address:x},{size:x}")),
        _ => Err(MALFORMED),
    }
}

/// One or several expressions, `X` with their length in bytes, a comma, and hexadecimal bytecode.
fn condition(mut text: &str) -> Result<Condition, Refusal> {
    let mut expressions = Vec::new();
    while !text.is_empty() {
        if text.starts_with("cmds:") {
            return Err(NO_COMMANDS);
        }
        let (length, rest) = text.strip_prefix('X').and_then(|text| text.split_once(',')).ok_or(MALFORMED)?;
        let length = usize::try_from(hexadecimal_number(length)?).map_err(|_| MALFORMED)?;
        let digits = length.checked_mul(2).ok_or(MALFORMED)?;
        let (bytecode, rest) = rest.split_at_checked(digits).ok_or(MALFORMED)?;
        let bytecode = framing::from_hexadecimal(bytecode).ok_or(MALFORMED)?;
        expressions.push(Expression::decode(&bytecode).map_err(|_| BAD_CONDITION)?);
        text = rest.strip_prefix(';').unwrap_or(rest);
    }
    Ok(Condition::any_of(expressions))
}

fn admit_query(text: &str) -> Result<Admission, Refusal> {
    let (name, arguments) = text.find([':', ',']).map_or((text, ""), |separator| text.split_at(separator));
    match name {
        "qSupported" => {
            let offers = |feature: &str| {
                arguments.trim_start_matches(':').split(';').any(|offered| offered == feature)
            };
            Ok(Admission::Negotiate {
                multiprocess: offers("multiprocess+"),
                accepts_messages: offers("error-message+"),
            })
        }
        "QStartNoAckMode" if arguments.is_empty() => Ok(Admission::StopAcknowledging),
        "qC" if arguments.is_empty() => Ok(Admission::Answer("QC1")),
        "qAttached" => forward("qAttached"),
        "qfThreadInfo" | "qsThreadInfo" if arguments.is_empty() => forward(name),
        "qXfer" => {
            let Some(arguments) = arguments.strip_prefix(":features:read:") else {
                return Ok(UNSUPPORTED);
            };
            let (annex, range) = arguments.split_once(':').ok_or(MALFORMED)?;
            let (offset, length) = range.split_once(',').ok_or(MALFORMED)?;
            let (offset, length) = (hexadecimal_number(offset)?, hexadecimal_number(length)?);
            if annex != "target.xml" {
                // The protocol's answer for an annex that does not exist.
                return Ok(Admission::Answer("E00"));
            }
            forward(format!("qXfer:features:read:target.xml:{offset:x},{length:x}"))
        }
        "qRcmd" => {
            let command = arguments.strip_prefix(',').ok_or(MALFORMED)?;
            framing::from_hexadecimal(command).map(Admission::Monitor).ok_or(MALFORMED)
        }
        _ => Ok(UNSUPPORTED),
    }
}

fn admit_verbose(text: &str) -> Result<Admission, Refusal> {
    if text == "vCont?" {
        return forward(text);
    }
    if let Some(process) = text.strip_prefix("vKill;") {
        hexadecimal_number(process)?;
        return Ok(Admission::Kill { answered: true });
    }
    match text.strip_prefix("vCont") {
        Some(actions) => forward(format!("vCont;{}", action_of_guest(actions)?)),
        None => Ok(UNSUPPORTED),
    }
}

/// What a list of resume actions (`;action[:thread]…`) says about the one thread: the first action that names it.
fn action_of_guest(actions: &str) -> Result<String, Refusal> {
    let mut found = None;
    for action in actions.strip_prefix(';').ok_or(MALFORMED)?.split(';') {
        let (action, thread) =
            action.split_once(':').map_or((action, None), |(action, thread)| (action, Some(thread)));
        let (kind, details) = action.split_at_checked(1).ok_or(MALFORMED)?;
        let resume = match kind {
            "c" | "s" if details.is_empty() => kind.to_owned(),
            "C" | "S" => {
                hexadecimal_number(details)?;
                kind.to_ascii_lowercase()
            }
            "r" => {
                let (start, end) = details.split_once(',').ok_or(MALFORMED)?;
                format!("r{:x},{:x}", guest_address(start)?, guest_address(end)?)
            }
            "t" if details.is_empty() => return Err(NO_STOP_ACTION),
            _ => return Err(MALFORMED),
        };
        if found.is_none() && thread.is_none_or(|thread| thread_of_guest(thread).is_ok()) {
            found = Some(resume);
        }
    }
    found.ok_or(NO_SUCH_THREAD)
}

fn forward(packet: impl Into<String>) -> Result<Admission, Refusal> {
    Ok(Admission::Forward(packet.into().into_bytes()))
}

/// Takes the `;thread:ID;` off that lldb appends.
fn without_thread(arguments: &str) -> Result<&str, Refusal> {
    match arguments.split_once(";thread:") {
        None => Ok(arguments),
        Some((before, thread)) => {
            thread_of_guest(thread.trim_end_matches(';'))?;
            Ok(before)
        }
    }
}

/// Checks that a thread id means the one thread: `1`, `p1.1`, or "all" (-1) or "any" (0) in either place.
fn thread_of_guest(text: &str) -> Result<(), Refusal> {
    let ours = |id: &str| id == "-1" || hexadecimal_number(id).is_ok_and(|id| id <= 1);
    let known = match text.strip_prefix('p') {
        None => ours(text),
        Some(rest) => match rest.split_once('.') {
            None => ours(rest),
            Some((process, thread)) => ours(process) && ours(thread),
        },
    };
    if known { Ok(()) } else { Err(NO_SUCH_THREAD) }
}

/// A guest's address, which gdb sends sign-extended to 64 bits for 32-bit MIPS.
fn guest_address(text: &str) -> Result<u32, Refusal> {
    ktrace_timeline::guest_address(hexadecimal_number(text)?).ok_or(TOO_WIDE)
}

fn hexadecimal_number(text: &str) -> Result<u64, Refusal> {
    // from_str_radix would take a sign.
    if !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(MALFORMED);
    }
    u64::from_str_radix(text, 16).map_err(|_| MALFORMED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forwarded(packet: &str) -> Admission {
        Admission::Forward(packet.as_bytes().to_vec())
    }

    #[test]
    fn a_search_has_a_binary_pattern() {
        let search = |start, length, pattern: &[u8]| Admission::SearchMemory {
            start,
            length,
            pattern: pattern.to_vec(),
        };
        for (packet, expected) in [
            (&b"qSearch:memory:0;8000;\x00\xe0;\xe0"[..], search(0, 0x8000, b"\x00\xe0;\xe0")),
            (b"qSearch:memory:ffffffff80000000;1;}\x03}]", search(0x8000_0000, 1, b"#}")),
            (b"qSearch:memory:0;8000;", Admission::Refuse(MALFORMED)),
            (b"qSearch:memory:0;8000;}", Admission::Refuse(MALFORMED)),
            (b"qSearch:memory:0;8000", Admission::Refuse(MALFORMED)),
            (b"qSearch:memory:\xff;8000;a", Admission::Refuse(MALFORMED)),
            (b"qSearch:memory:100000000;8000;a", Admission::Refuse(TOO_WIDE)),
        ] {
            assert_eq!(admit(packet), expected, "{}", String::from_utf8_lossy(packet));
        }
    }

    #[test]
    fn conditions_come_one_after_the_other() {
        let breakpoint = |kind, bytecodes: &[&[u8]]| {
            let decode = |bytecode: &&[u8]| Expression::decode(bytecode).expect("well-formed");
            let condition = Condition::any_of(bytecodes.iter().map(decode).collect());
            Admission::ConditionalBreakpoint { kind, address: 0x8008, condition }
        };
        let (zero, one): (&[u8], &[u8]) = (&[0x22, 0, 0x27], &[0x22, 1, 0x27]);
        for (packet, expected) in [
            ("Z0,8008,4;X3,220027", breakpoint(BreakpointKind::Software, &[zero])),
            ("Z1,8008,4;X3,220127X3,220027", breakpoint(BreakpointKind::Hardware, &[one, zero])),
            ("Z1,8008,4;X3,220127;X3,220027", breakpoint(BreakpointKind::Hardware, &[one, zero])),
            ("Z0,8008,4;", forwarded("Z0,8008,4")),
            ("Z0,8008,4;X4,220027", Admission::Refuse(MALFORMED)),
            ("Z0,8008,4;X3,22002g", Admission::Refuse(MALFORMED)),
            ("Z0,8008,4;Xffffffffffffffff,220027", Admission::Refuse(MALFORMED)),
            ("Z0,8008,4;X8000000000000000,", Admission::Refuse(MALFORMED)),
            ("Z0,8008,4;X2,2200", Admission::Refuse(BAD_CONDITION)),
            ("Z0,8008,4;cmds:0,X3,220027", Admission::Refuse(NO_COMMANDS)),
            ("Z0,8008,4;X3,220027;cmds:0,X3,220027", Admission::Refuse(NO_COMMANDS)),
            ("z0,8008,4;X3,220027", Admission::Refuse(MALFORMED)),
            ("Z2,8008,4;X3,220027", Admission::Refuse(MALFORMED)),
        ] {
            assert_eq!(admit(packet.as_bytes()), expected, "{packet}");
        }
    }

    #[test]
    fn memory_is_read_in_binary_and_commands_arrive_decoded() {
        let read = |address, length| Admission::ReadMemory { address, length };
        assert_eq!(admit(b"x8000,20"), read(0x8000, 0x20));
        assert_eq!(admit(b"xffffffff80000000,fffffffff"), read(0x8000_0000, 0x10000));
        assert_eq!(admit(b"x8000"), Admission::Refuse(MALFORMED));
        assert_eq!(admit(b"qRcmd,7768656e"), Admission::Monitor(b"when".to_vec()));
    }

    #[test]
    fn packets_are_passed_on_in_the_form_that_gdbstub_accepts() {
        for (packet, expected) in [
            ("m8000,4", "m8000,4"),
            ("mffffffff80001000,4", "m80001000,4"),
            ("m0,ffffffffffffffff", "m0,10000"),
            ("m8000,4;thread:1;", "m8000,4"),
            ("g;thread:0001;", "g"),
            ("Hg-1", "Hg1"),
            ("Hgp1.-1", "Hg1"),
            ("Hc0", "Hc1"),
            ("Hcp1.0", "Hc1"),
            ("Tp1.1", "T1"),
            ("D;1", "D"),
            ("C05", "c"),
            ("S11", "s"),
            ("vCont;c", "vCont;c"),
            ("vCont;s:p1.1;c:p1.-1", "vCont;s"),
            ("vCont;s:p1.2;c", "vCont;c"),
            ("vCont;S05:1", "vCont;s"),
            ("vCont;rffffffff80001118,ffffffff80001128:1", "vCont;r80001118,80001128"),
            ("Z0,8008,4", "Z0,8008,4"),
            ("Z0,8008,1", "Z0,8008,1"),
            ("Z2,8008,1000", "Z2,8008,1000"),
            ("z4,ffffffff80000000,8", "z4,80000000,8"),
            ("z1,ffffffff80000000,4", "z1,80000000,4"),
            ("qAttached:1", "qAttached"),
            ("qXfer:features:read:target.xml:0,ffb", "qXfer:features:read:target.xml:0,ffb"),
            ("qRcmd,77686", "refused"),
        ] {
            let expected = match expected {
                "refused" => Admission::Refuse(MALFORMED),
                packet => forwarded(packet),
            };
            assert_eq!(admit(packet.as_bytes()), expected, "{packet}");
        }
    }

    #[test]
    fn what_gdbstub_would_end_the_session_over_is_refused() {
        for (packet, refusal) in [
            ("m8000", MALFORMED),
            ("m,4", MALFORMED),
            ("m100000000,4", TOO_WIDE),
            ("m11112222333344445,4", MALFORMED),
            ("Z0,8008", MALFORMED),
            ("Zfoo", MALFORMED),
            ("Z0,8008,4;X1,22", BAD_CONDITION),
            ("bcx", MALFORMED),
            ("b", MALFORMED),
            ("vCont;t", NO_STOP_ACTION),
            ("vCont", MALFORMED),
            ("vCont;", MALFORMED),
            ("vCont;s:2", NO_SUCH_THREAD),
            ("Hg2", NO_SUCH_THREAD),
            ("H", MALFORMED),
            ("T5", NO_SUCH_THREAD),
            ("c8000", NO_JUMP),
            ("qXfer:features:read:target.xml", MALFORMED),
            ("qXfer:features:read:target.xml:0", MALFORMED),
            ("p", MALFORMED),
            ("p-1", MALFORMED),
            ("P0=1", READ_ONLY),
            ("vKill;", MALFORMED),
        ] {
            assert_eq!(admit(packet.as_bytes()), Admission::Refuse(refusal), "{packet}");
        }
    }

    #[test]
    fn what_nobody_implements_gets_the_empty_answer() {
        for packet in ["", "!", "vMustReplyEmpty", "qTStatus", "QTFrame:-1", "qSymbol::", "vFile:open"] {
            assert_eq!(admit(packet.as_bytes()), UNSUPPORTED, "{packet}");
        }
    }

    #[test]
    fn negotiation_is_read_whatever_its_form() {
        for (packet, multiprocess, accepts_messages) in [
            ("qSupported", false, false),
            ("qSupported:", false, false),
            ("qSupported:;;multiprocess+;xmlRegisters=i386;error-message+", true, true),
            ("qSupported:multiprocess-", false, false),
        ] {
            let expected = Admission::Negotiate { multiprocess, accepts_messages };
            assert_eq!(admit(packet.as_bytes()), expected, "{packet}");
        }
    }

    #[test]
    fn a_refusal_is_in_words_where_they_are_shown() {
        assert_eq!(MALFORMED.packet(false), b"E22");
        assert_eq!(MALFORMED.packet(true), b"E.malformed packet");
        assert!(READ_ONLY.packet(false).starts_with(b"E.a recording is read-only"));
    }

    proptest! {
        #[test]
        fn any_body_is_decided(body in proptest::collection::vec(any::<u8>(), 0..40)) {
            admit(&body);
        }

        #[test]
        fn any_text_is_decided(name in "[gpmHTDkcsCSbZzqQv?]", rest in "[a-zA-Z0-9:;,.+-]{0,20}") {
            admit(format!("{name}{rest}").as_bytes());
        }
    }
}
