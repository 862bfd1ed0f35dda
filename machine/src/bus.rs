//! What an executor needs from the memory around it.

/// The size of one memory access in bytes, as QEMU performs (and reports) it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AccessSize {
    /// One byte.
    Byte = 1,
    /// Two bytes.
    Half = 2,
    /// Four bytes.
    Word = 4,
    /// Eight bytes: LDRD and STRD are one such access in QEMU.
    Double = 8,
}

/// The bus ends the instruction in the middle: it faulted there in the guest, or the trace does not say what
/// follows. The processor's registers are then meaningless until they are loaded anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt;

/// The guest's memory as one executor sees it. Addresses are virtual; values are zero-extended and little-endian
/// in the sense that bits 0 to 7 are the byte at the lowest address.
///
/// An executor calls it once per access that QEMU makes, in QEMU's order: an LDM of three registers is three
/// `Word` loads at rising addresses, an unaligned load is one access.
pub trait Bus {
    /// What is accessed next, if anything, is accessed by the instruction with this index in its block. An executor calls it
    /// before every instruction that may access memory; those who want to know who accessed what take note.
    #[inline(always)]
    fn at_instruction(&mut self, index: usize) {
        let _ = index;
    }
    /// Loads `size` bytes at `address`.
    fn load(&mut self, address: u32, size: AccessSize) -> Result<u64, Halt>;
    /// Stores the low `size` bytes of `value` at `address`.
    fn store(&mut self, address: u32, size: AccessSize, value: u64) -> Result<(), Halt>;
}
