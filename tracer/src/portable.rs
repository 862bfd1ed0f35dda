//! The vCPU's side on a stock QEMU: decides what each callback means and appends events to the ring.
//!
//! It relies on these facts of QEMU (`qemu-notes.md`): a block callback means that the block began; memory callbacks
//! come after each access succeeded; `started` holds how many instructions of the last block began, as far as that
//! can matter; interrupts come between blocks.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use ktrace_format::segment::Behind;
use ktrace_format::shadow::Target;
use ktrace_machine::Flow;
use qemu_plugin_sys::qemu_plugin_meminfo_t;

use crate::block::{Block, OpaqueSite};
use crate::event::{EndReason, Tag, access};
use crate::mapping::{Direction, Mappings, Seen};
use crate::recorder::{Phase, Recorder, SEGMENT_INSTRUCTIONS};

/// The cause of a discontinuity that did not go to an exception vector.
const CAUSE_UNKNOWN: u8 = 255;

/// Bits of an access's info without the translation context: on this path QEMU is asked about each page, so that all
/// contexts are one.
const WITHOUT_CONTEXT: u64 = !0xf;

/// See the [module](self).
pub struct Vcpu {
    /// What both paths share.
    pub recorder: Recorder,
    previous: &'static Block,
    /// Instructions that started in all blocks before the present one.
    instructions: u64,
    /// The value of the last load, for branches to it.
    last_load: u32,
    stop_after: u64,
    mappings: Mappings,
    /// Blocks that run at other addresses than that of their translation.
    aliases: HashMap<(u32, u32), &'static Block>,
}

impl Vcpu {
    /// A vCPU that has not run yet.
    pub fn new(recorder: Recorder, mappings: Mappings) -> Self {
        Vcpu {
            previous: Block::none(recorder.set),
            instructions: 0,
            last_load: 0,
            stop_after: recorder.options.stop_after.unwrap_or(u64::MAX),
            recorder,
            mappings,
            aliases: HashMap::new(),
        }
    }

    /// A block is about to execute. `Some`: nothing was done yet, [`enter_slowly`](Self::enter_slowly) has to look at
    /// it, with this count of instructions that started of the block before.
    #[inline]
    pub fn enter(&mut self, block: &'static Block) -> Option<u32> {
        let started = self.recorder.ring.take_started();
        let previous = self.previous;
        let expected = started == previous.instructions
            && (block.address == previous.next || block.address == previous.or_next)
            && block.carried == previous.next_carried;
        if !expected || self.instructions >= self.recorder.shared.segment_limit.load(Ordering::Relaxed) {
            return Some(started);
        }
        self.instructions += u64::from(started);
        self.push_block(block, started);
        self.previous = block;
        None
    }

    #[inline]
    fn push_block(&mut self, block: &Block, started: u32) {
        if self.recorder.ring.is_full() {
            self.recorder.ring.flush();
        }
        self.recorder.ring.push([Tag::Block.word() | u64::from(started) << 32 | u64::from(block.serial)]);
    }

    /// A block is about to execute that is not what was expected, or the segment or the recording ends.
    pub fn enter_slowly(&mut self, block: &'static Block, started: u32) {
        match self.recorder.phase {
            Phase::Stopped => {}
            Phase::Waiting => {
                if self.recorder.starts_with(block) {
                    self.begin(block, 0);
                }
            }
            Phase::Recording => {
                if self.recorder.has_failed() {
                    self.stop();
                } else if self.record_entry(block, started).is_none() {
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
        }
    }

    fn begin(&mut self, block: &'static Block, skipped: u32) {
        let captured = self.recorder.control().capture_memory();
        self.recorder.note_capture(captured);
        let Some(registers) = self.recorder.registers_at(block) else {
            self.recorder.fail_register();
            return;
        };
        self.recorder.skipped = skipped;
        self.mappings.may_have_changed();
        self.recorder.begin(&registers);
        self.set_limit();
        self.push_block(block, 0);
        self.previous = block;
    }

    fn set_limit(&mut self) {
        let limit = self.instructions.saturating_add(SEGMENT_INSTRUCTIONS).min(self.stop_after);
        self.recorder.shared.segment_limit.store(limit, Ordering::Relaxed);
    }

    /// Where the block before ended, in terms of the block that the recording knows, and whether `address` is where
    /// its execution leads.
    fn continues(&self, previous: &Block, started: u32, address: u32) -> Option<bool> {
        let Some(last) = started.checked_sub(1) else { return Some(false) };
        let registers = &self.recorder.registers;
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
            Flow::Register(number) => skipped || is_at(registers.read(usize::from(number))?),
            Flow::Loaded => skipped || is_at(self.last_load),
            Flow::Computed => !registers.is_vector(address),
            Flow::Opaque => match previous.opaque_at(last) {
                Some(site) if site.opaque.writes.contains(self.recorder.set.program_counter()) => {
                    !registers.is_vector(address)
                }
                _ => address == behind,
            },
        })
    }

    /// `None`: a register could not be read.
    fn record_entry(&mut self, block: &'static Block, started: u32) -> Option<()> {
        let previous = self.previous;
        let skipped = std::mem::take(&mut self.recorder.skipped);
        let started = started.saturating_sub(skipped).min(previous.instructions);
        let mut block = block;
        let mut continues = self.continues(previous, started, block.address)?;
        if !continues {
            // Either a discontinuity, or the block runs at another address than that of its translation.
            let address = self.recorder.registers.read(self.recorder.set.program_counter())?;
            if address != block.address {
                block = self.alias(block, address)?;
                continues = self.continues(previous, started, address)?;
            }
        }
        let carried = previous.decoded.carried_before(started as usize);
        // After an opaque instruction that writes the program counter the status register is recorded whole.
        continues &= block.carried == carried || matches!(previous.decoded.flow(), Flow::Opaque);
        let mut keyframe = None;
        if continues {
            if let Some(site) = started.checked_sub(1).and_then(|last| previous.opaque_at(last)) {
                self.record_results(site, Some(block), started)?;
            }
        } else {
            let registers = self.recorder.registers_at(block)?;
            let cause = if self.recorder.registers.is_vector(block.address) {
                (block.address >> 2 & 7) as u8
            } else {
                CAUSE_UNKNOWN
            };
            let mut words = vec![Tag::Discontinuity.word() | u64::from(cause)];
            words.extend(registers.iter().copied().map(u64::from));
            self.recorder.ring.push_all(&words);
            self.recorder.set_mode(&registers);
            self.mappings.may_have_changed();
            self.recorder.translation_may_have_changed(started);
            keyframe = Some(registers);
        }
        self.instructions += u64::from(started);
        if self.instructions >= self.stop_after {
            self.recorder.end(EndReason::StopAfter, started, false);
            self.stop();
            return Some(());
        }
        if self.instructions >= self.recorder.shared.segment_limit.load(Ordering::Relaxed) {
            let registers = match keyframe {
                Some(registers) => registers,
                None => self.recorder.registers_at(block)?,
            };
            self.recorder.cut(started, &registers);
            self.set_limit();
            self.push_block(block, 0);
        } else {
            self.push_block(block, started);
        }
        self.previous = block;
        Some(())
    }

    fn alias(&mut self, block: &'static Block, address: u32) -> Option<&'static Block> {
        if let Some(alias) = self.aliases.get(&(block.serial, address)) {
            return Some(alias);
        }
        let alias = self.recorder.translated_or_fail(address, block.decoded.mode(), &block.code)?;
        self.aliases.insert((block.serial, address), alias);
        Some(alias)
    }

    fn record_results(&mut self, site: &OpaqueSite, entered: Option<&Block>, done: u32) -> Option<()> {
        if site.opaque.changes_mapping {
            self.mappings.may_have_changed();
        }
        self.recorder.record_results(site, entered, done)
    }

    /// The instruction after an opaque one is about to execute.
    pub fn after_opaque(&mut self, site: &OpaqueSite) {
        let Some(done) = self.recorder.done_after(site) else { return };
        if self.record_results(site, None, done).is_none() {
            self.recorder.fail_register();
        }
    }

    /// What is behind an access of `bytes` bytes is the same as last told, and memory. If not,
    /// [`access_slowly`](Self::access_slowly) has to look at it.
    #[inline]
    pub fn is_settled(&self, address: u32, bytes: u32, direction: Direction) -> bool {
        self.mappings.is_settled(address, bytes, direction)
    }

    /// A modelled instruction has made a settled access.
    #[inline]
    pub fn push_access(
        &mut self,
        info: qemu_plugin_meminfo_t,
        address: u32,
        value: u64,
        direction: Direction,
    ) {
        if direction == Direction::Load {
            self.last_load = value as u32;
        }
        self.recorder.ring.push([(u64::from(info) & WITHOUT_CONTEXT) << 32 | u64::from(address), value]);
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
            self.push_access(info, address, value, direction);
        }
    }

    /// Finds out what is behind an access and tells the encoder if that is news. False: nothing is being recorded.
    fn look(&mut self, info: qemu_plugin_meminfo_t, address: u32, bytes: u32, direction: Direction) -> bool {
        if self.recorder.phase != Phase::Recording {
            return false;
        }
        let mut device = None;
        let last = address.wrapping_add(bytes - 1);
        let second = (address >> 12 != last >> 12).then_some(last & !0xfff);
        for address in std::iter::once(address).chain(second) {
            let seen = self.mappings.look(info, address);
            if self.mappings.note(address, direction, seen) {
                let target = match seen {
                    Seen::Memory(page) => Target::Ram(page),
                    Seen::Device(..) => Target::Device,
                };
                let bits = Behind::both(target).bits();
                self.recorder.tell_mapping([Tag::Map.word() | u64::from(address), bits]);
            }
            if let Seen::Device(name, physical) = seen {
                device.get_or_insert((name, physical));
            }
        }
        if let Some((name, physical)) = device {
            self.recorder.ring.push([Tag::Device.word() | u64::from(name), physical]);
        }
        true
    }

    /// An opaque instruction has made an access of up to 16 bytes.
    pub fn opaque_access(
        &mut self,
        info: qemu_plugin_meminfo_t,
        address: u32,
        value: [u64; 2],
        site: &OpaqueSite,
    ) {
        let owner = u64::from(access::owner_of(site, self.recorder.skipped));
        let first =
            owner << access::OWNER_SHIFT | (u64::from(info) & WITHOUT_CONTEXT) << 32 | u64::from(address);
        let direction = if access::store(first) { Direction::Store } else { Direction::Load };
        let bytes = 1u32 << access::size(first);
        if self.recorder.phase != Phase::Recording {
            return;
        }
        if !self.mappings.is_settled(address, bytes, direction) {
            self.look(info, address, bytes, direction);
        }
        if direction == Direction::Load {
            self.last_load = value[0] as u32;
        }
        if bytes > 8 {
            self.recorder.ring.push([first, value[0], value[1]]);
        } else {
            self.recorder.ring.push([first, value[0]]);
        }
    }

    fn stop(&mut self) {
        self.recorder.stop();
        self.previous = Block::none(self.recorder.set);
        self.mappings.may_have_changed();
    }

    /// QEMU exits.
    pub fn exit(&mut self) {
        if self.recorder.phase == Phase::Recording {
            let started = self.recorder.started_so_far();
            // The last instruction may be under way still, and if it is opaque its results were never read.
            self.recorder.end(EndReason::Exit, started, true);
        }
        self.stop();
    }
}
