//! What ktracer's end-to-end tests share: the oracle, and the QEMU that they run.

pub mod oracle;
pub mod qemu;
