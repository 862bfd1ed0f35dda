//! Forward n instructions and back n restores every register and byte of memory, wherever one starts and however one
//! goes.
//!
//! Needs QEMU, U-Boot (both from scripts/setup.sh) and `cargo build --release --workspace`.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use fastrand::Rng;
use ktrace_format::Position;
use ktrace_timeline::{Recording, Replay, Stop, StopAt};
use ktracer_tests::sample::Sample;
use ktracer_tests::server::{Client, Server};

/// The same cases each time; the recording differs a little.
const SEED: u64 = 0x6b74_7261_6365_7221;

fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("there_and_back");
        Sample::record(&scratch).unwrap_or_else(|error| panic!("recording U-Boot: {error:#}"))
    })
}

/// Where a case starts and how far it goes: anywhere, or over the border of two segments.
fn choose(random: &mut Rng, furthest: u64) -> (u64, u64) {
    let end = sample().program.trace().instructions();
    let segments = &sample().program.trace().segments()[1..];
    let far = match random.u8(0..4) {
        0 => random.u64(1..=furthest),
        1 => random.u64(1..=furthest.min(2000)),
        _ => random.u64(1..=furthest.min(100)),
    };
    let start = if random.bool() {
        random.u64(0..end - far)
    } else {
        let border = segments[random.usize(0..segments.len())].first;
        border.saturating_sub(random.u64(0..=far)).min(end - far)
    };
    (start, far)
}

/// Everything that is compared: the registers, and memory around each register's value.
type State = (Vec<Option<u32>>, Vec<Option<u8>>);

fn state(recording: &mut Recording) -> Result<State> {
    let registers = recording.registers()?;
    let mut memory = Vec::new();
    let mut bytes = [None; 96];
    for register in registers.iter().take(16).flatten() {
        recording.read_memory(register.wrapping_sub(32), &mut bytes)?;
        memory.extend_from_slice(&bytes);
    }
    Ok((registers, memory))
}

fn run(recording: &mut Recording, to: u64) -> Result<()> {
    let stop = StopAt { position: Some(Position(to)), ..StopAt::default() };
    let end = if to > recording.position().0 {
        recording.run_forward(&stop, &mut || false)?
    } else {
        recording.run_backward(&stop, &mut || false)?
    };
    ensure!(recording.position() == Position(to), "{end:?} at {}, not {to}", recording.position());
    ensure!(matches!(end, Stop::Position | Stop::Start | Stop::End), "{end:?}");
    Ok(())
}

#[test]
fn in_the_library() -> Result<()> {
    let mut random = Rng::with_seed(SEED);
    let mut recording = sample().recording();
    let (mut known, mut asked) = (0, 0);
    for case in 0..300 {
        let (start, far) = choose(&mut random, 400_000);
        recording.seek(Position(start))?;
        let before = state(&mut recording)?;
        assert!(before.0.iter().all(Option::is_some), "case {case}: a register is unknown at {start}");
        let there;
        if far <= 100 {
            for position in start + 1..=start + far {
                recording.seek(Position(position))?;
                recording.registers()?;
            }
            there = state(&mut recording)?;
            for position in (start..start + far).rev() {
                recording.seek(Position(position))?;
                recording.registers()?;
            }
        } else {
            run(&mut recording, start + far)?;
            there = state(&mut recording)?;
            run(&mut recording, start)?;
        }
        let context = || format!("case {case}: from {start} forward {far} and back");
        assert!(state(&mut recording)? == before, "{}: the state differs", context());
        // One that comes straight from elsewhere sees the same at both places.
        if case % 4 == 0 {
            let mut other = sample().recording();
            other.seek(Position(start + far))?;
            assert!(state(&mut other)? == there, "{}: not what a fresh view shows there", context());
            other.seek(Position(start))?;
            assert!(state(&mut other)? == before, "{}: not what a fresh view shows at the start", context());
        }
        known += before.1.iter().flatten().count();
        asked += before.1.len();
    }
    assert!(known * 4 > asked, "{known} of {asked} bytes are known: too few to show anything");
    Ok(())
}

#[test]
fn through_the_server() -> Result<()> {
    let server = Server::start(&sample().trace)?;
    let mut client = Client::connect(server.address)?;
    let mut random = Rng::with_seed(SEED);
    for case in 0..40 {
        let (start, far) = choose(&mut random, 40);
        let moved = client.monitor(&format!("goto {start}"))?;
        assert!(moved.starts_with(&format!("{start} of ")), "{moved}");
        let registers = client.ask("g")?;
        let stack = sample().registers(start)?[13].wrapping_sub(64);
        let memory = client.ask(&format!("m{stack:x},80"))?;
        for packet in ["s", "bs"] {
            for step in 0..far {
                let stop = client.ask(packet)?;
                assert!(stop.starts_with('T'), "case {case}, step {step}: {stop}");
            }
            if packet == "s" {
                let when = client.monitor("when")?;
                assert!(when.starts_with(&format!("{} of ", start + far)), "{when}");
                assert_ne!(client.ask("g")?, registers, "case {case}");
            }
        }
        assert_eq!(client.ask("g")?, registers, "case {case}: {far} from {start} and back");
        assert_eq!(
            client.ask(&format!("m{stack:x},80"))?,
            memory,
            "case {case}: {far} from {start} and back"
        );
    }
    Ok(())
}
