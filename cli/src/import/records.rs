//! The two files of the original ktracer: one record after the other, each with the instructions of its block.
//!
//! The files come from elsewhere, so nothing in them is believed before it was compared with what else there is.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use ktrace_machine::{DecodeError, Mode};

use super::layout::{Guest, WORDS_BEFORE_REGISTERS};

const WORD_BYTES: usize = 4;
/// More instructions than QEMU ever puts into a block.
const MOST_INSTRUCTIONS: u32 = 0x4000;

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}, offset {offset}: {problem}", .file.display())]
pub struct Fault {
    file: PathBuf,
    /// Bytes from the file's start.
    offset: u64,
    #[source]
    problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    /// There is nothing in it.
    #[error("there is no record")]
    Empty,
    /// It ends too early.
    #[error(
        "the file ends inside a record: {left} bytes are left of {needed}. Was it cut, or is --arch wrong?"
    )]
    Cut {
        /// How many bytes there are.
        left: usize,
        /// How many there should be.
        needed: usize,
    },
    /// The length of EXECUTION is no multiple of four.
    #[error("the file ends inside a word")]
    CutWord,
    /// The block's address and the program counter are the same by definition.
    #[error(
        "the block is said to begin at {address:#010x}, but its program counter is {pc:#010x}. Is --arch wrong?"
    )]
    ProgramCounter {
        /// The block's address.
        address: u32,
        /// The program counter.
        pc: u32,
    },
    /// r0 of MIPS is always zero.
    #[error("r0 is {value:#010x}, but it is always zero. Is --arch wrong?")]
    Zero {
        /// What the record has.
        value: u32,
    },
    /// Two status registers contradict each other.
    #[error(
        "xPSR is {found:#010x}, but by CPSR it would be {expected:#010x}. Is --arch wrong, or is it an M-profile processor? \
         Such recordings can't be imported"
    )]
    Xpsr {
        /// What the record has.
        found: u32,
        /// What belongs to its CPSR.
        expected: u32,
    },
    /// The instructions begin behind their end, or there are none.
    #[error("the block's instructions are the words from {first} to before {end}: there are none")]
    NoInstructions {
        /// The first word.
        first: u32,
        /// The word behind the last.
        end: u32,
    },
    /// There are more than a block can have.
    #[error("the block has {count} words of instructions, more than QEMU puts into one")]
    TooMany {
        /// How many.
        count: u32,
    },
    /// Other records have these instructions.
    #[error(
        "the block's instructions begin at word {first}, but the record before had those up to word {taken}"
    )]
    Overlap {
        /// The first word.
        first: u32,
        /// The first word that no record before had.
        taken: u32,
    },
    /// EXECUTION does not have these instructions.
    #[error("the block's instructions end before word {end}, but {} has only {words}", .file.display())]
    Outside {
        /// The word behind the last.
        end: u32,
        /// EXECUTION.
        file: PathBuf,
        /// How many words it has.
        words: u64,
    },
    /// A word can't be an instruction of the processor's mode.
    #[error(
        "the word {word:#010x} is no halfword, and the block at {address:#010x} is Thumb code. Is --arch wrong?"
    )]
    NoHalfword {
        /// The word.
        word: u32,
        /// The block's address.
        address: u32,
    },
    /// The instructions are no block.
    #[error("the block at {address:#010x} can't be decoded: {source}")]
    Decode {
        /// The block's address.
        address: u32,
        /// Why.
        source: DecodeError,
    },
}

/// A block of which the original ktracer saw that it was entered.
#[derive(Debug)]
pub struct Record {
    /// Virtual address of its first instruction.
    pub address: u32,
    /// The processor's mode there.
    pub mode: Mode,
    /// All registers there, in the order of a keyframe.
    pub registers: Vec<u32>,
    /// Its instructions as they lay in memory.
    pub code: Vec<u8>,
    /// Where the code is in EXECUTION, in bytes.
    code_offset: u64,
}

/// Reads records one after the other.
pub struct Records {
    guest: Guest,
    context: BufReader<File>,
    context_path: PathBuf,
    /// Offset of the next record.
    offset: u64,
    execution: BufReader<File>,
    execution_path: PathBuf,
    /// How many words EXECUTION has.
    words: u64,
    /// The next word of it.
    next_word: u32,
    /// Words of it that belonged to no record.
    skipped: u64,
}

impl Records {
    /// Opens CONTEXT and EXECUTION.
    pub fn open(guest: Guest, context: &Path, execution: &Path) -> Result<Records, Fault> {
        let open = |path: &Path| {
            File::open(path).map_err(|error| Fault {
                file: path.to_owned(),
                offset: 0,
                problem: error.into(),
            })
        };
        let (context_file, execution_file) = (open(context)?, open(execution)?);
        let fault = |offset, problem| Fault { file: execution.to_owned(), offset, problem };
        let bytes = execution_file.metadata().map_err(|error| fault(0, error.into()))?.len();
        if !bytes.is_multiple_of(WORD_BYTES as u64) {
            return Err(fault(bytes - bytes % WORD_BYTES as u64, Problem::CutWord));
        }
        Ok(Records {
            guest,
            context: BufReader::with_capacity(1 << 20, context_file),
            context_path: context.to_owned(),
            offset: 0,
            execution: BufReader::with_capacity(1 << 20, execution_file),
            execution_path: execution.to_owned(),
            words: bytes / WORD_BYTES as u64,
            next_word: 0,
            skipped: 0,
        })
    }

    /// Words of EXECUTION that belong to no record, once all have been read.
    pub fn unused_words(&self) -> u64 {
        self.skipped + self.words.saturating_sub(self.next_word.into())
    }

    /// The next record; `None` behind the last.
    pub fn next(&mut self) -> Result<Option<Record>, Fault> {
        let start = self.offset;
        let in_context = |word: usize, problem| Fault {
            file: self.context_path.clone(),
            offset: start + (word * WORD_BYTES) as u64,
            problem,
        };
        let mut bytes = vec![0; self.guest.record_words() * WORD_BYTES];
        let left = read_up_to(&mut self.context, &mut bytes).map_err(|error| in_context(0, error.into()))?;
        if left == 0 {
            return if start == 0 { Err(in_context(0, Problem::Empty)) } else { Ok(None) };
        }
        if left < bytes.len() {
            return Err(in_context(0, Problem::Cut { left, needed: bytes.len() }));
        }
        let words = words_of(&bytes);
        let (head, registers) = words.split_at_checked(WORDS_BEFORE_REGISTERS).unwrap_or_default();
        let &[address, first, end] = head else { return Ok(None) };
        let registers = self.guest.keyframe(address, registers).map_err(|problem| in_context(0, problem))?;
        let problem = if first >= end {
            Some((1, Problem::NoInstructions { first, end }))
        } else if end - first > MOST_INSTRUCTIONS {
            Some((1, Problem::TooMany { count: end - first }))
        } else if first < self.next_word {
            Some((1, Problem::Overlap { first, taken: self.next_word }))
        } else if u64::from(end) > self.words {
            Some((2, Problem::Outside { end, file: self.execution_path.clone(), words: self.words }))
        } else {
            None
        };
        if let Some((word, problem)) = problem {
            return Err(in_context(word, problem));
        }
        self.offset += bytes.len() as u64;
        let mode = self.guest.instruction_set().mode(|number| registers.get(number).copied());
        let mode = mode.unwrap_or_default();
        let code_offset = u64::from(first) * WORD_BYTES as u64;
        let address = self.guest.block_address(address);
        let code = self.code(address, mode, first, end)?;
        Ok(Some(Record { address, mode, registers, code, code_offset }))
    }

    /// The instructions of a block, as they lay in memory.
    fn code(&mut self, address: u32, mode: Mode, first: u32, end: u32) -> Result<Vec<u8>, Fault> {
        let offset_of = |word: u32| u64::from(word) * WORD_BYTES as u64;
        let path = self.execution_path.clone();
        let fault = |word: u32, problem| Fault { file: path.clone(), offset: offset_of(word), problem };
        let between = first - self.next_word;
        self.skipped += u64::from(between);
        let mut bytes = vec![0; (end - first) as usize * WORD_BYTES];
        let read = self
            .execution
            .seek_relative(offset_of(between) as i64)
            .and_then(|()| self.execution.read_exact(&mut bytes));
        read.map_err(|error| fault(first, error.into()))?;
        self.next_word = end;
        let encoding = self.guest.instruction_set().encoding(mode);
        let mut code = Vec::with_capacity(bytes.len());
        for (number, word) in (first..).zip(words_of(&bytes)) {
            let part = self.guest.code(word, encoding);
            code.extend(part.ok_or_else(|| fault(number, Problem::NoHalfword { word, address }))?);
        }
        Ok(code)
    }

    /// The fault of a record whose code is no block.
    pub fn not_a_block(&self, record: &Record, source: DecodeError) -> Fault {
        let problem = Problem::Decode { address: record.address, source };
        Fault { file: self.execution_path.clone(), offset: record.code_offset, problem }
    }
}

fn words_of(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// Reads until `into` is full or the file ends.
fn read_up_to(file: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
