//! Measures how long `ktreplay` takes to answer a client that sends what gdb sends, over TCP: `benches/time-travel.sh` runs it.
//!
//!     time_travel_server DIR [--near-watch POSITION:ADDR]... [--far-watch ADDR] [--far-breakpoint ADDR]
//!
//! Prints one JSON object a line, see `ktracer_tests::measure`. A time is that from sending a packet to having its answer.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ktracer_tests::measure::{Measured, drop_cached, memory, milliseconds, print_heading};
use ktracer_tests::server::{Client, Server, stopped};
use serde_json::json;

/// Single steps in a row from each place.
const STEPS: usize = 500;
/// How often all else is measured.
const SAMPLES: usize = 50;
/// How often the server is started, each way.
const STARTS: usize = 10;

struct Arguments {
    trace: PathBuf,
    /// Positions, and words to watch from there.
    near_watches: Vec<(u64, String)>,
    far_watch: Option<String>,
    far_breakpoint: Option<String>,
}

fn arguments() -> Result<Arguments> {
    let mut words = std::env::args().skip(1);
    let trace = PathBuf::from(words.next().context("the trace's directory is missing")?);
    let mut arguments = Arguments { trace, near_watches: Vec::new(), far_watch: None, far_breakpoint: None };
    while let Some(option) = words.next() {
        let value = words.next().with_context(|| format!("{option} wants a value"))?;
        let address = |text: &str| text.trim_start_matches("0x").to_owned();
        match option.as_str() {
            "--near-watch" => {
                let (position, word) = value.split_once(':').context("a position and an address")?;
                arguments.near_watches.push((position.parse().context("a position")?, address(word)));
            }
            "--far-watch" => arguments.far_watch = Some(address(&value)),
            "--far-breakpoint" => arguments.far_breakpoint = Some(address(&value)),
            _ => bail!("unknown option {option}"),
        }
    }
    Ok(arguments)
}

/// From starting the server to the first answer with registers.
fn start(trace: &Path) -> Result<f64> {
    let started = Instant::now();
    let server = Server::start(trace)?;
    let mut client = Client::connect(server.address)?;
    ensure!(client.ask("?")?.starts_with('T'), "the server does not say where it is");
    Ok(milliseconds(started))
}

/// Where the guest is, and where the recording ends.
fn when(client: &mut Client) -> Result<(u64, u64)> {
    let told = client.monitor("when")?;
    let mut numbers = told.split([' ', ',']).filter_map(|word| word.parse().ok());
    numbers.next().zip(numbers.next()).with_context(|| told.clone())
}

/// Reverse-continues with a breakpoint or watchpoint set, as `kind` and an address.
fn back_to(client: &mut Client, measured: &mut Measured, kind: &str, address: &str) -> Result<String> {
    ensure!(client.ask(&format!("Z{kind},{address},4"))? == "OK");
    let answer = measured.wait(|| client.ask_quietly("bc"))?;
    ensure!(client.ask(&format!("z{kind},{address},4"))? == "OK");
    stopped(&answer)?;
    Ok(answer)
}

fn main() -> Result<()> {
    let Arguments { trace, near_watches, far_watch, far_breakpoint } = arguments()?;
    print_heading("through ktreplay, over TCP: from a packet of gdb's to its answer");
    let (mut cold, mut warm) = (Measured::default(), Measured::default());
    for _ in 0..STARTS {
        drop_cached(&trace)?;
        cold.add(start(&trace)?);
    }
    for _ in 0..STARTS {
        warm.add(start(&trace)?);
    }
    cold.print("start ktreplay, connect, registers at the start; files not cached");
    warm.print("the same again");

    let server = Server::start(&trace)?;
    let client = &mut Client::connect(server.address)?;
    let mut random = fastrand::Rng::with_seed(2);
    let (_, end) = when(client)?;

    let mut seek = Measured::default();
    for _ in 0..4 * SAMPLES {
        let command = format!("goto {}", random.u64(0..=end));
        seek.wait(|| client.monitor(&command))?;
    }
    seek.print("monitor goto a random position");

    for (packet, what) in [("vCont;s:1", "step"), ("bs", "reverse step")] {
        let (mut first, mut step) = (Measured::default(), Measured::default());
        for _ in 0..SAMPLES / 5 {
            client.monitor(&format!("goto {}", random.u64(100_000..end - 100_000)))?;
            let place = when(client)?.0;
            stopped(&first.wait(|| client.ask(packet))?)?;
            for _ in 1..STEPS {
                stopped(&step.wait(|| client.ask(packet))?)?;
            }
            let moved = when(client)?.0.abs_diff(place);
            ensure!(moved == STEPS as u64, "{what}: {STEPS} steps went {moved} instructions");
        }
        first.print(&format!("{what}, the first one after a goto"));
        step.print(&format!("{what}, those that follow"));
    }

    let (mut small, mut large) = (Measured::default(), Measured::default());
    for _ in 0..4 * SAMPLES {
        client.monitor(&format!("goto {}", random.u64(0..=end)))?;
        let address = 0xc000_8000 + random.u32(..64) * 0x1_0000;
        small.wait(|| client.ask(&format!("m{address:x},10")))?;
        large.wait(|| client.ask(&format!("m{address:x},1000")))?;
    }
    small.print("read 16 bytes at a random position");
    large.print("read 4 KiB at a random position");

    let mut near = Measured::default();
    for _ in 0..SAMPLES {
        client.monitor(&format!("goto {}", random.u64(end / 2..end)))?;
        let address = client.program_counter()?;
        back_to(client, &mut near, "0", &address)?;
    }
    near.print("reverse-continue to the breakpoint's hit before");
    let (mut watched, mut distance) = (Measured::default(), 0);
    for (position, word) in &near_watches {
        client.monitor(&format!("goto {position}"))?;
        let answer = back_to(client, &mut watched, "2", word)?;
        ensure!(answer.contains("watch:"), "{word} was not hit before {position}");
        distance = distance.max(position - when(client)?.0);
    }
    watched.note(format!("up to {distance} instructions back"));
    watched.print("reverse-continue to a watchpoint written not far before");
    for (what, kind, address) in [
        ("reverse-continue from the end to a breakpoint near the start", "0", far_breakpoint),
        ("reverse-continue from the end to a watchpoint last written near the start", "2", far_watch),
    ] {
        let Some(address) = address else { continue };
        let mut measured = Measured::default();
        let mut distance = 0;
        for _ in 0..SAMPLES / 5 {
            client.monitor("goto end")?;
            let answer = back_to(client, &mut measured, kind, &address)?;
            let is_hit = if kind == "0" { !answer.contains("replaylog") } else { answer.contains("watch:") };
            ensure!(is_hit, "{what}: {address} was not hit");
            distance = distance.max(end - when(client)?.0);
        }
        measured.note(format!("0x{address}: up to {distance} instructions back"));
        measured.print(what);
    }
    let (peak, anonymous) = memory(&server.process().to_string());
    println!("{}", json!({ "ktreplay_peak_resident_mib": peak, "anonymous_mib_at_end": anonymous }));
    Ok(())
}
