//! Searches in a real recording of U-Boot, by the library and by gdb-multiarch's watchpoints, held against a walk over every
//! instruction.
//!
//! Needs QEMU, gdb-multiarch, arm-none-eabi's assembler and linker, U-Boot (all from scripts/setup.sh) and
//! `cargo build --release --workspace`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use ktrace_format::Position;
use ktrace_timeline::search::{AddressSpace, MemoryRange, Watched, Watchpoint};
use ktrace_timeline::walk::{Event, Walk};
use ktrace_timeline::{Replay, Stop, StopAt};
use ktracer_tests::sample::Sample;
use ktracer_tests::server::Server;

/// How much of the recording is walked: more than two segments.
const WALKED: u64 = 1_200_000;

fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("searches");
        Sample::record(&scratch).unwrap_or_else(|error| panic!("recording U-Boot: {error:#}"))
    })
}

/// Accesses of a word: position, a store, the word's value changes.
type Accesses = Vec<(u64, bool, bool)>;

/// Accesses of aligned words by aligned instructions, by address; words that are accessed otherwise, too, are left out.
fn accesses() -> &'static HashMap<u32, Accesses> {
    static ACCESSES: OnceLock<HashMap<u32, Accesses>> = OnceLock::new();
    ACCESSES.get_or_init(|| {
        let mut words: HashMap<u32, Accesses> = HashMap::new();
        let mut values: HashMap<u32, Option<u32>> = HashMap::new();
        // U-Boot's memory before it ran.
        let mut start = sample().recording();
        let mut odd = std::collections::HashSet::new();
        for event in Walk::new(Arc::clone(&sample().program), 0) {
            let Event::Instruction(instruction) = event else { panic!("{event:?}") };
            if instruction.position >= WALKED {
                break;
            }
            for access in &instruction.accesses {
                let word = access.address & !3;
                if access.bytes != 4 || access.address % 4 != 0 || access.device.is_some() {
                    odd.extend((word..=word.saturating_add(u32::from(access.bytes))).step_by(4));
                    continue;
                }
                let value = access.value as u32;
                let before = *values.entry(word).or_insert_with(|| {
                    let mut bytes = [None; 4];
                    start.read_memory(word, &mut bytes).expect("the trace is whole");
                    bytes.into_iter().collect::<Option<Vec<u8>>>()?.try_into().ok().map(u32::from_le_bytes)
                });
                let changed = access.store && before != Some(value);
                values.insert(word, Some(value));
                words.entry(word).or_default().push((instruction.position, access.store, changed));
            }
        }
        words.retain(|word, _| !odd.contains(word));
        assert!(words.len() > 100, "{} words prove little", words.len());
        words
    })
}

fn hits(accesses: &Accesses, watched: Watched) -> Vec<u64> {
    let wanted = |(_, store, changed): &&(u64, bool, bool)| match watched {
        Watched::Read => !store,
        Watched::Write => *store,
        Watched::Access => true,
        Watched::Change => *changed,
    };
    let mut hits: Vec<u64> = accesses.iter().filter(wanted).map(|(position, ..)| *position).collect();
    hits.dedup();
    hits
}

#[test]
fn searches_find_what_a_walk_finds() -> Result<()> {
    let mut recording = sample().recording();
    let mut words: Vec<_> = accesses().iter().collect();
    words.sort_unstable_by_key(|(word, _)| **word);
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..300 {
        let (word, accesses) = words[random.usize(..words.len())];
        let watched = [Watched::Read, Watched::Write, Watched::Access, Watched::Change][random.usize(..4)];
        let hits = hits(accesses, watched);
        let space = [AddressSpace::Virtual, AddressSpace::Physical][random.usize(..2)];
        // U-Boot runs with virtual addresses that are the physical ones.
        let range = MemoryRange::new(space, u64::from(*word), 4).context("a word")?;
        let stop = |position| StopAt {
            watchpoints: vec![Watchpoint { range, watched }],
            position: Some(Position(position)),
            ..StopAt::default()
        };
        let from = random.u64(0..WALKED);
        recording.seek(Position(from))?;
        let stopped = recording.run_forward(&stop(WALKED), &mut || false)?;
        let expected = hits.iter().copied().find(|hit| *hit >= from);
        let found = matches!(stopped, Stop::Watchpoint { .. }).then(|| recording.position().0);
        ensure!(found == expected, "{watched:?} of {word:#x} from {from}: {found:?}, not {expected:?}");
        recording.seek(Position(from))?;
        let stopped = recording.run_backward(&stop(0), &mut || false)?;
        let expected = hits.iter().rev().map(|hit| hit + 1).find(|hit| *hit <= from);
        let found = matches!(stopped, Stop::Watchpoint { .. }).then(|| recording.position().0);
        ensure!(found == expected, "{watched:?} of {word:#x} back from {from}: {found:?}, not {expected:?}");
    }
    Ok(())
}

/// A word with some accesses of a kind that are no neighbours. gdb does not show reads of what has changed since it last looked.
fn watched_word(watched: Watched) -> (u32, Vec<u64>) {
    let suitable = accesses().iter().filter_map(|(word, accesses)| {
        let mut hits = hits(accesses, watched);
        hits.truncate(5);
        let (first, last) = (*hits.first()?, *hits.get(4)?);
        let apart = hits.windows(2).all(|two| two[0] + 2 < two[1]);
        let quiet =
            !accesses.iter().any(|(position, _, changed)| *changed && (first..=last).contains(position));
        (apart && (quiet || watched != Watched::Read)).then_some((*word, hits))
    });
    suitable.min_by_key(|(word, _)| *word).expect("U-Boot has variables")
}

#[test]
fn gdb_stops_where_a_walk_says() -> Result<()> {
    let server = Server::start(&sample().trace)?;
    let show = r#"printf "at %lu\n", $ktpos"#;
    for (command, watched) in
        [("watch", Watched::Change), ("rwatch", Watched::Read), ("awatch", Watched::Access)]
    {
        let (word, hits) = watched_word(watched);
        let first = hits[1];
        let watch = format!("{command} *(int *) {word:#x}");
        let start = format!("monitor goto {}", first - 1);
        let mut commands =
            vec!["maintenance flush register-cache", &start, "maintenance flush register-cache", &watch];
        commands.extend(["continue", show, "continue", show, "continue", show]);
        commands.extend(["reverse-continue", show, "reverse-continue", show, "delete", "detach"]);
        let output = server.gdb(&commands)?;
        let places: Vec<u64> =
            output.lines().filter_map(|line| line.strip_prefix("at ")?.parse().ok()).collect();
        // Forward gdb shows what is behind each access. Backward it comes to the last of them first, which it stands behind.
        let expected = [hits[1] + 1, hits[2] + 1, hits[3] + 1, hits[3], hits[2]];
        ensure!(places == expected, "{watch}: {places:?}, not {expected:?}:\n{output}");
    }
    Ok(())
}

#[test]
fn gdb_stops_under_a_condition() -> Result<()> {
    // The address that is executed most often, and a value that r0 has there once in a while.
    let mut visits: HashMap<u32, u64> = HashMap::new();
    for event in Walk::new(Arc::clone(&sample().program), 0).take(200_000) {
        let Event::Instruction(instruction) = event else { panic!("{event:?}") };
        *visits.entry(instruction.address).or_default() += 1;
    }
    let address = visits.into_iter().max_by_key(|(address, count)| (*count, *address)).context("code")?.0;
    let values: Vec<(u64, u32)> = Walk::new(Arc::clone(&sample().program), 0)
        .take(200_000)
        .filter_map(|event| match event {
            Event::Instruction(instruction) if instruction.address == address => {
                Some((instruction.position, instruction.before.get(0)?))
            }
            _ => None,
        })
        .collect();
    let (position, value) = values[values.len() * 3 / 4];
    let first = values.iter().find(|(_, other)| *other == value).map_or(position, |(first, _)| *first);
    let server = Server::start(&sample().trace)?;
    let condition = format!("break *{address:#x} if $r0 == {value:#x}");
    let show = r#"printf "at %lu\n", $ktpos"#;
    let output = server.gdb(&[&condition, "continue", show, "delete", "detach"])?;
    ensure!(output.contains(&format!("at {first}\n")), "{condition} at {first}:\n{output}");
    Ok(())
}
