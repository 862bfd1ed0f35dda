//! Measures how long it takes from Ctrl-C to the answer, in everything that takes long: `benches/time-travel.sh` runs it.
//!
//!     interrupts DIR [--mips DIR]
//!
//! Prints one JSON object a line, see `ktracer_tests::measure`. Every question is asked a number of times and interrupted after
//! 0.02 to 0.5 s. With ktreplay, Ctrl-C is the byte 0x03 on the connection, and the time is that to the stop reply or the end of the
//! output, with the registers there. With `ktracer query` and its like it is SIGINT, and the time is that to the process's
//! end. Three recordings are asked: DIR; a copy without `index.kt`; and one without that in which the indexes of all segments are
//! damaged, so that everything is executed
//! (what looks memory up there is left out: it waits for all segments before). A recording of a MIPS guest is asked for a register that is never written.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ktrace_format::Position;
use ktrace_format::index_file::INDEX_FILE;
use ktrace_format::writer::TRACE_FILE;
use ktrace_timeline::search::{AddressSpace, MemoryRange, Watched, Watchpoint};
use ktrace_timeline::walk::{Event, Walk};
use ktrace_timeline::{Program, Recording, Replay, Stop, StopAt};
use ktracer_tests::measure::{Measured, milliseconds, print_heading};
use ktracer_tests::programs::program;
use ktracer_tests::server::{Client, Interrupted, Server, monitor_packet};
use rustix::process::{Pid, Signal, kill_process};

/// How often each question is asked.
const SAMPLES: usize = 20;
/// How long it runs before Ctrl-C, in milliseconds.
const SHORTEST: u64 = 20;
const LONGEST: u64 = 500;

/// Debian's armhf kernel runs at addresses from here on.
const KERNEL: u32 = 0xc000_0000;

/// A copy of a recording, of which the indexes are missing, or damaged, too.
fn copy(trace: &Path, scratch: &Path, name: &str, damaged: bool) -> Result<PathBuf> {
    let copy = scratch.join(name);
    fs::create_dir(&copy)?;
    for entry in fs::read_dir(trace)? {
        let entry = entry?;
        if entry.file_name() != INDEX_FILE {
            fs::copy(entry.path(), copy.join(entry.file_name()))?;
        }
    }
    if damaged {
        let program = Program::open(trace)?;
        let path = copy.join(TRACE_FILE);
        let mut bytes = fs::read(&path)?;
        for segment in program.trace().segments() {
            let offset = segment.index.context("a segment has no index")? as usize;
            *bytes.get_mut(offset + 24).context("it is cut short")? ^= 1;
        }
        fs::write(path, bytes)?;
    }
    Ok(copy)
}

/// From here on nobody writes the word that is watched.
const QUIET_FROM: &str = "25%";

/// A word that nobody writes from a quarter of the recording on, beside words that many segments write: a search must execute
/// all of these.
fn never_written(trace: &Path) -> Result<u32> {
    let program = Arc::new(Program::open(trace)?);
    let end = program.trace().instructions();
    let mut recording = Recording::new(Arc::clone(&program));
    let mut random = fastrand::Rng::with_seed(3);
    let mut best = (Duration::ZERO, None);
    let looking = Instant::now();
    while looking.elapsed() < Duration::from_secs(60) {
        let walk = Walk::new(Arc::clone(&program), random.u64(end / 2..end)).take(500);
        let stores = walk.filter_map(|event| match event {
            Event::Instruction(instruction) => {
                instruction.accesses.into_iter().find(|access| access.store && access.address >= KERNEL)
            }
            _ => None,
        });
        let Some(written) = stores.filter(|access| access.device.is_none()).last() else { continue };
        let line = written.address & !63;
        for word in (0..16).map(|word| line + 4 * word) {
            let range = MemoryRange::new(AddressSpace::Virtual, word.into(), 4).context("a word")?;
            let watchpoints = vec![Watchpoint { range, watched: Watched::Write }];
            recording.seek(Position(end / 4))?;
            let started = Instant::now();
            // One that is written is found soon. If they all are, the one that is found last serves.
            let stop = StopAt { watchpoints, ..StopAt::default() };
            let mut too_long = || started.elapsed() > Duration::from_secs(3);
            let stopped = recording.run_forward(&stop, &mut too_long)?;
            if stopped == Stop::Cancelled {
                return Ok(word);
            }
            if started.elapsed() > best.0 {
                best = (started.elapsed(), Some(word));
            }
        }
    }
    best.1.context("nothing is stored to")
}

/// Asks the server the same thing again and again, each time from the position `start`.
fn interrupt_server(
    client: &mut Client,
    random: &mut fastrand::Rng,
    what: &str,
    packet: &str,
    start: &str,
) -> Result<()> {
    let (mut measured, mut ended) = (Measured::default(), Measured::default());
    for _ in 0..SAMPLES {
        client.monitor(&format!("goto {start}"))?;
        let after = Duration::from_millis(random.u64(SHORTEST..LONGEST));
        let asked = Instant::now();
        let Interrupted { latency, answer, console } = client.interrupt(packet, after)?;
        match latency {
            None => ended.add(milliseconds(asked)),
            Some(latency) => {
                measured.add(latency.as_secs_f64() * 1000.0);
                let told = console.contains("interrupted at position") || !answer.starts_with("T02");
                ensure!(told, "{what}: {answer} {console}");
            }
        }
    }
    say(measured, &ended, what);
    Ok(())
}

/// Says how long it took to interrupt something, and how often there was nothing to be interrupted.
fn say(mut measured: Measured, ended: &Measured, what: &str) {
    if ended.count() > 0 {
        let mean = ended.total() / ended.count() as f64;
        measured.note(format!(
            "{} of {SAMPLES} ended before Ctrl-C, after {mean:.0} ms on average",
            ended.count()
        ));
    }
    measured.print(what);
}

/// The same of a program that ends on SIGINT.
fn interrupt_program(random: &mut fastrand::Rng, what: &str, arguments: &[&str]) -> Result<()> {
    let (mut measured, mut ended) = (Measured::default(), Measured::default());
    for _ in 0..SAMPLES {
        let asked = Instant::now();
        let mut child = Command::new(program("ktracer")?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let wait = Duration::from_millis(random.u64(100 + SHORTEST..100 + LONGEST));
        while asked.elapsed() < wait && child.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if child.try_wait()?.is_some() {
            ended.add(milliseconds(asked));
            continue;
        }
        let sent = Instant::now();
        let status = end(&mut child)?;
        match (status.code(), status.signal()) {
            // Where it has not come so far as to catch it, it ends at once.
            (Some(130), _) | (_, Some(2)) => measured.add(milliseconds(sent)),
            (Some(0 | 1), _) => ended.add(milliseconds(asked)),
            _ => bail!("{what}: {status}"),
        }
    }
    say(measured, &ended, what);
    Ok(())
}

fn end(child: &mut Child) -> Result<ExitStatus> {
    let process = Pid::from_raw(i32::try_from(child.id())?).context("a process")?;
    kill_process(process, Signal::INT)?;
    Ok(child.wait()?)
}

fn server(trace: &Path, word: u32, damaged: bool) -> Result<()> {
    let server = Server::start(trace)?;
    let client = &mut Client::connect(server.address)?;
    let random = &mut fastrand::Rng::with_seed(4);
    client.monitor("goto 50%")?;
    let often = client.ask("pf")?;
    let often: String = (0..4).rev().filter_map(|at| often.get(2 * at..2 * at + 2)).collect();
    // An address at which there is no code, a condition that is false, a word that is not written for long.
    let never = "Z0,fffffff0,4".to_owned();
    // r0 == 0x12345679, in gdb's bytecode.
    let condition = format!("Z0,{often},4;Xa,26000024123456791327");
    let watch = format!("Z2,{word:x},4");
    for (what, packet, start) in [
        ("a breakpoint never hit", &never, "start"),
        ("a breakpoint hit often, a condition never true", &condition, "start"),
        ("a watchpoint not written for long", &watch, QUIET_FROM),
    ] {
        ensure!(client.ask(packet)? == "OK", "{packet}");
        for (direction, packet, start) in [("reverse-continue", "bc", "end"), ("continue", "vCont;c", start)]
        {
            interrupt_server(client, random, &format!("{direction} to {what}"), packet, start)?;
        }
        let cleared = packet.replace('Z', "z");
        let cleared = cleared.split(';').next().unwrap_or_default();
        ensure!(client.ask(cleared)? == "OK", "{cleared}");
    }
    for (command, start) in [
        ("events gap 1000", "start"),
        ("events gap 1000 back", "end"),
        ("events dma 1000", "start"),
        ("goto-event gap", "start"),
        ("goto-event gap back", "end"),
        ("provenance 0xc0008000 65536", "end"),
    ] {
        if damaged && command.starts_with("provenance") {
            continue;
        }
        let packet = monitor_packet(command);
        interrupt_server(client, random, &format!("monitor {command}, from the {start}"), &packet, start)?;
    }
    if damaged {
        return Ok(());
    }
    let search = "qSearch:memory:0;fffffff0;nowhere to be found";
    interrupt_server(client, random, "find in all memory (qSearch)", search, "end")
}

fn programs(trace: &Path, word: u32, damaged: bool) -> Result<()> {
    let directory = trace.to_str().context("a directory's name")?;
    let random = &mut fastrand::Rng::with_seed(5);
    let often = {
        let mut recording = Recording::open(trace)?;
        recording.seek(Position(recording.end().0 / 2))?;
        let pc = recording.registers()?.get(15).copied().flatten().context("a program counter")?;
        format!("{pc:#x}")
    };
    let word = format!("{word:#x}+4");
    for question in [
        &["exec", "0xfffffff0"][..],
        &["exec", &often],
        &["writes", &word, "--from", QUIET_FROM],
        &["changes", &word, "--from", QUIET_FROM],
        &["reads", "0xc0008000+0x400000"],
        &["reg", "r4"],
        &["reg", "r4", "--changed"],
        &["calls", &often],
        &["io", "nothing"],
        &["mem", "0+0xffffffff"],
    ] {
        if damaged && question[0] == "mem" {
            continue;
        }
        let arguments = [&["query", directory], question].concat();
        interrupt_program(random, &format!("ktracer query DIR {}", question.join(" ")), &arguments)?;
    }
    for arguments in
        [&["events", directory, "--kind", "gap"][..], &["verify", directory], &["index", directory]]
    {
        interrupt_program(
            random,
            &format!("ktracer {}", arguments.join(" ").replace(directory, "DIR")),
            arguments,
        )?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut words = std::env::args_os().skip(1).map(PathBuf::from);
    let trace = words.next().context("the trace's directory is missing")?;
    let mips = match words.next() {
        Some(option) if option == Path::new("--mips") => {
            Some(words.next().context("a directory is missing")?)
        }
        Some(other) => bail!("unknown option {}", other.display()),
        None => None,
    };
    let scratch = tempfile::tempdir()?;
    let word = never_written(&trace)?;
    let unindexed = copy(&trace, scratch.path(), "unindexed", false)?;
    let damaged = copy(&trace, scratch.path(), "damaged", true)?;
    for (directory, is_damaged, heading) in [
        (&trace, false, "from Ctrl-C to the answer"),
        (&unindexed, false, "from Ctrl-C to the answer, in a recording without index.kt"),
        (
            &damaged,
            true,
            "from Ctrl-C to the answer, in a recording without index.kt in which all indexes are damaged",
        ),
    ] {
        print_heading(&format!("{heading}: ktreplay, over TCP"));
        server(directory, word, is_damaged)?;
        print_heading(&format!("{heading}: SIGINT to the end of the process"));
        programs(directory, word, is_damaged)?;
    }
    if let Some(mips) = mips {
        print_heading(
            "from Ctrl-C to the answer, in a recording of a MIPS guest: SIGINT to the end of the process",
        );
        let directory = mips.to_str().context("a directory's name")?;
        let random = &mut fastrand::Rng::with_seed(6);
        for register in ["f20", "fir"] {
            let arguments = ["query", directory, "reg", register];
            interrupt_program(random, &format!("ktracer query DIR reg {register}"), &arguments)?;
        }
    }
    Ok(())
}
