//! The QEMU plugin that records a ktracer trace.
//!
//! The vCPU's thread ([`vcpu`]) only appends events to a ring ([`ring`]); the encoder's thread ([`encoder`]) predicts,
//! digests, compresses and writes. If the encoder falls behind, the guest waits: no event is dropped. A failure ends
//! the recording with a message and a closed trace, and the guest runs on. Nothing unwinds into QEMU.
//!
//! It relies on what `../shared/qemu-notes.md` says of QEMU's blocks; ARCHITECTURE.md has the rules that follow.

mod block;
mod control;
mod encoder;
mod event;
mod initial;
mod install;
mod mapping;
mod options;
mod registers;
mod ring;
mod value;
mod vcpu;
