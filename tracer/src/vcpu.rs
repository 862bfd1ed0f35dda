//! The vCPU's side: decides what each callback means and appends events to the ring.
//!
//! It relies on these facts of QEMU (`qemu-notes.md`): a block callback means that the block began; memory callbacks
//! come after each access succeeded; `started` holds how many instructions of the last block began, as far as that
//! can matter; interrupts come between blocks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ktrace_format::segment::access;
use ktrace_machine::arm::Flow;
use ktrace_machine::arm::Mode;
use qemu_plugin_sys::qemu_plugin_meminfo_t;

use crate::block::{Block, OpaqueSite, Registry};
use crate::control::Control;
use crate::event::{EndReason, REGISTERS, Tag};
use crate::mapping::{Behind, Direction, Mappings};
use crate::options::Options;
use crate::registers::{CPSR, Registers};
use crate::ring::Writer;

/// A segment ends at the first block boundary at or after this many instructions: it takes some milliseconds to
/// execute again, which bounds the time of a seek.
const SEGMENT_INSTRUCTIONS: u64 = 1 << 19;

/// The instruction of an access is the last one of its block that started.
const LAST_STARTED: u16 = ktrace_format::segment::encoder::LAST_STARTED;

/// SCTLR.B: addresses of bytes and halfwords are not what the model says.
const SCTLR_B: u64 = 1 << 7;

/// The cause of a discontinuity that did not go to an exception vector.
const CAUSE_UNKNOWN: u8 = 255;

/// How far the recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before the start address.
    Waiting,
    Recording,
    Stopped,
}

/// What both threads share.
#[derive(Default)]
pub struct Shared {
    /// The vCPU ends the segment at the next block once its count of instructions reaches this.
    pub segment_limit: AtomicU64,
    /// The encoder has failed: stop.
    pub failed: AtomicBool,
    /// What went wrong on the vCPU's side, for the encoder to put into the trace.
    pub error: std::sync::Mutex<Option<String>>,
    /// No recording is under way on the vCPU's side any more.
    pub stopped: AtomicBool,
}

/// See the [module](self).
pub struct Vcpu {
    ring: Writer,
    /// Generated code stores here how many instructions of the block have started.
    started: *mut u64,
    previous: &'static Block,
    /// Instructions that started in all blocks before the present one.
    instructions: u64,
    shared: Arc<Shared>,
    /// The value of the last load, for branches to it.
    last_load: u32,
    /// Instructions of the present block before the one that the recording starts with.
    skipped: u32,
    cpsr: u32,
    /// The system registers as last told.
    translation: Option<[u64; 4]>,
    stop_after: u64,
    phase: Phase,
    registers: Registers,
    mappings: Mappings,
    registry: Registry,
    /// Blocks that run at other addresses than that of their translation.
    aliases: HashMap<(u32, u32), &'static Block>,
    control: Arc<Control>,
    options: Options,
}

/// CPSR before the first instruction of a block, from what QEMU's register holds in the block's callback: QEMU has
/// cleared ITSTATE by then, as the block's code knows it (`arm_tr_tb_start` in its target/arm/tcg/translate.c).
fn entry_cpsr(block: &Block, cpsr: u32) -> u32 {
    let mode = block.decoded.mode();
    if mode.thumb() { mode.put_it_into(cpsr) } else { cpsr }
}

impl Vcpu {
    /// A vCPU that has not run yet. `started` must stay valid as long as QEMU lives.
    #[expect(clippy::too_many_arguments, reason = "it is called in one place, with what that place made")]
    pub fn new(
        ring: Writer,
        started: *mut u64,
        registers: Registers,
        mappings: Mappings,
        registry: Registry,
        shared: Arc<Shared>,
        control: Arc<Control>,
        options: Options,
    ) -> Self {
        Vcpu {
            ring,
            started,
            previous: Block::none(),
            instructions: 0,
            shared,
            last_load: 0,
            skipped: 0,
            cpsr: 0,
            translation: None,
            stop_after: options.stop_after.unwrap_or(u64::MAX),
            phase: Phase::Waiting,
            registers,
            mappings,
            registry,
            aliases: HashMap::new(),
            control,
            options,
        }
    }

    /// The recording is over, on whatever side it ended.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// The processor's mode as it translates a block.
    pub fn translation_mode(&self) -> Option<Mode> {
        self.registers.read(CPSR).map(Mode::from_cpsr)
    }

    /// The block with this code at this address.
    pub fn translated(&mut self, address: u32, mode: Mode, code: &[u8]) -> Option<&'static Block> {
        match self.registry.block(address, mode, code) {
            Ok(block) => Some(block),
            Err(error) => {
                let state = if mode.thumb() { "T32" } else { "A32" };
                self.fail(format!("the {state} block at {address:#010x} with code {code:02x?}: {error}"));
                None
            }
        }
    }

    /// Which instruction of a block the recording is to start with, if one of it.
    pub fn start_index(&self, block: &Block) -> Option<u32> {
        let start = self.options.start_at.filter(|_| self.phase == Phase::Waiting)?;
        (0..block.instructions).find(|&index| block.decoded.address_of(index as usize) == start)
    }

    /// Reads and clears how many instructions of the last block started.
    #[inline]
    fn take_started(&mut self) -> u32 {
        // SAFETY: `new` was given a pointer that stays valid; only this vCPU's generated code, which does not run
        // while this callback does, writes there.
        unsafe {
            let started = self.started.read();
            self.started.write(0);
            started as u32
        }
    }

    /// A block is about to execute. `Some`: nothing was done yet, [`enter_slowly`](Self::enter_slowly) has to look at
    /// it, with this count of instructions that started of the block before.
    #[inline]
    pub fn enter(&mut self, block: &'static Block) -> Option<u32> {
        let started = self.take_started();
        let previous = self.previous;
        let expected = started == previous.instructions
            && (block.address == previous.next || block.address == previous.or_next)
            && block.it == previous.next_it;
        if !expected || self.instructions >= self.shared.segment_limit.load(Ordering::Relaxed) {
            return Some(started);
        }
        self.instructions += u64::from(started);
        self.ring.push_one(Tag::Block.word() | u64::from(started) << 32 | u64::from(block.serial));
        self.previous = block;
        None
    }

    /// A block is about to execute that is not what was expected, or the segment or the recording ends.
    pub fn enter_slowly(&mut self, block: &'static Block, started: u32) {
        match self.phase {
            Phase::Stopped => {}
            Phase::Waiting => {
                if self.options.start_at.is_none_or(|address| address == block.address) {
                    self.begin(block, 0);
                }
            }
            Phase::Recording => {
                if self.shared.failed.load(Ordering::Relaxed) {
                    self.stop();
                } else if self.record_entry(block, started).is_none() {
                    self.fail("QEMU did not give a register's value".to_owned());
                }
            }
        }
    }

    /// An instruction in the middle of a block is about to execute, and the recording is to start with it.
    pub fn start_inside(&mut self, block: &'static Block, index: u32) {
        if self.phase != Phase::Waiting {
            return;
        }
        let address = block.decoded.address_of(index as usize);
        let code = block.code.get((address - block.address) as usize..).unwrap_or_default();
        let mode = block.decoded.mode_before(index as usize);
        if let Some(tail) = self.translated(address, mode, code) {
            self.begin(tail, index);
        }
    }

    fn begin(&mut self, block: &'static Block, skipped: u32) {
        if let Err(reason) = self.control.capture_memory() {
            // ktracer record tells its user itself.
            if !self.control.is_present() {
                eprintln!("ktracer: the guest's initial memory is not known: {reason}");
            }
        }
        let Some(registers) = self.registers_at(block) else {
            self.fail("QEMU did not give a register's value".to_owned());
            return;
        };
        self.phase = Phase::Recording;
        self.skipped = skipped;
        self.mappings.may_have_changed();
        self.cut(0, &registers);
        self.ring.push_one(Tag::Block.word() | u64::from(block.serial));
        self.previous = block;
    }

    /// Where the block before ended, in terms of the block that the recording knows, and whether `address` is where
    /// its execution leads.
    fn continues(&self, previous: &Block, started: u32, address: u32) -> Option<bool> {
        let Some(last) = started.checked_sub(1) else { return Some(false) };
        let behind = previous.decoded.address_of(started as usize);
        if started < previous.instructions {
            return Some(address == behind);
        }
        // Where bit 0 (and in A32 bit 1) of a branch's target goes is the model's business; the address is the rest.
        let is_at = |value: u32| value & !1 == address || value & !3 == address;
        let skipped = previous.decoded.conditional() && address == behind;
        Some(match previous.decoded.flow() {
            Flow::Sequential => address == behind,
            Flow::Branch { target, .. } => address == target || skipped,
            Flow::Register(number) => skipped || is_at(self.registers.read(usize::from(number))?),
            Flow::Loaded => skipped || is_at(self.last_load),
            Flow::Computed => !self.registers.is_vector(address),
            Flow::Opaque => match previous.opaque_at(last) {
                Some(site) if site.opaque.writes & 1 << 15 != 0 => !self.registers.is_vector(address),
                _ => address == behind,
            },
        })
    }

    /// `None`: a register could not be read.
    fn record_entry(&mut self, block: &'static Block, started: u32) -> Option<()> {
        let previous = self.previous;
        let started = started.saturating_sub(std::mem::take(&mut self.skipped)).min(previous.instructions);
        let mut block = block;
        let mut continues = self.continues(previous, started, block.address)?;
        if !continues {
            // Either a discontinuity, or the block runs at another address than that of its translation.
            let address = self.registers.read(15)?;
            if address != block.address {
                block = self.alias(block, address)?;
                continues = self.continues(previous, started, address)?;
            }
        }
        let it = previous.decoded.mode_before(started as usize).it();
        // After an opaque instruction that writes the program counter CPSR is recorded whole.
        continues &= block.it == it || matches!(previous.decoded.flow(), Flow::Opaque);
        let mut keyframe = None;
        if continues {
            if let Some(site) = started.checked_sub(1).and_then(|last| previous.opaque_at(last)) {
                self.record_results(site, Some(block))?;
            }
        } else {
            let registers = self.registers_at(block)?;
            let cause = if self.registers.is_vector(block.address) {
                (block.address >> 2 & 7) as u8
            } else {
                CAUSE_UNKNOWN
            };
            self.push_registers(Tag::Discontinuity.word() | u64::from(cause), &registers);
            self.cpsr = registers[CPSR];
            self.mapping_may_have_changed(started);
            keyframe = Some(registers);
        }
        self.instructions += u64::from(started);
        if self.instructions >= self.stop_after {
            self.end(EndReason::StopAfter, started, false);
            return Some(());
        }
        let mut word = Tag::Block.word() | u64::from(block.serial);
        if self.instructions >= self.shared.segment_limit.load(Ordering::Relaxed) {
            let registers = match keyframe {
                Some(registers) => registers,
                None => self.registers_at(block)?,
            };
            self.cut(started, &registers);
        } else {
            word |= u64::from(started) << 32;
        }
        self.ring.push_one(word);
        self.previous = block;
        Some(())
    }

    fn alias(&mut self, block: &'static Block, address: u32) -> Option<&'static Block> {
        if let Some(alias) = self.aliases.get(&(block.serial, address)) {
            return Some(alias);
        }
        let alias = self.translated(address, block.decoded.mode(), &block.code)?;
        self.aliases.insert((block.serial, address), alias);
        Some(alias)
    }

    fn push_registers(&mut self, first: u64, registers: &[u32; REGISTERS]) {
        let mut words = [first; REGISTERS + 1];
        for (word, register) in words.iter_mut().skip(1).zip(registers) {
            *word = u64::from(*register);
        }
        self.ring.push(&words);
    }

    fn cut(&mut self, started: u32, registers: &[u32; REGISTERS]) {
        self.cpsr = registers[CPSR];
        self.push_registers(Tag::Cut.word() | u64::from(started) << 32, registers);
        self.translation = self.registers.translation(self.cpsr);
        self.tell_translation(0);
        let limit = self.instructions.saturating_add(SEGMENT_INSTRUCTIONS).min(self.stop_after);
        self.shared.segment_limit.store(limit, Ordering::Relaxed);
    }

    /// Something happened after `index` instructions of the present block that can change mappings.
    fn mapping_may_have_changed(&mut self, index: u32) {
        self.mappings.may_have_changed();
        let translation = self.registers.translation(self.cpsr);
        if translation.is_some_and(|[sctlr, ..]| sctlr & SCTLR_B != 0) {
            self.fail(
                "the guest uses the big-endian memory of ARMv5 (SCTLR.B), which is not supported".to_owned(),
            );
            return;
        }
        if translation != self.translation {
            self.translation = translation;
            self.tell_translation(index);
        }
    }

    fn tell_translation(&mut self, index: u32) {
        let first = |words: u64| Tag::Translation.word() | u64::from(index) << 32 | words;
        match self.translation {
            Some([sctlr, ttbcr, ttbr0, ttbr1]) => self.ring.push(&[first(4), sctlr, ttbcr, ttbr0, ttbr1]),
            None => self.ring.push_one(first(0)),
        }
    }

    /// All registers as a block is entered.
    fn registers_at(&self, block: &Block) -> Option<[u32; REGISTERS]> {
        let mut registers = self.registers.read_all()?;
        registers[CPSR] = entry_cpsr(block, registers[CPSR]);
        Some(registers)
    }

    /// Records what an opaque instruction did. `entered` is the block that begins after it, unless the same goes on.
    fn record_results(&mut self, site: &OpaqueSite, entered: Option<&Block>) -> Option<()> {
        let opaque = &site.opaque;
        if opaque.changes_mapping {
            let done = u32::from(site.index) + 1;
            self.mapping_may_have_changed(done.saturating_sub(self.skipped));
        }
        if opaque.writes == 0 {
            return Some(());
        }
        let before = self.cpsr;
        if opaque.writes & 1 << CPSR != 0 {
            let cpsr = self.registers.read(CPSR)?;
            self.cpsr = entered.map_or(cpsr, |block| entry_cpsr(block, cpsr));
        }
        let written = opaque.written(before, self.cpsr);
        // CPSR comes first: whether r8 to r14 follow depends on it.
        let mut words = [0; REGISTERS + 1];
        let mut count = 0;
        for register in std::iter::once(CPSR).chain(0..CPSR).filter(|register| written >> register & 1 != 0) {
            count += 1;
            let value = if register == CPSR { self.cpsr } else { self.registers.read(register)? };
            if let Some(word) = words.get_mut(count) {
                *word = u64::from(value);
            }
        }
        words[0] = Tag::Results.word() | count as u64;
        self.ring.push(words.get(..=count)?);
        Some(())
    }

    /// The instruction after an opaque one is about to execute.
    pub fn after_opaque(&mut self, site: &OpaqueSite) {
        if self.phase == Phase::Recording && self.record_results(site, None).is_none() {
            self.fail("QEMU did not give a register's value".to_owned());
        }
    }

    /// What is behind an access of `bytes` bytes is the same as last told, and memory. If not,
    /// [`access_slowly`](Self::access_slowly) has to look at it.
    #[inline]
    pub fn is_settled(&self, address: u32, bytes: u32, direction: Direction) -> bool {
        self.mappings.is_settled(address, bytes, direction)
    }

    /// A modelled instruction has made a settled access; `value` is zero-extended.
    #[inline]
    pub fn push_access(&mut self, address: u32, bytes: u32, value: u64, direction: Direction) {
        let tag = match direction {
            Direction::Load => Tag::Load,
            Direction::Store => Tag::Store,
        };
        if direction == Direction::Load {
            self.last_load = value as u32;
        }
        self.ring.push_two(tag.word() | u64::from(bytes) << 32 | u64::from(address), value);
    }

    /// A modelled instruction has made an access: finds out what is behind the page first.
    pub fn access_slowly(
        &mut self,
        info: qemu_plugin_meminfo_t,
        address: u32,
        bytes: u32,
        value: u64,
        direction: Direction,
    ) {
        if self.look(info, address, bytes, direction) {
            self.push_access(address, bytes, value, direction);
        }
    }

    /// Finds out what is behind an access and tells the encoder if that is news. False: nothing is being recorded.
    fn look(&mut self, info: qemu_plugin_meminfo_t, address: u32, bytes: u32, direction: Direction) -> bool {
        if self.phase != Phase::Recording {
            return false;
        }
        let mut device = None;
        let last = address.wrapping_add(bytes - 1);
        let second = (address >> 12 != last >> 12).then_some(last & !0xfff);
        for address in std::iter::once(address).chain(second) {
            let behind = self.mappings.look(info, address);
            if let Some(word) = self.mappings.note(address, direction, behind) {
                self.ring.push_two(Tag::Map.word() | u64::from(address), word);
            }
            if let Behind::Device(name, physical) = behind {
                device.get_or_insert((name, physical));
            }
        }
        if let Some((name, physical)) = device {
            self.ring.push_two(Tag::Device.word() | u64::from(name), physical);
        }
        true
    }

    /// An opaque instruction has made an access of up to 16 bytes.
    pub fn opaque_access(
        &mut self,
        info: qemu_plugin_meminfo_t,
        address: u32,
        flags: u8,
        value: [u64; 2],
        site: &OpaqueSite,
    ) {
        let direction = if flags & access::STORE != 0 { Direction::Store } else { Direction::Load };
        let bytes = 1u32 << (flags & access::SIZE);
        if self.phase != Phase::Recording {
            return;
        }
        if !self.mappings.is_settled(address, bytes, direction) {
            self.look(info, address, bytes, direction);
        }
        if direction == Direction::Load {
            self.last_load = value[0] as u32;
        }
        let index = if site.alone { LAST_STARTED } else { site.index.saturating_sub(self.skipped as u16) };
        let first =
            Tag::OpaqueAccess.word() | u64::from(index) << 40 | u64::from(flags) << 32 | u64::from(address);
        let mask = u64::MAX >> (64 - 8 * bytes.min(8));
        self.ring.push(&[first, value[0] & mask, if bytes > 8 { value[1] } else { 0 }]);
    }

    fn end(&mut self, reason: EndReason, started: u32, open: bool) {
        self.ring.push_one(Tag::End.word() | u64::from(started) << 32 | u64::from(open) << 8 | reason as u64);
        self.ring.flush();
        self.stop();
    }

    fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.previous = Block::none();
        self.mappings.may_have_changed();
        self.ring.discard();
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// QEMU exits.
    pub fn exit(&mut self) {
        if self.phase == Phase::Stopped {
            return;
        }
        let started = self.take_started().saturating_sub(self.skipped).min(self.previous.instructions);
        // The last instruction may be under way still, and if it is opaque its results were never read.
        self.end(EndReason::Exit, started, true);
    }

    /// Ends the recording because something is wrong on this side.
    pub fn fail(&mut self, message: String) {
        if self.phase == Phase::Stopped {
            return;
        }
        if let Ok(mut error) = self.shared.error.lock() {
            error.get_or_insert(message);
        }
        let started = self.take_started().saturating_sub(self.skipped).min(self.previous.instructions);
        self.end(EndReason::Error, started, true);
    }
}
