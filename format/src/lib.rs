//! The ktracer trace on disk: writer, memory-mapped reader, recovery. `SPEC.md` beside this crate defines every byte.

pub mod digest;
pub mod group;
pub mod header;
pub mod index_file;
pub mod memory;
pub mod position;
pub mod reader;
pub mod record;
pub mod segment;
pub mod shadow;
mod unpack;
pub mod varint;
pub mod writer;

pub use header::Header;
pub use position::Position;
pub use reader::{Trace, TraceError};
pub use writer::TraceWriter;
