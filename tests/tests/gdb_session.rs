//! gdb-multiarch goes through a real recording of U-Boot that `ktreplay` serves. What it shows is held against QEMU's log
//! of the same run, and beyond that against the library.
//!
//! Needs QEMU, gdb-multiarch, arm-none-eabi's assembler and linker, U-Boot (all from scripts/setup.sh) and
//! `cargo build --release --workspace`.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use ktrace_format::Position;
use ktrace_timeline::Replay;
use ktracer_tests::agreement::Registers;
use ktracer_tests::sample::Sample;
use ktracer_tests::server::Server;

fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gdb_session");
        Sample::record(&scratch).unwrap_or_else(|error| panic!("recording U-Boot: {error:#}"))
    })
}

/// A gdb command that prints the position and all core registers.
fn show() -> String {
    let registers: String = (0..13).map(|number| format!(", $r{number}")).collect();
    let format = "%08x ".repeat(17);
    format!(r#"printf "at %lu: {format}\n", $ktpos{registers}, $sp, $lr, $pc, $cpsr"#)
}

/// Runs gdb, where `show` stands for [`show`], and returns the positions shown. All registers shown were checked.
fn walk(server: &Server, commands: &[&str]) -> Result<Vec<u64>> {
    let show = show();
    let commands: Vec<&str> =
        commands.iter().map(|command| if *command == "show" { show.as_str() } else { *command }).collect();
    let output = server.gdb(&commands)?;
    let mut positions = Vec::new();
    for line in output.lines().filter_map(|line| line.strip_prefix("at ")) {
        let (position, values) = line.split_once(": ").with_context(|| line.to_owned())?;
        let position = position.parse()?;
        let values: Vec<u32> = values
            .split_whitespace()
            .map(|value| u32::from_str_radix(value, 16))
            .collect::<Result<_, _>>()?;
        let expected = sample().registers(position)?;
        ensure!(values == expected, "position {position}: gdb shows\n{values:08x?}, not\n{expected:08x?}");
        positions.push(position);
    }
    let wanted = commands.iter().filter(|command| **command == show).count();
    ensure!(positions.len() == wanted, "{} of {wanted} places were shown:\n{output}", positions.len());
    Ok(positions)
}

/// The positions of an address.
fn visits(address: u32) -> Vec<u64> {
    let addresses = sample().addresses().iter().zip(0..);
    addresses.filter(|(here, _)| **here == address).map(|(_, position)| position).collect()
}

/// The address whose first visit is the last before `limit`, of those that the whole recording visits some times, but
/// not many.
fn address_new_before(limit: u64) -> u32 {
    let mut visits: HashMap<u32, (u64, u32)> = HashMap::new();
    for (position, address) in (0..).zip(sample().addresses()) {
        visits.entry(*address).or_insert((position, 0)).1 += 1;
    }
    let suitable =
        visits.into_iter().filter(|(_, (first, count))| *first < limit && (3..1000).contains(count));
    suitable.max_by_key(|(_, (first, _))| *first).expect("U-Boot runs much of its code some times").0
}

#[test]
fn stepping_forward_and_backward() -> Result<()> {
    let server = Server::start(&sample().trace)?;
    let commands = [
        "show",
        "stepi",
        "show",
        "stepi 1000",
        "show",
        "reverse-stepi",
        "show",
        "reverse-stepi 600",
        "show",
        "stepi 3",
        "show",
        "reverse-stepi 404",
        "show",
        "reverse-stepi",
        "show",
    ];
    assert_eq!(walk(&server, &commands)?, [0, 1, 1001, 1000, 400, 403, 0, 0]);
    Ok(())
}

#[test]
fn stepping_over_the_borders_of_segments() -> Result<()> {
    let server = Server::start(&sample().trace)?;
    for segment in &sample().program.trace().segments()[1..] {
        let border = segment.first;
        let start = format!("monitor goto {}", border - 2);
        let commands = [
            &start,
            "maintenance flush register-cache",
            "show",
            "stepi",
            "show",
            "stepi",
            "show",
            "stepi 2",
            "show",
            "reverse-stepi 2",
            "show",
            "reverse-stepi",
            "show",
            "reverse-stepi",
            "show",
        ];
        let expected = [border - 2, border - 1, border, border + 2, border, border - 1, border - 2];
        assert_eq!(walk(&server, &commands)?, expected);
    }
    Ok(())
}

#[test]
fn continuing_to_breakpoints() -> Result<()> {
    let server = Server::start(&sample().trace)?;
    let end = sample().recording().end().0;
    // One address in what QEMU logged, and one that the recording reaches late.
    for limit in [50_000, u64::MAX] {
        let address = address_new_before(limit);
        let visits = visits(address);
        let (first, last) = (visits[0], visits[visits.len() - 1]);
        assert_eq!(
            first >= sample().logged.len() as u64,
            limit == u64::MAX,
            "{address:#x} is new at {first}"
        );
        let set = format!("break *{address:#x}");
        let commands = [
            "monitor goto start",
            "maintenance flush register-cache",
            &set,
            "continue",
            "show",
            "continue",
            "show",
            "continue",
            "show",
            "reverse-continue",
            "show",
            "reverse-continue",
            "show",
            "reverse-continue",
            "show",
            "delete",
            "continue",
            "show",
            &set,
            "reverse-continue",
            "show",
            "reverse-continue",
            "show",
            "delete",
            "reverse-continue",
            "show",
        ];
        let expected =
            [first, visits[1], visits[2], visits[1], first, 0, end, last, visits[visits.len() - 2], 0];
        assert_eq!(walk(&server, &commands)?, expected, "{address:#x}");
    }
    Ok(())
}

#[test]
fn temporary_breakpoints_stop_once() -> Result<()> {
    let server = Server::start(&sample().trace)?;
    let end = sample().recording().end().0;
    let address = address_new_before(30_000);
    let visits = visits(address);
    let set = format!("tbreak *{address:#x}");
    let commands = [
        &set,
        "continue",
        "show",
        "continue",
        "show",
        &set,
        "reverse-continue",
        "show",
        "reverse-continue",
        "show",
    ];
    assert_eq!(walk(&server, &commands)?, [visits[0], end, visits[visits.len() - 1], 0]);
    Ok(())
}

/// A call in the log: the position of the `bl`, and the function's address. It returns later, and has gone some
/// instructions straight on before.
fn call_in_log(logged: &[Registers]) -> Option<(u64, u32)> {
    (10_000..logged.len() - 1000).find_map(|at| {
        let (before, after) = (logged[at], logged[at + 1]);
        let is_call = after[14] == before[15] + 4 && after[15] != after[14] && after[16] & 1 << 5 == 0;
        let straight = (1..6).all(|step| logged[at + 1 + step][15] == after[15] + 4 * step as u32);
        let first = logged[..at].iter().all(|state| state[15] != after[15]);
        (is_call && straight && first).then_some((at as u64, after[15]))
    })
}

#[test]
fn reverse_finish_stops_at_the_call() -> Result<()> {
    let (call, function) = call_in_log(&sample().logged).expect("U-Boot calls functions");
    // gdb goes to the function's beginning, which a symbol must tell, and from there one step back; if that is in a
    // function without a symbol it thinks that it has stepped into one, and goes on.
    let caller = sample().logged[call as usize][15] - 8;
    let start = caller.min(function);
    let source = format!(
        ".text\n.global caller, callee\n.type caller, %function\n.type callee, %function\n\
         .set caller, .text + {:#x}\n.set callee, .text + {:#x}\n.space {:#x}\n",
        caller - start,
        function - start,
        caller.max(function) - start + 64
    );
    let scratch = tempfile::tempdir()?;
    std::fs::write(scratch.path().join("symbols.s"), source)?;
    let run = |name: &str, arguments: &[&str]| -> Result<()> {
        let status = Command::new(name).args(arguments).current_dir(scratch.path()).status();
        let status = status.with_context(|| format!("{name}: install the package binutils-arm-none-eabi"))?;
        ensure!(status.success(), "{name}: {status}");
        Ok(())
    };
    run("arm-none-eabi-as", &["-o", "symbols.o", "symbols.s"])?;
    // The functions of an entry point have no callers, thinks gdb; so it is elsewhere.
    let place = format!("-Ttext={start:#x}");
    run("arm-none-eabi-ld", &[&place, "-e", "0", "-o", "symbols", "symbols.o"])?;
    let program = scratch.path().join("symbols");

    let server = Server::start(&sample().trace)?;
    let (load, start) = (format!("symbol-file {}", program.display()), format!("monitor goto {}", call + 4));
    let commands = [&load, &start, "maintenance flush register-cache", "show", "reverse-finish", "show"];
    assert_eq!(walk(&server, &commands)?, [call + 4, call]);
    Ok(())
}

/// The lines that gdb prints for `x`: bytes of memory as words.
fn words(output: &str) -> Vec<u32> {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("0x").and_then(|line| line.split_once(":\t")))
        .flat_map(|(_, words)| words.split('\t'))
        .filter_map(|word| u32::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect()
}

#[test]
fn examining_memory() -> Result<()> {
    let logged = &sample().logged;
    let firmware = sample().recording();
    let image = firmware.program().image().context("the image of the memory")?;
    // A push in the code, which is still in flash here, of registers that QEMU logged: they are on the stack then.
    let (at, list) = (10_000..logged.len() - 1)
        .find_map(|at| {
            let mut code = [0; 4];
            let known = image.read(u64::from(logged[at][15]), &mut code).iter().any(|range| range.len() == 4);
            let code = u32::from_le_bytes(code);
            (known && code >> 16 == 0xe92d && (code & 0xffff).count_ones() > 4).then_some((at, code))
        })
        .context("U-Boot pushes registers")?;
    let pushed: Vec<u32> =
        (0..16).filter(|number| list >> number & 1 != 0).map(|number| logged[at][number]).collect();
    let server = Server::start(&sample().trace)?;
    let (start, count) = (format!("monitor goto {}", at + 1), pushed.len());
    let examine = format!("x/{count}xw $sp");
    let flush = "maintenance flush register-cache";
    let output = server.gdb(&[&start, flush, &examine])?;
    assert_eq!(words(&output), pushed, "{output}");
    // One instruction back they are not there yet: gdb must not show what it has seen before.
    let mut before = vec![None; 4 * count];
    let mut recording = sample().recording();
    recording.seek(Position(at as u64))?;
    recording.read_memory(logged[at + 1][13], &mut before)?;
    let output =
        server.gdb(&[&start, flush, &examine, "reverse-stepi", &format!("x/{count}xw $sp-{}", 4 * count)])?;
    let shown = &words(&output)[count..];
    if before.iter().all(Option::is_some) {
        let bytes: Vec<u8> = before.into_iter().flatten().collect();
        let expected: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        assert_eq!(shown, expected, "{output}");
        assert_ne!(shown, pushed, "{output}");
    } else {
        assert!(output.contains("annot access memory"), "{output}");
    }
    let output = server.gdb(&[&format!("monitor goto {at}"), flush, "x/xw $pc", "x/i $pc"])?;
    assert_eq!(words(&output)[0], list, "{output}");
    assert!(output.contains("push\t{"), "{output}");
    Ok(())
}

#[test]
fn info_registers() -> Result<()> {
    let server = Server::start(&sample().trace)?;
    let position = sample().logged.len() as u64 - 1;
    let output = server.gdb(&[
        &format!("monitor goto {position}"),
        "maintenance flush register-cache",
        "info registers",
    ])?;
    let expected = sample().registers(position)?;
    let names = (0..13).map(|number| format!("r{number}"));
    let names = names.chain(["sp", "lr", "pc", "cpsr"].map(str::to_owned));
    for (name, expected) in names.zip(expected) {
        let shown = output.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(&name)).then(|| words.next())?
        });
        assert_eq!(shown, Some(format!("{expected:#x}").as_str()), "{name} in:\n{output}");
    }
    Ok(())
}
