//! Measures what QEMU's own record and replay takes to go backward in a kernel's boot, for comparison: `benches/time-travel.sh
//! --qemu-replay` runs it.
//!
//!     qemu_replay QEMU KERNEL SCRATCH [--samples N] [--far-watch ADDR] [--far-breakpoint ADDR]
//!
//! Records with `-icount shift=auto,rr=record` and one snapshot, at the start, as QEMU's manual has it (docs/system/replay.rst),
//! replays that with QEMU's gdb server, and sends it what gdb would send, over TCP, as `time_travel_server` does with ktreplay. QEMU goes
//! back by loading the latest snapshot before and executing from there, once for a step, twice for a `reverse-continue`. Prints one
//! JSON object a line, see `ktracer_tests::measure`.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ktracer_tests::measure::{Measured, memory, milliseconds, print_heading};
use ktracer_tests::server::{Client, stopped};
use serde_json::json;

/// Where it goes backward: instructions in.
const LATE: u64 = 3_000_000_000;
/// Steps forward, and how far back a near breakpoint is.
const NEAR: usize = 800;

struct Arguments {
    qemu: String,
    kernel: String,
    scratch: PathBuf,
    samples: usize,
    far_watch: Option<String>,
    far_breakpoint: Option<String>,
}

fn arguments() -> Result<Arguments> {
    let mut words = std::env::args().skip(1);
    let mut word = |what: &str| words.next().with_context(|| format!("{what} is missing"));
    let mut arguments = Arguments {
        qemu: word("QEMU")?,
        kernel: word("the kernel")?,
        scratch: word("a directory")?.into(),
        samples: 3,
        far_watch: None,
        far_breakpoint: None,
    };
    while let Some(option) = words.next() {
        let value = words.next().with_context(|| format!("{option} wants a value"))?;
        let address = Some(value.trim_start_matches("0x").to_owned());
        match option.as_str() {
            "--samples" => arguments.samples = value.parse().context("a number of samples")?,
            "--far-watch" => arguments.far_watch = address,
            "--far-breakpoint" => arguments.far_breakpoint = address,
            _ => bail!("unknown option {option}"),
        }
    }
    Ok(arguments)
}

/// A QEMU that ends with this value.
struct Replayer(Child);

impl Drop for Replayer {
    fn drop(&mut self) {
        // It has ended by itself if it did not wait for a client.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// QEMU, recording or replaying.
fn qemu(arguments: &Arguments, mode: &str) -> Command {
    let scratch = arguments.scratch.display();
    let mut command = Command::new(&arguments.qemu);
    command
        .args(["-M", "virt", "-m", "512", "-nic", "none", "-display", "none", "-no-reboot"])
        .args(["-serial", &format!("file:{scratch}/console-{mode}")])
        .args(["-kernel", &arguments.kernel, "-append", "console=ttyAMA0 panic=-1"])
        .args(["-icount", &format!("shift=auto,rr={mode},rrfile={scratch}/replay.bin,rrsnapshot=start")])
        .args(["-drive", &format!("file={scratch}/snapshots.qcow2,if=none,id=snapshots")])
        .stdin(Stdio::null());
    command
}

/// Starts a replay that waits for gdb, and connects.
fn replay(arguments: &Arguments) -> Result<(Replayer, Client)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let gdb = format!("tcp:127.0.0.1:{port}");
    let child = qemu(arguments, "replay").args(["-S", "-gdb", &gdb]).spawn()?;
    let mut replayer = Replayer(child);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let patience = Instant::now();
    loop {
        match Client::connect(address) {
            Ok(mut client) => {
                client.wait_longer(Duration::from_secs(600))?;
                return Ok((replayer, client));
            }
            Err(error) => ensure!(patience.elapsed() < Duration::from_secs(60), "QEMU's gdb server: {error}"),
        }
        if let Some(status) = replayer.0.try_wait()? {
            bail!("QEMU ended: {status}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many instructions have been executed.
fn position(client: &mut Client) -> Result<u64> {
    let told = client.monitor("info replay")?;
    let number = told.rsplit(|letter: char| !letter.is_ascii_digit()).find(|word| !word.is_empty());
    number.and_then(|word| word.parse().ok()).with_context(|| format!("no position in {told:?}"))
}

/// Runs forward to a position.
fn run_to(client: &mut Client, position: u64) -> Result<()> {
    client.monitor(&format!("replay_break {position}"))?;
    stopped(&client.ask_quietly("c")?)?;
    client.monitor("replay_delete_break")?;
    Ok(())
}

/// Goes back with a breakpoint or watchpoint set; returns how far.
fn back_to(client: &mut Client, measured: &mut Measured, kind: &str, address: &str) -> Result<u64> {
    let before = position(client)?;
    ensure!(client.ask(&format!("Z{kind},{address},4"))? == "OK", "Z{kind},{address},4 is refused");
    stopped(&measured.wait(|| client.ask_quietly("bc"))?)?;
    ensure!(client.ask(&format!("z{kind},{address},4"))? == "OK");
    Ok(before.saturating_sub(position(client)?))
}

fn record(arguments: &Arguments) -> Result<()> {
    let snapshots = arguments.scratch.join("snapshots.qcow2");
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&snapshots).arg("1G").status();
    ensure!(made.context("qemu-img (Debian package qemu-utils)")?.success(), "qemu-img failed");
    let (mut plain, mut recording) = (Measured::default(), Measured::default());
    let status = plain.wait(|| {
        Command::new(&arguments.qemu)
            .args(["-M", "virt", "-m", "512", "-nic", "none", "-display", "none", "-no-reboot"])
            .args(["-serial", "null", "-kernel", &arguments.kernel, "-append", "console=ttyAMA0 panic=-1"])
            .stdin(Stdio::null())
            .status()
    })?;
    ensure!(status.success(), "QEMU: {status}");
    plain.print("the boot, not recorded");
    let status = recording.wait(|| qemu(arguments, "record").status())?;
    ensure!(status.success(), "QEMU: {status}");
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let (log, snapshot) = (bytes(&arguments.scratch.join("replay.bin")), bytes(&snapshots));
    recording.note(format!("{log} bytes, and {snapshot} of snapshots"));
    recording.print("the boot, recorded by QEMU");
    Ok(())
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let samples = arguments.samples;
    print_heading(
        "QEMU's own record and replay, with a snapshot at the start; through its gdb server, over TCP",
    );
    record(&arguments)?;

    let mut open = Measured::default();
    for _ in 0..samples {
        let started = Instant::now();
        let (_replayer, mut client) = replay(&arguments)?;
        stopped(&client.ask("?")?)?;
        open.add(milliseconds(started));
    }
    open.print("start QEMU, connect, registers at the start");

    let (replayer, mut client) = replay(&arguments)?;
    let client = &mut client;
    let mut random = fastrand::Rng::with_seed(7);
    let mut run = Measured::default();
    run.wait(|| run_to(client, LATE))?;
    let there = position(client)?;
    ensure!(there == LATE, "it ran to {there}");
    run.print(&format!("run to position {LATE}"));

    let mut addresses = Vec::new();
    let mut step = Measured::default();
    for _ in 0..NEAR {
        addresses.push(client.program_counter()?);
        stopped(&step.wait(|| client.ask("s"))?)?;
    }
    step.print("step");
    let here = position(client)?;

    let mut back = Measured::default();
    for number in 1..=samples as u64 {
        stopped(&back.wait(|| client.ask("bs"))?)?;
        let there = position(client)?;
        ensure!(there == here - number, "{number} reverse steps from {here} went to {there}");
    }
    back.note(format!("{here} instructions in"));
    back.print("reverse step");

    // Once: QEMU stops at every hit on its way from the start, and there can be many.
    let mut near = Measured::default();
    let rare =
        addresses.iter().find(|address| addresses.iter().filter(|other| other == address).count() == 1);
    let address = rare.or(addresses.first()).context("a step")?;
    if position(client)? < here {
        run_to(client, here)?;
    }
    let distance = back_to(client, &mut near, "0", address)?;
    near.note(format!("0x{address}: {distance} instructions back"));
    near.print("reverse-continue to a breakpoint's hit not far before");
    for (what, kind, address) in [
        ("reverse-continue to a breakpoint near the start", "0", &arguments.far_breakpoint),
        ("reverse-continue to a watchpoint last written near the start", "2", &arguments.far_watch),
    ] {
        let Some(address) = address else { continue };
        let (mut measured, mut distance) = (Measured::default(), 0);
        for _ in 0..samples {
            if position(client)? < here {
                run_to(client, here)?;
            }
            distance = distance.max(back_to(client, &mut measured, kind, address)?);
        }
        measured.note(format!("0x{address}: up to {distance} instructions back"));
        measured.print(what);
    }

    let mut read = Measured::default();
    for _ in 0..100 {
        let address = 0xc000_8000 + random.u32(..64) * 0x1_0000;
        read.wait(|| client.ask(&format!("m{address:x},10")))?;
    }
    read.print("read 16 bytes where it stands");
    let (peak, _) = memory(&replayer.0.id().to_string());
    println!("{}", json!({ "qemu_peak_resident_mib": peak }));
    Ok(())
}
