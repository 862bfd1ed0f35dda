//! Serves a recording to gdb and other clients of gdb's remote serial protocol.
//!
//! Bytes from a client pass through these layers:
//!
//! - [`framing`] cuts them into packets and checks their checksums;
//! - [`admission`] reads every packet first: what gdbstub would end the session over is answered here, and what
//!   gdbstub handles is passed on in the one form that it is known to accept;
//! - an [`executable`] without content tells gdb what a target description can't;
//! - gdbstub handles the standard packets over the [`target`], which answers from a [`Replay`];
//! - [`session`] drives one client and owns acknowledgements, interrupts and stop replies; [`server`] accepts one
//!   client after the other.
//!
//! Nothing here knows an instruction set or how a trace is stored.
//!
//! [`Replay`]: ktrace_timeline::Replay

pub mod admission;
pub mod architecture;
pub mod breakpoints;
pub mod connection;
pub mod description;
pub mod executable;
pub mod expression;
pub mod framing;
pub mod memory;
pub mod monitor;
pub mod reply;
pub mod resume;
pub mod server;
pub mod session;
pub mod target;
pub mod watchpoints;

#[cfg(test)]
#[path = "../tests/support/recording.rs"]
mod recording;

pub use server::Server;
