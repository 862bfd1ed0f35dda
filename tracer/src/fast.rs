//! The vCPU's side on a patched QEMU: generated code appends blocks and accesses to the ring, and this module the rest.
//!
//! It relies on what `qemu-plugin.h` says of the functions in [`crate::api`]: a logged block did begin; records are in the
//! order of execution; TLB fills come before the accesses that use them; discontinuities are told when the vCPU is ready to
//! go on. What it does between two blocks, it does when generated code calls at the entry of the second
//! ([`Vcpu::enter`]): because a chunk is full, or because something, on whatever thread, has set the limit to 0.

mod told;

use std::collections::HashMap;
use std::ffi::c_char;
use std::thread::ThreadId;

use told::{Pending, cause, map_word};

use ktrace_format::segment::AccessKind;
use ktrace_format::segment::encoder::PackedAccess;
use ktrace_machine::{ByteOrder, InstructionSet};

use crate::api::{Api, LogSite};
use crate::block::{AccessSite, Again, Block, OpaqueSite};
use crate::capture::capture;
use crate::control::Message;
use crate::device_writes::DeviceWrites;
use crate::event::{ALL_STARTED, EndReason, From, Tag, Under, access};
use crate::mips;
use crate::names::Names;
use crate::recorder::{Phase, Recorder, SEGMENT_INSTRUCTIONS, take};
use crate::ring::CHUNK_WORDS;

/// Blocks with more instructions than this count themselves: so a word in the ring stands for at most as many.
pub const COUNTED_INSTRUCTIONS: u32 = 32;
/// No segment has more instructions than this, whatever the blocks.
const MOST_INSTRUCTIONS: u64 = ktrace_format::segment::INSTRUCTION_LIMIT as u64;
/// A segment ends at about this many words in the ring, however few instructions they stand for: what a replay does takes as much
/// time for each access and block as for two or three instructions. 2¹⁹ instructions usually make 250,000 words.
const SEGMENT_WORDS: u64 = 300_000;
/// Translation contexts: QEMU's MMU indexes.
const CONTEXTS: usize = 16;
const PAGES: usize = 1 << 20;

/// What is told of one segment for the estimate of the next one's length.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    segments: u64,
    instructions: u64,
    words: u64,
}

/// See the [module](self).
pub struct Vcpu {
    /// What both paths share.
    pub recorder: Recorder,
    api: Api,
    names: Names,
    device_writes: &'static DeviceWrites,
    /// What each context was last shown behind each virtual page: `Behind::bits`, or 0.
    shown: [Option<Box<[u64]>>; CONTEXTS],
    /// The name that QEMU gave with each physical page of devices.
    devices: HashMap<u64, *const c_char>,
    pending: Option<Pending>,
    /// Words of all segments before each, by sequence number.
    words_before: Vec<u64>,
    /// Bounds on the instructions of each segment.
    bounds: Vec<u64>,
    measured: Measured,
    /// Instructions in a thousand words, about.
    density: u64,
    /// Instructions in long blocks of the segment under way.
    counted: u64,
    /// Every block calls: how many instructions were recorded before the block under way, that block, and how many of its
    /// instructions started if not all.
    exact: Option<Exact>,
    /// The translation context of the last block that was translated.
    last_context: u8,
    /// The guest's data are.
    is_big_endian: bool,
    thread: ThreadId,
}

#[derive(Clone, Copy)]
struct Exact {
    before: u64,
    segment: u64,
    block: &'static Block,
    started: Option<u32>,
}

impl Vcpu {
    /// A vCPU that has not run yet; to be called on its thread.
    pub fn new(recorder: Recorder, api: Api, names: Names, device_writes: &'static DeviceWrites) -> Self {
        recorder.ring.call_at_next_block();
        let is_big_endian = recorder.set.byte_order() == ByteOrder::Big;
        Vcpu {
            recorder,
            api,
            names,
            device_writes,
            shown: [const { None }; CONTEXTS],
            devices: HashMap::new(),
            pending: None,
            words_before: Vec::new(),
            bounds: Vec::new(),
            measured: Measured::default(),
            density: 1300,
            counted: 0,
            exact: None,
            last_context: 0,
            is_big_endian,
            thread: std::thread::current().id(),
        }
    }

    /// A block is about to execute and to be logged.
    pub fn enter(&mut self, block: &'static Block) {
        // First of all, so that whoever sets it to 0 from now on is heard at the next block.
        self.recorder.ring.restore_limit();
        self.recorder.under = Under::Way;
        self.between_blocks(block);
        self.recorder.under = Under::Unknown;
    }

    fn between_blocks(&mut self, block: &'static Block) {
        match self.recorder.phase {
            Phase::Stopped => self.recorder.ring.rewind(),
            Phase::Waiting if self.recorder.starts_with(block) => self.begin(block, 0),
            Phase::Waiting => {
                self.recorder.ring.rewind();
                self.recorder.ring.call_at_next_block();
            }
            Phase::Recording if self.recorder.has_failed() => self.recorder.stop(),
            Phase::Recording => {
                if self.between(block).is_none() {
                    self.recorder.fail_register();
                }
            }
        }
    }

    /// An instruction in the middle of a block is about to execute, and the recording is to start with it.
    pub fn start_inside(&mut self, block: &'static Block, index: u32) {
        if self.recorder.phase != Phase::Waiting {
            return;
        }
        if let Some(tail) = self.recorder.tail(block, index) {
            self.begin(tail, index);
            // Generated code has logged the whole block already, before what the recording begins with.
            self.recorder.ring.push([Tag::Skipped.word() | u64::from(index)]);
            self.recorder.ring.push([block_word(tail)]);
            self.recorder.ring.call_at_next_block();
        }
    }

    fn begin(&mut self, block: &'static Block, skipped: u32) {
        let Some(registers) = self.recorder.registers_at(block) else {
            self.recorder.fail_register();
            return;
        };
        // What devices have written up to here is in the image; what they write while it is made is read again.
        self.device_writes.take();
        let captured = capture(&self.api, &self.recorder.options.directory);
        self.recorder.control().tell(&match &captured {
            Ok(bytes) => Message::MemoryCaptured { bytes: *bytes, error: None },
            Err(error) => Message::MemoryCaptured { bytes: 0, error: Some(error.to_string()) },
        });
        self.recorder.note_capture(captured.map(drop).map_err(|error| error.to_string()));
        self.recorder.skipped = skipped;
        self.pending = None;
        self.recorder.ring.take_opaque();
        self.recorder.ring.take_counted();
        take(&self.recorder.shared.was_reset);
        self.words_before.push(0);
        self.recorder.begin(&registers);
        for context in 0..CONTEXTS {
            let Some(pages) = &self.shown[context] else { continue };
            for (page, bits) in (0u64..).zip(pages.iter()).filter(|(_, bits)| **bits != 0) {
                self.recorder.tell_mapping([map_word(context, page << 12), *bits]);
            }
        }
        for page in self.devices.keys().copied().collect::<Vec<_>>() {
            self.tell_devices(page);
        }
        if self.recorder.options.stop_after.is_some_and(|count| count < 2 * self.chunk_bound()) {
            self.exact = Some(Exact { before: 0, segment: 0, block, started: None });
            self.recorder.ring.call_at_next_block();
        }
    }

    /// The most instructions that the next chunk can stand for, but for those that long blocks count: a block's word goes
    /// in below the limit, so there are no more of them than that, and one before.
    fn chunk_bound(&self) -> u64 {
        (CHUNK_WORDS as u64 + 1) * u64::from(COUNTED_INSTRUCTIONS)
    }

    /// Between two blocks of the recording. `None`: a register could not be read.
    fn between(&mut self, block: &'static Block) -> Option<()> {
        if take(&self.recorder.shared.was_reset) {
            let registers = self.recorder.registers_at(block)?;
            let cause = match self.recorder.set {
                InstructionSet::Arm => cause::RESET,
                InstructionSet::Mips(_) => mips::RESET,
            };
            self.note_discontinuity(cause, From::Between, 0, registers);
        }
        let site = self.recorder.ring.take_opaque();
        if site != 0 && self.pending.is_none() {
            // SAFETY: only sites of blocks, which are never freed, are stored there.
            let site = unsafe { &*(site as *const OpaqueSite) };
            self.recorder.record_results(site, Some(block), ALL_STARTED)?;
        }
        self.recorder.skipped = 0;
        if self.push_discontinuities() {
            self.recorder.translation_may_have_changed(ALL_STARTED);
        }
        self.push_device_writes();
        self.counted += self.recorder.ring.take_counted();
        if let Some(mut exact) = self.exact {
            let count = u64::from(exact.started.unwrap_or(exact.block.instructions));
            (exact.before, exact.segment) = (exact.before + count, exact.segment + count);
            if self.recorder.options.stop_after.is_some_and(|wanted| exact.before >= wanted) {
                self.recorder.end(EndReason::StopAfter, ALL_STARTED, false);
                return Some(());
            }
            (exact.block, exact.started) = (block, None);
            self.exact = Some(exact);
            self.recorder.ring.call_at_next_block();
        }
        if self.is_long_enough(block) {
            self.cut(block)?;
        } else if self.recorder.ring.is_full() {
            self.recorder.ring.flush();
            if self.exact.is_some() {
                self.recorder.ring.call_at_next_block();
            }
        }
        Some(())
    }

    /// Whether the segment is to end before a block.
    fn is_long_enough(&mut self, block: &Block) -> bool {
        if !self.recorder.can_begin_at(block, 0) {
            return false;
        }
        let wanted = take(&self.recorder.shared.cut_wanted);
        if let Some(exact) = self.exact {
            return wanted || exact.segment >= SEGMENT_INSTRUCTIONS;
        }
        let words = self.recorder.ring.segment_words();
        let bound = self.bound();
        wanted
            || words >= SEGMENT_WORDS
            || (words.saturating_mul(self.density) / 1000).max(self.counted) >= SEGMENT_INSTRUCTIONS
            || bound + self.chunk_bound() > MOST_INSTRUCTIONS
            || self.must_be_exact(bound)
    }

    /// No more instructions than this are in the segment so far.
    fn bound(&self) -> u64 {
        self.recorder.ring.segment_words() * u64::from(COUNTED_INSTRUCTIONS) + self.counted
    }

    /// Whether the recording could come to its end before the next full chunk.
    fn must_be_exact(&self, bound: u64) -> bool {
        let Some(wanted) = self.recorder.options.stop_after else { return false };
        let (segments, instructions) = self.recorder.shared.progress();
        let open: u64 = self.bounds.iter().skip(segments as usize).sum();
        instructions + open + bound + self.chunk_bound() >= wanted
    }

    fn cut(&mut self, block: &'static Block) -> Option<()> {
        let registers = self.recorder.registers_at(block)?;
        let bound = self.bound();
        let exact = self.must_be_exact(bound);
        let words =
            self.words_before.last().copied().unwrap_or_default() + self.recorder.ring.segment_words();
        self.words_before.push(words);
        self.bounds.push(bound);
        self.recorder.cut(ALL_STARTED, &registers);
        self.counted = 0;
        self.measure();
        if let Some(exact) = &mut self.exact {
            exact.segment = 0;
            self.recorder.ring.call_at_next_block();
        } else if exact {
            self.count_exactly(block);
        }
        Some(())
    }

    /// How many instructions a word stands for, by what the encoders have counted.
    fn measure(&mut self) {
        let (segments, instructions) = self.recorder.shared.progress();
        let words = self.words_before.get(segments as usize).copied().unwrap_or_default();
        let new = Measured { segments, instructions, words };
        let (instructions, words) =
            (new.instructions - self.measured.instructions, words.saturating_sub(self.measured.words));
        if segments > self.measured.segments && words > 0 {
            self.density = (instructions * 1000 / words).clamp(100, 1000 * u64::from(COUNTED_INSTRUCTIONS));
            self.measured = new;
        }
    }

    /// Waits until all segments before are counted, and counts every block from now on, so that the recording ends at the
    /// right one.
    fn count_exactly(&mut self, block: &'static Block) {
        let before = loop {
            let (segments, instructions) = self.recorder.shared.progress();
            if segments + 1 >= self.recorder.ring.sequence() || self.recorder.has_failed() {
                break instructions;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        self.exact = Some(Exact { before, segment: 0, block, started: None });
        self.recorder.ring.call_at_next_block();
    }

    /// The instruction after an opaque one is about to execute.
    pub fn after_opaque(&mut self, site: &OpaqueSite) {
        let Some(done) = self.recorder.done_after(site) else { return };
        if self.recorder.record_results(site, None, done).is_none() {
            self.recorder.fail_register();
        }
    }

    /// An instruction that QEMU runs in the place of another block's has made an access: `first` is the first word of its
    /// event without the owner.
    pub fn access_again(&mut self, again: &Again, first: u64, value: [u64; 2]) {
        if self.recorder.phase != Phase::Recording {
            return;
        }
        let Again { block, index } = *again;
        let address = block.decoded.address_of(index as usize);
        self.recorder.ring.push([Tag::Again.word() | u64::from(address)]);
        if let Some(exact) = &mut self.exact
            && let Some(index) = exact.block.index_of(address)
        {
            exact.started = Some(index + 1);
        }
        let mut owner = access::MODELLED;
        if let Some(site) = block.opaque_at(index) {
            owner = access::ALONE;
            if site.has_results() {
                self.recorder.ring.set_opaque(std::ptr::from_ref(site) as u64);
            }
        }
        let first = u64::from(owner) << access::OWNER_SHIFT | first;
        if access::size(first) == 4 {
            self.recorder.ring.push([first, value[0], value[1]]);
        } else {
            self.recorder.ring.push([first, value[0]]);
        }
    }

    /// The word that stands for a block whose accesses are packed; 0 if they can't be.
    pub fn packed_word(&mut self, block: &Block, sites: &[LogSite]) -> u64 {
        let mut accesses = Vec::with_capacity(sites.len());
        let mut contexts = None;
        for site in sites {
            let word = u64::from(site.info) << 32;
            let context = access::context(word);
            let is_alike = *contexts.get_or_insert(context) == context;
            let is_big_endian = access::swapped(word) != cfg!(target_endian = "big");
            let is_strange = access::size(word) > 0 && is_big_endian != self.is_big_endian;
            if !is_alike || access::size(word) > 3 || is_strange {
                return 0;
            }
            let kind = AccessKind { size: access::size(word), store: access::store(word) };
            let access = PackedAccess { kind, conditional: site.conditional };
            accesses.push(AccessSite { instruction: site.instruction, access });
        }
        if !block.note_accesses(accesses) {
            return 0;
        }
        // Where there are none, the context of others is as good as any, and needs no closer look.
        self.last_context = contexts.unwrap_or(self.last_context);
        Tag::Packed.word()
            | u64::from(self.last_context) << 48
            | u64::from(ALL_STARTED) << 32
            | u64::from(block.serial)
    }

    /// QEMU exits, on the vCPU's thread in the middle of a block's last instruction (those before it that talk to devices
    /// run again in a block of their own), or when no vCPU runs any more.
    pub fn exit(&mut self) {
        let is_inside = std::thread::current().id() == self.thread;
        self.end(EndReason::Exit, if is_inside { Under::Last } else { Under::Way });
        self.recorder.stop();
    }

    /// Ends the recording because of a block that QEMU translates, which it does when it comes to it: all before is done.
    pub fn fail_between_blocks(&mut self, message: String) {
        if self.recorder.phase == Phase::Recording {
            self.recorder.keep_error(message);
            self.end(EndReason::Error, Under::Way);
        } else {
            self.recorder.fail(message);
        }
    }

    fn end(&mut self, reason: EndReason, under: Under) {
        self.recorder.under = under;
        if self.recorder.phase == Phase::Recording {
            let unread = match &self.pending {
                Some(pending) => pending.unread,
                None => self.recorder.ring.take_opaque(),
            };
            let known = self.push_discontinuities();
            self.push_device_writes();
            if unread != 0 {
                // SAFETY: only sites of blocks, which are never freed, are stored there.
                self.recorder.leave_unread(unsafe { &*(unread as *const OpaqueSite) });
            }
            // If the last instruction is opaque its results were never read.
            self.recorder.end(reason, ALL_STARTED, !known);
        }
    }
}

/// The event that generated code writes for a block.
pub fn block_word(block: &Block) -> u64 {
    Tag::Block.word() | u64::from(ALL_STARTED) << 32 | u64::from(block.serial)
}
