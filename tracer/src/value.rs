//! Turns what QEMU tells of an access into a value.

use qemu_plugin_sys::{
    qemu_plugin_mem_get_value, qemu_plugin_mem_size_shift, qemu_plugin_mem_value_type, qemu_plugin_meminfo_t,
};

/// The logarithm of an access's size, if it is 8 bytes at most.
///
/// # Safety
/// `info` is what a memory callback was given.
#[inline]
pub unsafe fn small_size(info: qemu_plugin_meminfo_t) -> Option<u32> {
    // SAFETY: as the caller promises; the function only looks at the bits of `info`.
    let shift = unsafe { qemu_plugin_mem_size_shift(info) };
    (shift <= 3).then_some(shift)
}

/// The value of an access of `2^shift` bytes, 8 at most, zero-extended.
///
/// QEMU's generated code stores the value in four bytes, this call reads it as eight, and copies the result likewise: it
/// arrives some thirty cycles late, half of the time that recording takes. So nothing but the value itself may depend on
/// what the call returns, and it comes after everything else.
///
/// # Safety
/// `info` is what a memory callback was given, which is still running.
#[inline]
pub unsafe fn small_value(info: qemu_plugin_meminfo_t, shift: u32) -> u64 {
    // SAFETY: as the caller promises. QEMU returned the whole union; bytes above the size mean nothing and are masked.
    unsafe { qemu_plugin_mem_get_value(info).data.u64_ & u64::MAX >> (64 - (8 << shift)) }
}

/// The value of up to 16 bytes, zero-extended: bits 0 to 63, and those above.
///
/// # Safety
/// As for [`small_value`].
pub unsafe fn any_value(info: qemu_plugin_meminfo_t) -> [u64; 2] {
    // SAFETY: as the caller promises; the field of the union is the one that the type names.
    unsafe {
        let value = qemu_plugin_mem_get_value(info);
        match value.type_ {
            qemu_plugin_mem_value_type::QEMU_PLUGIN_MEM_VALUE_U8 => [u64::from(value.data.u8_), 0],
            qemu_plugin_mem_value_type::QEMU_PLUGIN_MEM_VALUE_U16 => [u64::from(value.data.u16_), 0],
            qemu_plugin_mem_value_type::QEMU_PLUGIN_MEM_VALUE_U32 => [u64::from(value.data.u32_), 0],
            qemu_plugin_mem_value_type::QEMU_PLUGIN_MEM_VALUE_U64 => [value.data.u64_, 0],
            qemu_plugin_mem_value_type::QEMU_PLUGIN_MEM_VALUE_U128 => {
                [value.data.u128_.low, value.data.u128_.high]
            }
        }
    }
}
