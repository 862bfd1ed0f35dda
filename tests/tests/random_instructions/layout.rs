//! Where everything is in the guest. One image is loaded at [`CODE`]; nothing else is mapped.

/// Start-up code, exception vectors and the random sequences: mapped read-only.
pub const CODE: u32 = 0x4020_0000;
/// How long that is at most: one section of the translation table.
pub const CODE_SIZE: u32 = 1 << 20;
/// The exception vectors.
pub const VECTORS: u32 = CODE + 0x100;
/// How long they are.
pub const VECTORS_SIZE: u32 = 0x20;
/// The first random sequence.
pub const CHUNKS: u32 = CODE + 0x200;
/// The translation table, not mapped itself.
pub const TRANSLATION_TABLE: u32 = 0x4030_0000;
/// The data that loads and stores work on, mapped for both; the last part of the image.
pub const SANDBOX: u32 = 0x4040_0000;
/// How long that is.
pub const SANDBOX_SIZE: u32 = 1 << 20;
/// The part of the sandbox that bases point to: small, so that what was stored there is loaded again.
pub const WINDOW: std::ops::Range<u32> = SANDBOX + 0x7_e000..SANDBOX + 0x8_2000;
/// What is loaded at a run's end, to see what all stores did: the window, and what offsets reach from it.
pub const SWEPT: std::ops::Range<u32> = SANDBOX + 0x7_d000..SANDBOX + 0x8_3000;
