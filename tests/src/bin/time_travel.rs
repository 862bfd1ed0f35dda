//! Measures how long a replay takes to go anywhere in a trace: `benches/time-travel.sh` runs it and prints its table.
//!
//!     time_travel DIR      prints one JSON object a line: what; median, 99th percentile and worst in milliseconds; the mean of all
//!                          threads' processor time; how often

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ktrace_format::Position;
use ktrace_timeline::search::list::{Query, list};
use ktrace_timeline::search::{AddressSpace, Condition, MemoryRange, Watched, Watchpoint};
use ktrace_timeline::walk::{Event, Walk};
use ktrace_timeline::{Program, Recording, Replay, Stop, StopAt};
use serde_json::json;

/// What was measured of one thing, in milliseconds: by the clock, and of processors' time.
struct Measured(Vec<f64>, f64);

fn processor_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1000.0 + time.tv_nsec as f64 / 1e6
}

impl Measured {
    fn time<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let (start, processor) = (Instant::now(), processor_ms());
        let result = work();
        self.0.push(start.elapsed().as_secs_f64() * 1000.0);
        self.1 += processor_ms() - processor;
        result
    }

    fn print(mut self, what: &str) {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| self.0.get(((self.0.len() - 1) as f64 * share).round() as usize);
        let line = json!({
            "what": what,
            "median_ms": at(0.5),
            "p99_ms": at(0.99),
            "worst_ms": at(1.0),
            "mean_processor_ms": self.1 / self.0.len().max(1) as f64,
            "count": self.0.len(),
        });
        println!("{line}");
    }
}

fn run(recording: &mut Recording, forward: bool, stop: &StopAt) -> Stop {
    let stopped = if forward {
        recording.run_forward(stop, &mut || false)
    } else {
        recording.run_backward(stop, &mut || false)
    };
    stopped.expect("the trace is whole")
}

fn pc(recording: &mut Recording) -> Option<u32> {
    let registers = recording.registers().expect("the trace is whole");
    registers.get(recording.description().program_counter).copied().flatten()
}

/// The largest resident set so far, in MiB: all of it, and what of it is not mapped from files.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    (field("VmHWM:"), field("RssAnon:"))
}

fn main() {
    let directory = PathBuf::from(std::env::args_os().nth(1).expect("the trace's directory"));
    let mut open = Measured(Vec::new(), 0.0);
    let program = Arc::new(open.time(|| Program::open(&directory)).expect("a trace"));
    open.print("open");
    let mut recording = Recording::new(Arc::clone(&program));
    let end = recording.end().0;
    let mut random = fastrand::Rng::with_seed(1);

    let mut seek = Measured(Vec::new(), 0.0);
    for _ in 0..400 {
        let position = Position(random.u64(0..=end));
        seek.time(|| {
            recording.seek(position).expect("in the recording");
            recording.registers().expect("the trace is whole")
        });
    }
    seek.print("seek to a random position, registers");

    for (forward, what) in [(true, "step"), (false, "reverse step")] {
        let mut step = Measured(Vec::new(), 0.0);
        for _ in 0..4 {
            let start = random.u64(100_000..end - 100_000);
            recording.seek(Position(start)).expect("in the recording");
            recording.registers().expect("the trace is whole");
            for number in 0..2000 {
                let next = if forward { start + number } else { start - number };
                step.time(|| {
                    recording.seek(Position(next)).expect("in the recording");
                    recording.registers().expect("the trace is whole")
                });
            }
        }
        step.print(what);
    }

    let mut read = Measured(Vec::new(), 0.0);
    let mut large = Measured(Vec::new(), 0.0);
    let registers = recording.registers().expect("the trace is whole");
    let stack = registers.get(13).copied().flatten().unwrap_or(0);
    for _ in 0..200 {
        recording.seek(Position(random.u64(0..=end))).expect("in the recording");
        recording.registers().expect("the trace is whole");
        let mut bytes = [None; 16];
        read.time(|| recording.read_memory(stack, &mut bytes)).expect("the trace is whole");
        let mut bytes = vec![None; 1 << 16];
        let address = 0xc000_8000 + random.u32(..64) * 0x10000;
        large.time(|| recording.read_memory(address, &mut bytes)).expect("the trace is whole");
    }
    read.print("read 16 bytes at a random position");
    large.print("read 64 KiB at a random position");

    // An instruction that runs once near the start is looked for from the end, and one that runs often.
    let mut once = Vec::new();
    for _ in 0..200 {
        recording.seek(Position(random.u64(0..5000))).expect("in the recording");
        let (here, Some(address)) = (recording.position().0, pc(&mut recording)) else { continue };
        let stop = StopAt { addresses: vec![address], ..StopAt::default() };
        if run(&mut recording, true, &stop) == Stop::End {
            once.push((address, here));
        }
        if once.len() == 10 {
            break;
        }
    }
    let mut far = Measured(Vec::new(), 0.0);
    for (address, expected) in &once {
        let stop = StopAt { addresses: vec![*address], ..StopAt::default() };
        recording.seek(Position(end)).expect("in the recording");
        let stopped = far.time(|| {
            let stopped = run(&mut recording, false, &stop);
            recording.registers().expect("the trace is whole");
            stopped
        });
        assert_eq!((stopped, recording.position().0), (Stop::Address, *expected));
    }
    far.print("reverse-continue to a breakpoint hit once, 3 G instructions back");

    let mut near = Measured(Vec::new(), 0.0);
    for _ in 0..50 {
        recording.seek(Position(random.u64(1_000_000..end))).expect("in the recording");
        let Some(address) = pc(&mut recording) else { continue };
        let stop = StopAt { addresses: vec![address], ..StopAt::default() };
        near.time(|| {
            run(&mut recording, false, &stop);
            recording.registers().expect("the trace is whole")
        });
    }
    near.print("reverse-continue to the breakpoint's hit before");

    // Words that some early code stores to, seen from the end.
    let mut written = Vec::new();
    let mut watch_end = Measured(Vec::new(), 0.0);
    for _ in 0..40 {
        let early = Walk::new(Arc::clone(&program), random.u64(0..end / 10)).take(2000);
        let stores: Vec<u32> = early
            .filter_map(|event| match event {
                Event::Instruction(instruction) => Some(instruction.accesses),
                _ => None,
            })
            .flatten()
            .filter(|access| access.store && access.device.is_none())
            .map(|access| access.address & !3)
            .collect();
        if stores.is_empty() {
            continue;
        }
        let base = stores[random.usize(..stores.len())];
        let Some(range) = MemoryRange::new(AddressSpace::Physical, base.into(), 4) else { continue };
        let watchpoints = vec![Watchpoint { range, watched: Watched::Write }];
        let stop = StopAt { watchpoints, ..StopAt::default() };
        recording.seek(Position(end)).expect("in the recording");
        let stopped = watch_end.time(|| run(&mut recording, false, &stop));
        if matches!(stopped, Stop::Watchpoint { .. }) && recording.position().0 < end / 8 {
            written.push((base, recording.position().0));
        }
        if written.len() == 10 || watch_end.0.iter().sum::<f64>() > 60_000.0 {
            break;
        }
    }
    watch_end.print("reverse-continue from the end to the last write of words that early code stores to");
    let mut far = Measured(Vec::new(), 0.0);
    for (base, expected) in &written {
        let range = MemoryRange::new(AddressSpace::Physical, u64::from(*base), 4).expect("a word");
        let watchpoints = vec![Watchpoint { range, watched: Watched::Write }];
        let stop = StopAt { watchpoints, ..StopAt::default() };
        recording.seek(Position(end)).expect("in the recording");
        far.time(|| {
            run(&mut recording, false, &stop);
            recording.registers().expect("the trace is whole")
        });
        assert_eq!(recording.position().0, *expected);
    }
    if !written.is_empty() {
        far.print("reverse-continue to a watchpoint last written 3 G instructions back");
    }

    // An instruction that runs often, under a condition that never holds: over its first million hits, and over all.
    recording.seek(Position(end / 2)).expect("in the recording");
    let address = pc(&mut recording).expect("the trace is whole");
    let mut hits = 0;
    let mut millionth = end;
    let query = Query { addresses: vec![address], ..Query::default() };
    list(&program, &query, 0, end, &mut || false, &mut |hit| {
        hits += 1;
        millionth = hit.position();
        if hits == 1_000_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .expect("the trace can be searched");
    for limit in [millionth, end] {
        let counter = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&counter);
        let condition = Condition::new(move |moment| {
            counted.fetch_add(1, Ordering::Relaxed);
            moment.register(0) == Some(0x1234_5679)
        });
        let stop = StopAt {
            addresses: vec![address],
            condition: Some(condition),
            position: Some(Position(limit)),
            ..StopAt::default()
        };
        recording.seek(Position(0)).expect("in the recording");
        let mut conditional = Measured(Vec::new(), 0.0);
        conditional.time(|| run(&mut recording, true, &stop));
        let hits = counter.load(Ordering::Relaxed);
        conditional.print(&format!("condition over {hits} hits in {} instructions", limit));
    }
    let (peak, anonymous) = memory();
    println!("{}", json!({ "peak_resident_mib": peak, "anonymous_mib_at_end": anonymous }));
}
