//! Cuts a client's byte stream into packets (`$body#checksum`), and frames replies.
//!
//! Follows gdb's manual, "Remote Protocol, Overview". Bytes that belong to no packet are skipped; nothing that a
//! client sends is an error of the stream.

/// The longest packet that a client may send, and what it is told as `PacketSize`, in bytes with the frame.
/// 64 KiB of memory fit, two characters for each byte.
pub const PACKET_SIZE: usize = 0x40000;

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet whose checksum is right: its body, escapes left as they are.
    Packet(Vec<u8>),
    /// Ctrl-C: the byte 0x03 between packets.
    Interrupt,
    /// `+`: the last reply arrived.
    Acknowledged,
    /// `-`: the last reply arrived damaged and is wanted again.
    RetransmissionWanted,
    /// A packet whose checksum is wrong or no number.
    Damaged,
    /// A packet longer than [`PACKET_SIZE`]; its body is dropped.
    Oversized,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    BetweenPackets,
    Body,
    FirstChecksumDigit,
    SecondChecksumDigit(u8),
}

/// Finds packets in a byte stream that arrives in arbitrary pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    body: Vec<u8>,
    oversized: bool,
}

impl Decoder {
    /// Takes the next byte; returns what it completes.
    pub fn push(&mut self, byte: u8) -> Option<Event> {
        match self.state {
            State::BetweenPackets => match byte {
                b'$' => self.begin_packet(),
                b'+' => return Some(Event::Acknowledged),
                b'-' => return Some(Event::RetransmissionWanted),
                0x03 => return Some(Event::Interrupt),
                _ => {}
            },
            State::Body => match byte {
                b'#' => self.state = State::FirstChecksumDigit,
                // Never inside a body, where it would be escaped: the client gave up its last packet and began anew.
                b'$' => self.begin_packet(),
                _ if self.body.len() + "$#00".len() >= PACKET_SIZE => {
                    self.oversized = true;
                    self.body.clear();
                }
                _ => self.body.push(byte),
            },
            State::FirstChecksumDigit => self.state = State::SecondChecksumDigit(byte),
            State::SecondChecksumDigit(first) => {
                self.state = State::BetweenPackets;
                return Some(self.end_packet([first, byte]));
            }
        }
        None
    }

    fn begin_packet(&mut self) {
        self.state = State::Body;
        self.body.clear();
        self.oversized = false;
    }

    fn end_packet(&mut self, digits: [u8; 2]) -> Event {
        let body = std::mem::take(&mut self.body);
        if self.oversized {
            return Event::Oversized;
        }
        match digits.map(|digit| char::from(digit).to_digit(16)) {
            [Some(high), Some(low)] if high * 16 + low == u32::from(checksum(&body)) => Event::Packet(body),
            _ => Event::Damaged,
        }
    }
}

/// Appends a packet with this body, in which data that are not text must have been [`escape`]d, to `into`.
pub fn encode(body: &[u8], into: &mut Vec<u8>) {
    into.reserve(body.len() + 4);
    into.push(b'$');
    into.extend_from_slice(body);
    into.push(b'#');
    into.extend_from_slice(format!("{:02x}", checksum(body)).as_bytes());
}

/// Two hexadecimal digits a byte, as most of the protocol's data travel.
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that hexadecimal digits stand for, two for each.
pub fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks();
    let bytes = pairs.iter().map(|[high, low]| Some((digit(*high)? * 16 + digit(*low)?) as u8));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// What an escaped byte is changed by, behind a `}`.
const ESCAPED: u8 = 0x20;

/// Binary data as a packet carries them: the bytes that mean something in the protocol are escaped.
pub fn escape(data: &[u8], into: &mut Vec<u8>) {
    for &byte in data {
        if matches!(byte, b'#' | b'$' | b'}' | b'*') {
            into.extend_from_slice(&[b'}', byte ^ ESCAPED]);
        } else {
            into.push(byte);
        }
    }
}

/// The data that escaped ones stand for; `None`: they end within an escape.
pub fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = escaped.iter();
    let mut data = Vec::with_capacity(escaped.len());
    while let Some(&byte) = bytes.next() {
        data.push(if byte == b'}' { bytes.next()? ^ ESCAPED } else { byte });
    }
    Some(data)
}

fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Vec<Event> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|byte| decoder.push(*byte)).collect()
    }

    #[test]
    fn finds_packets_interrupts_and_acknowledgements() {
        assert_eq!(
            decode(b"+$g#67\x03noise-$#00"),
            [
                Event::Acknowledged,
                Event::Packet(b"g".to_vec()),
                Event::Interrupt,
                Event::RetransmissionWanted,
                Event::Packet(Vec::new()),
            ]
        );
    }

    #[test]
    fn reports_wrong_checksums() {
        assert_eq!(
            decode(b"$g#68$g#6z$g#67"),
            [Event::Damaged, Event::Damaged, Event::Packet(b"g".to_vec())]
        );
    }

    #[test]
    fn a_new_packet_start_abandons_the_one_before() {
        assert_eq!(decode(b"$m80$g#67"), [Event::Packet(b"g".to_vec())]);
    }

    #[test]
    fn an_interrupt_byte_inside_a_packet_is_data() {
        assert_eq!(decode(b"$\x03#03"), [Event::Packet(vec![3])]);
    }

    #[test]
    fn the_advertised_size_fits_and_one_byte_more_does_not() {
        let framed = |length: usize| {
            let mut bytes = Vec::new();
            encode(&vec![b'a'; length], &mut bytes);
            bytes
        };
        assert!(matches!(decode(&framed(PACKET_SIZE - 4))[..], [Event::Packet(_)]));
        assert_eq!(decode(&framed(PACKET_SIZE - 3)), [Event::Oversized]);
        let mut twice = framed(PACKET_SIZE * 3);
        twice.extend_from_slice(b"$g#67");
        assert_eq!(decode(&twice), [Event::Oversized, Event::Packet(b"g".to_vec())]);
    }

    proptest! {
        #[test]
        fn any_bytes_leave_a_decoder_that_finds_the_next_packet(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            for byte in bytes {
                decoder.push(byte);
            }
            // Whatever came before may swallow the start of the first as its checksum.
            let events: Vec<_> = b"$g#67$g#67".iter().filter_map(|byte| decoder.push(*byte)).collect();
            prop_assert_eq!(events.last(), Some(&Event::Packet(b"g".to_vec())));
        }

        #[test]
        fn escaped_data_travel_in_a_packet(data in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (mut body, mut bytes) = (Vec::new(), Vec::new());
            escape(&data, &mut body);
            encode(&body, &mut bytes);
            prop_assert_eq!(decode(&bytes), [Event::Packet(body.clone())]);
            prop_assert!(!body.contains(&b'*'), "it would be taken for a run of bytes");
            prop_assert_eq!(unescape(&body), Some(data.clone()));
            prop_assert_eq!(from_hexadecimal(&hexadecimal(&data)), Some(data));
        }

        #[test]
        fn what_is_encoded_is_decoded(body in "[ -\"%-|~]{0,100}") {
            let mut bytes = Vec::new();
            encode(body.as_bytes(), &mut bytes);
            prop_assert_eq!(decode(&bytes), [Event::Packet(body.into_bytes())]);
        }
    }
}
