//! gdb-multiarch goes through recordings of the tests' MIPS guest in both byte orders, with nothing set but `target remote`.
//! What it shows is held against QEMU's log of the same runs.
//!
//! Needs the patched QEMU (make qemu), gdb-multiarch and the cross compilers (from scripts/setup.sh), and
//! `cargo build --release --workspace`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use ktrace_format::Position;
use ktrace_timeline::{Recording, Replay};
use ktracer_tests::mips;
use ktracer_tests::mips_agreement::read_log;
use ktracer_tests::mips_oracle::State;
use ktracer_tests::qemu::Qemu;
use ktracer_tests::server::Server;
use ktracer_tests::session::{FIRST_LOG, Session, logging};

/// Instructions in the recordings, all of them logged.
const RECORDED: &str = "70000";

/// The general registers, as gdb calls them, then Status, LO, HI and the program counter.
const NAMES: &str = "zero at v0 v1 a0 a1 a2 a3 t0 t1 t2 t3 t4 t5 t6 t7 s0 s1 s2 s3 s4 s5 s6 s7 t8 t9 k0 k1 gp sp s8 ra \
                     status lo hi pc";
/// Their numbers from Status on.
const OTHERS: [usize; 4] = [32, 33, 34, 37];

struct Sample {
    trace: PathBuf,
    executable: PathBuf,
    states: Vec<State>,
    big_endian: bool,
}

impl Sample {
    fn record(big_endian: bool) -> Result<Sample> {
        let name = if big_endian { "mips_gdb_big" } else { "mips_gdb_little" };
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch)?;
        }
        std::fs::create_dir_all(&scratch)?;
        let executable = mips::build(&scratch, big_endian)?;
        let arguments = mips::arguments(&executable, 9);
        let arguments = arguments.iter().map(String::as_str).chain(logging());
        let qemu = Qemu::patched_mips(big_endian)?;
        let session = Session::start_on(&qemu, &scratch, &["--stop-after", RECORDED], arguments)?;
        let trace = session.finish()?;
        let mut states = read_log(&scratch.join(FIRST_LOG), usize::MAX)?;
        states.truncate(Recording::open(&trace)?.end().0 as usize);
        Ok(Sample { trace, executable, states, big_endian })
    }

    fn address(&self, position: usize) -> u32 {
        self.states[position].address()
    }

    /// The instruction at a position, as the recording has it.
    fn instruction(&self, recording: &mut Recording, position: usize) -> Result<u32> {
        recording.seek(Position(position as u64))?;
        let mut bytes = [None; 4];
        recording.read_memory(self.address(position), &mut bytes)?;
        let [Some(a), Some(b), Some(c), Some(d)] = bytes else { return Ok(0) };
        Ok(if self.big_endian { u32::from_be_bytes([a, b, c, d]) } else { u32::from_le_bytes([a, b, c, d]) })
    }

    fn visits(&self, address: u32) -> Vec<u64> {
        let states = self.states.iter().zip(0..);
        states.filter(|(state, _)| state.address() == address).map(|(_, position)| position).collect()
    }
}

/// Runs a test on a recording of each byte order.
fn on_both(test: impl Fn(&Sample, &Server) -> Result<()>) -> Result<()> {
    static SAMPLES: [OnceLock<Sample>; 2] = [OnceLock::new(), OnceLock::new()];
    for (big_endian, sample) in [false, true].into_iter().zip(&SAMPLES) {
        let sample = sample.get_or_init(|| {
            Sample::record(big_endian).unwrap_or_else(|error| panic!("recording the guest: {error:#}"))
        });
        test(sample, &Server::start(&sample.trace)?)
            .with_context(|| if big_endian { "big-endian" } else { "little-endian" })?;
    }
    Ok(())
}

/// A gdb command that prints the position and all registers.
fn show() -> String {
    let registers: String = NAMES.split_whitespace().map(|name| format!(", ${name}")).collect();
    let format = "%08x ".repeat(NAMES.split_whitespace().count());
    format!(r#"printf "at %lu: {format}\n", $ktpos{registers}"#)
}

/// Runs gdb, where `show` stands for [`show`], and returns the positions shown, and what else was said. All registers shown
/// were checked.
fn walk(sample: &Sample, server: &Server, commands: &[&str]) -> Result<(Vec<u64>, String)> {
    let show = show();
    let commands: Vec<&str> =
        commands.iter().map(|command| if *command == "show" { show.as_str() } else { *command }).collect();
    let output = server.gdb(&commands)?;
    let mut positions = Vec::new();
    for line in output.lines().filter_map(|line| line.strip_prefix("at ")) {
        let (position, values) = line.split_once(": ").with_context(|| line.to_owned())?;
        let position: u64 = position.parse()?;
        let values: Vec<u32> = values
            .split_whitespace()
            .map(|value| u32::from_str_radix(value, 16))
            .collect::<Result<_, _>>()?;
        let state = sample.states.get(position as usize).context("a position in the log")?;
        let expected: Vec<u32> = (0..32).chain(OTHERS).map(|number| state.registers[number]).collect();
        ensure!(values == expected, "position {position}: gdb shows\n{values:08x?}, not\n{expected:08x?}");
        positions.push(position);
    }
    let wanted = commands.iter().filter(|command| **command == show).count();
    ensure!(positions.len() == wanted, "{} of {wanted} places were shown:\n{output}", positions.len());
    Ok((positions, output))
}

const FLUSH: &str = "maintenance flush register-cache";

#[test]
fn stepping_through_branches_and_their_slots() -> Result<()> {
    on_both(|sample, server| {
        let find = |wanted: &dyn Fn(&State) -> bool| {
            let found = sample.states[5000..].iter().position(wanted).map(|at| at as u64 + 5000);
            found.context("the guest has such a slot")
        };
        let user = |state: &State| state.address() < 0x8000_0000;
        let slots = [
            find(&|state| state.in_delay_slot() && !state.nullified() && !user(state))?,
            find(&|state| state.nullified())?,
            find(&|state| state.in_delay_slot() && user(state))?,
        ];
        for slot in slots {
            let start = format!("monitor goto {}", slot - 1);
            let commands = [
                &start,
                FLUSH,
                "show",
                "stepi",
                "show",
                "stepi",
                "show",
                "stepi 50",
                "show",
                "reverse-stepi 50",
                "show",
                "reverse-stepi",
                "show",
                "reverse-stepi",
                "show",
                "reverse-stepi",
                "show",
            ];
            let expected = [slot - 1, slot, slot + 1, slot + 51, slot + 1, slot, slot - 1, slot - 2];
            assert_eq!(walk(sample, server, &commands)?.0, expected);
        }
        Ok(())
    })
}

#[test]
fn continuing_to_breakpoints() -> Result<()> {
    on_both(|sample, server| {
        // No slot: gdb puts a breakpoint on one to its branch. Some visits, not many.
        let suitable = |position: &usize| {
            let count = sample.visits(sample.address(*position)).len();
            !sample.states[*position].in_delay_slot() && (4..100).contains(&count)
        };
        let position = (20_000..sample.states.len()).find(suitable).context("an address with some visits")?;
        let address = sample.address(position);
        let visits = sample.visits(address);
        let (last, end) = (visits.len() - 1, sample.states.len() as u64);
        let set = format!("break *{address:#x}");
        let commands = [
            &set,
            "continue",
            "show",
            "continue",
            "show",
            "reverse-continue",
            "show",
            "reverse-continue",
            "show",
            "delete",
            &format!("monitor goto {}", end - 1),
            FLUSH,
            &set,
            "reverse-continue",
            "show",
            "reverse-continue",
            "show",
        ];
        let before = |position: u64| visits.iter().rposition(|visit| *visit < position).unwrap_or_default();
        let from_end = before(end - 1);
        let expected = [visits[0], visits[1], visits[0], 0, visits[from_end], visits[from_end - 1]];
        ensure!(from_end >= last - 1, "the last visit");
        assert_eq!(walk(sample, server, &commands)?.0, expected);
        Ok(())
    })
}

/// A store of a whole word (`sw`) that succeeds, to addresses below or from kseg0 on: its position, the address, and the
/// value.
fn store(sample: &Sample, recording: &mut Recording, user: bool) -> Result<(u64, u32, u32)> {
    for position in 10_000..sample.states.len() - 2 {
        let (state, next) = (&sample.states[position], &sample.states[position + 1]);
        if next.address() != state.address() + 4 {
            continue;
        }
        let code = sample.instruction(recording, position)?;
        let base = state.registers[(code >> 21 & 31) as usize];
        let address = base.wrapping_add(code as u16 as i16 as u32);
        let in_memory = if user { (0x40_0000..0x41_0000).contains(&address) } else { address >> 24 == 0x80 };
        if code >> 26 == 0x2b && in_memory {
            return Ok((position as u64, address, state.registers[(code >> 16 & 31) as usize]));
        }
    }
    anyhow::bail!("the guest stores words")
}

#[test]
fn examining_memory_at_all_kinds_of_addresses() -> Result<()> {
    on_both(|sample, server| {
        let mut recording = Recording::open(&sample.trace)?;
        for user in [false, true] {
            let (position, address, value) = store(sample, &mut recording, user)?;
            let start = format!("monitor goto {}", position + 1);
            let examine = |address: u32| format!("x/xw {address:#x}");
            let mut commands = vec![start, FLUSH.to_owned(), examine(address)];
            if !user {
                // The same memory without the cache.
                commands.push(examine(address | 0x2000_0000));
            }
            commands.extend(["reverse-stepi", "x/i $pc"].map(str::to_owned));
            let wanted = commands.iter().filter(|command| command.starts_with("x/xw")).count();
            let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
            let output = server.gdb(&commands)?;
            let shown = output.lines().filter(|line| line.ends_with(&format!(":\t0x{value:08x}"))).count();
            ensure!(shown == wanted, "{value:#x} at {address:#x}, position {position}:\n{output}");
            ensure!(
                output.lines().any(|line| line.starts_with("=> ") && line.contains(":\tsw\t")),
                "{output}"
            );
        }
        Ok(())
    })
}

#[test]
fn info_registers() -> Result<()> {
    on_both(|sample, server| {
        let position = sample.states.len() - 100;
        let output = server.gdb(&[&format!("monitor goto {position}"), FLUSH, "info registers"])?;
        for number in [4, 29, 31, 32, 33, 37] {
            let value = format!("{:08x}", sample.states[position].registers[number]);
            ensure!(output.contains(&value), "register {number} is {value}, and gdb says\n{output}");
        }
        Ok(())
    })
}

#[test]
fn reverse_finish_stops_at_the_call() -> Result<()> {
    on_both(|sample, server| {
        let load = format!("file {}", sample.executable.display());
        let symbol = r#"printf "fibonacci %lx\n", (unsigned long) fibonacci & 0xffffffff"#;
        let commands = [
            &load,
            "break fibonacci",
            "continue",
            "continue",
            "continue",
            "stepi 2",
            "show",
            "delete",
            "reverse-finish",
            "show",
            "x/i $pc - 4",
            symbol,
        ];
        let (positions, output) = walk(sample, server, &commands)?;
        let symbol = output.lines().find_map(|line| line.strip_prefix("fibonacci ")).context("a symbol")?;
        let entries = sample.visits(u32::from_str_radix(symbol, 16)?);
        let (inside, stopped) = (positions[0], positions[1]);
        // gdb goes one instruction back from where the function begins: to the slot of the call.
        let entry =
            entries.iter().rfind(|entry| **entry <= inside).context("it is inside of the function")?;
        assert_eq!(stopped, entry - 1, "{output}");
        ensure!(sample.states[stopped as usize].in_delay_slot(), "{output}");
        ensure!(
            output.lines().any(|line| line.contains(":\tjal\t") && line.contains("fibonacci")),
            "{output}"
        );
        Ok(())
    })
}
