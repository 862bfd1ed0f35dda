//! gdb-multiarch goes through imported recordings of the original ktracer, of ARM and MIPS guests: exact registers where
//! blocks begin, `<unavailable>` where nothing can prove one, and over gaps in both directions.
//!
//! Needs gdb-multiarch and `cargo build --release --workspace`.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use ktracer_tests::programs::program;
use ktracer_tests::server::Server;

/// Writes a recording's two files and imports them.
fn import(scratch: &Path, arch: &str, context: &[u32], execution: &[u32]) -> Result<Server> {
    for (name, words) in [("context.trace", context), ("execution.trace", execution)] {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        std::fs::write(scratch.join(name), bytes)?;
    }
    let output = Command::new(program("ktracer")?)
        .args(["import", "original", "--arch", arch])
        .args([scratch.join("context.trace"), scratch.join("execution.trace")])
        .arg("-o")
        .arg(scratch.join("trace"))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Server::start(&scratch.join("trace"))
}

#[track_caller]
fn assert_lines(output: &str, expected: &[&str]) {
    let lines: Vec<&str> = output.lines().filter(|line| line.starts_with("at ")).collect();
    assert_eq!(lines, expected, "{output}");
}

/// A gdb command that prints where it is and some registers, of which any may be unavailable.
fn show(registers: &str) -> String {
    let python = r#"python print("at", gdb.parse_and_eval("$ktpos"), *[gdb.parse_and_eval("$" + name).format_string(format="x") for name in "NAMES".split()])"#;
    python.replace("NAMES", registers)
}

#[test]
fn an_arm_recording() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    // ldr r2, [r6], #4; add r3, r2, #1; mov r0, #7; b .
    let block = [0xe496_2004, 0xe282_3001, 0xe3a0_0007, 0xeaff_fffe];
    let mut context = Vec::new();
    for (number, pc) in [0x8000, 0x9000, 0x8000].into_iter().enumerate() {
        let first = 4 * number as u32;
        context.extend([pc, first, first + 4]);
        context.extend((0..15).map(|register| 0x1000 * (number as u32 + 1) + register));
        context.extend([pc, 0x1d3, 0]);
    }
    let server = import(scratch.path(), "arm", &context, &block.repeat(3))?;
    let show = show("pc r0 r2 r3 r6");
    let output = server.gdb(&[
        &show,
        "stepi",
        &show,
        "stepi",
        &show,
        "stepi 2",
        &show,
        "reverse-stepi",
        &show,
        "reverse-stepi 3",
        &show,
        "break *0x9000 if $r0 == 0x2000 && $r6 == 0x2006",
        "break *0x8008 if $r3 == 5",
        "continue",
        &show,
        "continue",
        &show,
        "reverse-continue",
        &show,
        "x/2i $pc",
        "x/wx 0x1006",
        "monitor events gap",
        "delete",
        "watch *(int *) 0x1006",
        "continue",
    ])?;
    assert_lines(
        &output,
        &[
            "at 0 0x8000 0x1000 0x1002 0x1003 0x1006",
            "at 1 0x8004 0x1000 <unavailable> 0x1003 0x100a",
            "at 2 0x8008 0x1000 <unavailable> <unavailable> 0x100a",
            // Over the gap, and back.
            "at 4 0x9000 0x2000 0x2002 0x2003 0x2006",
            "at 3 0x800c 0x7 <unavailable> <unavailable> 0x100a",
            "at 0 0x8000 0x1000 0x1002 0x1003 0x1006",
            // A condition on what is not known is true for all that anyone knows.
            "at 2 0x8008 0x1000 <unavailable> <unavailable> 0x100a",
            "at 4 0x9000 0x2000 0x2002 0x2003 0x2006",
            "at 2 0x8008 0x1000 <unavailable> <unavailable> 0x100a",
        ],
    );
    for expected in [
        "0x8008:\tmov\tr0, #7",
        "0x800c:\tb\t0x800c",
        "Cannot access memory at address 0x1006",
        "memory accesses were not recorded: this is an imported recording",
        "             4  gap        a gap in the recording, to 0x00009000",
        "             8  gap        a gap in the recording, to 0x00008000",
    ] {
        assert!(output.contains(expected), "{expected} is missing in\n{output}");
    }
    Ok(())
}

/// The example of the original's documentation, and it again.
fn mips_recording(arch: &str) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let code = [0x4008_6000, 0x3c01_1000, 0x3421_001f, 0x0101_4025, 0x3908_001f, 0x4088_6000];
    let mut context = Vec::new();
    for number in 0..2 {
        context.extend([0x8000_5ce0, 6 * number, 6 * number + 6]);
        context.extend((0..32).map(|register| if register == 0 { 0 } else { register + 0x100 * number }));
        // Status, LO, HI, BadVAddr, Cause, the program counter, FCR31, FCR0.
        context.extend([0x40_0004, 1, 2, 3, 4, 0x8000_5ce0, 5, 0x73_9300]);
    }
    let server = import(scratch.path(), arch, &context, &code.repeat(2))?;
    let show = show("pc at t0 t1 lo hi fcsr fir");
    let float = r#"python print("at", gdb.parse_and_eval("$f0"))"#;
    let output = server.gdb(&[&show, float, "stepi 3", &show, "stepi 3", &show, "reverse-stepi", &show])?;
    assert_lines(
        &output,
        &[
            "at 0 0x80005ce0 0x1 0x8 0x9 0x1 0x2 0x5 0x739300",
            "at <unavailable>",
            "at 3 0x80005cec 0x1000001f <unavailable> 0x9 0x1 0x2 0x5 0x739300",
            "at 6 0x80005ce0 0x101 0x108 0x109 0x1 0x2 0x5 0x739300",
            "at 5 0x80005cf4 0x1000001f <unavailable> 0x9 0x1 0x2 0x5 0x739300",
        ],
    );
    Ok(())
}

#[test]
fn a_mips_recording() -> Result<()> {
    mips_recording("mips")
}

#[test]
fn a_little_endian_mips_recording() -> Result<()> {
    mips_recording("mipsel")
}
