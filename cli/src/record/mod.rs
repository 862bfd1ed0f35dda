//! `ktracer record`: starts QEMU with the plugin, serves the plugin, shows progress, and leaves a trace.
//!
//! The plugin writes the trace. This side knows what the plugin cannot: how QEMU was started, who owns the terminal, and
//! what memory held before the first instruction (through QEMU's monitor).

mod capture;
mod control;
pub mod directory;
mod guest;
mod lines;
mod mtree;
mod patched;
mod plugin;
pub mod progress;
mod qemu;
mod qmp;
mod terminal;

use std::ffi::OsString;
use std::fs;
use std::io::stdin;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{DecimalBytes, HumanCount};
use ktrace_machine::guest_address;
use ktrace_timeline::destination::parse_number;
use rustix::process::Signal;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use capture::CaptureError;
use control::{Controller, Finished, Reason};
use guest::{Guest, exit_code};
use progress::{Progress, metric};

/// How long to wait for the plugin's last words once QEMU has ended: they are in the socket by then.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The command line of `ktracer record`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The directory to create for the trace
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Replace DIR if it is empty or holds a trace
    #[arg(long)]
    force: bool,
    /// Record N instructions, then end QEMU; k, M and G stand for thousands, millions, billions
    #[arg(long, value_name = "N", value_parser = parse_count)]
    stop_after: Option<u64>,
    /// Begin when the processor first reaches this address, as in 0x40000000
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    start_at: Option<u64>,
    /// Let QEMU run on after --stop-after
    #[arg(long, requires = "stop_after")]
    keep_running: bool,
    /// Take QEMU from the one that `make qemu` has built with ktracer's patches; its name after `--` has no path then
    #[arg(long)]
    patched: bool,
    /// QEMU's command line: qemu-system-arm (9.2 or newer), or with --patched qemu-system-mips or -mipsel, and its arguments
    #[arg(last = true, required = true, value_name = "QEMU")]
    qemu: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  Record U-Boot with its console in this terminal, until you leave QEMU with Ctrl-A X:
    ktracer record -o trace/ -- qemu-system-arm -M virt -nographic -bios u-boot.bin

  Record the first 50 million instructions of a kernel, console in a file:
    ktracer record -o trace/ --stop-after 50M -- \\
      qemu-system-arm -M virt -m 512 -display none -serial file:console.log -kernel zImage

  Begin where a boot loader jumps to the program at 0x40000000, and replace an older trace:
    ktracer record -o trace/ --force --start-at 0x40000000 -- qemu-system-arm -M virt …

  Record with the QEMU that `make qemu` has built:
    ktracer record -o trace/ --patched -- qemu-system-arm -M virt -nographic -bios u-boot.bin

Signals (Ctrl-C, SIGTERM, SIGHUP) go to QEMU, which then ends and leaves a closed trace. The exit status is QEMU's, 128
+ the signal's number if one killed it, or 1 if QEMU was content and the recording failed.

The environment variable KTRACER_PLUGIN names the plugin, libktracer.so, if it is not where ktracer looks: beside
itself and in ../lib/ktracer. KTRACER_QEMU names the directory in which --patched finds bin/qemu-system-arm, if it is not
the latest build in ~/.cache/ktracer/qemu.";

/// What the threads of a recording report.
#[derive(Debug)]
enum Event {
    /// The plugin is loaded.
    Connected,
    /// The capture of memory begins.
    Capturing,
    /// It has ended; bytes of guest memory.
    Captured(Result<u64, CaptureError>),
    /// So much was recorded.
    Progress { instructions: u64, bytes: u64 },
    /// The recording has ended; QEMU may run on.
    Finished(Finished),
    /// Something that the user should know.
    Note(String),
    /// The plugin is gone.
    Disconnected,
    /// QEMU has ended.
    Exited(std::io::Result<ExitStatus>),
}

/// Runs the subcommand; the exit code is QEMU's.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Some((program, qemu_arguments)) = arguments.qemu.split_first() else {
        bail!("the command after `--` is missing");
    };
    let program = if arguments.patched { patched::find(program)? } else { program.clone() };
    let program = qemu::Program::check(&program)?;
    qemu::check_arguments(qemu_arguments)?;
    let library = plugin::find()?;
    let sockets = qemu::Sockets::create()?;
    let listener = UnixListener::bind(&sockets.control).context("cannot listen for the plugin")?;
    let directory = directory::create(&arguments.output, arguments.force)?;

    let options = qemu::PluginOptions {
        library: &library,
        output: &directory,
        control_socket: &sockets.control,
        stop_after: arguments.stop_after,
        start_at: arguments.start_at,
    };
    let terminal = tcgetattr(stdin()).ok();
    let cancelled = Arc::new(AtomicBool::new(false));
    let (events, received) = mpsc::channel();
    // From here on a signal is QEMU's business; one that comes before there is a QEMU is kept until there is.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot take signals")?;
    let mut command = Command::new(&program.path);
    command.args(qemu::with_plugin(qemu_arguments, &options, &sockets.qmp));
    let guest = match Guest::start(&mut command) {
        Ok(guest) => Arc::new(guest),
        Err(error) => {
            remove_if_empty(&directory);
            return Err(error);
        }
    };
    pass_signals_on(signals, Arc::clone(&guest), Arc::clone(&cancelled));
    report_exit(Arc::clone(&guest), events.clone());
    let controller = Controller {
        listener,
        hello: hello(&program, qemu_arguments),
        qmp_socket: sockets.qmp.clone(),
        directory: directory.clone(),
        keep_running: arguments.keep_running,
        cancelled,
        guest,
        events,
    };
    thread::spawn(move || controller.run());

    let progress = Progress::new(arguments.stop_after, terminal::belongs_to_guest(qemu_arguments));
    let outcome = Recording::new(progress, arguments.keep_running).follow(&received)?;
    if let Some(terminal) = terminal.filter(|_| outcome.status.code().is_none()) {
        restore(&terminal);
    }
    Ok(ExitCode::from(outcome.summarise(&arguments.output, &directory)))
}

fn hello(program: &qemu::Program, arguments: &[OsString]) -> serde_json::Value {
    let command_line: Vec<_> =
        std::iter::once(&program.path).chain(arguments).map(|argument| argument.to_string_lossy()).collect();
    json!({
        "qemu_version": program.version,
        "command_line": command_line,
        "started": jiff::Timestamp::now().to_string(),
    })
}

fn pass_signals_on(mut signals: Signals, guest: Arc<Guest>, cancelled: Arc<AtomicBool>) {
    thread::spawn(move || {
        for number in signals.forever() {
            cancelled.store(true, Ordering::Relaxed);
            guest.signal(match number {
                SIGINT => Signal::INT,
                SIGHUP => Signal::HUP,
                _ => Signal::TERM,
            });
        }
    });
}

fn report_exit(guest: Arc<Guest>, events: Sender<Event>) {
    thread::spawn(move || {
        let status = guest.wait();
        // The receiver is gone only when ktracer is on its way out.
        let _ = events.send(Event::Exited(status));
    });
}

/// A QEMU that was killed leaves the terminal as the guest's console needed it.
fn restore(terminal: &Termios) {
    // If it fails there is no terminal any more, and nothing to restore.
    let _ = tcsetattr(stdin(), OptionalActions::Now, terminal);
}

/// A recording that goes on.
struct Recording {
    progress: Progress,
    keep_running: bool,
    started: Instant,
    connected: bool,
    disconnected: bool,
    instructions: u64,
    finished: Option<(Finished, Duration)>,
}

/// A recording that has ended.
struct Outcome {
    status: ExitStatus,
    connected: bool,
    /// Instructions at the last report.
    instructions: u64,
    /// With the time that the recording took.
    finished: Option<(Finished, Duration)>,
}

impl Recording {
    fn new(progress: Progress, keep_running: bool) -> Self {
        Recording {
            progress,
            keep_running,
            started: Instant::now(),
            connected: false,
            disconnected: false,
            instructions: 0,
            finished: None,
        }
    }

    /// Shows what happens until QEMU has ended and the plugin has said its last.
    fn follow(mut self, events: &Receiver<Event>) -> Result<Outcome> {
        let status = loop {
            match events.recv() {
                Ok(Event::Exited(status)) => break status.context("cannot wait for QEMU")?,
                Ok(event) => self.take(event),
                Err(_) => bail!("all threads of the recording have ended before QEMU did"),
            }
        };
        let end = Instant::now() + LAST_WORDS;
        while self.connected && !self.disconnected {
            match events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        self.progress.finish();
        Ok(Outcome {
            status,
            connected: self.connected,
            instructions: self.instructions,
            finished: self.finished,
        })
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.connected = true;
                self.progress.phase("waiting for the first instruction");
            }
            Event::Capturing => self.progress.phase("copying the guest's memory"),
            Event::Captured(Ok(_)) => {
                self.started = Instant::now();
                self.progress.phase("recording");
            }
            Event::Captured(Err(error)) => {
                self.started = Instant::now();
                self.progress.note(&format!(
                    "warning: memory from before the recording is missing in the trace: {error}"
                ));
            }
            Event::Progress { instructions, bytes } => {
                self.instructions = instructions;
                if self.finished.is_none() {
                    self.progress.update(instructions, bytes);
                }
            }
            Event::Finished(finished) => {
                self.instructions = finished.instructions;
                if finished.reason != Reason::Exit {
                    self.progress.stop();
                }
                if let (Reason::Error, Some(error)) = (finished.reason, &finished.error) {
                    self.progress.note(&format!("the recording has ended early: {error}; QEMU runs on"));
                }
                if finished.reason == Reason::StopAfter && self.keep_running {
                    self.progress.note("the recording is complete; QEMU runs on");
                }
                self.finished = Some((finished, self.started.elapsed()));
            }
            Event::Note(text) => self.progress.note(&text),
            Event::Disconnected => self.disconnected = true,
            Event::Exited(_) => {}
        }
    }
}

impl Outcome {
    /// Says what was recorded, and returns the exit code. `shown` is the directory as the user named it.
    fn summarise(&self, shown: &Path, directory: &Path) -> u8 {
        let code = exit_code(self.status);
        let failed = if code == 0 { 1 } else { code };
        let shown = shown.display();
        let Some((finished, duration)) = &self.finished else {
            if !self.connected {
                remove_if_empty(directory);
                eprintln!("ktracer: nothing was recorded: QEMU ended before it loaded the plugin");
                return failed;
            }
            eprintln!(
                "ktracer: the trace was not closed: QEMU ended ({}) after about {} instructions",
                self.status,
                HumanCount(self.instructions)
            );
            if self.instructions > 0 {
                eprintln!("ktracer: all but the last second can be replayed: ktreplay {shown}");
            }
            return failed;
        };
        let seconds = duration.as_secs_f64();
        if finished.instructions > 0 {
            crate::index::after_recording(directory);
        }
        eprintln!(
            "ktracer: recorded {} instructions in {} blocks, {seconds:.1} s ({}/s)",
            HumanCount(finished.instructions),
            HumanCount(finished.blocks),
            metric(finished.instructions as f64 / seconds.max(1e-3)),
        );
        eprintln!(
            "ktracer: {shown}: {}, {:.3} bytes per instruction; {} on disk with the memory image",
            DecimalBytes(finished.bytes),
            finished.bytes as f64 / finished.instructions.max(1) as f64,
            DecimalBytes(size_on_disk(directory)),
        );
        if let Some(error) = &finished.error {
            eprintln!("ktracer: error: {error}");
        }
        if !finished.closed {
            eprintln!(
                "ktracer: the trace was not closed properly; `ktracer info {shown}` says what is missing"
            );
        }
        if finished.instructions > 0 {
            eprintln!("ktracer: replay it with: ktreplay {shown}");
        }
        if finished.error.is_some() || !finished.closed { failed } else { code }
    }
}

/// Bytes in the directory's files.
fn size_on_disk(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Nothing was recorded: don't leave a directory behind that would only be in the way of the next try.
fn remove_if_empty(directory: &Path) {
    // It fails if the directory is not empty, which is when it must stay.
    let _ = fs::remove_dir(directory);
}

/// A count of instructions: `1500000`, `1_500_000`, `1500k`, `50M`, `2G`.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['k', 'M', 'G']);
    let factor = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err("more than one of k, M, G".to_owned()),
    };
    let number: u64 =
        digits.replace('_', "").parse().map_err(|_| "expected a number such as 1500000 or 50M")?;
    match number.checked_mul(factor) {
        Some(0) => Err("at least one instruction must be recorded".to_owned()),
        Some(count) => Ok(count),
        None => Err("too many".to_owned()),
    }
}

/// An address: hexadecimal with 0x, else decimal. It has 32 bits, perhaps sign-extended to 64 as gdb prints those of MIPS.
fn parse_address(text: &str) -> Result<u64, String> {
    let number = parse_number(text).ok_or("expected an address such as 0x40000000")?;
    let address = guest_address(number).map(u64::from).ok_or("an address has 32 bits")?;
    if address % 2 != 0 {
        return Err(
            "instructions lie at even addresses; Thumb code too is named by its even address".to_owned()
        );
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        assert_eq!(parse_count("1_500_000"), Ok(1_500_000));
        assert_eq!(parse_count("50M"), Ok(50_000_000));
        assert_eq!(parse_count("2G"), Ok(2_000_000_000));
        for bad in ["", "0", "k", "5kM", "-1", "99999999999G", "5m"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_address("0x4000_0000"), Ok(0x4000_0000));
        assert_eq!(parse_address("4096"), Ok(4096));
        assert_eq!(parse_address("0xffffffff80100000"), Ok(0x8010_0000));
        for bad in ["0x+4000", "", "0x", "40000000h", "0x100000000", "0x8001"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }
}
