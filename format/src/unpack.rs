//! Decompression, with one context a thread: to make a context takes longer than to unpack a small stream.

use std::cell::RefCell;
use std::io;

use zstd::bulk::Decompressor;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Unpacks one frame, which expands to at most `limit` bytes: no more is allocated.
pub(crate) fn unpack(frame: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(Decompressor::new()?),
        };
        decompressor.decompress(frame, limit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_frame_does_not_spoil_the_next() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let frame = zstd::bulk::compress(&bytes, 1).unwrap();
        for _ in 0..2 {
            assert_eq!(unpack(&frame, bytes.len()).unwrap(), bytes);
            assert!(unpack(&frame, bytes.len() - 1).is_err());
            assert!(unpack(&frame[..frame.len() - 3], bytes.len()).is_err());
        }
    }
}
