//! Writes of devices to memory, on their way from the thread that was told of them to the vCPU's.
//!
//! The vCPU goes on while a device writes, so what is recorded is not what the device wrote but what memory holds at the next
//! block boundary of the vCPU, read there: bytes that the vCPU itself has stored to since then are its own.

use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Memory that a device has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Physical address of the first byte.
    pub physical: u64,
    /// Where QEMU has it, as an address.
    pub data: usize,
    /// How many bytes.
    pub length: usize,
}

impl Changed {
    /// Copies the bytes from `from` on, as many as fit, to `into`; returns how many.
    ///
    /// # Safety
    /// The memory must still belong to the machine.
    pub unsafe fn copy(&self, from: usize, into: &mut [u8]) -> usize {
        let count = into.len().min(self.length.saturating_sub(from));
        // SAFETY: QEMU has told that these bytes are there, and the caller that they still are. A device may write to them
        // meanwhile, as may any guest program: the copy then holds old bytes and new, and the device's write is told of
        // again. Reading them one by one, volatile, is all that is asked of such memory.
        unsafe {
            let source = (self.data as *const u8).add(from);
            for (at, byte) in into.iter_mut().take(count).enumerate() {
                *byte = source.add(at).read_volatile();
            }
        }
        count
    }
}

/// See the [module](self).
pub struct DeviceWrites {
    queue: Mutex<Vec<Changed>>,
    any: AtomicBool,
}

impl DeviceWrites {
    /// None.
    pub const fn new() -> Self {
        DeviceWrites { queue: Mutex::new(Vec::new()), any: AtomicBool::new(false) }
    }

    /// Notes one. On any thread.
    pub fn note(&self, physical: u64, data: *const c_void, length: usize) {
        let mut queue = match self.queue.lock() {
            Ok(queue) => queue,
            Err(poisoned) => poisoned.into_inner(),
        };
        let new = Changed { physical, data: data as usize, length };
        match queue.last_mut() {
            // A ring's index written once more, or a buffer continued.
            Some(last) if last.physical == physical && last.data == new.data => {
                last.length = last.length.max(length);
            }
            Some(last)
                if last.physical + last.length as u64 == physical && last.data + last.length == new.data =>
            {
                last.length += length;
            }
            _ => queue.push(new),
        }
        self.any.store(true, Ordering::SeqCst);
    }

    /// Takes all. On the vCPU's thread, or when it does not run any more.
    pub fn take(&self) -> Vec<Changed> {
        if !self.any.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut queue = match self.queue.lock() {
            Ok(queue) => queue,
            Err(poisoned) => poisoned.into_inner(),
        };
        self.any.store(false, Ordering::SeqCst);
        std::mem::take(&mut *queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one() {
        let memory = [1u8, 2, 3, 4, 5, 6, 7, 8];
        let at = |offset: usize| memory[offset..].as_ptr().cast::<c_void>();
        let writes = DeviceWrites::new();
        assert_eq!(writes.take(), []);
        writes.note(0x1000, at(0), 2);
        writes.note(0x1002, at(2), 2);
        writes.note(0x1000, at(0), 1);
        writes.note(0x9000, at(4), 1);
        let taken = writes.take();
        let found: Vec<_> = taken.iter().map(|changed| (changed.physical, changed.length)).collect();
        assert_eq!(found, [(0x1000, 4), (0x9000, 1)]);
        let mut bytes = [0; 3];
        // SAFETY: the array is still there.
        assert_eq!(unsafe { taken[0].copy(2, &mut bytes) }, 2);
        assert_eq!(bytes, [3, 4, 0]);
        assert_eq!(writes.take(), []);
    }
}
