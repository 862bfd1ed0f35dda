//! Reads the guest's registers through QEMU's plugin interface.

use std::collections::HashMap;
use std::ffi::{CStr, c_int};

use qemu_plugin_sys::{
    GByteArray, qemu_plugin_get_registers, qemu_plugin_read_register, qemu_plugin_reg_descriptor,
    qemu_plugin_register,
};

use ktrace_machine::{ByteOrder, InstructionSet, Registers as Values};

unsafe extern "C" {
    // GLib, which every QEMU has loaded.
    fn g_byte_array_new() -> *mut GByteArray;
    fn g_byte_array_set_size(array: *mut GByteArray, length: u32) -> *mut GByteArray;
    fn g_array_free(array: *mut qemu_plugin_sys::GArray, free_segment: i32) -> *mut std::ffi::c_char;
}

/// System registers of ARM that are looked at. With the security extensions QEMU lists the secure bank with `_S`.
const SYSTEM_NAMES: [&str; 14] = [
    "VBAR",
    "VBAR_S",
    "MVBAR",
    "MVBAR_S",
    "SCR",
    "HCR",
    "SCTLR",
    "SCTLR_S",
    "TTBCR",
    "TTBCR_S",
    "TTBR0_EL1",
    "TTBR0_EL1_S",
    "TTBR1_EL1",
    "TTBR1_EL1_S",
];
/// Where exceptions can go besides the two architectural addresses.
const VECTOR_BASES: [&str; 4] = ["VBAR", "VBAR_S", "MVBAR", "MVBAR_S"];

/// The registers are not what the processor should have.
#[derive(Debug, thiserror::Error)]
#[error(
    "this QEMU's processor has no register '{0}': of ARM ktracer records 32-bit A and R profile (not M profile), and MIPS on a \
     patched QEMU only"
)]
pub struct MissingRegister(&'static str);

/// Handles of the registers.
pub struct Registers {
    set: InstructionSet,
    handles: Vec<*mut qemu_plugin_register>,
    /// System registers by QEMU's names.
    system: HashMap<&'static str, *mut qemu_plugin_register>,
    buffer: *mut GByteArray,
    /// Reads many at once, on a patched QEMU.
    group: Option<ReadGroup>,
}

/// `qemu_plugin_read_register_group`.
type ReadGroup = unsafe extern "C" fn(*const *mut qemu_plugin_register, usize, *mut GByteArray) -> c_int;

impl Registers {
    /// Finds the registers. To be called on the vCPU's thread while it initializes.
    pub fn find(set: InstructionSet, group: Option<ReadGroup>) -> Result<Registers, MissingRegister> {
        // QEMU's lists are made of gdb's descriptions, as are ours.
        let known = set.registers();
        let mut found = vec![None; known.len()];
        let mut system = HashMap::new();
        // SAFETY: QEMU calls the plugin on a vCPU's thread, as this function asks; the array is a fresh one of
        // `qemu_plugin_reg_descriptor`, which belongs to the caller. The strings it points to live as long as QEMU.
        unsafe {
            let array = qemu_plugin_get_registers();
            if !array.is_null() && !(*array).data.is_null() {
                let first = (*array).data.cast::<qemu_plugin_reg_descriptor>();
                for descriptor in std::slice::from_raw_parts(first, (*array).len as usize) {
                    let Ok(name) = CStr::from_ptr(descriptor.name).to_str() else { continue };
                    if let Some(number) = known.iter().position(|register| register.name == name) {
                        found[number].get_or_insert(descriptor.handle);
                    } else if let Some(known) = SYSTEM_NAMES.iter().find(|known| **known == name) {
                        system.entry(*known).or_insert(descriptor.handle);
                    }
                }
            }
            if !array.is_null() {
                g_array_free(array, 1);
            }
        }
        let handles = found.into_iter().zip(known);
        let handles = handles.map(|(handle, register)| handle.ok_or(MissingRegister(register.name)));
        let handles = handles.collect::<Result<Vec<_>, _>>()?;
        // SAFETY: GLib is loaded; the array is kept for ever.
        let buffer = unsafe { g_byte_array_new() };
        Ok(Registers { set, handles, system, buffer, group })
    }

    /// Four or eight bytes, in the guest's order.
    fn read_wide(&self, handle: *mut qemu_plugin_register) -> Option<u64> {
        // SAFETY: the handle is one of QEMU's, this is the vCPU's thread in a callback that was registered to read
        // registers, and the buffer is ours alone. QEMU appends the value, in the guest's byte order, and returns its
        // length.
        unsafe {
            g_byte_array_set_size(self.buffer, 0);
            let length = qemu_plugin_read_register(handle, self.buffer);
            let data = (*self.buffer).data;
            match length {
                4 => Some(u64::from(self.word(data.cast::<[u8; 4]>().read_unaligned()))),
                8 if self.is_big_endian() => {
                    Some(u64::from_be_bytes(data.cast::<[u8; 8]>().read_unaligned()))
                }
                8 => Some(u64::from_le_bytes(data.cast::<[u8; 8]>().read_unaligned())),
                _ => None,
            }
        }
    }

    fn is_big_endian(&self) -> bool {
        self.set.byte_order() == ByteOrder::Big
    }

    fn word(&self, bytes: [u8; 4]) -> u32 {
        if self.is_big_endian() { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn read_handle(&self, handle: *mut qemu_plugin_register) -> Option<u32> {
        self.read_wide(handle).map(|value| value as u32)
    }

    fn system(&self, name: &str) -> Option<u64> {
        self.read_wide(*self.system.get(name)?)
    }

    /// SCTLR, TTBCR, TTBR0 and TTBR1, which translate virtual addresses in the mode that `status`, the CPSR, says; `None`
    /// where other registers do, or it is not clear which.
    pub fn translation(&self, status: u32) -> Option<[u64; 4]> {
        if self.set != InstructionSet::Arm {
            return None;
        }
        const HYPERVISOR: u32 = 0x1a;
        const MONITOR: u32 = 0x16;
        let mode = status & 0x1f;
        let stage_two = self.system.contains_key("HCR") && self.system("HCR")? & 1 != 0;
        if mode == HYPERVISOR || stage_two {
            return None;
        }
        // With the security extensions there are two banks: SCR.NS chooses, and monitor mode is secure.
        let secure = self.system.contains_key("SCTLR_S") && (mode == MONITOR || self.system("SCR")? & 1 == 0);
        let names = if secure {
            ["SCTLR_S", "TTBCR_S", "TTBR0_EL1_S", "TTBR1_EL1_S"]
        } else {
            ["SCTLR", "TTBCR", "TTBR0_EL1", "TTBR1_EL1"]
        };
        let [sctlr, ttbcr, ttbr0, ttbr1] = names.map(|name| self.system(name));
        Some([sctlr?, ttbcr?, ttbr0?, ttbr1?])
    }

    /// One register of a keyframe, by number; `None` if QEMU does not give it. To be called in a callback that may
    /// read registers.
    pub fn read(&self, number: usize) -> Option<u32> {
        self.handles.get(number).and_then(|&handle| self.read_handle(handle))
    }

    /// A keyframe.
    pub fn read_all(&self) -> Option<Values> {
        let count = self.handles.len();
        let mut values = Values::zero(count);
        if let Some(group) = self.group {
            // SAFETY: as in `read_wide`; the handles are QEMU's, and it has appended as many bytes as it says.
            let bytes = unsafe {
                g_byte_array_set_size(self.buffer, 0);
                if group(self.handles.as_ptr(), count, self.buffer) != 4 * count as c_int {
                    return None;
                }
                std::slice::from_raw_parts((*self.buffer).data, 4 * count)
            };
            for (value, four) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = self.word([four[0], four[1], four[2], four[3]]);
            }
            return Some(values);
        }
        for (value, &handle) in values.iter_mut().zip(&self.handles) {
            *value = self.read_handle(handle)?;
        }
        Some(values)
    }

    /// Whether `address` is one of the eight vectors of an exception table.
    pub fn is_vector(&self, address: u32) -> bool {
        let base = address & !0x1f;
        address & 3 == 0
            && (base == 0
                || base == 0xffff_0000
                || VECTOR_BASES
                    .iter()
                    .any(|name| self.system(name).is_some_and(|vbar| vbar as u32 & !0x1f == base)))
    }
}
