//! Measures how long a replay takes to go anywhere in a trace: `benches/time-travel.sh` runs it and prints its table.
//!
//!     time_travel DIR      prints one JSON object a line, see `ktracer_tests::measure`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ktrace_format::Position;
use ktrace_timeline::search::list::{Query, list};
use ktrace_timeline::search::{AddressSpace, Condition, MemoryRange, Watched, Watchpoint};
use ktrace_timeline::walk::{Event, Walk};
use ktrace_timeline::{Program, Recording, Replay, Stop, StopAt};
use ktracer_tests::measure::{Measured, drop_cached, memory, print_heading};
use serde_json::json;

/// How often the trace is opened, each way.
const OPENINGS: usize = 20;
/// So many words are looked for from the end, of which some were last stored to near the start.
const WATCHED: usize = 200;
/// At so many random positions there may be an instruction that runs a million times.
const CONDITIONS: usize = 20;
/// How many random positions are gone to: enough that the slowest hundredth is not chance.
const SEEKS: usize = 2000;

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

/// So far before its position is a store to a word that is watched.
const NEAR: u64 = 200_000;
/// How many there are.
const NEAR_WATCHES: usize = 20;

/// Debian's armhf kernel runs at addresses from here on.
const KERNEL: u32 = 0xc000_0000;

/// Positions late in the boot, and for each a word of the kernel's that was stored to not far before: its virtual address.
fn written_near(program: &Arc<Program>, random: &mut fastrand::Rng) -> Vec<(u64, u32)> {
    let end = program.trace().instructions();
    let places = (0..NEAR_WATCHES).filter_map(|_| {
        let position = random.u64(end / 4 * 3..end);
        let events = Walk::new(Arc::clone(program), position - NEAR).take(2000);
        let accesses = events.filter_map(|event| match event {
            Event::Instruction(instruction) => Some(instruction.accesses),
            _ => None,
        });
        let stores = accesses.flatten().filter(|access| access.store && access.address >= KERNEL);
        let word = stores.filter(|access| access.device.is_none()).last()?.address & !3;
        Some((position, word))
    });
    places.collect()
}

/// Over so many hits of a breakpoint a condition is evaluated.
const HITS: u64 = 1_000_000;

/// Instructions that run at random positions and a million times or more, each under a condition that never holds: over the first
/// million of its hits. How long that takes depends on how much of the recording they are spread over.
fn conditions(program: &Arc<Program>, recording: &mut Recording, random: &mut fastrand::Rng) {
    let end = recording.end().0;
    let mut conditional = Measured::default();
    let mut spans = Vec::new();
    for _ in 0..CONDITIONS {
        recording.seek(Position(random.u64(0..end))).expect("in the recording");
        let address = pc(recording).expect("the trace is whole");
        let (mut hits, mut millionth) = (0, None);
        let query = Query { addresses: vec![address], ..Query::default() };
        list(program, &query, 0, end, &mut || false, &mut |hit| {
            hits += 1;
            if hits < HITS {
                return ControlFlow::Continue(());
            }
            millionth = Some(hit.position());
            ControlFlow::Break(())
        })
        .expect("the trace can be searched");
        let Some(millionth) = millionth else { continue };
        let counter = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&counter);
        let condition = Condition::new(move |moment| {
            counted.fetch_add(1, Ordering::Relaxed);
            moment.register(0) == Some(0x1234_5679)
        });
        let stop = StopAt {
            addresses: vec![address],
            condition: Some(condition),
            position: Some(Position(millionth + 1)),
            ..StopAt::default()
        };
        recording.seek(Position(0)).expect("in the recording");
        conditional.time(|| run(recording, true, &stop));
        assert!(counter.load(Ordering::Relaxed) >= HITS - 1, "{counter:?} hits of {address:#x}");
        spans.push(millionth);
    }
    spans.sort_unstable();
    if let (Some(least), Some(most)) = (spans.first(), spans.last()) {
        conditional.note(format!("their last is {least} to {most} instructions from the start"));
    }
    conditional.print("continue over 1 M hits of a condition that does not hold");
}

fn main() {
    let directory = PathBuf::from(std::env::args_os().nth(1).expect("the trace's directory"));
    print_heading("in the library: no server and no gdb");
    let mut cold = Measured::default();
    let mut warm = Measured::default();
    for _ in 0..OPENINGS {
        drop_cached(&directory).expect("the trace's files can be opened");
        drop(cold.time(|| Program::open(&directory)).expect("a trace"));
    }
    cold.print("open, nothing of the trace in the system's cache of files");
    for _ in 0..OPENINGS {
        drop(warm.time(|| Program::open(&directory)).expect("a trace"));
    }
    warm.print("open again");
    drop_cached(&directory).expect("the trace's files can be opened");
    let program = Arc::new(Program::open(&directory).expect("a trace"));
    let mut recording = Recording::new(Arc::clone(&program));
    let end = recording.end().0;
    let mut random = fastrand::Rng::with_seed(1);

    let mut seek = Measured::default();
    for _ in 0..SEEKS {
        let position = Position(random.u64(0..=end));
        seek.time(|| {
            recording.seek(position).expect("in the recording");
            recording.registers().expect("the trace is whole")
        });
    }
    seek.print("seek to a random position, registers");

    for (forward, what) in [(true, "step"), (false, "reverse step")] {
        let mut step = Measured::default();
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

    let mut read = Measured::default();
    let mut large = Measured::default();
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
    let mut far = Measured::default();
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

    let mut near = Measured::default();
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
    let mut watch_end = Measured::default();
    for _ in 0..WATCHED {
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
        if written.len() == 10 || watch_end.total() > 60_000.0 {
            break;
        }
    }
    watch_end.print("reverse-continue from the end to the last write of words that early code stores to");
    let mut far = Measured::default();
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

    conditions(&program, &mut recording, &mut random);
    let (peak, anonymous) = memory("self");
    println!("{}", json!({ "peak_resident_mib": peak, "anonymous_mib_at_end": anonymous }));
    // For those who ask a server, which knows virtual addresses only: early code runs at physical ones.
    let far_watch = written.first().map(|(base, _)| *base);
    println!("{}", json!({ "near_watches": written_near(&program, &mut random), "far_watch": far_watch }));
}
