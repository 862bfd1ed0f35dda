//! The ktracer trace on disk: writer, memory-mapped reader, recovery. `SPEC.md` beside this crate defines every byte.

pub mod memory;
pub mod position;
pub mod record;

pub use position::Position;
