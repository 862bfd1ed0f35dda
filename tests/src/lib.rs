//! What ktracer's end-to-end tests share: the oracle, the QEMU and the firmware that they run, and the programs under
//! test.
//!
//! The programs are those of the release build: `cargo build --release --workspace` comes before `cargo test`, as
//! `make test` has it.

pub mod agreement;
pub mod arm;
pub mod exceptions;
pub mod measure;
pub mod memory;
pub mod mips;
pub mod mips_agreement;
pub mod mips_exceptions;
pub mod mips_oracle;
pub mod monitor;
pub mod oracle;
pub mod programs;
pub mod qemu;
pub mod report;
pub mod sample;
pub mod server;
pub mod session;
