//! Which blocks hold the instructions that a run stops at.

use std::collections::HashMap;

use crate::program::Program;

/// Addresses to stop at, and per block what they mean, found out when a block is first met.
pub(crate) struct Stops<'a> {
    addresses: &'a [u32],
    /// By block: the indices of its instructions at an address of the list, rising.
    blocks: HashMap<u32, Box<[u32]>>,
}

impl<'a> Stops<'a> {
    /// `addresses` must be rising.
    pub(crate) fn new(addresses: &'a [u32]) -> Self {
        Stops { addresses, blocks: HashMap::new() }
    }

    /// The indices of the block's instructions at which to stop.
    pub(crate) fn of(&mut self, program: &Program, id: u32) -> &[u32] {
        let addresses = self.addresses;
        self.blocks.entry(id).or_insert_with(|| {
            let Some(block) = program.block(id) else { return Box::default() };
            let first = block.address();
            let from = addresses.partition_point(|address| *address < first);
            if addresses.get(from).is_none_or(|address| *address >= block.address_of(block.len())) {
                return Box::default();
            }
            (0..block.len() as u32)
                .filter(|index| addresses.binary_search(&block.address_of(*index as usize)).is_ok())
                .collect()
        })
    }
}
