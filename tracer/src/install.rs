//! Where QEMU meets the plugin: the exported symbols and the callbacks.
//!
//! Whatever does more than append to the ring runs with panics caught: unwinding into QEMU's C code would end the guest.
//! What runs on every block and on every access contains nothing that panics.

mod callbacks;
mod instrument;

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

use callbacks::{device_wrote, discontinuous, tlb_filled, was_reset};
use instrument::translated;

use crate::api::{Api, discontinuity};
use crate::block::Registry;
use crate::control::{Control, Hello};
use crate::device_writes::DeviceWrites;
use crate::fast;
use crate::mapping::Mappings;
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
