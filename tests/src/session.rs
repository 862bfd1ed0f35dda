//! One run of `ktracer record`, with a monitor to QEMU, the console in a file, and a keyboard to type on.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ktrace_format::{Trace, header};
use serde_json::json;
use tempfile::TempDir;

use crate::monitor::Monitor;
use crate::programs::program;
use crate::qemu::Qemu;

/// Between two looks at something that is awaited.
const PAUSE: Duration = Duration::from_millis(20);

/// A recording under way. Dropped before its end, it kills what it started.
#[derive(Debug)]
pub struct Session {
    scratch: PathBuf,
    recorder: Child,
    /// The path that it must take.
    path: header::Path,
    /// Holds the sockets of the monitor and of the console, whose paths must be short.
    sockets: TempDir,
    /// The console's, once something was typed.
    keyboard: Option<UnixStream>,
    /// The monitor of its QEMU.
    pub monitor: Monitor,
}

/// The log of a QEMU that was started with [`logging`].
pub const FIRST_LOG: &str = "first.log";

/// QEMU's arguments that make it log every instruction and every exception from reset on, into [`FIRST_LOG`].
pub fn logging() -> [&'static str; 6] {
    ["-accel", "tcg,one-insn-per-tb=on", "-d", "cpu,exec,int,nochain", "-D", FIRST_LOG]
}

/// The console's socket.
const KEYBOARD: &str = "console";

impl Session {
    /// Starts `ktracer record` with Debian's QEMU: see [`Session::start_on`].
    pub fn start(
        scratch: &Path,
        options: &[&str],
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Session> {
        Session::start_on(&Qemu::stock()?, scratch, options, arguments)
    }

    /// Starts `ktracer record` in `scratch`, an existing directory that will hold `trace`, `console` and
    /// `messages`, what ktracer says. `options` go to it, `arguments` to QEMU.
    pub fn start_on(
        qemu: &Qemu,
        scratch: &Path,
        options: &[&str],
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Session> {
        let messages = File::create(scratch.join("messages"))?;
        let sockets = tempfile::tempdir()?;
        let socket = sockets.path().join("monitor");
        let keyboard = sockets.path().join(KEYBOARD);
        let keyboard = keyboard.display();
        let mut recorder = Command::new(program("ktracer")?)
            .env_remove("KTRACER_PLUGIN")
            .args(["record", "-o", "trace"])
            .args(options)
            .arg("--")
            .arg(qemu.program())
            .args([
                "-chardev",
                &format!("socket,id=console,path={keyboard},server=on,wait=off,logfile=console"),
            ])
            .args(["-serial", "chardev:console"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())])
            .args(arguments)
            .current_dir(scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages)
            .spawn()
            .context("starting ktracer")?;
        let connected = await_some(|| match Monitor::connect(&socket) {
            Ok(monitor) => Ok(Some(monitor)),
            Err(error) => match recorder.try_wait()? {
                None if error.is::<std::io::Error>() => Ok(None),
                _ => Err(error),
            },
        });
        let scratch = scratch.to_owned();
        match connected {
            Ok(monitor) => {
                Ok(Session { scratch, recorder, path: qemu.path(), sockets, keyboard: None, monitor })
            }
            Err(error) => {
                // Its own messages say more.
                let _ = recorder.kill();
                let _ = recorder.wait();
                let messages = std::fs::read_to_string(scratch.join("messages")).unwrap_or_default();
                Err(error.context(format!("ktracer said: {messages}")))
            }
        }
    }

    /// The directory of the trace.
    pub fn trace(&self) -> PathBuf {
        self.scratch.join("trace")
    }

    /// Waits for something that happens while the recording goes on, and fails should it end before.
    pub fn wait_for<T>(&mut self, what: &str, mut probe: impl FnMut(&Path) -> Option<T>) -> Result<T> {
        let Session { scratch, recorder, .. } = self;
        await_some(|| {
            let found = probe(scratch);
            if found.is_none()
                && let Some(status) = recorder.try_wait()?
            {
                bail!("ktracer ended with {status} before {what}: {}", messages(scratch));
            }
            Ok(found)
        })
    }

    /// Waits until the guest's console shows some text.
    pub fn wait_for_console(&mut self, text: &str) -> Result<()> {
        self.wait_for(&format!("the console said {text:?}"), |scratch| {
            let console = std::fs::read(scratch.join("console")).ok()?;
            String::from_utf8_lossy(&console).contains(text).then_some(())
        })
    }

    /// Types on the guest's console.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        let keyboard = match &mut self.keyboard {
            Some(keyboard) => keyboard,
            none => {
                let stream =
                    UnixStream::connect(self.sockets.path().join(KEYBOARD)).context("the console")?;
                // What the guest writes is in the file already; but somebody must take it here, too.
                let mut written = stream.try_clone()?;
                std::thread::spawn(move || std::io::copy(&mut written, &mut std::io::sink()));
                none.insert(stream)
            }
        };
        keyboard.write_all(text.as_bytes()).with_context(|| format!("typing {text:?}"))
    }

    /// Waits until the guest has switched itself off, or reset the machine, under a QEMU that stays then (`-no-reboot
    /// -no-shutdown`).
    pub fn wait_for_shutdown(&mut self) -> Result<()> {
        while self.monitor.execute("query-status", json!({}))?["status"] != "shutdown" {
            sleep(PAUSE);
        }
        Ok(())
    }

    /// Waits until a log holds that many instructions or more.
    pub fn wait_for_log(&mut self, log: &Path, instructions: u64) -> Result<()> {
        // A record has some 300 bytes; with the lines between two it is below this.
        let bytes = instructions * 320;
        self.wait_for("the log was long enough", |_| (log.metadata().ok()?.len() >= bytes).then_some(()))
    }

    /// Waits until the trace has more than so many instructions in whole segments, and returns how many.
    pub fn wait_for_instructions(&mut self, instructions: u64) -> Result<u64> {
        self.wait_for("the trace was long enough", |scratch| {
            let trace = Trace::open(&scratch.join("trace")).ok()?;
            (trace.instructions() > instructions).then(|| trace.instructions())
        })
    }

    /// Instructions that are in the trace's file already: the guest has got at least so far.
    pub fn instructions_written(&self) -> u64 {
        Trace::open(&self.trace()).map_or(0, |trace| trace.instructions())
    }

    /// Logs some `instructions` instructions from here on into `log`, which must be new. The guest runs on after it.
    pub fn log_window(&mut self, log: &Path, instructions: u64) -> Result<()> {
        self.monitor.start_log(log)?;
        self.monitor.run()?;
        self.wait_for_log(log, instructions)?;
        self.monitor.stop()?;
        self.monitor.end_log()
    }

    /// The process number of QEMU.
    pub fn qemu(&self) -> Result<u32> {
        let recorder = self.recorder.id();
        let children = std::fs::read_to_string(format!("/proc/{recorder}/task/{recorder}/children"));
        let children = children.context("this kernel does not tell a process's children")?;
        children
            .split_whitespace()
            .next()
            .context("ktracer has no child")?
            .parse()
            .context("a process number")
    }

    /// Waits until ktracer has ended, and returns its status.
    pub fn wait(mut self) -> Result<ExitStatus> {
        Ok(self.recorder.wait()?)
    }

    /// Tells QEMU to end, and waits for a well-closed trace.
    pub fn quit(mut self) -> Result<PathBuf> {
        match self.monitor.quit() {
            Ok(()) => self.finish(),
            Err(error) => {
                let status = self.recorder.wait()?;
                let messages = messages(&self.scratch);
                Err(error.context(format!("ktracer ended with {status}: {messages}")))
            }
        }
    }

    /// Waits for a well-closed trace.
    pub fn finish(mut self) -> Result<PathBuf> {
        let status = self.recorder.wait()?;
        ensure!(status.success(), "ktracer ended with {status}: {}", messages(&self.scratch));
        let path = Trace::open(&self.trace())?.header().path;
        ensure!(path == self.path, "it was recorded on the {path:?} path, not on the {:?} path", self.path);
        Ok(self.trace())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if matches!(self.recorder.try_wait(), Ok(None)) {
            if let Some(pid) = self.qemu().ok().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
                // It may have ended meanwhile, which is as good.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            let _ = self.recorder.wait();
        }
    }
}

fn messages(scratch: &Path) -> String {
    std::fs::read_to_string(scratch.join("messages")).unwrap_or_default()
}

fn await_some<T>(mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        sleep(PAUSE);
    }
}
