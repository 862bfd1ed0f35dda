//! Where control goes after a block.

/// Where control goes after a block's last instruction, which is the delay slot where a MIPS block has a branch with its
/// slot. A conditional instruction may also fall through to
/// [`Block::address_of`](crate::Block::address_of)`(len)`; see [`Block::conditional`](crate::Block::conditional).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next address. A MIPS block that ends with a branch, without its slot, goes on there too.
    Sequential,
    /// To a constant.
    Branch {
        /// The address of the next instruction. Bit 0 is clear, or set on MIPS if compressed code is there.
        target: u32,
        /// It may not be taken.
        conditional: bool,
    },
    /// To what a register holds at the block's end, which neither the branch nor its slot changes. Bit 0 of it chooses the
    /// instruction set where the branch interworks, and is not part of the address.
    Register(u8),
    /// To the value of the block's last load; bit 0 chooses the instruction set and is not part of the address.
    Loaded,
    /// To something else that the executor computes; for a MIPS block that is a delay slot, to where the block before says.
    Computed,
    /// To where an opaque instruction says.
    Opaque,
}
