//! What a patched QEMU (`qemu-patches/`) offers beyond the plugin interface's version 4: looked up when the plugin is
//! loaded, so that it loads into a stock QEMU too. The C side of each is in the patched `include/qemu/qemu-plugin.h`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use qemu_plugin_sys::{
    GByteArray, qemu_plugin_cb_flags, qemu_plugin_id_t, qemu_plugin_insn, qemu_plugin_mem_rw,
    qemu_plugin_meminfo_t, qemu_plugin_register, qemu_plugin_tb, qemu_plugin_u64,
};

use crate::tlb::ReadTlb;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

/// `enum qemu_plugin_discon_type`.
pub mod discontinuity {
    /// An interrupt.
    pub const INTERRUPT: u32 = 1;
    /// QEMU did what the guest asked for.
    pub const HOST_CALL: u32 = 4;
    /// All of them; in C an `int` of -1.
    pub const ALL: u32 = u32::MAX;
}

/// `enum qemu_plugin_tlb_flags`.
pub mod tlb {
    /// A device answers loads.
    pub const READ_IO: c_uint = 1 << 3;
    /// A device takes stores.
    pub const WRITE_IO: c_uint = 1 << 4;
    /// Stores have no effect.
    pub const WRITE_DISCARD: c_uint = 1 << 5;

    use std::ffi::c_uint;
}

/// `struct qemu_plugin_tlb_fill`.
#[repr(C)]
pub struct TlbFill {
    /// First virtual address of the page.
    pub vaddr: u64,
    /// Its physical address.
    pub hwaddr: u64,
    /// Bytes in the page.
    pub page_size: u64,
    /// The translation context.
    pub mmu_idx: c_uint,
    /// See [`tlb`].
    pub flags: c_uint,
    /// Name of the device, or NULL.
    pub device: *const c_char,
}

/// `enum qemu_plugin_memory_kind`.
pub mod memory_kind {
    use std::ffi::c_uint;

    /// Memory.
    pub const RAM: c_uint = 0;
    /// Memory in which stores have no effect.
    pub const ROM: c_uint = 1;
    /// Memory whose stores a device takes.
    pub const ROMD: c_uint = 2;
}

/// `struct qemu_plugin_memory_range`.
#[repr(C)]
pub struct MemoryRange {
    /// First physical address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Which address space of the vCPU.
    pub address_space: c_uint,
    /// See [`memory_kind`].
    pub kind: c_uint,
    /// Name of the block of memory or of the device.
    pub name: *const c_char,
    /// Offset in it.
    pub offset: u64,
    /// The bytes, or NULL.
    pub data: *const c_void,
}

/// `qemu_plugin_log_site`.
#[repr(C)]
pub struct LogSite {
    /// Index of the access's instruction in its block.
    pub instruction: u32,
    /// Size, direction, byte order, translation context.
    pub info: qemu_plugin_meminfo_t,
    /// It may not happen although the instruction does.
    pub conditional: bool,
}

/// Is told how the log of a block is packed, and returns the block's word in it, or 0 for a log that is not packed.
pub type LayoutCallback = unsafe extern "C" fn(*const LogSite, usize, *mut c_void) -> u64;
/// A callback when something is about to execute.
pub type ExecCallback = unsafe extern "C" fn(c_uint, *mut c_void);
/// A callback for discontinuities.
pub type DiscontinuityCallback = unsafe extern "C" fn(qemu_plugin_id_t, c_uint, u32, u64, u64);
/// A callback for resets.
pub type ResetCallback = unsafe extern "C" fn(qemu_plugin_id_t, c_uint);
/// A callback for TLB fills.
pub type TlbFillCallback = unsafe extern "C" fn(qemu_plugin_id_t, c_uint, *const TlbFill);
/// A callback for device writes.
pub type DeviceWriteCallback = unsafe extern "C" fn(qemu_plugin_id_t, u64, *const c_void, usize);
/// A callback for memory ranges.
pub type MemoryRangeCallback = unsafe extern "C" fn(*const MemoryRange, *mut c_void);

macro_rules! api {
    ($($(#[$comment:meta])* $name:ident: $type:ty = $symbol:literal;)*) => {
        /// The functions of a patched QEMU.
        #[derive(Clone, Copy)]
        pub struct Api {
            $($(#[$comment])* pub $name: $type,)*
        }

        impl Api {
            /// All of them, or `None` if QEMU lacks one.
            pub fn find() -> Option<Api> {
                Some(Api {
                    $($name: {
                        let address = symbol($symbol)?;
                        // SAFETY: the symbol is QEMU's function of this name, whose type in C is the one given here.
                        unsafe { std::mem::transmute::<*mut c_void, $type>(address) }
                    },)*
                })
            }
        }
    };
}

api! {
    /// `qemu_plugin_translate_absolute`
    translate_absolute: unsafe extern "C" fn() = c"qemu_plugin_translate_absolute";
    /// `qemu_plugin_tb_flags`
    translation_flags: unsafe extern "C" fn(*const qemu_plugin_tb) -> u64 = c"qemu_plugin_tb_flags";
    /// `qemu_plugin_register_vcpu_tb_exec_log`
    log_block: unsafe extern "C" fn(
        *mut qemu_plugin_tb, qemu_plugin_u64, qemu_plugin_u64, u64, ExecCallback, qemu_plugin_cb_flags, *mut c_void,
    ) -> bool = c"qemu_plugin_register_vcpu_tb_exec_log";
    /// `qemu_plugin_register_vcpu_mem_log`
    log_accesses: unsafe extern "C" fn(*mut qemu_plugin_insn, qemu_plugin_mem_rw, qemu_plugin_u64, u32) -> bool
        = c"qemu_plugin_register_vcpu_mem_log";
    /// `qemu_plugin_tb_pack_log`
    pack_log: unsafe extern "C" fn(*mut qemu_plugin_tb, qemu_plugin_u64, LayoutCallback, *mut c_void)
        = c"qemu_plugin_tb_pack_log";
    /// `qemu_plugin_register_vcpu_discon_cb`
    on_discontinuity: unsafe extern "C" fn(qemu_plugin_id_t, u32, DiscontinuityCallback)
        = c"qemu_plugin_register_vcpu_discon_cb";
    /// `qemu_plugin_register_vcpu_reset_cb`
    on_reset: unsafe extern "C" fn(qemu_plugin_id_t, ResetCallback) = c"qemu_plugin_register_vcpu_reset_cb";
    /// `qemu_plugin_register_vcpu_tlb_fill_cb`
    on_tlb_fill: unsafe extern "C" fn(qemu_plugin_id_t, TlbFillCallback) = c"qemu_plugin_register_vcpu_tlb_fill_cb";
    /// `qemu_plugin_register_device_write_cb`
    on_device_write: unsafe extern "C" fn(qemu_plugin_id_t, DeviceWriteCallback)
        = c"qemu_plugin_register_device_write_cb";
    /// `qemu_plugin_for_each_memory_range`
    for_each_memory_range: unsafe extern "C" fn(MemoryRangeCallback, *mut c_void)
        = c"qemu_plugin_for_each_memory_range";
    /// `qemu_plugin_read_register_group`
    read_registers: unsafe extern "C" fn(*const *mut qemu_plugin_register, usize, *mut GByteArray) -> c_int
        = c"qemu_plugin_read_register_group";
    /// `qemu_plugin_read_mips_tlb`
    read_mips_tlb: ReadTlb = c"qemu_plugin_read_mips_tlb";
}

/// The address of a symbol of the running program or its libraries.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a null handle is RTLD_DEFAULT, the name ends with NUL, and the dynamic linker may be asked at any time.
    let address = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_found_or_not() {
        assert!(symbol(c"malloc").is_some());
        assert!(symbol(c"qemu_plugin_no_such_thing").is_none());
        assert!(Api::find().is_none(), "no QEMU here");
    }
}
