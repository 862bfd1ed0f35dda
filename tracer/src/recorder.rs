//! What recording needs of the vCPU's side whichever path events take: registers, results of opaque instructions, the
//! segments' starts, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use ktrace_format::segment::TRANSLATION_LIMIT;
use ktrace_machine::{InstructionSet, Mode, REGISTER_CAPACITY, Registers as Values};

use crate::block::{Block, OpaqueSite, Registry};
use crate::control::Control;
use crate::encoder::Delta;
use crate::event::{ALL_STARTED, EndReason, Tag, Under};
use crate::mips;
use crate::options::Options;
use crate::registers::Registers;
use crate::ring::Writer;
use crate::shared::Shared;
use crate::translation::Translation;

/// A segment ends at about this many instructions: it takes some milliseconds to execute again, which bounds the time of a
/// seek.
pub const SEGMENT_INSTRUCTIONS: u64 = 1 << 19;

/// How far the recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the start address.
    Waiting,
    /// Under way.
    Recording,
    /// Over, on whatever side it ended.
    Stopped,
}

/// What a recorder is made of.
pub struct Parts {
    /// What the guest executes.
    pub set: InstructionSet,
    /// Blocks by their contents.
    pub registry: Registry,
    /// What the threads share.
    pub shared: Arc<Shared>,
    /// `ktracer record`.
    pub control: Arc<Control>,
    /// What the user asked for.
    pub options: Options,
    /// Where to tell each encoder of mappings.
    pub deltas: Vec<Sender<Arc<Delta>>>,
}

/// See the [module](self).
pub struct Recorder {
    /// What the guest executes.
    pub set: InstructionSet,
    /// Where events go.
    pub ring: Writer,
    /// The guest's registers.
    pub registers: Registers,
    /// How far the recording is.
    pub phase: Phase,
    /// What the threads share.
    pub shared: Arc<Shared>,
    /// What the user asked for.
    pub options: Options,
    /// Instructions of the present block before the one that the recording starts with.
    pub skipped: u32,
    /// What of the block under way has happened if the recording ends now.
    pub under: Under,
    registry: Registry,
    control: Arc<Control>,
    /// The status register as last read.
    status: u32,
    translation: Translation,
    /// Instructions that started of a block are counted.
    counts_started: bool,
    /// Where to tell the encoders what each other's segments show of mappings.
    deltas: Vec<Sender<Arc<Delta>>>,
    /// What the segment under way has shown of them.
    mappings: Vec<u64>,
}

impl Recorder {
    /// A recording that has not begun.
    pub fn new(
        ring: Writer,
        registers: Registers,
        translation: Translation,
        parts: Parts,
        counts_started: bool,
    ) -> Self {
        let Parts { set, registry, shared, control, options, deltas } = parts;
        Recorder {
            set,
            ring,
            registers,
            phase: Phase::Waiting,
            shared,
            options,
            skipped: 0,
            under: Under::Way,
            registry,
            control,
            status: 0,
            translation,
            counts_started,
            deltas,
            mappings: Vec::new(),
        }
    }

    /// Tells the encoders what is behind virtual or physical addresses, in the words of a `Map` or `DeviceRange` event.
    pub fn tell_mapping<const N: usize>(&mut self, words: [u64; N]) {
        self.ring.push(words);
        self.mappings.extend(words);
    }

    /// How many instructions of the block under way have started.
    pub fn started_so_far(&self) -> u32 {
        if self.counts_started { self.ring.take_started().saturating_sub(self.skipped) } else { ALL_STARTED }
    }

    /// The processor's mode as it translates a block; QEMU's flags of the translation are there on a patched QEMU.
    pub fn translation_mode(&self, flags: impl Fn() -> Option<u64>) -> Option<Mode> {
        match self.set {
            InstructionSet::Arm => self.set.mode(|number| self.registers.read(number)),
            // QEMU's registers are those of the instruction that led here, and none tells of a delay slot.
            InstructionSet::Mips(processor) => Some(mips::mode(processor, flags()?).into()),
        }
    }

    /// The block with this code at this address. An error says why there can be none.
    pub fn translated(&mut self, address: u32, mode: Mode, code: &[u8]) -> Result<&'static Block, String> {
        self.registry.block(address, mode, code).map_err(|error| {
            let mode = mode.bits();
            format!("the block at {address:#010x} in mode {mode:#06x} with code {code:02x?}: {error}")
        })
    }

    /// The same. If there is none the recording ends.
    pub fn translated_or_fail(&mut self, address: u32, mode: Mode, code: &[u8]) -> Option<&'static Block> {
        self.translated(address, mode, code).map_err(|message| self.fail(message)).ok()
    }

    /// Which instruction of a block the recording is to start with, if one of it.
    pub fn start_index(&self, block: &Block) -> Option<u32> {
        let start = self.options.start_at.filter(|_| self.phase == Phase::Waiting)?;
        block.index_of(start).filter(|index| self.can_begin_at(block, *index))
    }

    /// Whether the recording is to start with this block.
    pub fn starts_with(&self, block: &Block) -> bool {
        self.can_begin_at(block, 0) && self.options.start_at.is_none_or(|address| address == block.address)
    }

    /// Whether registers say all that there is to know before an instruction of a block: in a delay slot they do not.
    pub fn can_begin_at(&self, block: &Block, index: u32) -> bool {
        !self.set.is_in_delay_slot(block.decoded.mode_before(index as usize))
    }

    /// The part of a block from an instruction on, as a block.
    pub fn tail(&mut self, block: &'static Block, index: u32) -> Option<&'static Block> {
        let address = block.decoded.address_of(index as usize);
        let code = block.code.get((address - block.address) as usize..).unwrap_or_default();
        let mode = block.decoded.mode_before(index as usize);
        self.translated_or_fail(address, mode, code)
    }

    /// `ktracer record`, if it started QEMU.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The recording begins with the first segment.
    pub fn begin(&mut self, registers: &Values) {
        self.phase = Phase::Recording;
        self.cut(ALL_STARTED, registers);
    }

    /// Says so if the initial memory is not known.
    pub fn note_capture(&self, result: Result<(), String>) {
        // ktracer record tells its user itself.
        if let (Err(reason), false) = (result, self.control.is_present()) {
            eprintln!("ktracer: the guest's initial memory is not known: {reason}");
        }
    }

    /// Ends the segment under way, of whose last block so many instructions started, and begins the next.
    pub fn cut(&mut self, started: u32, registers: &Values) {
        self.set_mode(registers);
        if let Some(sequence) = self.ring.sequence().checked_sub(1) {
            let delta = Arc::new(Delta { sequence, events: std::mem::take(&mut self.mappings) });
            for worker in &self.deltas {
                // An encoder that is gone needs nothing.
                let _ = worker.send(Arc::clone(&delta));
            }
        }
        self.ring.begin_segment(*registers, self.registry.len(), started);
        self.update_translation(true, 0);
    }

    /// Something happened after `index` instructions of the present block that can change what virtual addresses show.
    pub fn translation_may_have_changed(&mut self, index: u32) {
        self.update_translation(false, index);
    }

    fn update_translation(&mut self, all: bool, index: u32) {
        let Recorder { ring, translation, registers, status, .. } = self;
        let tell = |values: &[u64]| tell_translation(ring, index, values);
        if let Err(error) = translation.update(all, registers, *status, tell) {
            self.fail(error.to_string());
        }
    }

    /// The recording ends behind this opaque instruction, whose results were never read.
    pub fn leave_unread(&mut self, site: &OpaqueSite) {
        if site.opaque.changes_mapping {
            let status_is_known = !site.opaque.writes.contains(self.set.status_register());
            let Recorder { ring, translation, .. } = self;
            translation.forget(status_is_known, |values| tell_translation(ring, ALL_STARTED, values));
        }
    }

    /// All registers as a block is entered.
    pub fn registers_at(&self, block: &Block) -> Option<Values> {
        let mut registers = self.registers.read_all()?;
        for (number, register) in registers.iter_mut().enumerate() {
            *register = block.decoded.at_entry(number, *register);
        }
        Some(registers)
    }

    /// Notes registers after a discontinuity.
    pub fn set_mode(&mut self, registers: &Values) {
        self.status = registers.get(self.set.status_register()).copied().unwrap_or_default();
    }

    /// How many instructions of the block are done after an opaque one of it; `None` if that one is not recorded.
    pub fn done_after(&self, site: &OpaqueSite) -> Option<u32> {
        let is_recorded = self.phase == Phase::Recording && u32::from(site.index) >= self.skipped;
        is_recorded.then_some((u32::from(site.index) + 1).saturating_sub(self.skipped))
    }

    /// Records what an opaque instruction did, after `done` instructions of its block. `entered` is the block that begins
    /// after it, unless the same goes on. `None`: a register could not be read.
    pub fn record_results(&mut self, site: &OpaqueSite, entered: Option<&Block>, done: u32) -> Option<()> {
        let opaque = &site.opaque;
        if opaque.changes_mapping {
            self.translation_may_have_changed(done);
        }
        if opaque.writes.is_empty() {
            return Some(());
        }
        let mut words = [0; REGISTER_CAPACITY + 1];
        let mut count = 0;
        let results = opaque.results(self.status, |register| {
            let mut value = self.registers.read(register).ok_or(())?;
            if let Some(block) = entered {
                value = block.decoded.at_entry(register, value);
            }
            count += 1;
            if let Some(word) = words.get_mut(count) {
                *word = u64::from(value);
            }
            Ok::<_, ()>(value)
        });
        if let Some(status) = results.ok()?.value(self.set.status_register()) {
            self.status = status;
        }
        words[0] = Tag::Results.word() | count as u64;
        let words = words.get(..=count)?;
        match entered {
            Some(_) => self.ring.push_all(words),
            None => self.ring.push_inside(words),
        }
        Some(())
    }

    /// Ends the recording.
    pub fn end(&mut self, reason: EndReason, started: u32, open: bool) {
        let (open, under) = (u64::from(open), self.under as u64);
        self.ring.end(Tag::End.word() | u64::from(started) << 32 | under << 9 | open << 8 | reason as u64);
        self.stop();
    }

    /// Nothing is recorded any more.
    pub fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.ring.discard();
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether an encoder has failed.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Ends the recording because something is wrong on this side. What started of the present block is not known.
    pub fn fail(&mut self, message: String) {
        if self.phase == Phase::Stopped {
            return;
        }
        self.keep_error(message);
        self.end(EndReason::Error, self.started_so_far(), true);
    }

    /// Why the recording ends, unless that is known already.
    pub fn keep_error(&self, message: String) {
        if let Ok(mut error) = self.shared.error.lock() {
            error.get_or_insert(message);
        }
    }

    /// As [`fail`](Self::fail), for a register that QEMU does not give.
    pub fn fail_register(&mut self) {
        self.fail("QEMU did not give a register's value".to_owned());
    }
}

/// What governs translation has these values after so many instructions of the present block.
fn tell_translation(ring: &mut Writer, index: u32, values: &[u64]) {
    let mut words = [0; TRANSLATION_LIMIT as usize + 1];
    words[0] = Tag::Translation.word() | u64::from(index) << 32 | values.len() as u64;
    for (word, value) in words[1..].iter_mut().zip(values) {
        *word = *value;
    }
    let words = words.get(..=values.len()).unwrap_or(&words);
    if index == ALL_STARTED { ring.push_all(words) } else { ring.push_inside(words) }
}

/// Takes a flag.
pub fn take(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst) && flag.swap(false, Ordering::SeqCst)
}
