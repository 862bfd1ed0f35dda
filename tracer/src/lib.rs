//! The QEMU plugin that records a ktracer trace.
//!
//! The vCPU's thread only appends events to a ring ([`ring`]): on a stock QEMU in callbacks ([`portable`]), on a patched
//! one generated code does it ([`fast`]). The encoders' threads ([`pipeline`]) predict, digest, compress and write. If they
//! fall behind, the guest waits: no event is dropped. A failure ends the recording with a message and a closed trace, and
//! the guest runs on. Nothing unwinds into QEMU.
//!
//! It relies on what `../shared/qemu-notes.md` says of QEMU's blocks; ARCHITECTURE.md has the rules that follow.

mod api;
mod block;
mod capture;
mod control;
mod device_writes;
mod encoder;
mod event;
mod fast;
mod initial;
mod install;
mod mapping;
mod mips;
mod names;
mod options;
mod pipeline;
mod portable;
mod recorder;
mod registers;
mod ring;
mod shared;
mod tlb;
mod translation;
mod value;
