//! Entering blocks: most are those that came last time at the same entry point, and what the trace says of the others.

use ktrace_format::segment::CHECKPOINT_BLOCKS;
use ktrace_format::segment::encoder::entry_key;

use super::{Divergence, Engine, Noted, Run};
use crate::journal::{Journal, Slot, Undo};

/// How many entry points [`Expected`] is kept for.
pub(super) const ENTRY_CACHE: usize = 1 << 14;

/// What is expected at an entry point, all in one place: blocks are entered so often that each other place that has to be
/// looked at counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    key: u64,
    /// The entry point's number. It and the key are good in every segment, the rest only if `epoch` is the engine's.
    entry: u32,
    epoch: u32,
    /// As in `Run`.
    id: u32,
    started: u32,
}

impl Expected {
    /// Of no entry point.
    pub(super) const NOTHING: Expected = Expected { key: u64::MAX, entry: 0, epoch: 0, id: 0, started: 0 };

    /// Where an entry point's is.
    #[inline]
    fn place(key: u64) -> usize {
        (key ^ key >> 29) as usize >> 1 & (ENTRY_CACHE - 1)
    }
}

impl<J: Journal> Engine<J> {
    #[inline]
    fn entry_at(&mut self, key: u64) -> Option<u32> {
        match self.expected.get(Expected::place(key)) {
            Some(expected) if expected.key == key => Some(expected.entry),
            _ => self.find_entry(key),
        }
    }

    #[cold]
    fn find_entry(&mut self, key: u64) -> Option<u32> {
        let entry = self.program.entry_with(key)?;
        if let Some(place) = self.expected.get_mut(Expected::place(key)) {
            *place = Expected { key, entry, ..Expected::NOTHING };
        }
        Some(entry)
    }

    /// What is expected at an entry point is no longer what it was.
    fn expect_anew(&mut self, entry: u32) {
        let Some(key) = self.program.entry_key(entry) else { return };
        if let Some(place) = self.expected.get_mut(Expected::place(key)).filter(|place| place.key == key) {
            place.epoch = 0;
        }
    }

    /// Enters the next block if it is just the expected one.
    #[inline(always)]
    pub(super) fn enter_expected(&mut self) -> Option<Run> {
        let key = entry_key(self.cpu.pc(), self.cpu.mode().bits());
        let expected = self.expected.get(Expected::place(key))?;
        if expected.key != key || expected.epoch != self.epoch || self.ordinal >= self.special {
            return None;
        }
        self.ordinal += 1;
        Some(Run { id: expected.id, started: expected.started, index: 0, discontinuity: None })
    }

    /// Enters the next block.
    #[inline(never)]
    pub(super) fn enter(&mut self) -> Result<Run, Divergence> {
        if self.ordinal.is_multiple_of(CHECKPOINT_BLOCKS) && self.ordinal > 0 {
            self.check_digest()?;
        }
        let (address, mode) = (self.cpu.pc(), self.cpu.mode().bits());
        let run = if u64::from(self.ordinal) == self.next_control {
            self.enter_slowly(address, mode)?
        } else {
            self.enter_first(address, mode)?
        };
        self.ordinal += 1;
        // The first block has no checkpoint.
        let checkpoint = self.ordinal.max(1).next_multiple_of(CHECKPOINT_BLOCKS);
        let special = checkpoint.min(self.head.blocks);
        self.special = u32::try_from(self.next_control).map_or(special, |control| special.min(control));
        Ok(run)
    }

    /// Enters the expected block, and notes it where the next visit looks first.
    fn enter_first(&mut self, address: u32, mode: u16) -> Result<Run, Divergence> {
        let key = entry_key(address, mode);
        let expected = self.entry_at(key).and_then(|entry| {
            let slot = self.entries.get(entry as usize)?;
            let id = if slot.generation == self.generation { slot.value } else { self.first_entry(entry)? };
            Some((entry, id))
        });
        let Some((entry, id)) = expected else { return Err(self.no_block(address)) };
        let started = self.expected_started(id);
        if let Some(place) = self.expected.get_mut(Expected::place(key)) {
            *place = Expected { key, entry, epoch: self.epoch, id, started };
        }
        Ok(Run { id, started, index: 0, discontinuity: None })
    }

    #[cold]
    fn no_block(&self, address: u32) -> Divergence {
        let lost =
            if self.newest_lost.is_some() { ": a part of its dictionary of blocks is lost" } else { "" };
        self.divergence(format!("the model arrives at {address:#010x}, where the trace has no block{lost}"))
    }

    /// The first visit of an entry point in this segment.
    fn first_entry(&mut self, entry: u32) -> Option<u32> {
        let id = self.program.first_expected(entry, self.head.dictionary)?;
        if self.newest_lost.is_some_and(|lost| lost > id) {
            return None;
        }
        self.set_entry(entry, id);
        Some(id)
    }

    fn set_entry(&mut self, entry: u32, value: u32) {
        if let Some(slot) = self.entries.get_mut(entry as usize) {
            let old = *slot;
            self.memory.journal.note(|| Undo::Entry { entry, slot: old });
            *slot = Slot { generation: self.generation, value };
            self.expect_anew(entry);
        }
    }

    #[inline]
    fn expected_started(&mut self, id: u32) -> u32 {
        match self.started.get(id as usize) {
            Some(slot) if slot.generation == self.generation => slot.value,
            _ => {
                let value = self.block(id).map_or(0, |block| block.len() as u32);
                self.set_started(id, value);
                value
            }
        }
    }

    fn set_started(&mut self, block: u32, value: u32) {
        if let Some(slot) = self.started.get_mut(block as usize) {
            let old = *slot;
            self.memory.journal.note(|| Undo::Started { block, slot: old });
            *slot = Slot { generation: self.generation, value };
            if let Some(entry) = self.program.entry_of(block) {
                self.expect_anew(entry);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn enter_slowly(&mut self, address: u32, mode: u16) -> Result<Run, Divergence> {
        let memory = &mut self.memory;
        let control = memory.cursor.control(&memory.streams).map_err(|error| self.stream_error(&error))?;
        self.next_control += 1;
        self.advance_control()?;
        self.device_writes(control.device_writes)?;
        self.further = control.further;
        let entry = self.entry_at(entry_key(address, mode));
        let id = match control.block {
            Some(id) => {
                let entry = self.program.entry_of(id);
                let entry = entry.ok_or_else(|| self.divergence(format!("the trace has no block {id}")))?;
                if self.program.entry_key(entry) != Some(entry_key(address, mode)) {
                    let key = self.program.entry_key(entry).unwrap_or_default();
                    return Err(self.divergence(format!(
                        "the model arrives at {address:#010x} in mode {mode:#06x}, the trace at {:#010x} in mode {:#06x}",
                        key as u32,
                        key >> 32
                    )));
                }
                self.set_entry(entry, id);
                id
            }
            None => {
                let slot = entry.and_then(|entry| self.entries.get(entry as usize).copied());
                match (slot, entry) {
                    (Some(slot), _) if slot.generation == self.generation => slot.value,
                    (_, Some(entry)) => self.first_entry(entry).ok_or_else(|| self.no_block(address))?,
                    _ => return Err(self.no_block(address)),
                }
            }
        };
        let length = self.block(id).map(|block| block.len() as u32);
        let length =
            length.ok_or_else(|| self.divergence(format!("block {id} of the trace can't be decoded")))?;
        let started = match control.started {
            Some(started) if started <= length => {
                self.set_started(id, started);
                started
            }
            Some(started) => {
                return Err(
                    self.divergence(format!("{started} of {length} instructions started, says the trace"))
                );
            }
            None => self.expected_started(id),
        };
        if let Some((_, accesses)) = control.discontinuity {
            let limit = self.memory.accesses.saturating_add(accesses);
            self.memory.set_limit(limit);
        }
        Ok(Run { id, started, index: 0, discontinuity: control.discontinuity.map(|(cause, _)| cause) })
    }

    /// Devices write to memory so many times.
    pub(super) fn device_writes(&mut self, count: u64) -> Result<(), Divergence> {
        if count == 0 {
            return Ok(());
        }
        let stand = self.stand();
        for _ in 0..count {
            self.memory.device_write(stand).map_err(|error| self.stream_error(&error))?;
            if self.memory.journal.is_full() {
                return Err(self.too_much());
            }
        }
        if let Some(noted) = &mut self.noted {
            noted.push(Noted::DeviceWrites { executed: self.executed, count });
        }
        Ok(())
    }

    /// The segment can't be shown, only verified.
    #[cold]
    pub(crate) fn too_much(&self) -> Divergence {
        self.divergence("the segment changes more memory than can be kept")
    }
}
