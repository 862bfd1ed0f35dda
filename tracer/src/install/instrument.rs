//! What is asked of QEMU for each block that it translates: callbacks, or a log that generated code writes.

use std::ffi::c_void;

use qemu_plugin_sys::*;

use super::callbacks::{
    access_again, after_opaque, block_enters, block_logs, load, opaque_load, opaque_store, packed,
    start_inside, store,
};
use super::{Score, VCPU, Vcpu, guarded, lock_parts};
use crate::api::Api;
use crate::block::Block;
use crate::event::access;
use crate::fast;
use crate::recorder::Recorder;
use crate::ring::Cursor;

pub(super) unsafe extern "C" fn translated(_: qemu_plugin_id_t, tb: *mut qemu_plugin_tb) {
    guarded(|| {
        // SAFETY: this is the vCPU's thread, and `tb` is valid during the callback, as are its instructions.
        unsafe {
            let Some(vcpu) = (*VCPU.0.get()).as_mut() else { return };
            if vcpu.recorder().phase != crate::recorder::Phase::Stopped {
                instrument(vcpu, tb);
            }
        }
    });
}

/// The block that QEMU translates, as the model sees it.
///
/// # Safety
/// `tb` is what a translation callback was given, which is still running.
unsafe fn decode(
    recorder: &mut Recorder,
    api: Option<&Api>,
    tb: *mut qemu_plugin_tb,
) -> Result<&'static Block, String> {
    // SAFETY: as the caller promises; indices are below the number that QEMU gives.
    let (count, address, code) = unsafe {
        let count = qemu_plugin_tb_n_insns(tb);
        let mut code = Vec::new();
        for number in 0..count {
            let instruction = qemu_plugin_tb_get_insn(tb, number);
            // A branch-likely of MIPS that is never taken has its slot with it: eight bytes, unless the slot is in another
            // page, which QEMU does not fetch then.
            let mut bytes = [0u8; 8];
            let mut fetch = |length| qemu_plugin_insn_data(instruction, bytes.as_mut_ptr().cast(), length);
            let length = match fetch(8) {
                0 => fetch(4),
                length => length,
            };
            code.extend(bytes.iter().take(length));
        }
        (count, qemu_plugin_tb_vaddr(tb) as u32, code)
    };
    // SAFETY: as above.
    let flags = || api.map(|api| unsafe { (api.translation_flags)(tb) });
    let mode = recorder
        .translation_mode(flags)
        .ok_or("QEMU did not give the status register while it translated")?;
    let block = recorder.translated(address, mode, &code)?;
    if block.instructions as usize != count {
        return Err(format!(
            "QEMU sees {count} instructions in the block at {address:#010x} with code {code:02x?}, the model {}",
            block.instructions
        ));
    }
    Ok(block)
}

/// # Safety
/// `tb` is what a translation callback was given, which is still running.
unsafe fn instrument(vcpu: &mut Vcpu, tb: *mut qemu_plugin_tb) {
    let (score, api) = match lock_parts().as_ref() {
        Some(parts) => (parts.cursor, parts.api),
        None => return,
    };
    let recorder = vcpu.recorder();
    // SAFETY: as the caller promises.
    let block = match unsafe { decode(recorder, api.as_ref(), tb) } {
        Ok(block) => block,
        Err(message) => {
            vcpu.fail_between_blocks(message);
            return;
        }
    };
    let start = recorder.start_index(block).filter(|&index| index > 0);
    let argument = std::ptr::from_ref(block).cast_mut().cast::<c_void>();
    let read = qemu_plugin_cb_flags::QEMU_PLUGIN_CB_R_REGS;
    // SAFETY: as the caller promises; indices are below the number of instructions; blocks and their opaque instructions
    // are never freed, so their addresses stay good as callback arguments.
    unsafe {
        for number in 0..block.instructions {
            let instruction = qemu_plugin_tb_get_insn(tb, number as usize);
            if start == Some(number) {
                qemu_plugin_register_vcpu_insn_exec_cb(instruction, Some(start_inside), read, argument);
            }
            // Results of the instruction before are read before this one starts.
            if let Some(site) = number.checked_sub(1).and_then(|before| block.opaque_at(before))
                && site.has_results()
            {
                let site = std::ptr::from_ref(site).cast_mut().cast();
                qemu_plugin_register_vcpu_insn_exec_cb(instruction, Some(after_opaque), read, site);
            }
        }
        match api {
            Some(api) => {
                // If the recording is to start inside it, what comes before is cut off.
                let can_be_packed = start.is_none() && block.can_be_packed();
                if !log(&api, score, block, can_be_packed, tb) {
                    recorder.fail("QEMU refuses to log accesses: this is a bug in ktracer".to_owned());
                }
            }
            None => call_back(score, block, tb),
        }
    }
}

/// Has generated code log a block and its accesses. False: QEMU does not.
///
/// # Safety
/// As for [`instrument`].
unsafe fn log(
    api: &Api,
    score: Score,
    block: &'static Block,
    can_be_packed: bool,
    tb: *mut qemu_plugin_tb,
) -> bool {
    let (next, limit) =
        (score.field(std::mem::offset_of!(Cursor, next)), score.field(std::mem::offset_of!(Cursor, limit)));
    let argument = std::ptr::from_ref(block).cast_mut().cast::<c_void>();
    let read = qemu_plugin_cb_flags::QEMU_PLUGIN_CB_R_REGS;
    // SAFETY: as the caller promises; the scoreboard lives as long as QEMU.
    unsafe {
        let both = qemu_plugin_mem_rw::QEMU_PLUGIN_MEM_RW;
        if !(api.log_block)(tb, next, limit, fast::block_word(block), block_logs, read, argument) {
            let none = qemu_plugin_cb_flags::QEMU_PLUGIN_CB_NO_REGS;
            for again in block.again() {
                let instruction = qemu_plugin_tb_get_insn(tb, again.index as usize);
                let argument = std::ptr::from_ref(again).cast_mut().cast();
                qemu_plugin_register_vcpu_mem_cb(instruction, Some(access_again), none, both, argument);
            }
            return true;
        }
        if can_be_packed {
            let progress = score.field(std::mem::offset_of!(Cursor, progress));
            (api.pack_log)(tb, progress, packed, argument);
        }
        if block.instructions > fast::COUNTED_INSTRUCTIONS {
            qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
                tb,
                qemu_plugin_op::QEMU_PLUGIN_INLINE_ADD_U64,
                score.field(std::mem::offset_of!(Cursor, counted)),
                u64::from(block.instructions),
            );
        }
        let last = block.instructions - 1;
        if let Some(site) = block.opaque_at(last)
            && site.has_results()
        {
            // The next block calls, to have the results read.
            let instruction = qemu_plugin_tb_get_insn(tb, last as usize);
            let opaque = score.field(std::mem::offset_of!(Cursor, opaque));
            for (field, value) in [(opaque, std::ptr::from_ref(site) as u64), (limit, 0)] {
                qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
                    instruction,
                    qemu_plugin_op::QEMU_PLUGIN_INLINE_STORE_U64,
                    field,
                    value,
                );
            }
        }
        for number in 0..block.instructions {
            let instruction = qemu_plugin_tb_get_insn(tb, number as usize);
            let owner = match block.opaque_at(number) {
                Some(site) => access::owner_of(site, 0),
                None => access::MODELLED,
            };
            if !(api.log_accesses)(instruction, both, next, owner) {
                return false;
            }
        }
    }
    true
}

/// Registers callbacks for a block and its accesses.
///
/// # Safety
/// As for [`instrument`].
unsafe fn call_back(score: Score, block: &'static Block, tb: *mut qemu_plugin_tb) {
    let started = score.field(std::mem::offset_of!(Cursor, counted));
    let argument = std::ptr::from_ref(block).cast_mut().cast::<c_void>();
    // SAFETY: as the caller promises; the scoreboard lives as long as QEMU.
    unsafe {
        let read = qemu_plugin_cb_flags::QEMU_PLUGIN_CB_R_REGS;
        qemu_plugin_register_vcpu_tb_exec_cb(tb, Some(block_enters), read, argument);
        for number in 0..block.instructions {
            let instruction = qemu_plugin_tb_get_insn(tb, number as usize);
            if block.decoded.may_stop_at(number as usize) {
                qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
                    instruction,
                    qemu_plugin_op::QEMU_PLUGIN_INLINE_STORE_U64,
                    started,
                    u64::from(number) + 1,
                );
            }
            let flags = qemu_plugin_cb_flags::QEMU_PLUGIN_CB_NO_REGS;
            let (load, store, argument): (qemu_plugin_vcpu_mem_cb_t, qemu_plugin_vcpu_mem_cb_t, _) =
                match block.opaque_at(number) {
                    Some(site) => (
                        Some(opaque_load),
                        Some(opaque_store),
                        std::ptr::from_ref(site).cast_mut().cast::<c_void>(),
                    ),
                    None => (Some(load), Some(store), std::ptr::null_mut()),
                };
            let (reads, writes) =
                (qemu_plugin_mem_rw::QEMU_PLUGIN_MEM_R, qemu_plugin_mem_rw::QEMU_PLUGIN_MEM_W);
            qemu_plugin_register_vcpu_mem_cb(instruction, load, flags, reads, argument);
            qemu_plugin_register_vcpu_mem_cb(instruction, store, flags, writes, argument);
        }
    }
}
