//! Going back in a segment.

use ktrace_format::segment::cursor::Further;
use ktrace_machine::{Cpu, RegisterSet};

use super::{Engine, Run};
use crate::journal::FullJournal;

/// Everything of an engine that is cheap to copy, and how much its journal holds.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) executed: u64,
    cpu: Cpu,
    unproven: RegisterSet,
    volatile_at: u64,
    remapped: bool,
    run: Option<Run>,
    ordinal: u32,
    next_control: u64,
    checked: u64,
    cursor: ktrace_format::segment::cursor::Cursor,
    digest: ktrace_format::digest::Digest,
    accesses: u64,
    next_surprise: u64,
    surprise_kind: u64,
    limit: u64,
    finished: bool,
    further: Further,
    journal: usize,
}

impl Engine<FullJournal> {
    /// A copy of the state here, good until the segment is left.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            executed: self.executed,
            cpu: self.cpu.clone(),
            unproven: self.unproven,
            volatile_at: self.volatile_at,
            remapped: self.remapped,
            run: self.run,
            ordinal: self.ordinal,
            next_control: self.next_control,
            checked: self.checked,
            cursor: self.memory.cursor,
            digest: self.memory.digest,
            accesses: self.memory.accesses,
            next_surprise: self.memory.next_surprise,
            surprise_kind: self.memory.surprise_kind,
            limit: self.memory.limit,
            finished: self.finished,
            further: self.further,
            journal: self.memory.journal.len(),
        }
    }

    /// Goes back to an earlier state of the same segment.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) {
        self.executed = snapshot.executed;
        self.cpu = snapshot.cpu.clone();
        self.unproven = snapshot.unproven;
        self.volatile_at = snapshot.volatile_at;
        self.remapped = snapshot.remapped;
        self.run = snapshot.run;
        self.ordinal = snapshot.ordinal;
        self.next_control = snapshot.next_control;
        self.checked = snapshot.checked;
        self.finished = snapshot.finished;
        self.further = snapshot.further;
        self.halted = false;
        self.forget_expected();
        let memory = &mut self.memory;
        memory.journal.undo_to(snapshot.journal, &mut memory.shadow, &mut self.entries, &mut self.started);
        memory.cursor = snapshot.cursor;
        memory.digest = snapshot.digest;
        memory.accesses = snapshot.accesses;
        memory.next_surprise = snapshot.next_surprise;
        memory.surprise_kind = snapshot.surprise_kind;
        memory.limit = snapshot.limit;
        memory.resume();
    }
}
