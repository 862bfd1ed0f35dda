//! Where control goes after a block.

/// Where control goes after a block's last instruction. A conditional instruction may also fall through to
/// [`Block::address_of`](crate::Block::address_of)`(len)`; see [`Block::conditional`](crate::Block::conditional).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next address.
    Sequential,
    /// To a constant.
    Branch {
        /// The address of the next instruction, bit 0 clear.
        target: u32,
        /// It may not be taken.
        conditional: bool,
    },
    /// To what a register holds at the block's end, which the branch itself does not change. Bit 0 of it chooses the
    /// instruction set where the branch interworks, and is not part of the address.
    Register(u8),
    /// To the value of the block's last load; bit 0 chooses the instruction set and is not part of the address.
    Loaded,
    /// To something else that the executor computes.
    Computed,
    /// To where an opaque instruction says.
    Opaque,
}
