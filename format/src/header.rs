//! What a trace says about itself: the first record of `trace.kt`, and `trace.json` for people and scripts.

use serde::{Deserialize, Serialize};

/// The version of the format that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 2;

/// How the recorder saw the execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// A stock QEMU, through callbacks; discontinuities are inferred and device writes to memory are not seen.
    Portable,
    /// A patched QEMU that reports them.
    Fast,
    /// The original ktracer: registers where some blocks began, the code of these blocks, and nothing else. See *Imported
    /// recordings* in `SPEC.md`.
    Original,
}

/// The instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 32-bit ARM, A32 and T32. A keyframe is r0 to r15 and CPSR: 17 registers.
    Arm,
    /// MIPS32. A segment's keyframe has 72 registers.
    Mips,
}

/// The byte order of the guest's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// The lowest address holds the least significant byte.
    Little,
    /// The lowest address holds the most significant byte.
    Big,
}

/// Written when a recording starts. Unknown fields of later minor additions are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format: a reader refuses a newer one.
    pub format_version: u32,
    /// The guest's instruction set.
    pub arch: Architecture,
    /// The guest's byte order.
    pub byte_order: ByteOrder,
    /// What QEMU says the processor is, or empty.
    #[serde(default)]
    pub cpu: String,
    /// How it was recorded.
    pub path: Path,
    /// What `qemu-system-… --version` printed first, or empty.
    #[serde(default)]
    pub qemu_version: String,
    /// QEMU and its arguments, without what the recorder added; empty if not known.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// Version of the tracer and of the machine model, which have the same number.
    pub tracer_version: String,
    /// The machine that recorded, or empty.
    #[serde(default)]
    pub host: String,
    /// When the recording started, RFC 3339, or empty.
    #[serde(default)]
    pub started: String,
}

/// Totals, written when a recording is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Why it was closed: `exit`, `stop-after`, or the text of an error.
    pub reason: String,
    /// Instructions that started: the last position.
    pub instructions: u64,
    /// Blocks that were entered.
    pub blocks: u64,
    /// Segments.
    pub segments: u64,
    /// Discontinuities.
    pub discontinuities: u64,
}

/// `trace.json`: the header, and once the recording is closed its totals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The header.
    #[serde(flatten)]
    pub header: Header,
    /// The trace was closed properly.
    pub closed: bool,
    /// Its totals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<Totals>,
}
