//! Hands events from the vCPU's thread to the encoder's in large chunks of words. When all chunks are full the vCPU
//! waits, so that no event is dropped.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Words in a chunk: 256 KiB. All chunks together stay within a large cache.
pub const CHUNK_WORDS: usize = 1 << 15;
/// Chunks in all: the vCPU can be 8 MiB of events ahead: while the encoder compresses a segment.
const CHUNKS: usize = 32;

type Chunk = Box<[u64]>;

/// A filled chunk: how many words of it count.
pub struct Full {
    chunk: Chunk,
    words: usize,
}

impl Full {
    /// The events.
    pub fn words(&self) -> &[u64] {
        self.chunk.get(..self.words).unwrap_or_default()
    }
}

/// The vCPU's end.
pub struct Writer {
    chunk: Chunk,
    next: usize,
    full: SyncSender<Full>,
    empty: Receiver<Chunk>,
    /// The encoder is gone: events are written over each other from now on.
    discarding: bool,
}

/// The encoder's end.
pub struct Reader {
    full: Receiver<Full>,
    empty: Sender<Chunk>,
}

/// Both ends of a ring.
pub fn ring() -> (Writer, Reader) {
    let chunk = || vec![0; CHUNK_WORDS].into_boxed_slice();
    let (full, filled) = sync_channel(CHUNKS);
    let (empty, emptied) = channel();
    for _ in 1..CHUNKS {
        // The receiver is right here, so this can't fail.
        let _ = empty.send(chunk());
    }
    let writer = Writer { chunk: chunk(), next: 0, full, empty: emptied, discarding: false };
    (writer, Reader { full: filled, empty })
}

impl Writer {
    /// Appends an event of one word.
    #[inline]
    pub fn push_one(&mut self, word: u64) {
        if let Some(place) = self.chunk.get_mut(self.next) {
            *place = word;
            self.next += 1;
        } else {
            self.push_one_slowly(word);
        }
    }

    /// Appends an event of two words. They are passed one by one to the end: as an array they would go through the
    /// stack, where a wide load after two narrow stores waits for both, which doubled the cost of an access.
    #[inline]
    pub fn push_two(&mut self, first: u64, second: u64) {
        if let Some([one, two]) = self.chunk.get_mut(self.next..).and_then(|rest| rest.first_chunk_mut::<2>())
        {
            *one = first;
            *two = second;
            self.next += 2;
        } else {
            self.push_two_slowly(first, second);
        }
    }

    #[cold]
    #[inline(never)]
    fn push_one_slowly(&mut self, word: u64) {
        self.push(&[word]);
    }

    #[cold]
    #[inline(never)]
    fn push_two_slowly(&mut self, first: u64, second: u64) {
        self.push(&[first, second]);
    }

    /// Appends the words of one event of any length up to 64.
    pub fn push(&mut self, words: &[u64]) {
        if self.chunk.len() - self.next < words.len() {
            self.flush();
        }
        if let Some(room) = self.chunk.get_mut(self.next..self.next + words.len()) {
            room.copy_from_slice(words);
            self.next += words.len();
        }
    }

    /// Hands over what there is, and waits for an empty chunk.
    pub fn flush(&mut self) {
        let words = std::mem::take(&mut self.next);
        if self.discarding || words == 0 {
            return;
        }
        let Ok(fresh) = self.empty.recv() else {
            self.discarding = true;
            return;
        };
        let chunk = std::mem::replace(&mut self.chunk, fresh);
        self.discarding = self.full.send(Full { chunk, words }).is_err();
    }

    /// No event is wanted any more.
    pub fn discard(&mut self) {
        self.discarding = true;
        self.next = 0;
    }
}

impl Reader {
    /// Waits for the next chunk; `None` once the writer is gone and all is read.
    pub fn next(&self) -> Option<Full> {
        self.full.recv().ok()
    }

    /// Gives a chunk back.
    pub fn done(&self, full: Full) {
        // The writer may be gone; then nobody needs the chunk.
        let _ = self.empty.send(full.chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_arrives_in_order() {
        let (mut writer, reader) = ring();
        let sent = std::thread::spawn(move || {
            for number in 0..3_000_000u64 {
                match number % 3 {
                    0 => writer.push_one(number),
                    1 => writer.push_two(number, number),
                    _ => writer.push(&[number; 17]),
                }
            }
            writer.flush();
        });
        let mut expected = (0..3_000_000u64).flat_map(|number| {
            std::iter::repeat_n(
                number,
                match number % 3 {
                    0 => 1,
                    1 => 2,
                    _ => 17,
                },
            )
        });
        while let Some(full) = reader.next() {
            for word in full.words() {
                assert_eq!(Some(*word), expected.next());
            }
            reader.done(full);
        }
        assert_eq!(expected.next(), None);
        sent.join().unwrap();
    }

    #[test]
    fn a_writer_without_a_reader_goes_on() {
        let (mut writer, reader) = ring();
        drop(reader);
        for number in 0..10 * CHUNK_WORDS as u64 {
            writer.push_one(number);
        }
        writer.flush();
        assert!(writer.discarding);
    }
}
