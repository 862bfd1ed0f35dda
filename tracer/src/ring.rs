//! Hands events from the vCPU's thread to the encoders' in large chunks of words, segment by segment. When all chunks are
//! full the vCPU waits, so that no event is dropped.
//!
//! Events are appended at a [`Cursor`], which callbacks of this plugin move on, and on a patched QEMU generated code too:
//! it compares the cursor with a limit at each block, and leaves it to the slack above the limit to hold a block's accesses.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use ktrace_machine::Registers;

use crate::event::{ALL_STARTED, Tag};

/// Words in a chunk: 256 KiB. All chunks together stay within a large cache.
pub const CHUNK_WORDS: usize = 1 << 15;
/// Words above a chunk's limit: 1 MiB. A block has 512 instructions at most, one of which makes 64 accesses at most (of
/// 32 double registers in two halves each), each of two words.
const SLACK_WORDS: usize = 1 << 17;
/// Chunks in all: the vCPU can be 32 MiB of events ahead.
const CHUNKS: usize = 256;
/// Of these so many are always empty, see [`Pool`].
const IDLE_CHUNKS: usize = 128;

/// Where the next event goes. Generated code knows the layout.
#[repr(C)]
#[derive(Debug)]
pub struct Cursor {
    /// Keeps what other threads write to out of the cache lines that generated code writes to all the time.
    _before: [u64; 64],
    /// Address of the next word.
    pub next: UnsafeCell<u64>,
    /// Generated code calls the plugin at the entry of a block if `next` is not below. Any thread may write 0 here.
    pub limit: AtomicU64,
    /// The opaque instruction that ends the block and has results to be read: address of its `OpaqueSite`, or 0.
    pub opaque: UnsafeCell<u64>,
    /// On a stock QEMU how many instructions of the block have started, as far as that can matter; on a patched one
    /// how many there were in long blocks since it was last looked at.
    pub counted: UnsafeCell<u64>,
    /// How many accesses of the block under way, if they are packed, an instruction that makes several has got to.
    pub progress: UnsafeCell<u64>,
    /// As `_before`.
    _behind: [u64; 64],
}

// SAFETY: the cells are touched by the vCPU's thread and by generated code on it only, and at exit, when no vCPU runs any
// more; the limit is atomic.
unsafe impl Sync for Cursor {}

#[cfg(test)]
impl Cursor {
    /// A cursor as QEMU's scoreboards make it.
    pub fn at_nothing() -> &'static Cursor {
        Box::leak(Box::new(Cursor {
            _before: [0; 64],
            next: UnsafeCell::new(0),
            limit: AtomicU64::new(0),
            opaque: UnsafeCell::new(0),
            counted: UnsafeCell::new(0),
            progress: UnsafeCell::new(0),
            _behind: [0; 64],
        }))
    }
}

/// What all events of a segment belong to.
#[derive(Clone, Debug)]
pub struct Start {
    /// Counts segments.
    pub sequence: u64,
    /// All registers before its first instruction.
    pub registers: Registers,
    /// Blocks that were translated before.
    pub dictionary: u32,
}

/// A segment under way.
pub struct Segment {
    /// What it begins with.
    pub start: Start,
    chunks: Receiver<Full>,
    pool: Arc<Pool>,
}

type Chunk = Box<[u64]>;

/// A filled chunk.
struct Full {
    chunk: Chunk,
    words: usize,
}

impl Segment {
    /// Calls `take` with chunk after chunk, until the segment's end or an error.
    pub fn read<E>(&self, mut take: impl FnMut(&[u64]) -> Result<(), E>) -> Result<(), E> {
        let mut result = Ok(());
        for full in &self.chunks {
            if result.is_ok() {
                result = take(full.chunk.get(..full.words).unwrap_or_default());
            }
            self.pool.give(full.chunk);
        }
        result
    }
}

/// Empty chunks, in the order in which they were read.
///
/// A chunk is not used again as soon as it has been read: its lines are then in the cache of the core that read them, and
/// each store of the vCPU's would have to fetch one from there, which made the vCPU's thread twice as slow. So some chunks
/// always lie idle.
struct Pool {
    empty: Mutex<VecDeque<Chunk>>,
    given: Condvar,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Chunk>> {
        match self.empty.lock() {
            Ok(empty) => empty,
            // Whoever panicked has not broken a queue of chunks.
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    fn give(&self, chunk: Chunk) {
        self.lock().push_back(chunk);
        self.given.notify_one();
    }

    /// Waits for the chunk that has been empty for longest.
    fn take(&self) -> Chunk {
        let mut empty = self.lock();
        loop {
            if empty.len() > IDLE_CHUNKS
                && let Some(chunk) = empty.pop_front()
            {
                return chunk;
            }
            empty = match self.given.wait(empty) {
                Ok(empty) => empty,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
    }
}

/// The vCPU's end.
pub struct Writer {
    cursor: &'static Cursor,
    chunk: Chunk,
    /// Gone when the recording is over: then the encoders' threads end.
    segments: Option<Sender<Segment>>,
    full: Option<Sender<Full>>,
    pool: Arc<Pool>,
    sequence: u64,
    /// Words of the segment that were handed over.
    handed_over: u64,
    /// The encoders are gone: events are written over each other from now on.
    discarding: bool,
}

fn fresh() -> Chunk {
    vec![0; CHUNK_WORDS + SLACK_WORDS].into_boxed_slice()
}

impl Writer {
    /// The vCPU's end of a ring; encoders find segments where `segments` sends them. The cursor is the writer's alone, but
    /// for the limit.
    pub fn new(segments: Sender<Segment>, cursor: &'static Cursor) -> Writer {
        let empty = (1..CHUNKS).map(|_| fresh()).collect();
        let pool = Arc::new(Pool { empty: Mutex::new(empty), given: Condvar::new() });
        let mut writer = Writer {
            cursor,
            chunk: fresh(),
            segments: Some(segments),
            full: None,
            pool,
            sequence: 0,
            handed_over: 0,
            discarding: true,
        };
        writer.rewind();
        writer.restore_limit();
        writer
    }

    #[inline]
    fn next(&self) -> u64 {
        // SAFETY: only this thread, which is the vCPU's, and generated code on it use the cell.
        unsafe { *self.cursor.next.get() }
    }

    /// Reads and clears [`Cursor::counted`].
    #[inline]
    pub fn take_counted(&self) -> u64 {
        // SAFETY: as in `next`.
        unsafe { std::mem::take(&mut *self.cursor.counted.get()) }
    }

    /// As [`take_counted`](Self::take_counted), for a count of instructions of one block.
    #[inline]
    pub fn take_started(&self) -> u32 {
        self.take_counted() as u32
    }

    /// [`Cursor::progress`].
    pub fn progress(&self) -> u64 {
        // SAFETY: as in `next`.
        unsafe { *self.cursor.progress.get() }
    }

    /// Reads and clears [`Cursor::opaque`].
    pub fn take_opaque(&self) -> u64 {
        // SAFETY: as in `next`.
        unsafe { std::mem::take(&mut *self.cursor.opaque.get()) }
    }

    /// Sets [`Cursor::opaque`], and makes generated code call at the next block.
    pub fn set_opaque(&self, site: u64) {
        // SAFETY: as in `next`.
        unsafe { *self.cursor.opaque.get() = site };
        self.call_at_next_block();
    }

    fn start(&self) -> u64 {
        self.chunk.as_ptr() as u64
    }

    /// Forgets the events of the chunk under way. If somebody wants a call at the next block there is still one.
    pub fn rewind(&mut self) {
        // SAFETY: as in `next`.
        unsafe { *self.cursor.next.get() = self.start() };
        let (limit, order) = (self.limit(), Ordering::SeqCst);
        let keep_call = |old: u64| (old != 0).then_some(limit);
        // An error says that it was 0, and it is.
        let _ = self.cursor.limit.fetch_update(order, order, keep_call);
    }

    fn limit(&self) -> u64 {
        self.start() + 8 * CHUNK_WORDS as u64
    }

    /// Sets the limit that another thread may have set to 0: to be done at the start of the call that it wants, before
    /// looking what for.
    pub fn restore_limit(&self) {
        self.cursor.limit.store(self.limit(), Ordering::SeqCst);
    }

    /// Makes generated code call at the next block.
    pub fn call_at_next_block(&self) {
        self.cursor.limit.store(0, Ordering::SeqCst);
    }

    /// Whether the chunk is full, as generated code sees it.
    pub fn is_full(&self) -> bool {
        self.next() >= self.limit()
    }

    /// Words of the segment under way so far.
    pub fn segment_words(&self) -> u64 {
        self.handed_over + (self.next() - self.start()) / 8
    }

    /// How many segments have begun.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Appends the words of one event.
    #[inline]
    pub fn push<const N: usize>(&mut self, words: [u64; N]) {
        let mut next = self.next();
        // Generated code may have used the slack for a block's accesses, but not all of it.
        if next + 8 * N as u64 > self.start() + 8 * self.chunk.len() as u64 {
            self.flush();
            next = self.start();
        }
        // SAFETY: `next` is within the chunk, which is this writer's alone, and N words lie between it and the end: checked
        // above. It is a multiple of 8: it starts at a word and moves by words.
        unsafe {
            let place = next as *mut u64;
            for (at, word) in words.into_iter().enumerate() {
                place.add(at).write(word);
            }
            *self.cursor.next.get() = next + 8 * N as u64;
        }
    }

    /// Appends the words of one short event in the middle of a block. The block's packed accesses are not all written yet,
    /// so its chunk can't be handed over: there is room for such events in the slack.
    pub fn push_inside(&mut self, words: &[u64]) {
        for word in words {
            self.push([*word]);
        }
    }

    /// Appends the words of one event of any length up to a chunk, between two blocks.
    pub fn push_all(&mut self, words: &[u64]) {
        if (self.next() - self.start()) / 8 + words.len() as u64 > CHUNK_WORDS as u64 {
            self.flush();
        }
        for word in words {
            self.push([*word]);
        }
    }

    /// Hands over what there is, and waits for an empty chunk.
    pub fn flush(&mut self) {
        let words = (self.next() - self.start()) as usize / 8;
        if let (Some(full), false) = (&self.full, self.discarding)
            && words > 0
        {
            let chunk = std::mem::replace(&mut self.chunk, self.pool.take());
            self.handed_over += words as u64;
            if let Err(SendError(Full { chunk, .. })) = full.send(Full { chunk, words }) {
                self.discarding = true;
                self.pool.give(chunk);
            }
        }
        self.rewind();
    }

    /// Ends the segment under way, of whose last block so many instructions started, and begins another.
    pub fn begin_segment(&mut self, registers: Registers, dictionary: u32, started: u32) {
        self.end_segment(started);
        let (full, chunks) = channel();
        let start = Start { sequence: self.sequence, registers, dictionary };
        let segment = Segment { start, chunks, pool: Arc::clone(&self.pool) };
        self.sequence += 1;
        self.handed_over = 0;
        self.full = Some(full);
        self.discarding = self.segments.as_ref().is_none_or(|segments| segments.send(segment).is_err());
        self.rewind();
    }

    fn end_segment(&mut self, started: u32) {
        if self.full.is_some() && started != ALL_STARTED {
            self.push([Tag::Started.word() | u64::from(started)]);
        }
        self.flush();
        self.full = None;
    }

    /// Ends the recording with a last event.
    pub fn end(&mut self, last: u64) {
        self.push([last]);
        self.flush();
        self.discard();
    }

    /// The recording is over: no event is wanted any more.
    pub fn discard(&mut self) {
        self.full = None;
        self.segments = None;
        self.discarding = true;
        self.rewind();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> (Writer, Receiver<Segment>) {
        let (sender, segments) = channel();
        (Writer::new(sender, Cursor::at_nothing()), segments)
    }

    // SAFETY: as in the tracer, one thread uses it at a time.
    unsafe impl Send for Writer {}

    #[test]
    fn every_word_arrives_in_order_in_its_segment() {
        let (mut writer, segments) = writer();
        const EVENTS: u64 = 3_000_000;
        let sent = std::thread::spawn(move || {
            for number in 0..EVENTS {
                if number % 100_000 == 0 {
                    writer.begin_segment(Registers::from([number as u32]), 0, ALL_STARTED);
                }
                match number % 3 {
                    0 => writer.push([number]),
                    1 => writer.push([number, number]),
                    _ => writer.push_all(&[number; 17]),
                }
            }
            writer.end(EVENTS);
        });
        let words = |number: u64| std::iter::repeat_n(number, [1, 2, 17][number as usize % 3]);
        let mut expected = (0..EVENTS).flat_map(words);
        let mut last = 0;
        for (count, segment) in (0u32..).zip(&segments) {
            assert_eq!(segment.start.registers[0], count * 100_000);
            segment
                .read(|words| {
                    for word in words {
                        if let Some(expected) = expected.next() {
                            assert_eq!(*word, expected);
                        }
                        last = *word;
                    }
                    Ok::<(), ()>(())
                })
                .unwrap();
        }
        assert_eq!((expected.next(), last), (None, EVENTS));
        sent.join().unwrap();
    }

    #[test]
    fn a_call_that_is_wanted_outlives_the_chunk() {
        let (mut writer, _segments) = writer();
        writer.begin_segment(Registers::zero(17), 0, ALL_STARTED);
        let limit = |writer: &Writer| writer.cursor.limit.load(Ordering::SeqCst);
        writer.call_at_next_block();
        writer.push([1]);
        writer.flush();
        assert_eq!(limit(&writer), 0);
        writer.begin_segment(Registers::zero(17), 0, ALL_STARTED);
        assert_eq!(limit(&writer), 0);
        writer.restore_limit();
        assert_eq!(limit(&writer), writer.limit());
        writer.push([2]);
        writer.flush();
        assert_eq!(limit(&writer), writer.limit());
    }

    #[test]
    fn a_gone_reader_does_not_block_the_writer() {
        let (mut writer, segments) = writer();
        writer.begin_segment(Registers::zero(17), 0, ALL_STARTED);
        drop(segments);
        for number in 0..CHUNK_WORDS * CHUNKS * 2 {
            writer.push([number as u64]);
        }
        writer.flush();
    }
}
