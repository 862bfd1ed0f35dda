//! Where QEMU meets the plugin: the exported symbols and the callbacks.
//!
//! Whatever does more than append to the ring runs with panics caught: unwinding into QEMU's C code would end the guest.
//! What runs on every block and on every access contains nothing that panics.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ktrace_format::TraceWriter;
use ktrace_format::header::{Architecture, ByteOrder, FORMAT_VERSION, Header, Path};
use qemu_plugin_sys::*;

use crate::block::{Block, OpaqueSite, Registry};
use crate::control::{Control, Hello};
use crate::encoder::{self, Setup};
use crate::mapping::{Direction, Mappings, Names};
use crate::options::Options;
use crate::registers::Registers;
use crate::ring::{Writer, ring};
use crate::value::{any_value, small_size, small_value};
use crate::vcpu::{Shared, Vcpu};

/// The version of QEMU's plugin interface that this plugin speaks. QEMU reads it before it calls anything.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static qemu_plugin_version: c_int = 4;

/// The one vCPU's state.
struct TheVcpu(UnsafeCell<Option<Vcpu>>);

// SAFETY: it is touched on the vCPU's thread only, and by `at_exit`, which QEMU calls when no vCPU runs any more.
unsafe impl Sync for TheVcpu {}

static VCPU: TheVcpu = TheVcpu(UnsafeCell::new(None));

/// What `install` made and `vcpu_init` and `at_exit` take.
struct Parts {
    ring: Option<Writer>,
    registry: Option<Registry>,
    names: Names,
    shared: Arc<Shared>,
    control: Arc<Control>,
    options: Options,
    encoder: Option<JoinHandle<()>>,
    started: qemu_plugin_u64,
}

// SAFETY: the raw pointer in it is QEMU's scoreboard, which QEMU guards itself.
unsafe impl Send for Parts {}

static PARTS: Mutex<Option<Parts>> = Mutex::new(None);
static PLUGIN: AtomicU64 = AtomicU64::new(0);

/// Runs what may panic. A panic ends the recording.
fn guarded(action: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(action)).is_err() {
        // SAFETY: on the vCPU's thread, as all callbacks that come here; the panic is over.
        if let Some(vcpu) = unsafe { (*VCPU.0.get()).as_mut() } {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                vcpu.fail("the tracer panicked, see above: this is a bug in ktracer".to_owned())
            }));
            drop(failed);
        }
    }
}

/// Called by QEMU when it loads the plugin.
///
/// # Safety
/// Only QEMU calls it, with what its plugin interface promises.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: qemu_plugin_id_t,
    info: *const qemu_info_t,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let installed = catch_unwind(|| {
        // SAFETY: QEMU passes a valid structure and `argc` valid strings.
        let (target, virtual_cpus, system, arguments) = unsafe {
            let info = &*info;
            let cpus = if info.system_emulation { info.__bindgen_anon_1.system.max_vcpus } else { 0 };
            let arguments: Vec<String> = (0..argc.max(0) as usize)
                .map(|number| CStr::from_ptr(*argv.add(number)).to_string_lossy().into_owned())
                .collect();
            (
                CStr::from_ptr(info.target_name).to_string_lossy().into_owned(),
                cpus,
                info.system_emulation,
                arguments,
            )
        };
        install(id, &target, system, virtual_cpus, &arguments)
    });
    match installed {
        Ok(Ok(())) => 0,
        Ok(Err(message)) => {
            eprintln!("ktracer: {message}");
            -1
        }
        Err(_) => {
            eprintln!("ktracer: the tracer panicked while it was loaded: this is a bug in ktracer");
            -1
        }
    }
}

fn install(
    id: qemu_plugin_id_t,
    target: &str,
    system: bool,
    vcpus: c_int,
    arguments: &[String],
) -> Result<(), String> {
    if !system || target != "arm" {
        return Err(format!("it records qemu-system-arm only, this is the target '{target}'"));
    }
    if vcpus != 1 {
        return Err(format!("it records one vCPU, this machine may have {vcpus}: start QEMU with -smp 1"));
    }
    let options = Options::parse(arguments.iter().map(String::as_str)).map_err(|error| error.to_string())?;
    let (control, hello) = match &options.control {
        None => (Control::absent(), Hello::default()),
        Some(path) => Control::connect(path)
            .map_err(|error| format!("can't talk to ktracer record on {}: {error}", path.display()))?,
    };
    let header = Header {
        format_version: FORMAT_VERSION,
        arch: Architecture::Arm,
        byte_order: ByteOrder::Little,
        cpu: processor(&hello.command_line),
        path: Path::Portable,
        qemu_version: hello.qemu_version,
        command_line: hello.command_line,
        tracer_version: env!("CARGO_PKG_VERSION").to_owned(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        started: hello.started,
    };
    let trace = TraceWriter::create(&options.directory, header)
        .map_err(|error| format!("can't start a trace in {}: {error}", options.directory.display()))?;

    let (writer, reader) = ring();
    let blocks = crate::block::Shared::default();
    let names = Names::default();
    let shared = Arc::new(Shared::default());
    let control = Arc::new(control);
    let setup = Setup {
        ring: reader,
        trace,
        directory: options.directory.clone(),
        blocks: Arc::clone(&blocks),
        names: Arc::clone(&names),
        shared: Arc::clone(&shared),
        control: Arc::clone(&control),
    };
    let encoder = std::thread::Builder::new()
        .name("ktracer-encoder".to_owned())
        .spawn(move || encoder::run(setup))
        .map_err(|error| format!("can't start the encoder's thread: {error}"))?;
    // SAFETY: called once, while QEMU loads the plugin, as these functions ask.
    let started = unsafe {
        let score = qemu_plugin_scoreboard_new(size_of::<u64>());
        qemu_plugin_register_vcpu_init_cb(id, Some(vcpu_init));
        qemu_plugin_register_vcpu_tb_trans_cb(id, Some(translated));
        qemu_plugin_register_atexit_cb(id, Some(at_exit), std::ptr::null_mut());
        qemu_plugin_u64 { score, offset: 0 }
    };
    PLUGIN.store(id, Ordering::Relaxed);
    let parts = Parts {
        ring: Some(writer),
        registry: Some(Registry::new(blocks)),
        names,
        shared,
        control,
        options,
        encoder: Some(encoder),
        started,
    };
    *lock_parts() = Some(parts);
    Ok(())
}

/// The processor's model as the command line names it: `-cpu`, or else the machine that has it by default.
fn processor(command_line: &[String]) -> String {
    let value = |options: &[&str]| {
        let mut words = command_line.iter();
        words.find(|word| options.contains(&word.as_str())).and_then(|_| words.next()).cloned()
    };
    value(&["-cpu", "--cpu"])
        .or_else(|| value(&["-M", "-machine", "--machine"]).map(|machine| format!("default of {machine}")))
        .unwrap_or_default()
}

fn lock_parts() -> std::sync::MutexGuard<'static, Option<Parts>> {
    match PARTS.lock() {
        Ok(parts) => parts,
        Err(poisoned) => poisoned.into_inner(),
    }
}

unsafe extern "C" fn vcpu_init(_: qemu_plugin_id_t, index: c_uint) {
    guarded(|| {
        let mut parts = lock_parts();
        let Some(parts) = parts.as_mut() else { return };
        let (Some(ring), Some(registry)) = (parts.ring.take(), parts.registry.take()) else { return };
        // SAFETY: the scoreboard was made by `install`; with one vCPU it is never moved after this callback.
        let started = unsafe { qemu_plugin_scoreboard_find(parts.started.score, index) }.cast::<u64>();
        let registers = match Registers::find() {
            Ok(registers) => registers,
            Err(error) => {
                // Without a vCPU state nothing is ever recorded; the encoder closes an empty trace and tells why.
                if let Ok(mut message) = parts.shared.error.lock() {
                    *message = Some(error.to_string());
                }
                let mut ring = ring;
                ring.push_one(crate::event::Tag::End.word() | crate::event::EndReason::Error as u64);
                ring.flush();
                return;
            }
        };
        let mappings = Mappings::new(Arc::clone(&parts.names));
        let vcpu = Vcpu::new(
            ring,
            started,
            registers,
            mappings,
            registry,
            Arc::clone(&parts.shared),
            Arc::clone(&parts.control),
            parts.options.clone(),
        );
        // SAFETY: this is the vCPU's thread, and no other callback of it is running.
        unsafe { *VCPU.0.get() = Some(vcpu) };
    });
}

unsafe extern "C" fn translated(_: qemu_plugin_id_t, tb: *mut qemu_plugin_tb) {
    guarded(|| {
        // SAFETY: this is the vCPU's thread, and `tb` is valid during the callback, as are its instructions.
        unsafe {
            let Some(vcpu) = (*VCPU.0.get()).as_mut() else { return };
            if !vcpu.is_stopped() {
                instrument(vcpu, tb);
            }
        }
    });
}

/// # Safety
/// `tb` is what a translation callback was given, which is still running.
unsafe fn instrument(vcpu: &mut Vcpu, tb: *mut qemu_plugin_tb) {
    // SAFETY: as the caller promises; indices are below the number that QEMU gives; blocks are never freed, so their
    // addresses stay good as callback arguments.
    unsafe {
        let count = qemu_plugin_tb_n_insns(tb);
        let address = qemu_plugin_tb_vaddr(tb) as u32;
        let mut code = Vec::new();
        for number in 0..count {
            let instruction = qemu_plugin_tb_get_insn(tb, number);
            let mut bytes = [0u8; 4];
            let length = qemu_plugin_insn_data(instruction, bytes.as_mut_ptr().cast(), bytes.len());
            code.extend(bytes.iter().take(length));
        }
        let Some(mode) = vcpu.translation_mode() else {
            vcpu.fail("QEMU did not give CPSR while it translated".to_owned());
            return;
        };
        let Some(block) = vcpu.translated(address, mode, &code) else { return };
        if block.instructions as usize != count {
            vcpu.fail(format!(
                "QEMU sees {count} instructions in the block at {address:#010x} with code {code:02x?}, the model {}",
                block.instructions
            ));
            return;
        }
        let argument = std::ptr::from_ref(block).cast_mut().cast::<c_void>();
        qemu_plugin_register_vcpu_tb_exec_cb(
            tb,
            Some(block_enters),
            qemu_plugin_cb_flags::QEMU_PLUGIN_CB_R_REGS,
            argument,
        );
        let start = vcpu.start_index(block).filter(|&index| index > 0);
        let started = match lock_parts().as_ref() {
            Some(parts) => parts.started,
            None => return,
        };
        for number in 0..count {
            let instruction = qemu_plugin_tb_get_insn(tb, number);
            if start == Some(number as u32) {
                qemu_plugin_register_vcpu_insn_exec_cb(
                    instruction,
                    Some(start_inside),
                    qemu_plugin_cb_flags::QEMU_PLUGIN_CB_R_REGS,
                    argument,
                );
            }
            // Results of the instruction before are read before this one starts.
            if let Some(site) = number.checked_sub(1).and_then(|before| block.opaque_at(before as u32))
                && (site.opaque.writes != 0 || site.opaque.changes_mapping)
            {
                qemu_plugin_register_vcpu_insn_exec_cb(
                    instruction,
                    Some(after_opaque),
                    qemu_plugin_cb_flags::QEMU_PLUGIN_CB_R_REGS,
                    std::ptr::from_ref(site).cast_mut().cast(),
                );
            }
            if block.decoded.may_stop_at(number) {
                qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
                    instruction,
                    qemu_plugin_op::QEMU_PLUGIN_INLINE_STORE_U64,
                    started,
                    number as u64 + 1,
                );
            }
            let flags = qemu_plugin_cb_flags::QEMU_PLUGIN_CB_NO_REGS;
            let (load, store, argument): (qemu_plugin_vcpu_mem_cb_t, qemu_plugin_vcpu_mem_cb_t, _) =
                match block.opaque_at(number as u32) {
                    Some(site) => (
                        Some(opaque_load),
                        Some(opaque_store),
                        std::ptr::from_ref(site).cast_mut().cast::<c_void>(),
                    ),
                    None => (Some(load), Some(store), std::ptr::null_mut()),
                };
            qemu_plugin_register_vcpu_mem_cb(
                instruction,
                load,
                flags,
                qemu_plugin_mem_rw::QEMU_PLUGIN_MEM_R,
                argument,
            );
            qemu_plugin_register_vcpu_mem_cb(
                instruction,
                store,
                flags,
                qemu_plugin_mem_rw::QEMU_PLUGIN_MEM_W,
                argument,
            );
        }
    }
}

unsafe extern "C" fn block_enters(_: c_uint, argument: *mut c_void) {
    // SAFETY: the argument is a block, which is never freed; this is the vCPU's thread.
    unsafe {
        let block = &*argument.cast::<Block>();
        let unexpected = (*VCPU.0.get()).as_mut().and_then(|vcpu| vcpu.enter(block));
        if let Some(started) = unexpected {
            guarded(|| {
                if let Some(vcpu) = (*VCPU.0.get()).as_mut() {
                    vcpu.enter_slowly(block, started);
                }
            });
        }
    }
}

unsafe extern "C" fn start_inside(_: c_uint, argument: *mut c_void) {
    guarded(|| {
        // SAFETY: as in `block_enters`.
        unsafe {
            let block = &*argument.cast::<Block>();
            if let Some(vcpu) = (*VCPU.0.get()).as_mut()
                && let Some(index) = vcpu.start_index(block)
            {
                vcpu.start_inside(block, index);
            }
        }
    });
}

unsafe extern "C" fn after_opaque(_: c_uint, argument: *mut c_void) {
    guarded(|| {
        // SAFETY: the argument is an opaque instruction of a block, which is never freed; this is the vCPU's thread.
        unsafe {
            if let Some(vcpu) = (*VCPU.0.get()).as_mut() {
                vcpu.after_opaque(&*argument.cast::<OpaqueSite>());
            }
        }
    });
}

/// # Safety
/// As QEMU promises for memory callbacks.
#[inline]
unsafe fn modelled_access(info: qemu_plugin_meminfo_t, address: u64, direction: Direction) {
    // SAFETY: as the caller promises; this is the vCPU's thread.
    unsafe {
        let Some(vcpu) = (*VCPU.0.get()).as_mut() else { return };
        let address = address as u32;
        let Some(shift) = small_size(info) else {
            guarded(|| vcpu.fail(format!("an access of 16 bytes at {address:#x} by a modelled instruction")));
            return;
        };
        let bytes = 1 << shift;
        if vcpu.is_settled(address, bytes, direction) {
            vcpu.push_access(address, bytes, small_value(info, shift), direction);
        } else {
            guarded(|| vcpu.access_slowly(info, address, bytes, small_value(info, shift), direction));
        }
    }
}

unsafe extern "C" fn load(_: c_uint, info: qemu_plugin_meminfo_t, address: u64, _: *mut c_void) {
    // SAFETY: QEMU calls it.
    unsafe { modelled_access(info, address, Direction::Load) }
}

unsafe extern "C" fn store(_: c_uint, info: qemu_plugin_meminfo_t, address: u64, _: *mut c_void) {
    // SAFETY: QEMU calls it.
    unsafe { modelled_access(info, address, Direction::Store) }
}

/// # Safety
/// As QEMU promises for memory callbacks; the argument is an opaque instruction of a block.
unsafe fn opaque_access(info: qemu_plugin_meminfo_t, address: u64, argument: *mut c_void, store: bool) {
    guarded(|| {
        // SAFETY: as the caller promises; this is the vCPU's thread.
        unsafe {
            if let Some(vcpu) = (*VCPU.0.get()).as_mut() {
                let (flags, value) = any_value(info, store);
                vcpu.opaque_access(info, address as u32, flags, value, &*argument.cast::<OpaqueSite>());
            }
        }
    });
}

unsafe extern "C" fn opaque_load(
    _: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    argument: *mut c_void,
) {
    // SAFETY: QEMU calls it with what was registered.
    unsafe { opaque_access(info, address, argument, false) }
}

unsafe extern "C" fn opaque_store(
    _: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    argument: *mut c_void,
) {
    // SAFETY: QEMU calls it with what was registered.
    unsafe { opaque_access(info, address, argument, true) }
}

unsafe extern "C" fn at_exit(_: qemu_plugin_id_t, _: *mut c_void) {
    guarded(|| {
        // SAFETY: QEMU has stopped its vCPUs, or this is the vCPU's own thread.
        if let Some(vcpu) = unsafe { (*VCPU.0.get()).as_mut() } {
            vcpu.exit();
        }
        let encoder = lock_parts().as_mut().and_then(|parts| {
            // A ring that no vCPU ever took ends here, which ends the encoder's thread.
            parts.ring.take();
            parts.encoder.take()
        });
        if let Some(encoder) = encoder {
            // It has told all that there is to tell.
            let _ = encoder.join();
        }
    });
}
