//! The encoder's thread: turns the ring's events into segments and writes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ktrace_format::TraceWriter;
use ktrace_format::segment::encoder::{BlockId, BlockTraits, Encoder, Finished, NameId, OpaqueInstruction};
use ktrace_format::shadow::Target;

use crate::block::{Block, Shared as SharedBlocks};
use crate::control::{Control, Message};
use crate::event::{EndReason, REGISTERS, Tag};
use crate::initial::Initial;
use crate::mapping::Names;
use crate::ring::Reader;
use crate::vcpu::Shared;

/// A segment is closed after at most this long, if the guest executes anything.
const SEGMENT_TIME: Duration = Duration::from_millis(900);
/// How often `ktracer record` hears of progress.
const PROGRESS_TIME: Duration = Duration::from_millis(200);

/// Why the recording failed.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// Writing failed.
    #[error("can't write the trace in {directory}: {source}", directory = .directory.display())]
    Write {
        /// The trace's directory.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The ring holds something that is no event.
    #[error("the word {0:#018x} in the event ring is no event: this is a bug in ktracer")]
    BadEvent(u64),
    /// An event comes where it can't.
    #[error("a {0:?} event before the first segment: this is a bug in ktracer")]
    BadOrder(Tag),
    /// The vCPU's side failed.
    #[error("{0}")]
    Vcpu(String),
}

/// Everything that the thread needs.
pub struct Setup {
    /// The ring's other end.
    pub ring: Reader,
    /// The trace.
    pub trace: TraceWriter,
    /// Its directory.
    pub directory: PathBuf,
    /// Blocks by serial number.
    pub blocks: SharedBlocks,
    /// Names of devices.
    pub names: Names,
    /// What it shares with the vCPU.
    pub shared: Arc<Shared>,
    /// `ktracer record`.
    pub control: Arc<Control>,
}

struct Thread {
    setup: Setup,
    encoder: Option<Encoder<Initial>>,
    /// Trace numbers of blocks by serial number.
    numbers: Vec<Option<BlockId>>,
    known: Vec<&'static Block>,
    device_names: Vec<NameId>,
    in_block: bool,
    position: u64,
    finished: Finished,
}

/// Runs until the recording ends; then the trace is closed. The last thing it does is to tell `ktracer record`.
pub fn run(setup: Setup) {
    let over = Arc::new(AtomicBool::new(false));
    let ticker = {
        let (over, shared) = (Arc::clone(&over), Arc::clone(&setup.shared));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                std::thread::park_timeout(SEGMENT_TIME);
                // The vCPU sees it at its next block. Should it be setting the limit itself just now, it has just cut.
                shared.segment_limit.store(0, Ordering::Relaxed);
            }
        })
    };
    let directory = setup.directory.clone();
    let (control, shared) = (Arc::clone(&setup.control), Arc::clone(&setup.shared));
    let mut thread = Thread {
        setup,
        encoder: None,
        numbers: Vec::new(),
        known: Vec::new(),
        device_names: Vec::new(),
        in_block: false,
        position: 0,
        finished: Finished::default(),
    };
    let outcome = thread.events();
    over.store(true, Ordering::Relaxed);
    ticker.thread().unpark();
    // It only sleeps and stores; joining it can't fail for a reason that matters here.
    let _ = ticker.join();
    let (reason, error) = match outcome {
        Ok(reason) => (reason, None),
        Err(error) => (EndReason::Error, Some(error.to_string())),
    };
    shared.failed.store(error.is_some(), Ordering::Relaxed);
    let Thread { setup: Setup { trace, ring, .. }, .. } = thread;
    drop(ring);
    let bytes = trace.bytes();
    let mut totals = trace.totals().clone();
    let closed = trace.close(error.as_deref().unwrap_or(reason.name()));
    let error = match (&closed, error) {
        (Err(source), None) => Some(
            EncoderError::Write { directory, source: std::io::Error::new(source.kind(), source.to_string()) }
                .to_string(),
        ),
        (_, error) => error,
    };
    if let Some(error) = &error {
        eprintln!(
            "ktracer: the recording ended early: {error}. The guest runs on; what was recorded before is kept."
        );
    }
    let is_closed = closed.is_ok();
    if let Ok(closed) = closed {
        totals = closed;
    }
    control.tell(&Message::Finished {
        instructions: totals.instructions,
        blocks: totals.blocks,
        segments: totals.segments,
        bytes,
        closed: is_closed,
        reason: reason.name(),
        error,
    });
}

/// The rest of an event after its first word.
fn take<'a>(
    words: &mut std::slice::Iter<'a, u64>,
    count: usize,
    first: u64,
) -> Result<&'a [u64], EncoderError> {
    let (taken, rest) = words.as_slice().split_at_checked(count).ok_or(EncoderError::BadEvent(first))?;
    *words = rest.iter();
    Ok(taken)
}

fn registers(words: &[u64]) -> [u32; REGISTERS] {
    let mut registers = [0; REGISTERS];
    for (register, word) in registers.iter_mut().zip(words) {
        *register = *word as u32;
    }
    registers
}

impl Thread {
    fn events(&mut self) -> Result<EndReason, EncoderError> {
        let mut told = std::time::Instant::now();
        loop {
            let Some(full) = self.setup.ring.next() else {
                // The vCPU's side is gone without an end: QEMU unloads the plugin.
                return Ok(EndReason::Exit);
            };
            let end = self.chunk(full.words())?;
            self.setup.ring.done(full);
            if let Some(end) = end {
                return Ok(end);
            }
            if told.elapsed() >= PROGRESS_TIME {
                told = std::time::Instant::now();
                let instructions = self.position + self.encoder.as_ref().map_or(0, Encoder::instructions);
                let bytes = self.setup.trace.bytes();
                self.setup.control.tell(&Message::Progress { instructions, bytes });
            }
        }
    }

    fn chunk(&mut self, words: &[u64]) -> Result<Option<EndReason>, EncoderError> {
        let mut words = words.iter();
        while let Some(&first) = words.next() {
            let tag = Tag::of(first).ok_or(EncoderError::BadEvent(first))?;
            let address = first as u32;
            if tag == Tag::Cut {
                self.cut(first, &registers(take(&mut words, REGISTERS, first)?))?;
                continue;
            }
            if tag == Tag::End {
                return self.end(first).map(Some);
            }
            let Some(encoder) = &mut self.encoder else { return Err(EncoderError::BadOrder(tag)) };
            match tag {
                Tag::Block => {
                    if self.in_block {
                        encoder.end_block((first >> 32) as u32 & 0xffff);
                    }
                    self.in_block = true;
                    match self.numbers.get(address as usize).copied().flatten() {
                        Some(id) => encoder.enter_block(id),
                        None => self.enter_new_block(address, first)?,
                    }
                }
                Tag::Load => {
                    let value = *words.next().ok_or(EncoderError::BadEvent(first))?;
                    encoder.load(address, (first >> 32) as u8, value);
                }
                Tag::Store => {
                    let value = *words.next().ok_or(EncoderError::BadEvent(first))?;
                    encoder.store(address, (first >> 32) as u8, value);
                }
                Tag::Map => {
                    let word = *words.next().ok_or(EncoderError::BadEvent(first))?;
                    encoder.map(address, word.checked_sub(1).map_or(Target::Device, Target::Ram));
                }
                Tag::Device => {
                    let physical = *words.next().ok_or(EncoderError::BadEvent(first))?;
                    self.device(address, physical);
                }
                Tag::OpaqueAccess => {
                    let [value, high] = *take(&mut words, 2, first)? else {
                        return Err(EncoderError::BadEvent(first));
                    };
                    encoder.opaque_access((first >> 40) as u16, address, (first >> 32) as u8, value, high);
                }
                Tag::Results => {
                    for word in take(&mut words, address as usize, first)? {
                        encoder.opaque_results(&[*word as u32]);
                    }
                }
                Tag::Discontinuity => {
                    let keyframe = registers(take(&mut words, REGISTERS, first)?);
                    encoder.discontinuity(first as u8, &keyframe);
                }
                Tag::Translation => {
                    let values = take(&mut words, address as usize, first)?;
                    encoder.translation((first >> 32) as u32 & 0xffff, values);
                }
                Tag::Cut | Tag::End => {}
            }
        }
        Ok(None)
    }

    #[cold]
    fn enter_new_block(&mut self, serial: u32, first: u64) -> Result<(), EncoderError> {
        if self.known.len() <= serial as usize {
            let shared = match self.setup.blocks.lock() {
                Ok(shared) => shared,
                Err(poisoned) => poisoned.into_inner(),
            };
            self.known.extend(shared.iter().skip(self.known.len()));
            self.numbers.resize(self.known.len(), None);
        }
        let block = *self.known.get(serial as usize).ok_or(EncoderError::BadEvent(first))?;
        let Some(encoder) = &mut self.encoder else { return Err(EncoderError::BadOrder(Tag::Block)) };
        let mode = block.decoded.mode().bits();
        let trace = &mut self.setup.trace;
        let opaque = block.opaque.iter().map(|site| OpaqueInstruction {
            index: site.index,
            memory: site.opaque.memory,
            name: trace.name(site.opaque.mnemonic),
        });
        let traits = BlockTraits {
            address: block.address,
            mode,
            instructions: block.instructions as u16,
            opaque: opaque.collect(),
        };
        self.setup.trace.block(block.address, mode, &block.code);
        let id = encoder.define_block(traits);
        if let Some(number) = self.numbers.get_mut(serial as usize) {
            *number = Some(id);
        }
        encoder.enter_block(id);
        Ok(())
    }

    #[cold]
    fn device(&mut self, number: u32, physical: u64) {
        let names = match self.setup.names.lock() {
            Ok(names) => names,
            Err(poisoned) => poisoned.into_inner(),
        };
        for name in names.iter().skip(self.device_names.len()) {
            self.device_names.push(self.setup.trace.name(name));
        }
        drop(names);
        if let (Some(encoder), Some(name)) = (&mut self.encoder, self.device_names.get(number as usize)) {
            encoder.device(*name, physical);
        }
    }

    fn finish_segment(&mut self, started: u32, open_end: bool) -> Result<(), EncoderError> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        if std::mem::take(&mut self.in_block) {
            encoder.end_block(started);
        }
        let written = encoder
            .finish_segment(open_end, &mut self.finished)
            .and_then(|()| self.setup.trace.segment(&self.finished));
        written.map_err(|source| EncoderError::Write { directory: self.setup.directory.clone(), source })?;
        self.position += self.finished.head.instructions;
        Ok(())
    }

    fn cut(&mut self, first: u64, keyframe: &[u32; REGISTERS]) -> Result<(), EncoderError> {
        self.finish_segment((first >> 32) as u32 & 0xffff, false)?;
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => {
                // Only now has the initial memory been captured.
                let initial = Initial::open(&self.setup.directory);
                let encoder = Encoder::new(initial).map_err(|source| EncoderError::Write {
                    directory: self.setup.directory.clone(),
                    source,
                })?;
                self.encoder.insert(encoder)
            }
        };
        encoder.begin_segment(self.position, 0, keyframe);
        Ok(())
    }

    fn end(&mut self, first: u64) -> Result<EndReason, EncoderError> {
        self.finish_segment((first >> 32) as u32 & 0xffff, first >> 8 & 1 != 0)?;
        match first as u8 {
            0 => Ok(EndReason::Exit),
            1 => Ok(EndReason::StopAfter),
            _ => {
                let error = self.setup.shared.error.lock().ok().and_then(|mut error| error.take());
                Err(EncoderError::Vcpu(error.unwrap_or_else(|| "the recording failed".to_owned())))
            }
        }
    }
}
