//! Where everything is in the guest. The sequences run in user mode, where nothing is mapped but code and sandbox.

/// The start of the code, as the TLB maps it: read-only.
pub const CODE: u32 = 0x0040_0000;
/// One page of the TLB entry.
pub const CODE_SIZE: u32 = 1 << 20;
/// The initial values of registers, in the code's page.
pub const LITERALS: u32 = CODE + CODE_SIZE / 2;
/// The data that loads and stores work on: the other page of the TLB entry.
pub const SANDBOX: u32 = CODE + CODE_SIZE;
/// How long that is.
pub const SANDBOX_SIZE: u32 = 1 << 20;
/// The part of the sandbox that base registers point to: small, so that what was stored there is loaded again.
pub const WINDOW: std::ops::Range<u32> = SANDBOX + 0x8_0000..SANDBOX + 0x8_0100;
/// How far offsets reach from there.
pub const REACH: u32 = 0x80;
/// Start-up code, at this physical address.
pub const START: u32 = 0x1000;
/// Where the code is in physical memory.
pub const PHYSICAL_CODE: u32 = 0x10_0000;
/// Where the sandbox is.
pub const PHYSICAL_SANDBOX: u32 = 0x20_0000;
/// From here on addresses are the kernel's: exception vectors.
pub const KERNEL: u32 = 0x8000_0000;
