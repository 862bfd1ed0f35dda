//! Where QEMU meets the plugin: the exported symbols and the callbacks.
//!
//! Whatever does more than append to the ring runs with panics caught: unwinding into QEMU's C code would end the guest.
//! What runs on every block and on every access contains nothing that panics.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ktrace_format::TraceWriter;
use ktrace_format::header::{Architecture, ByteOrder, FORMAT_VERSION, Header, Path};
use ktrace_machine::InstructionSet;
use qemu_plugin_sys::*;

use crate::api::{Api, LogSite, TlbFill, discontinuity};
use crate::block::{Again, Block, OpaqueSite, Registry};
use crate::control::{Control, Hello};
use crate::device_writes::DeviceWrites;
use crate::event::access;
use crate::fast;
use crate::mapping::{Direction, Mappings};
use crate::mips;
use crate::names::Names;
use crate::options::Options;
use crate::pipeline::{self, Setup};
use crate::portable;
use crate::recorder::{Parts as RecorderParts, Recorder};
use crate::registers::Registers;
use crate::ring::{Cursor, Segment, Writer};
use crate::shared::Shared;
use crate::translation::Translation;
use crate::value::{any_value, small_size, small_value};

/// The version of QEMU's plugin interface that this plugin speaks. QEMU reads it before it calls anything.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static qemu_plugin_version: c_int = 4;

/// The one vCPU's state, on the path that QEMU allows.
#[expect(clippy::large_enum_variant, reason = "there is one")]
enum Vcpu {
    Portable(portable::Vcpu),
    Fast(fast::Vcpu),
}

impl Vcpu {
    fn recorder(&mut self) -> &mut Recorder {
        match self {
            Vcpu::Portable(vcpu) => &mut vcpu.recorder,
            Vcpu::Fast(vcpu) => &mut vcpu.recorder,
        }
    }

    /// Ends the recording because of a block that QEMU translates, which it does when it comes to it.
    fn fail_between_blocks(&mut self, message: String) {
        match self {
            Vcpu::Portable(vcpu) => vcpu.recorder.fail(message),
            Vcpu::Fast(vcpu) => vcpu.fail_between_blocks(message),
        }
    }
}

/// See [`Vcpu`].
struct TheVcpu(UnsafeCell<Option<Vcpu>>);

// SAFETY: it is touched on the vCPU's thread only, and by `at_exit`, which QEMU calls when no vCPU runs any more.
unsafe impl Sync for TheVcpu {}

static VCPU: TheVcpu = TheVcpu(UnsafeCell::new(None));

/// What `install` made and `vcpu_init` and `at_exit` take.
struct Parts {
    segments: Option<Sender<Segment>>,
    recorder: Option<RecorderParts>,
    names: Names,
    shared: Arc<Shared>,
    encoder: Option<JoinHandle<()>>,
    cursor: Score,
    api: Option<Api>,
}

/// The scoreboard whose one element is the ring's cursor.
#[derive(Clone, Copy)]
struct Score(*mut qemu_plugin_scoreboard);

// SAFETY: QEMU guards its scoreboards itself.
unsafe impl Send for Score {}

impl Score {
    fn field(self, offset: usize) -> qemu_plugin_u64 {
        qemu_plugin_u64 { score: self.0, offset }
    }
}

/// What devices have written since the vCPU last looked.
static DEVICE_WRITES: DeviceWrites = DeviceWrites::new();

static PARTS: Mutex<Option<Parts>> = Mutex::new(None);
static PLUGIN: AtomicU64 = AtomicU64::new(0);

/// Runs what may panic. A panic ends the recording.
fn guarded(action: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(action)).is_err() {
        // SAFETY: on the vCPU's thread, as all callbacks that come here; the panic is over.
        if let Some(vcpu) = unsafe { (*VCPU.0.get()).as_mut() } {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                vcpu.recorder().fail("the tracer panicked, see above: this is a bug in ktracer".to_owned())
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
    if !system || !["arm", "mipsel", "mips"].contains(&target) {
        return Err(format!(
            "it records qemu-system-arm, qemu-system-mipsel and qemu-system-mips, this is the target '{target}'"
        ));
    }
    if vcpus != 1 {
        return Err(format!("it records one vCPU, this machine may have {vcpus}: start QEMU with -smp 1"));
    }
    let options = Options::parse(arguments.iter().map(String::as_str)).map_err(|error| error.to_string())?;
    let (control, hello) = match &options.control {
        None => (Control::absent(), Hello::of_this_process()),
        Some(path) => Control::connect(path)
            .map_err(|error| format!("can't talk to ktracer record on {}: {error}", path.display()))?,
    };
    let api = Api::find();
    let cpu = processor(&hello.command_line);
    let set = if target == "arm" { InstructionSet::Arm } else { mips::instruction_set(target, &cpu)? };
    if set != InstructionSet::Arm && api.is_none() {
        return Err("MIPS takes the patched QEMU: build it with `make qemu`, and record with `ktracer record --patched`"
            .to_owned());
    }
    if set.byte_order() == ktrace_machine::ByteOrder::Big
        && !mips::shows_big_endian_values(&hello.qemu_version)
    {
        return Err("on a processor that can't load and store with swapped bytes, this QEMU shows wrong values of a big-endian \
                    guest: it takes QEMU 10.0.13"
            .to_owned());
    }
    let header = Header {
        format_version: FORMAT_VERSION,
        arch: if set == InstructionSet::Arm { Architecture::Arm } else { Architecture::Mips },
        byte_order: match set.byte_order() {
            ktrace_machine::ByteOrder::Little => ByteOrder::Little,
            ktrace_machine::ByteOrder::Big => ByteOrder::Big,
        },
        cpu,
        path: if api.is_some() { Path::Fast } else { Path::Portable },
        qemu_version: hello.qemu_version,
        command_line: hello.command_line,
        tracer_version: env!("CARGO_PKG_VERSION").to_owned(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        started: hello.started,
    };
    let trace = TraceWriter::create(&options.directory, header)
        .map_err(|error| format!("can't start a trace in {}: {error}", options.directory.display()))?;

    // SAFETY: called while QEMU loads the plugin, as this function asks.
    let cursor = Score(unsafe { qemu_plugin_scoreboard_new(size_of::<Cursor>()) });
    let blocks = crate::block::Shared::default();
    let names = Names::new();
    let (segments, jobs) = channel();
    let shared = Arc::new(Shared::default());
    let control = Arc::new(control);
    let (tell, deltas) = pipeline::deltas();
    let setup = Setup {
        set,
        segments: jobs,
        deltas,
        trace,
        directory: options.directory.clone(),
        blocks: Arc::clone(&blocks),
        names: names.clone(),
        shared: Arc::clone(&shared),
        control: Arc::clone(&control),
    };
    let encoder = std::thread::Builder::new()
        .name("ktracer-pipeline".to_owned())
        .spawn(move || pipeline::run(setup))
        .map_err(|error| format!("can't start the encoder's thread: {error}"))?;
    // SAFETY: called once, while QEMU loads the plugin, as these functions ask.
    unsafe {
        qemu_plugin_register_vcpu_init_cb(id, Some(vcpu_init));
        qemu_plugin_register_vcpu_tb_trans_cb(id, Some(translated));
        qemu_plugin_register_atexit_cb(id, Some(at_exit), std::ptr::null_mut());
        if let Some(api) = &api {
            (api.on_discontinuity)(id, discontinuity::ALL, discontinuous);
            (api.on_reset)(id, was_reset);
            (api.on_tlb_fill)(id, tlb_filled);
            (api.on_device_write)(id, device_wrote);
        }
    };
    PLUGIN.store(id, Ordering::Relaxed);
    let recorder = RecorderParts {
        set,
        registry: Registry::new(set, blocks),
        shared: Arc::clone(&shared),
        control,
        options,
        deltas: tell,
    };
    let parts = Parts {
        segments: Some(segments),
        recorder: Some(recorder),
        names,
        shared,
        encoder: Some(encoder),
        cursor,
        api,
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
        let (Some(segments), Some(recorder)) = (parts.segments.take(), parts.recorder.take()) else { return };
        let registers = match Registers::find(recorder.set, parts.api.map(|api| api.read_registers)) {
            Ok(registers) => registers,
            Err(error) => {
                // Without a vCPU state nothing is ever recorded; the encoder closes an empty trace and tells why.
                if let Ok(mut message) = parts.shared.error.lock() {
                    *message = Some(error.to_string());
                }
                return;
            }
        };
        // SAFETY: the scoreboard was made by `install` for cursors, zeroed, which is a cursor at nothing; with one vCPU it is
        // never moved after this callback.
        let cursor = unsafe { &*qemu_plugin_scoreboard_find(parts.cursor.0, index).cast::<Cursor>() };
        let ring = Writer::new(segments, cursor);
        crate::shared::publish(cursor);
        let translation = Translation::new(recorder.set, parts.api.map(|api| api.read_mips_tlb));
        let recorder = Recorder::new(ring, registers, translation, recorder, parts.api.is_none());
        let vcpu = match parts.api {
            Some(api) => {
                // SAFETY: in the callback of a vCPU's start, as the function asks.
                unsafe { (api.translate_absolute)() };
                Vcpu::Fast(fast::Vcpu::new(recorder, api, parts.names.clone(), &DEVICE_WRITES))
            }
            None => Vcpu::Portable(portable::Vcpu::new(recorder, Mappings::new(parts.names.clone()))),
        };
        // SAFETY: this is the vCPU's thread, and no other callback of it is running.
        unsafe { *VCPU.0.get() = Some(vcpu) };
    });
}

unsafe extern "C" fn translated(_: qemu_plugin_id_t, tb: *mut qemu_plugin_tb) {
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

/// The vCPU on the portable path.
///
/// # Safety
/// On the vCPU's thread, in a callback, while no other reference to it is in use.
#[inline]
unsafe fn portable_vcpu() -> Option<&'static mut portable::Vcpu> {
    // SAFETY: as the caller promises.
    match unsafe { (*VCPU.0.get()).as_mut() } {
        Some(Vcpu::Portable(vcpu)) => Some(vcpu),
        _ => None,
    }
}

/// The vCPU on the fast path.
///
/// # Safety
/// On the vCPU's thread, in a callback, while no other reference to it is in use.
unsafe fn fast_vcpu() -> Option<&'static mut fast::Vcpu> {
    // SAFETY: as the caller promises.
    match unsafe { (*VCPU.0.get()).as_mut() } {
        Some(Vcpu::Fast(vcpu)) => Some(vcpu),
        _ => None,
    }
}

unsafe extern "C" fn block_enters(_: c_uint, argument: *mut c_void) {
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

unsafe extern "C" fn block_logs(_: c_uint, argument: *mut c_void) {
    guarded(|| {
        // SAFETY: the argument is a block, which is never freed; this is the vCPU's thread.
        unsafe {
            if let Some(vcpu) = fast_vcpu() {
                vcpu.enter(&*argument.cast::<Block>());
            }
        }
    });
}

unsafe extern "C" fn start_inside(_: c_uint, argument: *mut c_void) {
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

unsafe extern "C" fn after_opaque(_: c_uint, argument: *mut c_void) {
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
unsafe extern "C" fn access_again(
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
unsafe extern "C" fn packed(sites: *const LogSite, count: usize, argument: *mut c_void) -> u64 {
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

unsafe extern "C" fn discontinuous(_: qemu_plugin_id_t, _: c_uint, kind: u32, from: u64, to: u64) {
    guarded(|| {
        // SAFETY: this is the vCPU's thread.
        if let Some(vcpu) = unsafe { fast_vcpu() } {
            vcpu.discontinuity(kind, from, to);
        }
    });
}

/// On any thread.
unsafe extern "C" fn was_reset(_: qemu_plugin_id_t, _: c_uint) {
    let shared = lock_parts().as_ref().map(|parts| Arc::clone(&parts.shared));
    if let Some(shared) = shared {
        shared.was_reset.store(true, Ordering::SeqCst);
        crate::shared::call_at_next_block();
    }
}

unsafe extern "C" fn tlb_filled(_: qemu_plugin_id_t, _: c_uint, fill: *const TlbFill) {
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
unsafe extern "C" fn device_wrote(_: qemu_plugin_id_t, physical: u64, data: *const c_void, length: usize) {
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

unsafe extern "C" fn opaque_load(
    _: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    argument: *mut c_void,
) {
    // SAFETY: QEMU calls it with what was registered.
    unsafe { opaque_access(info, address, argument) }
}

unsafe extern "C" fn opaque_store(
    _: c_uint,
    info: qemu_plugin_meminfo_t,
    address: u64,
    argument: *mut c_void,
) {
    // SAFETY: QEMU calls it with what was registered.
    unsafe { opaque_access(info, address, argument) }
}

unsafe extern "C" fn at_exit(_: qemu_plugin_id_t, _: *mut c_void) {
    guarded(|| {
        // SAFETY: QEMU has stopped its vCPUs, or this is the vCPU's own thread.
        match unsafe { (*VCPU.0.get()).as_mut() } {
            Some(Vcpu::Portable(vcpu)) => vcpu.exit(),
            Some(Vcpu::Fast(vcpu)) => vcpu.exit(),
            None => {}
        }
        // The ring goes with the vCPU: that ends the encoders' threads.
        // SAFETY: as above.
        unsafe { *VCPU.0.get() = None };
        let encoder = lock_parts().as_mut().and_then(|parts| {
            // What no vCPU ever took ends here, which ends the encoders' threads.
            parts.segments.take();
            parts.encoder.take()
        });
        if let Some(encoder) = encoder {
            // It has told all that there is to tell.
            let _ = encoder.join();
        }
    });
}
