//! What happens to a synthetic guest, drawn at random.

use std::ops::Range;

use ktrace_machine::{ByteOrder, InstructionSet};
use proptest::prelude::*;

use super::HOT_PAGES;

/// One thing that happens to the guest.
#[derive(Clone, Debug)]
pub enum Step {
    /// A block runs: one that is known at this address, or a new one.
    Run { which: u8, seed: u64, stop: Stop },
    /// A block is entered of which nothing starts: an exception comes first.
    Nothing { seed: u64 },
    /// A virtual page shows something else from now on.
    Remap { page: u8, to: u8 },
    /// Something other than the processor changes memory, and nobody sees it.
    Outside { seed: u64 },
    /// Devices write to memory.
    Dma { seed: u64 },
    /// A segment ends.
    Cut,
}

/// Where a block stops.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Behind its last instruction.
    Never,
    /// Behind an earlier one, after which the next block simply goes on.
    After(u8),
    /// Behind one, where an interrupt comes.
    Interrupt(u8),
    /// In the middle of an instruction, after so many accesses.
    Fault(u8),
}

/// How a guest is made, besides its steps.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What it executes.
    pub set: InstructionSet,
    /// Its initial memory is captured.
    pub image: bool,
    /// The recording ends while the last instruction is under way.
    pub open_end: Option<Stop>,
    /// Devices write to memory after the last block.
    pub last_dma: bool,
    /// Instructions run that may change the mapping, after which what accesses have shown of it in the segment proves nothing.
    pub remaps: bool,
    /// Decides everything that the steps leave open.
    pub seed: u64,
}

/// Any setup.
pub fn setup() -> impl Strategy<Value = Setup> {
    let open_end = prop_oneof![
        3 => Just(None),
        1 => stop().prop_map(Some),
        2 => (0..6u8).prop_map(|accesses| Some(Stop::Fault(accesses))),
    ];
    let set = prop_oneof![
        2 => Just(InstructionSet::Arm),
        1 => Just(InstructionSet::mips(ByteOrder::Little)),
        1 => Just(InstructionSet::mips(ByteOrder::Big)),
    ];
    (set, any::<bool>(), open_end, any::<bool>(), any::<bool>(), any::<u64>()).prop_map(
        |(set, image, open_end, last_dma, remaps, seed)| Setup {
            set,
            image,
            open_end,
            last_dma,
            remaps,
            seed,
        },
    )
}

fn stop() -> impl Strategy<Value = Stop> {
    prop_oneof![
        12 => Just(Stop::Never),
        3 => any::<u8>().prop_map(Stop::After),
        1 => any::<u8>().prop_map(Stop::Interrupt),
        2 => (0..12u8).prop_map(Stop::Fault),
    ]
}

/// Any steps, so many.
pub fn steps(count: Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        60 => (any::<u8>(), any::<u64>(), stop()).prop_map(|(which, seed, stop)| Step::Run { which, seed, stop }),
        1 => any::<u64>().prop_map(|seed| Step::Nothing { seed }),
        8 => (0..HOT_PAGES as u8, any::<u8>()).prop_map(|(page, to)| Step::Remap { page, to }),
        8 => any::<u64>().prop_map(|seed| Step::Outside { seed }),
        8 => any::<u64>().prop_map(|seed| Step::Dma { seed }),
        3 => Just(Step::Cut),
    ];
    prop::collection::vec(step, count)
}
