//! What the vCPU's thread and the encoders' share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use crate::ring::Cursor;

/// The ring's cursor, once there is one.
static CURSOR: AtomicPtr<Cursor> = AtomicPtr::new(std::ptr::null_mut());

/// There is a vCPU, which appends events here.
pub fn publish(cursor: &'static Cursor) {
    CURSOR.store(std::ptr::from_ref(cursor).cast_mut(), Ordering::Release);
}

/// Makes generated code call at the vCPU's next block. On any thread.
pub fn call_at_next_block() {
    let cursor = CURSOR.load(Ordering::Acquire);
    if !cursor.is_null() {
        // SAFETY: it was published as a reference that is valid for ever; the limit is atomic.
        unsafe { (*cursor).limit.store(0, Ordering::SeqCst) };
    }
}

/// See the [module](self).
#[derive(Default)]
pub struct Shared {
    /// The vCPU of the portable path ends the segment at the next block once its count of instructions reaches this.
    pub segment_limit: AtomicU64,
    /// The segment has lasted long enough.
    pub cut_wanted: AtomicBool,
    /// The processor was reset since the last block.
    pub was_reset: AtomicBool,
    /// An encoder has failed: stop.
    pub failed: AtomicBool,
    /// What went wrong on the vCPU's side, for the trace.
    pub error: Mutex<Option<String>>,
    /// No recording is under way on the vCPU's side any more.
    pub stopped: AtomicBool,
    instructions: AtomicU64,
    segments: AtomicU64,
}

impl Shared {
    /// Makes the vCPU end its segment at the next block.
    pub fn ask_for_cut(&self) {
        self.cut_wanted.store(true, Ordering::SeqCst);
        call_at_next_block();
        // The vCPU sees it at its next block. Should it be setting the limit itself just now, it has just cut.
        self.segment_limit.store(0, Ordering::Relaxed);
    }

    /// A segment of so many instructions is in the file.
    pub fn committed(&self, instructions: u64) {
        self.instructions.fetch_add(instructions, Ordering::SeqCst);
        self.segments.fetch_add(1, Ordering::SeqCst);
    }

    /// Segments in the file, and at least their instructions (those of the next may be among them).
    pub fn progress(&self) -> (u64, u64) {
        let segments = self.segments.load(Ordering::SeqCst);
        (segments, self.instructions.load(Ordering::SeqCst))
    }
}
