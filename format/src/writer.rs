//! Writes a trace: `trace.json` and `trace.kt`.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::header::{Header, Summary, Totals};
use crate::record::RecordWriter;
use crate::segment::encoder::{BlockId, Finished, NameId};

/// Kinds of records in `trace.kt`.
pub mod kind {
    /// The header, as JSON. The first record.
    pub const HEADER: u32 = 1;
    /// Names, numbered from the one that is given.
    pub const NAMES: u32 = 2;
    /// Blocks of the dictionary, numbered from the one that is given.
    pub const BLOCKS: u32 = 3;
    /// A segment.
    pub const SEGMENT: u32 = 4;
    /// The index of the segment before it.
    pub const INDEX: u32 = 5;
    /// The end: totals and a table of records. The last record of a closed trace.
    pub const END: u32 = 6;
}

/// The last eight bytes of a closed trace.
pub const CLOSE_MARK: [u8; 8] = *b"KTRclose";
/// The file with the records.
pub const TRACE_FILE: &str = "trace.kt";
/// The file for people.
pub const SUMMARY_FILE: &str = "trace.json";

/// A trace that is being recorded. The blocks' code and the names go through it, everything else through an
/// [`Encoder`](crate::segment::encoder::Encoder), which numbers blocks alike.
///
/// ```
/// use ktrace_format::header::{Architecture, ByteOrder, Header, Path};
/// use ktrace_format::segment::encoder::{BlockTraits, Encoder, Finished, UnknownMemory};
/// use ktrace_format::shadow::Target;
/// use ktrace_format::{Trace, TraceWriter};
/// # let directory = std::env::temp_dir().join(format!("ktracer-doc-trace-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let text = String::new;
///
/// let header = Header {
///     format_version: 2,
///     arch: Architecture::Arm,
///     byte_order: ByteOrder::Little,
///     path: Path::Portable,
///     cpu: "cortex-a15".into(),
///     // …
/// #   qemu_version: text(), command_line: vec![], tracer_version: text(), host: text(), started: text(),
/// };
/// let mut trace = TraceWriter::create(&directory, header)?;
/// let mut encoder = Encoder::new(UnknownMemory)?;
///
/// // ldr r0, [r1]; b 0x8000 runs once, with r1 = 0x1000, and is then interrupted.
/// let code = [0x00, 0x00, 0x91, 0xe5, 0xfd, 0xff, 0xff, 0xea];
/// let mut registers = [0; 17];
/// (registers[1], registers[15]) = (0x1000, 0x8000);
/// encoder.begin_segment(0, 0, &registers);
/// trace.block(0x8000, 0, &code);
/// let block = encoder.define_block(BlockTraits { address: 0x8000, mode: 0, instructions: 2, opaque: [].into() });
/// encoder.enter_block(block);
/// encoder.map(0x1000, Target::Ram(0x40001));
/// encoder.load(0x1000, 4, 0x1234_5678);
/// encoder.discontinuity(6, &registers);
/// encoder.end_block(2);
/// let mut finished = Finished::default();
/// encoder.finish_segment(false, &mut finished)?;
/// trace.segment(&finished)?;
/// trace.close("exit")?;
///
/// let trace = Trace::open(&directory)?;
/// assert_eq!(trace.instructions(), 2);
/// assert_eq!(trace.totals().unwrap().discontinuities, 1);
/// assert_eq!(trace.code(trace.block(block.0).unwrap()), code);
/// let (head, _streams) = trace.read_segment(&trace.segments()[0])?;
/// assert_eq!((head.registers[15], head.accesses), (0x8000, 1));
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TraceWriter {
    directory: PathBuf,
    header: Header,
    records: RecordWriter<BufWriter<File>>,
    names: Vec<String>,
    names_written: usize,
    new_blocks: Vec<u8>,
    blocks_defined: u32,
    blocks_written: u32,
    /// Offsets of the records that hold names and blocks.
    dictionary: Vec<(u32, u64)>,
    segments: Vec<u8>,
    totals: Totals,
}

impl TraceWriter {
    /// Starts a trace in an existing directory that holds none.
    pub fn create(directory: &Path, header: Header) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).open(directory.join(TRACE_FILE))?;
        let mut writer = TraceWriter {
            directory: directory.to_owned(),
            records: RecordWriter::new(BufWriter::new(file)),
            names: Vec::new(),
            names_written: 0,
            new_blocks: Vec::new(),
            blocks_defined: 0,
            blocks_written: 0,
            dictionary: Vec::new(),
            segments: Vec::new(),
            totals: Totals::default(),
            header,
        };
        let json = serde_json::to_vec(&writer.header)?;
        writer.records.append(kind::HEADER, &[&json])?;
        writer.records.get_mut().flush()?;
        writer.write_summary(false)?;
        Ok(writer)
    }

    /// Bytes of `trace.kt` so far.
    pub fn bytes(&self) -> u64 {
        self.records.offset()
    }

    /// What has been written so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The number of a name; a new one is written before the next segment.
    pub fn name(&mut self, name: &str) -> NameId {
        let found = self.names.iter().position(|known| known == name);
        NameId(found.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        }) as u32)
    }

    /// Adds a block to the dictionary: its code is written before the next segment. Blocks have at most 65535 bytes.
    pub fn block(&mut self, address: u32, mode: u16, code: &[u8]) -> BlockId {
        self.new_blocks.extend(address.to_le_bytes());
        self.new_blocks.extend(mode.to_le_bytes());
        self.new_blocks.extend((code.len() as u16).to_le_bytes());
        self.new_blocks.extend(code);
        self.blocks_defined += 1;
        BlockId(self.blocks_defined - 1)
    }

    /// Writes a segment and its index. After an error the file holds what was there before, if that was possible.
    pub fn segment(&mut self, finished: &Finished) -> io::Result<()> {
        let start = self.records.offset();
        let (names_written, blocks_written, dictionary) =
            (self.names_written, self.blocks_written, self.dictionary.len());
        self.try_segment(finished).inspect_err(|_| {
            // The disk is full, most likely: give back what the segment took, so that the trace can be closed.
            self.names_written = names_written;
            self.blocks_written = blocks_written;
            self.dictionary.truncate(dictionary);
            self.rewind(start);
        })
    }

    fn try_segment(&mut self, finished: &Finished) -> io::Result<()> {
        self.write_dictionary()?;
        let head = &finished.head;
        let offset = self.records.append(kind::SEGMENT, &[&finished.segment])?;
        let index = self.records.append(kind::INDEX, &[&finished.index])?;
        // Whole segments go to the file at once: a reader of a trace under way sees them, a killed recorder loses none.
        self.records.get_mut().flush()?;
        for field in [offset, index, head.first, head.instructions] {
            self.segments.extend(field.to_le_bytes());
        }
        self.segments.extend(head.blocks.to_le_bytes());
        self.segments.extend(head.flags.to_le_bytes());
        self.new_blocks.clear();
        self.totals.instructions = head.first + head.instructions;
        self.totals.blocks += u64::from(head.blocks);
        self.totals.segments += 1;
        self.totals.discontinuities += finished.discontinuities;
        Ok(())
    }

    fn write_dictionary(&mut self) -> io::Result<()> {
        if self.names_written < self.names.len() {
            let mut payload = (self.names_written as u32).to_le_bytes().to_vec();
            for name in &self.names[self.names_written..] {
                let bytes = &name.as_bytes()[..name.len().min(0xffff)];
                payload.extend((bytes.len() as u16).to_le_bytes());
                payload.extend(bytes);
            }
            self.dictionary.push((kind::NAMES, self.records.append(kind::NAMES, &[&payload])?));
            self.names_written = self.names.len();
        }
        if self.blocks_written < self.blocks_defined {
            let packed = zstd::bulk::compress(&self.new_blocks, 3)?;
            let first = self.blocks_written.to_le_bytes();
            let count = (self.blocks_defined - self.blocks_written).to_le_bytes();
            let raw = (self.new_blocks.len() as u32).to_le_bytes();
            let offset = self.records.append(kind::BLOCKS, &[&first, &count, &raw, &packed])?;
            self.dictionary.push((kind::BLOCKS, offset));
            self.blocks_written = self.blocks_defined;
        }
        Ok(())
    }

    fn rewind(&mut self, offset: u64) {
        let Ok(file) = File::options().write(true).open(self.directory.join(TRACE_FILE)) else { return };
        let mut file = file;
        if file.set_len(offset).is_err() || file.seek(SeekFrom::Start(offset)).is_err() {
            return;
        }
        // What the old buffer still holds belongs to the failed segment: it must not reach the file.
        let old = std::mem::replace(&mut self.records, RecordWriter::at(BufWriter::new(file), offset));
        drop(old.into_inner().into_parts());
    }

    /// Writes the end and rewrites `trace.json`.
    pub fn close(mut self, reason: &str) -> io::Result<Totals> {
        self.totals.reason = reason.to_owned();
        let offset = self.records.offset();
        let json = serde_json::to_vec(&self.totals)?;
        let mut payload = (json.len() as u32).to_le_bytes().to_vec();
        payload.extend(json);
        payload.extend((self.dictionary.len() as u32).to_le_bytes());
        for (kind, offset) in &self.dictionary {
            payload.extend(kind.to_le_bytes());
            payload.extend(offset.to_le_bytes());
        }
        payload.extend((self.totals.segments as u32).to_le_bytes());
        self.records.append(kind::END, &[&payload, &self.segments, &offset.to_le_bytes(), &CLOSE_MARK])?;
        self.records.get_mut().flush()?;
        self.write_summary(true)?;
        Ok(self.totals)
    }

    fn write_summary(&self, closed: bool) -> io::Result<()> {
        let totals = closed.then(|| self.totals.clone());
        let summary = Summary { header: self.header.clone(), closed, totals };
        let mut json = serde_json::to_vec_pretty(&summary)?;
        json.push(b'\n');
        let new = self.directory.join("trace.json.new");
        std::fs::write(&new, json)?;
        std::fs::rename(new, self.directory.join(SUMMARY_FILE))
    }
}
