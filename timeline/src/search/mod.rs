//! Searches: where an instruction at some address executes, where memory is read, written or changed.
//!
//! The [catalogue](crate::catalogue) rules segments out; the rest are executed again, nearest first, several at a time
//! ([`hunt`]), and in each [`scan`] finds what is wanted while it executes at nearly full speed. What executes is proved before
//! anybody is told of it.
//!
//! Positions: an instruction at position *t* executes between *t* and *t* + 1, and so do its accesses; *t* is their position.
//! A device's write that position *t* is the first to show happens between *t* - 1 and *t*: its position is *t* - 1.

pub mod calls;
pub(crate) mod candidates;
pub(crate) mod first;
pub(crate) mod hunt;
pub mod list;
pub(crate) mod quarry;
pub mod registers;
pub(crate) mod scan;
pub(crate) mod trap;

use std::fmt;
use std::sync::Arc;

pub use quarry::{AddressSpace, MemoryRange, Watched, Watchpoint};
pub use trap::{Sighting, Who};

/// A moment of the recording that a search has come to, for those who decide whether it counts.
pub trait Moment {
    /// The position.
    fn position(&self) -> u64;
    /// A core register, by its number in [`registers`](crate::Replay::registers); `None` if it is not known.
    fn register(&self, number: usize) -> Option<u32>;
    /// Memory at virtual addresses, which wrap around; `None` is a byte that is not known.
    fn read_memory(&self, address: u32, into: &mut [Option<u8>]);
}

/// Decides whether a hit of an address counts. It is asked by several threads, each at its own moments.
#[derive(Clone)]
pub struct Condition(Arc<Holds>);

type Holds = dyn Fn(&dyn Moment) -> bool + Send + Sync;

impl Condition {
    /// A hit counts if `holds` says so.
    pub fn new(holds: impl Fn(&dyn Moment) -> bool + Send + Sync + 'static) -> Condition {
        Condition(Arc::new(holds))
    }

    /// Whether a hit counts.
    pub fn holds(&self, moment: &dyn Moment) -> bool {
        (self.0)(moment)
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("Condition")
    }
}
