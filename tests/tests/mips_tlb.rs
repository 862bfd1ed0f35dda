//! What virtual addresses show in recordings of the tests' MIPS guest, in both byte orders, is what QEMU's own debugger shows where
//! the guest stands still: through the TLB, in several address spaces, also in pages that nobody accesses, and nothing where
//! nothing is mapped. What the TLB says is what accesses find.
//!
//! Needs the patched QEMU (make qemu), gdb-multiarch and the cross compilers (from scripts/setup.sh), and
//! `cargo build --release --workspace`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use ktrace_format::Position;
use ktrace_timeline::events::{Event, Kind};
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::mips;
use ktracer_tests::programs::program;
use ktracer_tests::qemu::Qemu;
use ktracer_tests::server::Server;
use ktracer_tests::session::Session;

/// Rounds of the guest, and how often it stands still in each: see `look` in mips.c.
const ROUNDS: usize = 2;
const LOOKS: usize = 13;

const PAGE: usize = 4096;
/// Where it maps pages: the first, and how many there are and some more behind them.
const USER: (u32, u32) = (0x0040_0000, 18);
const KSEG2: (u32, u32) = (0xc000_0000, 18);
const MEDIUM: (u32, u32) = (0x0100_0000, 9);
const QUIET: u32 = 0x0200_0000;
const QUIET_KSEG2: u32 = 0xc800_0000;
const LARGE: u32 = 0xd000_0000;
/// Which pages of the large ones are looked at: the first and last of each, and one behind them.
const LARGE_PAGES: [u32; 6] = [0, 1, 0xff, 0x100, 0x1ff, 0x200];
/// In each other segment.
const OTHERS: [u32; 8] =
    [0, 0x7fff_f000, 0x8010_0000, 0x8080_0000, 0xa080_0000, 0xa100_0000, 0xe000_0000, 0xffff_f000];

/// What `map_quietly` shows at the two pages of QUIET and those of QUIET_KSEG2 at each of its looks: the number of a page of its
/// pool.
const QUIETLY: [[Option<u32>; 4]; 8] = [
    [None, None, None, None],
    [Some(0), Some(1), None, None],
    [None, None, None, None],
    [Some(2), Some(3), None, None],
    [Some(0), Some(1), None, None],
    // Its second page is there, but not valid.
    [Some(3), None, None, None],
    [Some(3), None, Some(1), Some(2)],
    [None, None, Some(1), Some(2)],
];

/// `fill_quiet_pages` has stored this there.
fn quiet_word(page: u32, offset: u32) -> u32 {
    0x5100_0000 | page << 12 | offset
}

fn pages() -> Vec<u32> {
    let mut pages = OTHERS.to_vec();
    for (first, count) in [USER, KSEG2, MEDIUM, (QUIET, 4), (QUIET_KSEG2, 3)] {
        pages.extend((0..count).map(|page| first + (page << 12)));
    }
    pages.extend(LARGE_PAGES.map(|page| LARGE + (page << 12)));
    pages
}

/// What QEMU showed at one look: each page, and its bytes if something is mapped there.
type Look = Vec<(u32, Option<Vec<u8>>)>;

struct Sample {
    trace: PathBuf,
    looks: Vec<Look>,
    /// A position of each.
    positions: Vec<u64>,
    big_endian: bool,
}

impl Sample {
    fn record(big_endian: bool) -> Result<Sample> {
        let name = if big_endian { "mips_tlb_big" } else { "mips_tlb_little" };
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch)?;
        }
        std::fs::create_dir_all(&scratch)?;
        let mut arguments = mips::arguments(&mips::build(&scratch, big_endian)?, ROUNDS as u32);
        arguments.last_mut().context("the kernel's command line")?.push('?');
        let mut session = Session::start_on(&Qemu::patched_mips(big_endian)?, &scratch, &[], arguments)?;
        let mut looks = Vec::new();
        for letter in ('a'..).take(ROUNDS * LOOKS) {
            session.wait_for_console(&format!("?{letter}"))?;
            session.monitor.stop()?;
            let mut look = Vec::new();
            for page in pages() {
                let file = scratch.join("page");
                look.push((page, session.monitor.virtual_memory(page, PAGE as u64, &file)?));
            }
            looks.push(look);
            session.monitor.run()?;
            session.type_text("!")?;
        }
        session.wait_for_shutdown()?;
        let trace = session.quit()?;
        let positions = positions(&mut Recording::open(&trace)?)?;
        ensure!(
            positions.len() == looks.len(),
            "{} of {} looks are in the trace",
            positions.len(),
            looks.len()
        );
        Ok(Sample { trace, looks, positions, big_endian })
    }

    /// A word in the guest's order.
    fn word(&self, bytes: &[Option<u8>; 4]) -> Option<u32> {
        let [a, b, c, d] = *bytes;
        let bytes = [a?, b?, c?, d?];
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn word_at(&self, recording: &mut Recording, position: u64, address: u32) -> Result<Option<u32>> {
        recording.seek(Position(position))?;
        let mut bytes = [None; 4];
        recording.read_memory(address, &mut bytes)?;
        Ok(self.word(&bytes))
    }
}

/// The positions behind the letters that follow each `?` on the console.
fn positions(recording: &mut Recording) -> Result<Vec<u64>> {
    const UART_DATA: u64 = 0x1800_03f8;
    recording.seek(Position::START)?;
    let (mut positions, mut asked) = (Vec::new(), false);
    for event in recording.events([Kind::Io].into_iter().collect(), &mut || false) {
        let Event::DeviceAccess(access) = event else { bail!("{event}") };
        if access.store && access.physical == Some(UART_DATA) {
            if asked {
                positions.push(access.position + 1);
            }
            asked = access.value as u8 == b'?';
        }
    }
    Ok(positions)
}

/// Runs a test on a recording of each byte order.
fn on_both(test: impl Fn(&Sample) -> Result<()>) -> Result<()> {
    static SAMPLES: [OnceLock<Sample>; 2] = [OnceLock::new(), OnceLock::new()];
    for (big_endian, sample) in [false, true].into_iter().zip(&SAMPLES) {
        let sample = sample.get_or_init(|| {
            Sample::record(big_endian).unwrap_or_else(|error| panic!("recording the guest: {error:#}"))
        });
        test(sample).with_context(|| if big_endian { "big-endian" } else { "little-endian" })?;
    }
    Ok(())
}

/// Holds a page at the present position against what QEMU showed.
fn compare(recording: &mut Recording, address: u32, expected: Option<&[u8]>) -> Result<()> {
    let mut shown = vec![None; PAGE];
    recording.read_memory(address, &mut shown)?;
    let expected: Vec<Option<u8>> = match expected {
        Some(bytes) => bytes.iter().copied().map(Some).collect(),
        None => vec![None; PAGE],
    };
    let wrong: Vec<usize> = (0..PAGE).filter(|at| shown[*at] != expected[*at]).collect();
    if let Some(first) = wrong.first() {
        bail!(
            "{} bytes of {address:#010x} are wrong; byte {first:#x} is {:x?}, not {:x?}",
            wrong.len(),
            shown[*first],
            expected[*first]
        );
    }
    Ok(())
}

#[test]
fn every_page_shows_what_qemu_shows() -> Result<()> {
    on_both(|sample| {
        let mut recording = Recording::open(&sample.trace)?;
        let mapped = |page: &(u32, Option<Vec<u8>>)| page.0 < 0x8000_0000 && page.1.is_some();
        let counts: Vec<usize> =
            sample.looks.iter().map(|look| look.iter().filter(|page| mapped(page)).count()).collect();
        println!("pages of kuseg that are mapped: {counts:?} of {}", pages().len());
        ensure!(
            counts.iter().any(|count| *count > 20) && counts.iter().any(|count| *count < 9),
            "{counts:?}"
        );
        let both_ways = (0..sample.looks.len()).chain((0..sample.looks.len()).rev());
        for number in both_ways {
            recording.seek(Position(sample.positions[number]))?;
            for (address, expected) in &sample.looks[number] {
                compare(&mut recording, *address, expected.as_deref())
                    .with_context(|| format!("look {number}"))?;
            }
        }
        Ok(())
    })
}

#[test]
fn pages_that_nobody_accesses_are_there_while_they_are_mapped() -> Result<()> {
    on_both(|sample| {
        let mut recording = Recording::open(&sample.trace)?;
        for round in 0..ROUNDS {
            for (number, expected) in QUIETLY.iter().enumerate() {
                let position = sample.positions[round * LOOKS + number];
                let places = [QUIET, QUIET + 0x1000, QUIET_KSEG2, QUIET_KSEG2 + 0x1000];
                for (address, page) in places.into_iter().zip(expected) {
                    // What was mapped in the round before in kseg2 still is, until its entry is used for something else.
                    let is_left = round > 0 && number < 3 && address >= QUIET_KSEG2;
                    let page = if is_left { [Some(1), Some(2)][(address >> 12 & 1) as usize] } else { *page };
                    let word = sample.word_at(&mut recording, position, address + 8)?;
                    ensure!(
                        word == page.map(|page| quiet_word(page, 8)),
                        "round {round}, look {number}: {address:#010x} shows {word:x?}, not page {page:?}"
                    );
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_page_changes_with_the_instruction_that_maps_it() -> Result<()> {
    on_both(|sample| {
        const TLBWI: u32 = 0x4200_0002;
        let mut recording = Recording::open(&sample.trace)?;
        // Mapped, remapped, and gone.
        for look in [0, 4, 6, LOOKS, LOOKS + 4, LOOKS + 6] {
            let (mut before, mut after) = (sample.positions[look], sample.positions[look + 1]);
            let old = sample.word_at(&mut recording, before, QUIET)?;
            let new = sample.word_at(&mut recording, after, QUIET)?;
            ensure!(old != new, "look {look}: both are {old:x?}");
            while after - before > 1 {
                let middle = before.midpoint(after);
                match sample.word_at(&mut recording, middle, QUIET)? {
                    word if word == old => before = middle,
                    word if word == new => after = middle,
                    word => bail!("{word:x?} at {middle}"),
                }
            }
            recording.seek(Position(before))?;
            let pc = recording.registers()?[37].context("the program counter")?;
            let instruction = sample.word_at(&mut recording, before, pc)?;
            ensure!(
                instruction == Some(TLBWI),
                "look {look}: {instruction:x?} at {pc:#010x}, position {before}"
            );
        }
        Ok(())
    })
}

/// A load from a mapped page finds what the recording shows there before it; a store leaves what it shows after it.
#[test]
fn what_the_tlb_says_is_what_accesses_find() -> Result<()> {
    use ktrace_timeline::search::list::{Hit, Query, list};
    use ktrace_timeline::search::{AddressSpace, MemoryRange, Watched, Watchpoint, Who};
    const EVERY: usize = 7;
    on_both(|sample| {
        let mut recording = Recording::open(&sample.trace)?;
        let range = |first, length| {
            let range = MemoryRange::new(AddressSpace::Virtual, first, length).context("a range")?;
            Ok::<_, anyhow::Error>(Watchpoint { range, watched: Watched::Access })
        };
        let watchpoints = vec![range(0, 0x8000_0000)?, range(0xc000_0000, 0x4000_0000)?];
        let query = Query { watchpoints, ..Query::default() };
        let mut hits = Vec::new();
        let end = recording.end().0;
        list(recording.program(), &query, 0, end, &mut || false, &mut |hit| {
            hits.push(hit);
            ControlFlow::Continue(())
        })?;
        let mut compared = [0, 0];
        for hit in hits.iter().step_by(EVERY) {
            let Hit::Access { position, sighting } = hit else { bail!("{hit:?}") };
            let (address, size) = (sighting.address.context("an address")?, sighting.bytes as usize);
            ensure!(sighting.device.is_none() && size <= 8, "{sighting:?}");
            let store = sighting.who == Who::Store;
            recording.seek(Position(position + u64::from(store)))?;
            let mut bytes = vec![None; size];
            recording.read_memory(address, &mut bytes)?;
            let value = (sighting.value as u64).to_le_bytes();
            let mut expected: Vec<Option<u8>> = value[..size].iter().copied().map(Some).collect();
            // A modelled instruction's value has the bytes of memory at rising addresses, whatever the guest's order; that of LL
            // and SC, which are opaque, is the number.
            let is_same = bytes == expected;
            expected.reverse();
            ensure!(
                is_same || (sample.big_endian && bytes == expected),
                "position {position}: {address:#010x} shows {bytes:x?}, not {expected:x?}: {sighting:?}"
            );
            compared[usize::from(store)] += 1;
        }
        println!("{} loads and {} stores of mapped memory", compared[0], compared[1]);
        ensure!(compared[0] > 100 && compared[1] > 50, "{compared:?}");
        Ok(())
    })
}

#[test]
fn gdb_and_the_command_line_show_mapped_memory() -> Result<()> {
    on_both(|sample| {
        let server = Server::start(&sample.trace)?;
        for (number, expected) in QUIETLY.iter().enumerate() {
            let position = sample.positions[number];
            let start = format!("monitor goto {position}");
            let examine = format!("x/2xw {QUIET:#x}");
            let output = server.gdb(&[&start, "maintenance flush register-cache", &examine])?;
            let shown = match expected[0] {
                Some(page) => format!("{QUIET:#x}:\t{:#x}\t{:#x}", quiet_word(page, 0), quiet_word(page, 4)),
                None => format!("Cannot access memory at address {QUIET:#x}"),
            };
            ensure!(output.contains(&shown), "look {number}: not {shown:?} but\n{output}");

            let at = position.to_string();
            let range = format!("{QUIET_KSEG2:#x}..{:#x}", QUIET_KSEG2 + 4);
            let output = Command::new(program("ktracer")?)
                .args(["query", "--json"])
                .arg(&sample.trace)
                .args(["mem", &range, "--at", &at])
                .output()?;
            let text = String::from_utf8(output.stdout)?;
            let shown = match expected[2] {
                Some(page) => {
                    let word = quiet_word(page, 0);
                    let word = if sample.big_endian { word } else { word.swap_bytes() };
                    format!("{word:08x}")
                }
                None => "????????".to_owned(),
            };
            ensure!(text.contains(&shown), "look {number}: not {shown:?} but {text}");
        }
        Ok(())
    })
}
