//! Self-delimiting, checksummed records: the one framing of every ktracer file.
//!
//! A record is a 24-byte head and a payload. The head has a checksum of its own, so that a reader can walk a file
//! from head to head without touching the payloads, and can tell a torn tail (the file ends inside a record) from
//! damage (a checksum is wrong). A payload is checked when it is first used.

use std::io::{self, Write};

/// The first four bytes of every record: `KTRr`.
pub const MAGIC: [u8; 4] = *b"KTRr";

/// Bytes in a record's head.
pub const HEAD_BYTES: usize = 24;

/// Something is wrong with a record. Offsets count bytes from the start of the file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// The file ends inside a record: its writer was killed, or it is still being written.
    #[error("the file ends inside the record at offset {offset}: {have} of {need} bytes are there")]
    Torn {
        /// Where the record starts.
        offset: u64,
        /// Bytes from there to the end of the file.
        have: u64,
        /// Bytes that the record has.
        need: u64,
    },
    /// No record starts here.
    #[error("no record at offset {offset}: expected the mark {MAGIC:02x?} and a valid head checksum")]
    NoRecord {
        /// Where a record should start.
        offset: u64,
    },
    /// The record is whole and can't be what it says, or not at this place.
    #[error("the record at offset {offset} is out of place, or its contents contradict each other")]
    Unexpected {
        /// Where the record starts.
        offset: u64,
    },
    /// The payload is not what was written.
    #[error(
        "the payload of the record at offset {offset} is damaged: its checksum is {found:08x}, the head says {expected:08x}"
    )]
    Damaged {
        /// Where the record starts.
        offset: u64,
        /// The checksum in the head.
        expected: u32,
        /// The checksum of the bytes that are there.
        found: u32,
    },
}

impl RecordError {
    /// Where in the file.
    pub fn offset(&self) -> u64 {
        match self {
            RecordError::Torn { offset, .. }
            | RecordError::NoRecord { offset }
            | RecordError::Unexpected { offset }
            | RecordError::Damaged { offset, .. } => *offset,
        }
    }
}

/// One record of a file that is in memory; the payload is not yet checked.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where the head starts, in bytes from the start of the file.
    pub offset: u64,
    /// What the payload is; the numbers are the file's own.
    pub kind: u32,
    checksum: u32,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// The payload, after its checksum was compared.
    pub fn payload(&self) -> Result<&'a [u8], RecordError> {
        let found = crc32c::crc32c(self.payload);
        if found == self.checksum {
            Ok(self.payload)
        } else {
            Err(RecordError::Damaged { offset: self.offset, expected: self.checksum, found })
        }
    }

    /// The payload as it is there, for a look at what its checksum need not prove.
    pub fn unchecked_payload(&self) -> &'a [u8] {
        self.payload
    }

    /// What the head says is the payload's checksum.
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// The payload's length in bytes.
    pub fn payload_len(&self) -> usize {
        self.payload.len()
    }

    /// Where the next record starts.
    pub fn end(&self) -> u64 {
        self.offset + (HEAD_BYTES + self.payload.len()) as u64
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// The record whose head starts at `offset` of `file`; `None` exactly at the end.
pub fn record_at(file: &[u8], offset: u64) -> Option<Result<Record<'_>, RecordError>> {
    let rest = match usize::try_from(offset).ok().and_then(|start| file.get(start..)) {
        Some([]) => return None,
        Some(rest) => rest,
        None => return Some(Err(RecordError::NoRecord { offset })),
    };
    Some(parse(rest, offset))
}

fn parse(rest: &[u8], offset: u64) -> Result<Record<'_>, RecordError> {
    let have = rest.len() as u64;
    if !rest.starts_with(&MAGIC[..MAGIC.len().min(rest.len())]) {
        return Err(RecordError::NoRecord { offset });
    }
    let torn = |need| RecordError::Torn { offset, have, need };
    let head = rest.get(..HEAD_BYTES).ok_or_else(|| torn(HEAD_BYTES as u64))?;
    let field = |at| word(head, at).unwrap_or_default();
    if crc32c::crc32c(&head[..20]) != field(20) {
        return Err(RecordError::NoRecord { offset });
    }
    let length = u64::from(field(8)) | u64::from(field(12)) << 32;
    let need = length.saturating_add(HEAD_BYTES as u64);
    let payload =
        usize::try_from(need).ok().and_then(|end| rest.get(HEAD_BYTES..end)).ok_or_else(|| torn(need))?;
    Ok(Record { offset, kind: field(4), checksum: field(16), payload })
}

/// Walks a file's records from the start. After an error it ends.
pub fn records(file: &[u8]) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let record = record_at(file, next?)?;
        next = record.as_ref().ok().map(Record::end);
        Some(record)
    })
}

/// Appends records to a file.
///
/// ```
/// use ktrace_format::record::{RecordWriter, records};
///
/// let mut writer = RecordWriter::new(Vec::new());
/// writer.append(1, &[b"one "])?;
/// writer.append(2, &[b"in two", b" parts"])?;
/// let file = writer.into_inner();
///
/// let second = records(&file).nth(1).unwrap()?;
/// assert_eq!((second.kind, second.payload()?), (2, &b"in two parts"[..]));
///
/// // A file that was cut short: all whole records are there, then the reader hears that it is torn.
/// let mut torn = records(&file[..file.len() - 1]);
/// assert!(torn.next().unwrap().is_ok());
/// println!("{}", torn.next().unwrap().unwrap_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RecordWriter<W> {
    file: W,
    offset: u64,
}

impl<W: Write> RecordWriter<W> {
    /// A writer at the start of an empty file.
    pub fn new(file: W) -> Self {
        RecordWriter { file, offset: 0 }
    }

    /// A writer whose file has records up to `offset` and stands there.
    pub fn at(file: W, offset: u64) -> Self {
        RecordWriter { file, offset }
    }

    /// Bytes written so far: the offset of the next record.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends one record whose payload is the concatenation of `parts`; returns the offset of its head. After an
    /// error the file may end in part of the record, which a reader sees as torn.
    pub fn append(&mut self, kind: u32, parts: &[&[u8]]) -> io::Result<u64> {
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let checksum = parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part));
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&kind.to_le_bytes());
        head[8..16].copy_from_slice(&length.to_le_bytes());
        head[16..20].copy_from_slice(&checksum.to_le_bytes());
        let own = crc32c::crc32c(&head[..20]);
        head[20..].copy_from_slice(&own.to_le_bytes());
        self.file.write_all(&head)?;
        for part in parts {
            self.file.write_all(part)?;
        }
        let offset = self.offset;
        self.offset += HEAD_BYTES as u64 + length;
        Ok(offset)
    }

    /// The file beneath.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.file
    }

    /// Gives the file back.
    pub fn into_inner(self) -> W {
        self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = RecordWriter::new(Vec::new());
        assert_eq!(writer.append(1, &[b"first"]).unwrap(), 0);
        assert_eq!(writer.append(7, &[b"sec", b"ond"]).unwrap(), 29);
        writer.into_inner()
    }

    #[test]
    fn what_is_written_is_read() {
        let file = sample();
        let all: Vec<_> = records(&file).map(|record| record.unwrap()).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].payload().unwrap()), (1, &b"first"[..]));
        assert_eq!((all[1].kind, all[1].offset, all[1].payload().unwrap()), (7, 29, &b"second"[..]));
    }

    #[test]
    fn every_cut_is_torn_or_clean() {
        let file = sample();
        for length in 0..file.len() {
            let last = records(&file[..length]).last();
            match (length, last) {
                (0, None) | (29, Some(Ok(_))) => {}
                (_, Some(Err(RecordError::Torn { offset, have, .. }))) => {
                    assert_eq!(offset + have, length as u64);
                }
                (_, other) => panic!("cut at {length}: {other:?}"),
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let file = sample();
        for bit in 0..file.len() * 8 {
            let mut copy = file.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            let clean = records(&copy).all(|record| record.is_ok_and(|record| record.payload().is_ok()));
            assert!(!clean, "bit {bit}");
        }
    }
}
