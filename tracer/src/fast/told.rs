//! What QEMU tells between blocks: discontinuities, writes of devices, TLB fills.

use std::ffi::{CStr, c_void};

use ktrace_format::segment::{Answer, Behind};
use ktrace_machine::{InstructionSet, Registers};

use super::{CONTEXTS, PAGES, Vcpu};
use crate::api::{Api, MemoryRange, TlbFill, discontinuity, memory_kind, tlb};
use crate::device_writes::Changed;
use crate::event::{From, Tag};
use crate::mips;
use crate::recorder::Phase;

/// A device write is recorded in pieces of this many bytes at most, so that each fits a chunk.
const DEVICE_PIECE: usize = 32 << 10;

/// Causes of discontinuities in a trace of ARM, besides the vectors 0 to 7.
pub(super) mod cause {
    pub const RESET: u8 = 8;
    pub const HOST_CALL: u8 = 9;
    pub const SUPERVISOR_CALL: u8 = 2;
    pub const PREFETCH_ABORT: u8 = 3;
}

/// Discontinuities since the last block.
pub(super) struct Pending {
    cause: u8,
    further: Vec<u64>,
    from: From,
    pc: u64,
    progress: u64,
    registers: Registers,
    /// The `OpaqueSite` of an instruction right before them, or 0.
    pub(super) unread: u64,
}

impl Vcpu {
    /// A discontinuity of one of QEMU's types.
    pub fn discontinuity(&mut self, kind: u32, from: u64, to: u64) {
        if self.recorder.phase != Phase::Recording {
            return;
        }
        let Some(registers) = self.recorder.registers.read_all() else {
            self.recorder.fail_register();
            return;
        };
        let (cause, from_kind) = match self.recorder.set {
            InstructionSet::Arm => arm_discontinuity(kind, to),
            InstructionSet::Mips(_) => mips::discontinuity(kind, from, &registers),
        };
        self.note_discontinuity(cause, from_kind, from, registers);
    }

    pub(super) fn note_discontinuity(&mut self, cause: u8, from: From, pc: u64, registers: Registers) {
        // There are no results of an instruction before a discontinuity.
        let unread = self.recorder.ring.take_opaque();
        match &mut self.pending {
            Some(pending) if pending.further.len() >= usize::from(u8::MAX) => {
                let message = "more than 256 interrupts and exceptions with no instruction between";
                return self.recorder.fail(message.to_owned());
            }
            Some(pending) => {
                pending.further.push(u64::from(cause));
                pending.registers = registers;
            }
            None => {
                if let Some(exact) = &mut self.exact
                    && from != From::Between
                    && let Some(index) = exact.block.index_of(pc as u32)
                    && (from == From::At || exact.block.opaque_at(index).is_some())
                {
                    exact.started = Some(index + 1);
                }
                let progress = self.recorder.ring.progress();
                self.pending =
                    Some(Pending { cause, further: Vec::new(), from, pc, progress, registers, unread });
            }
        }
        self.recorder.ring.call_at_next_block();
    }

    /// True if there were any.
    pub(super) fn push_discontinuities(&mut self) -> bool {
        let Some(pending) = self.pending.take() else { return false };
        let Pending { cause, further, from, pc, progress, registers, .. } = pending;
        let first =
            Tag::Discontinuity.word() | u64::from(cause) | (further.len() as u64) << 8 | (from as u64) << 16;
        let mut words = vec![first];
        words.extend(registers.iter().copied().map(u64::from));
        words.extend(&further);
        if from != From::Between {
            words.extend([pc, progress]);
        }
        self.recorder.ring.push_all(&words);
        self.recorder.set_mode(&registers);
        true
    }

    /// Records what devices have written since the last block: as memory holds it now.
    pub(super) fn push_device_writes(&mut self) {
        for changed in self.device_writes.take() {
            self.push_device_write(&changed);
        }
    }

    fn push_device_write(&mut self, changed: &Changed) {
        let mut bytes = vec![0; DEVICE_PIECE.min(changed.length)];
        let mut done = 0;
        while done < changed.length {
            // SAFETY: QEMU has told of it since the last block, and loses no memory before it tells the vCPU.
            let count = unsafe { changed.copy(done, &mut bytes) };
            let data = bytes.get(..count).unwrap_or_default();
            let first = Tag::DeviceWrite.word() | count as u64;
            let mut words = vec![first, changed.physical + done as u64];
            words.extend(data.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            }));
            self.recorder.ring.push_all(&words);
            done += count;
        }
    }

    /// QEMU's TLB has a new entry.
    pub fn tlb_filled(&mut self, fill: &TlbFill) {
        let device_takes_part = fill.flags & (tlb::READ_IO | tlb::WRITE_IO) != 0;
        let store = match fill.flags {
            flags if flags & tlb::WRITE_IO != 0 => Answer::Device,
            flags if flags & tlb::WRITE_DISCARD != 0 => Answer::Nothing,
            _ => Answer::Memory,
        };
        let page = fill.hwaddr >> 12;
        let behind = Behind::new(page, fill.flags & tlb::READ_IO != 0, store).bits();
        let context = fill.mmu_idx as usize % CONTEXTS;
        let pages = self.shown[context].get_or_insert_with(|| vec![0; PAGES].into_boxed_slice());
        let Some(shown) = pages.get_mut(fill.vaddr as u32 as usize >> 12) else { return };
        let is_news = *shown != behind;
        if fill.page_size < 4096 && ((fill.vaddr ^ fill.hwaddr) & 0xfff != 0 || (is_news && *shown != 0)) {
            self.recorder.fail(format!(
                "the page of {} bytes at {:#010x} is not at the same place in its 4 KiB as in physical memory ({:#x}): \
                 such mappings are not supported",
                fill.page_size, fill.vaddr, fill.hwaddr
            ));
            return;
        }
        *shown = behind;
        let is_recording = self.recorder.phase == Phase::Recording;
        if device_takes_part && self.devices.get(&page) != Some(&fill.device) {
            self.devices.insert(page, fill.device);
            if is_recording {
                self.tell_devices(page);
            }
        }
        if is_news && is_recording {
            self.recorder.tell_mapping([map_word(context, fill.vaddr), behind]);
        }
    }

    /// Tells which devices answer in a physical page.
    pub(super) fn tell_devices(&mut self, page: u64) {
        let (start, last) = (page << 12, page << 12 | 0xfff);
        match self.devices.get(&page) {
            Some(name) if !name.is_null() => {
                // SAFETY: QEMU's names end with NUL and live for ever.
                let name = unsafe { CStr::from_ptr(*name) }.to_string_lossy();
                let number = self.names.number(&name);
                self.recorder.tell_mapping([Tag::DeviceRange.word() | u64::from(number), start, last]);
            }
            _ => {
                for (first, end, name) in devices_between(&self.api, start, last) {
                    let number = self.names.number(&name);
                    self.recorder.tell_mapping([Tag::DeviceRange.word() | u64::from(number), first, end]);
                }
            }
        }
    }
}

/// The cause of a discontinuity of one of QEMU's types that led to the vector `to`, and what it says of the block before.
fn arm_discontinuity(kind: u32, to: u64) -> (u8, From) {
    let vector = (to & 0x1f) as u8 >> 2;
    match kind {
        discontinuity::HOST_CALL => (cause::HOST_CALL, From::Between),
        discontinuity::INTERRUPT => (vector, From::Between),
        _ => match vector {
            // The program counter is behind the instruction, which is the last of its block.
            cause::SUPERVISOR_CALL => (vector, From::Between),
            cause::PREFETCH_ABORT => (vector, From::Fetch),
            _ => (vector, From::At),
        },
    }
}

pub(super) fn map_word(context: usize, address: u64) -> u64 {
    Tag::Map.word() | (context as u64) << 32 | u64::from(address as u32)
}

/// The devices that answer in a range of physical addresses: first address, last address, name.
fn devices_between(api: &Api, start: u64, last: u64) -> Vec<(u64, u64, String)> {
    struct List {
        start: u64,
        last: u64,
        found: Vec<(u64, u64, String)>,
    }
    unsafe extern "C" fn note(range: *const MemoryRange, list: *mut c_void) {
        // SAFETY: QEMU passes a valid range, and the list that it was given below.
        let (range, list) = unsafe { (&*range, &mut *list.cast::<List>()) };
        let (first, last) =
            (range.start.max(list.start), (range.start.saturating_add(range.len - 1)).min(list.last));
        let is_memory = matches!(range.kind, memory_kind::RAM | memory_kind::ROM);
        if range.address_space == 0 && first <= last && !is_memory {
            // SAFETY: QEMU's names end with NUL and live for ever.
            let name = unsafe { CStr::from_ptr(range.name) }.to_string_lossy().into_owned();
            list.found.push((first, last, name));
        }
    }
    let mut list = List { start, last, found: Vec::new() };
    // SAFETY: on the vCPU's thread, as the function asks; the list outlives the call.
    unsafe { (api.for_each_memory_range)(note, std::ptr::from_mut(&mut list).cast()) };
    list.found
}
