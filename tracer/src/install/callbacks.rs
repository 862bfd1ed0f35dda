//! What QEMU calls while the guest runs.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use qemu_plugin_sys::*;

use super::{DEVICE_WRITES, VCPU, Vcpu, fast_vcpu, guarded, lock_parts, portable_vcpu};
use crate::api::{LogSite, TlbFill};
use crate::block::{Again, Block, OpaqueSite};
use crate::mapping::Direction;
use crate::value::{any_value, small_size, small_value};

pub(super) unsafe extern "C" fn block_enters(_: c_uint, argument: *mut c_void) {
    // SAFETY: the argument is a block, which is never freed; this is the vCPU's thread.
    unsafe {
        let block = &*argument.cast::<Block>();
        let unexpected = portable_vcpu().and_then(|vcpu| vcpu.enter(block));
        if let Some(started) = unexpected {
            guarded(|| {
                if let Some(vcpu) = portable_vcpu() {
                    vcpu.enter_slowly(block, started);
                }
            });
        }
    }
}

pub(super) unsafe extern "C" fn block_logs(_: c_uint, argument: *mut c_void) {
    guarded(|| {
        // SAFETY: the argument is a block, which is never freed; this is the vCPU's thread.
        unsafe {
            if let Some(vcpu) = fast_vcpu() {
                vcpu.enter(&*argument.cast::<Block>());
            }
        }
    });
}

pub(super) unsafe extern "C" fn start_inside(_: c_uint, argument: *mut c_void) {
    guarded(|| {
        // SAFETY: as in `block_enters`.
        unsafe {
            let block = &*argument.cast::<Block>();
            match (*VCPU.0.get()).as_mut() {
                Some(Vcpu::Portable(vcpu)) => {
                    if let Some(index) = vcpu.recorder.start_index(block) {
                        vcpu.start_inside(block, index);
                    }
                }
                Some(Vcpu::Fast(vcpu)) => {
                    if let Some(index) = vcpu.recorder.start_index(block) {
                        vcpu.start_inside(block, index);
                    }
                }
                None => {}
            }
        }
    });
}

pub(super) unsafe extern "C" fn after_opaque(_: c_uint, argument: *mut c_void) {
    guarded(|| {
        // SAFETY: the argument is an opaque instruction of a block, which is never freed; this is the vCPU's thread.
        unsafe {
            let site = &*argument.cast::<OpaqueSite>();
            match (*VCPU.0.get()).as_mut() {
                Some(Vcpu::Portable(vcpu)) => vcpu.after_opaque(site),
                Some(Vcpu::Fast(vcpu)) => vcpu.after_opaque(site),
                None => {}
            }
        }
    });
}

/// An instruction that QEMU runs in the place of another block's has made an access.
pub(super) unsafe extern "C" fn access_again(
    _: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    argument: *mut c_void,
) {
    guarded(|| {
        // SAFETY: the argument belongs to a block, which is never freed; this is the vCPU's thread, in a memory callback.
        unsafe {
            if let Some(vcpu) = fast_vcpu() {
                let first = u64::from(info) << 32 | u64::from(address as u32);
                vcpu.access_again(&*argument.cast::<Again>(), first, any_value(info));
            }
        }
    });
}

/// QEMU tells which accesses a block makes, as it translates it, and wants the word that stands for it in a packed log.
pub(super) unsafe extern "C" fn packed(sites: *const LogSite, count: usize, argument: *mut c_void) -> u64 {
    let mut word = 0;
    guarded(|| {
        // SAFETY: the argument is a block, which is never freed; QEMU passes so many sites; this is the vCPU's thread.
        unsafe {
            let sites = if count == 0 { &[] } else { std::slice::from_raw_parts(sites, count) };
            if let Some(vcpu) = fast_vcpu() {
                word = vcpu.packed_word(&*argument.cast::<Block>(), sites);
            }
        }
    });
    word
}

pub(super) unsafe extern "C" fn discontinuous(_: qemu_plugin_id_t, _: c_uint, kind: u32, from: u64, to: u64) {
    guarded(|| {
        // SAFETY: this is the vCPU's thread.
        if let Some(vcpu) = unsafe { fast_vcpu() } {
            vcpu.discontinuity(kind, from, to);
        }
    });
}

/// On any thread.
pub(super) unsafe extern "C" fn was_reset(_: qemu_plugin_id_t, _: c_uint) {
    let shared = lock_parts().as_ref().map(|parts| Arc::clone(&parts.shared));
    if let Some(shared) = shared {
        shared.was_reset.store(true, Ordering::SeqCst);
        crate::shared::call_at_next_block();
    }
}

pub(super) unsafe extern "C" fn tlb_filled(_: qemu_plugin_id_t, _: c_uint, fill: *const TlbFill) {
    guarded(|| {
        // SAFETY: QEMU passes a valid structure; this is the vCPU's thread.
        unsafe {
            if let Some(vcpu) = fast_vcpu() {
                vcpu.tlb_filled(&*fill);
            }
        }
    });
}

/// On any thread.
pub(super) unsafe extern "C" fn device_wrote(
    _: qemu_plugin_id_t,
    physical: u64,
    data: *const c_void,
    length: usize,
) {
    DEVICE_WRITES.note(physical, data, length);
    crate::shared::call_at_next_block();
}

/// # Safety
/// As QEMU promises for memory callbacks.
#[inline]
unsafe fn modelled_access(info: qemu_plugin_meminfo_t, address: u64, direction: Direction) {
    // SAFETY: as the caller promises; this is the vCPU's thread.
    unsafe {
        let Some(vcpu) = portable_vcpu() else { return };
        let address = address as u32;
        let Some(shift) = small_size(info) else {
            guarded(|| {
                vcpu.recorder
                    .fail(format!("an access of 16 bytes at {address:#x} by a modelled instruction"));
            });
            return;
        };
        let bytes = 1 << shift;
        if vcpu.is_settled(address, bytes, direction) {
            vcpu.push_access(info, address, small_value(info, shift), direction);
        } else {
            guarded(|| vcpu.access_slowly(info, address, bytes, small_value(info, shift), direction));
        }
    }
}

pub(super) unsafe extern "C" fn load(_: c_uint, info: qemu_plugin_meminfo_t, address: u64, _: *mut c_void) {
    // SAFETY: QEMU calls it.
    unsafe { modelled_access(info, address, Direction::Load) }
}

pub(super) unsafe extern "C" fn store(_: c_uint, info: qemu_plugin_meminfo_t, address: u64, _: *mut c_void) {
    // SAFETY: QEMU calls it.
    unsafe { modelled_access(info, address, Direction::Store) }
}

/// # Safety
/// As QEMU promises for memory callbacks; the argument is an opaque instruction of a block.
unsafe fn opaque_access(info: qemu_plugin_meminfo_t, address: u64, argument: *mut c_void) {
    guarded(|| {
        // SAFETY: as the caller promises; this is the vCPU's thread.
        unsafe {
            if let Some(vcpu) = portable_vcpu() {
                vcpu.opaque_access(info, address as u32, any_value(info), &*argument.cast::<OpaqueSite>());
            }
        }
    });
}

pub(super) unsafe extern "C" fn opaque_load(
    _: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    argument: *mut c_void,
) {
    // SAFETY: QEMU calls it with what was registered.
    unsafe { opaque_access(info, address, argument) }
}

pub(super) unsafe extern "C" fn opaque_store(
    _: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    argument: *mut c_void,
) {
    // SAFETY: QEMU calls it with what was registered.
    unsafe { opaque_access(info, address, argument) }
}
