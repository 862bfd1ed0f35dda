//! Real gdb drives the server over a made-up recording, whose program and positions `support/recording.rs` shows.

mod support;

use support::recording::SyntheticRecording;
use support::{gdb, start_server};

/// Prints a line that says where gdb thinks it is.
const WHERE: &str = r#"printf "at %lu pc %#x r0 %d\n", $ktpos, $pc, $r0"#;

/// The lines that `WHERE` printed.
fn places(output: &str) -> Vec<&str> {
    output.lines().filter(|line| line.starts_with("at ")).collect()
}

#[track_caller]
fn assert_contains(output: &str, expected: &str) {
    assert!(output.contains(expected), "`{expected}` is missing in:\n{output}");
}

#[test]
fn steps_forward_and_backward() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &[
            "target remote",
            WHERE,
            "stepi",
            WHERE,
            "stepi 2",
            WHERE,
            "stepi 3",
            WHERE,
            "reverse-stepi",
            WHERE,
            "reverse-stepi 4",
            WHERE,
        ],
    );
    assert_eq!(
        places(&output),
        [
            "at 0 pc 0x8000 r0 0",
            "at 1 pc 0x8004 r0 0",
            "at 3 pc 0x800c r0 1",
            "at 6 pc 0x8008 r0 1",
            "at 5 pc 0x8014 r0 1",
            "at 1 pc 0x8004 r0 0",
        ],
        "{output}"
    );
}

#[test]
fn runs_to_breakpoints_forward_and_backward() {
    let server = start_server(SyntheticRecording::short());
    for set in ["break *0x8014", "hbreak *0x8014"] {
        let output = gdb(
            server,
            &[
                "target remote",
                "monitor goto start",
                "maintenance flush register-cache",
                set,
                "continue",
                WHERE,
                "continue",
                WHERE,
                "continue 3",
                WHERE,
                "reverse-continue",
                WHERE,
                "reverse-stepi",
                "reverse-continue",
                WHERE,
                "tbreak *0x8008",
                "continue",
                WHERE,
                "delete",
                "detach",
            ],
        );
        assert_eq!(
            places(&output),
            [
                "at 5 pc 0x8014 r0 1",
                "at 9 pc 0x8014 r0 2",
                "at 21 pc 0x8014 r0 5",
                "at 17 pc 0x8014 r0 4",
                "at 13 pc 0x8014 r0 3",
                "at 14 pc 0x8008 r0 3",
            ],
            "{output}"
        );
        assert_contains(&output, "reakpoint 1, 0x00008014 in");
    }
}

#[test]
fn says_so_at_both_ends_and_goes_on_from_there() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &[
            "target remote",
            "continue",
            WHERE,
            "continue",
            WHERE,
            "stepi",
            WHERE,
            "reverse-stepi",
            WHERE,
            "reverse-continue",
            WHERE,
            "reverse-stepi",
            WHERE,
            "stepi",
            WHERE,
        ],
    );
    let (end, start) = ("at 26 pc 0x801c r0 5", "at 0 pc 0x8000 r0 0");
    assert_eq!(
        places(&output),
        [end, end, end, "at 25 pc 0x801c r0 5", start, start, "at 1 pc 0x8004 r0 0"],
        "{output}"
    );
    assert_eq!(output.matches("No more reverse-execution history").count(), 4, "{output}");
    assert_contains(&output, "ktreplay: position 26 is the end of the recording");
}

/// gdb 13 hangs when it hears of the log's end while it steps over a breakpoint.
#[test]
fn a_breakpoint_at_the_last_instruction_does_not_hang_gdb() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &[
            "target remote",
            "break *0x801c",
            "monitor goto 25",
            "maintenance flush register-cache",
            "continue",
            WHERE,
            "stepi",
            "stepi",
            "continue",
            "nexti",
            WHERE,
            "reverse-continue",
            WHERE,
            "reverse-continue",
            "reverse-continue",
            "reverse-continue",
            WHERE,
        ],
    );
    let end = "at 26 pc 0x801c r0 5";
    assert_eq!(places(&output), [end, end, "at 25 pc 0x801c r0 5", "at 0 pc 0x8000 r0 0"], "{output}");
}

#[test]
fn shows_memory_as_it_was_and_what_is_unknown() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &[
            "target remote",
            "x/wx 0x9000",
            "stepi 4",
            "x/wx 0x9000",
            "x/2i 0x8010",
            "x/2wx 0x801c",
            "continue",
            "x/wx 0x9000",
            "reverse-continue",
            "x/wx 0x9000",
        ],
    );
    assert_eq!(output.matches("Cannot access memory at address 0x9000").count(), 2, "{output}");
    assert_contains(&output, "0x9000:\t0x00000001");
    assert_contains(&output, "0x9000:\t0x00000005");
    assert_contains(&output, "0x8010:\tcmp\tr0, #5");
    assert_contains(&output, "0x8014:\tbne\t0x8008");
    // The known word is shown before the error about the unknown one.
    assert_contains(&output, "0x801c:\t0xeafffffe");
    assert_contains(&output, "Cannot access memory at address 0x8020");
}

#[test]
fn shows_registers_and_which_are_unknown() {
    let server = start_server(SyntheticRecording::short().without_register(12));
    let output = gdb(server, &["target remote", "stepi 3", "info registers", "p $r12"]);
    let registers: Vec<Vec<&str>> = output
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() > 1)
        .collect();
    for (name, value) in [
        ("r0", "0x1"),
        ("r1", "0x9000"),
        ("r11", "0x1111000b"),
        ("r12", "<unavailable>"),
        ("sp", "0x20000"),
        ("pc", "0x800c"),
        ("cpsr", "0x1d3"),
        ("ktpos", "0x3"),
    ] {
        assert!(registers.iter().any(|words| words[..2] == [name, value]), "{name} is {value}:\n{output}");
    }
    assert_contains(&output, "$1 = <unavailable>");
}

#[test]
fn refuses_writes_and_says_why() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &[
            "target remote",
            "set var $r3 = 7",
            "set var *(int *) 0x8000 = 7",
            "maintenance flush register-cache",
            "p/x $r3",
            "x/wx 0x8000",
        ],
    );
    assert_contains(&output, "a recording is read-only");
    assert_contains(&output, "Cannot access memory at address 0x8000");
    assert_contains(&output, "$1 = 0x11110003");
    assert_contains(&output, "0x8000:\t0xe3a00000");
}

#[test]
fn monitor_commands_travel_and_inform() {
    let server = start_server(SyntheticRecording::endless());
    let output = gdb(
        server,
        &[
            "target remote",
            "monitor when",
            "monitor goto 1000000000000",
            "maintenance flush register-cache",
            WHERE,
            "monitor goto +5",
            "monitor goto 100%",
            "monitor goto end",
            "maintenance flush register-cache",
            "p $ktpos == 0x10000000000",
            "monitor goto end+1",
            "monitor info",
            "monitor help",
        ],
    );
    for expected in [
        "0 of 1099511627776, pc 0x00008000",
        "1000000000000 of 1099511627776, pc 0x0000801c",
        "at 1000000000000 pc 0x801c r0 5",
        "1000000000005 of",
        "1099511627776 of",
        "$1 = 1",
        "not moved: `end+1` is no position",
        "synthetic ARM recording",
        "monitor goto N ",
    ] {
        assert_contains(&output, expected);
    }
}

#[test]
fn the_kt_commands_show_the_new_place_at_once() {
    let server = start_server(SyntheticRecording::short());
    let script = concat!("source ", env!("CARGO_MANIFEST_DIR"), "/../gdb-scripts/ktreplay.py");
    let output = gdb(
        server,
        &[
            script,
            "target remote",
            "kt goto 12",
            WHERE,
            "x/wx 0x9000",
            "kt goto -4",
            WHERE,
            "x/wx 0x9000",
            "kt goto 27",
            "kt goto",
            WHERE,
            "kt when",
            "kt info",
            "kt event irq",
            "kt event back dma",
            WHERE,
            "kt events back 1",
            "kt event io",
        ],
    );
    let then = "at 8 pc 0x8010 r0 2";
    assert_eq!(places(&output), ["at 12 pc 0x8010 r0 3", then, then, "at 10 pc 0x8008 r0 2"], "{output}");
    for expected in [
        "=> 0x8010:\tcmp\tr0, #5",
        "0x9000:\t0x00000003",
        "0x9000:\t0x00000002",
        "`27` leads out of the recording, whose positions are 0 to 26",
        "kt goto needs a position",
        "8 of 26, pc 0x00008010",
        "synthetic ARM recording",
        "12  irq        IRQ, before 0x00008008",
        "=> 0x8008:\tadd\tr0, r0, #1",
        "10  dma        10 bytes",
        "not moved: there is none from here to the end",
    ] {
        assert_contains(&output, expected);
    }
    assert!(!output.contains("Traceback"), "{output}");
}

/// gdb hands its conditions over: it never hears of a hit whose condition is false.
#[test]
fn conditions_are_evaluated_by_the_server() {
    let server = start_server(SyntheticRecording::short());
    for (condition, places_expected) in [
        ("$r0 == 3", ["at 12 pc 0x8010 r0 3", "at 26 pc 0x801c r0 5", "at 12 pc 0x8010 r0 3"]),
        // The word that was stored just before.
        (
            "*(int *) 0x9000 > 1 && *(int *) $r1 < 3",
            ["at 8 pc 0x8010 r0 2", "at 26 pc 0x801c r0 5", "at 8 pc 0x8010 r0 2"],
        ),
        (
            "$ktpos > 17 && ($r0 & 1) == 1",
            ["at 20 pc 0x8010 r0 5", "at 26 pc 0x801c r0 5", "at 20 pc 0x8010 r0 5"],
        ),
    ] {
        let output = gdb(
            server,
            &[
                "target remote",
                "monitor goto start",
                "maintenance flush register-cache",
                "set debug remote 1",
                &format!("break *0x8010 if {condition}"),
                "continue",
                WHERE,
                "continue",
                WHERE,
                "reverse-continue",
                WHERE,
                "delete",
                "break *0x8014",
                "reverse-continue",
                "set debug remote 0",
            ],
        );
        assert_eq!(places(&output), places_expected, "{output}");
        assert_contains(&output, "Sending packet: $Z0,8010,4;X");
        // One for each true condition, one at the end, one at a breakpoint without condition, and a step off the first.
        let stops = output.matches("Packet received: T05").count();
        assert_eq!(stops, 5, "{output}");
    }
}

#[test]
fn a_condition_that_only_gdb_can_evaluate_stops_at_each_hit() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &["target remote", "break *0x8010 if $_streq(\"a\", \"a\") && $r0 == 4", "continue", WHERE],
    );
    assert_eq!(places(&output), ["at 16 pc 0x8010 r0 4"], "{output}");
    let server = start_server(SyntheticRecording::short().without_register(12));
    let output = gdb(server, &["target remote", "break *0x8010 if $r12 == 4", "continue", WHERE]);
    assert_contains(&output, "value is not available");
    assert_eq!(places(&output), ["at 4 pc 0x8010 r0 1"], "{output}");
}

#[test]
fn gdb_finds_patterns_and_dumps_memory_in_large_packets() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &[
            "target remote",
            "set debug remote 1",
            "find /w 0x8000, +0x20, 0xe3500005",
            "find /b 0xfffe8001, 0xfffffffe, 0x78, 0x56",
            "find /w 0x8000, +0x20, 0x12345678",
        ],
    );
    assert_contains(&output, "Sending packet: $qSearch:memory:8000;20;");
    for found in ["\n0x8010\n", "\n0xfffffffc\n", "Pattern not found."] {
        assert_contains(&output, found);
    }
}

#[test]
fn time_works_in_conditions_and_software_watchpoints_work_both_ways() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &[
            "target remote",
            "break *0x8008 if $ktpos > 11",
            "continue",
            WHERE,
            "delete",
            "set can-use-hw-watchpoints 0",
            "watch *(int *) 0x9000",
            "continue",
            WHERE,
            "reverse-continue",
            WHERE,
        ],
    );
    assert_eq!(
        places(&output),
        // The store is instruction 15: it is done at 16, and undone at 15.
        ["at 14 pc 0x8008 r0 3", "at 16 pc 0x8010 r0 4", "at 15 pc 0x800c r0 4"],
        "{output}"
    );
    assert_contains(&output, "Old value = 3\nNew value = 4");
    assert_contains(&output, "Old value = 4\nNew value = 3");
}

/// Each stop carries the registers, so gdb need not ask for them.
#[test]
fn gdb_never_asks_for_registers_that_it_was_told() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &[
            "set debug remote 1",
            "target remote",
            "stepi",
            "info registers",
            "break *0x8014",
            "continue",
            "continue",
            "reverse-stepi",
            "reverse-continue",
            "info registers",
        ],
    );
    assert_contains(&output, "Sending packet: $bc#c5");
    assert_contains(&output, "swbreak:;00:01000000;");
    for packet in ["$g#67", "$p"] {
        assert!(!output.contains(&format!("Sending packet: {packet}")), "{output}");
    }
}

#[test]
fn the_next_gdb_finds_the_position_where_the_last_one_left() {
    let server = start_server(SyntheticRecording::short());
    for (leave, position) in [("detach", 2), ("kill", 4), ("disconnect", 6), ("quit", 8)] {
        let output =
            gdb(server, &["target remote", "break *0x8000", "stepi 2", WHERE, "monitor when", leave]);
        assert_contains(&output, &format!("at {position} "));
        assert_contains(&output, &format!("{position} of 26"));
    }
}

#[test]
fn ctrl_c_in_gdb_stops_a_long_run_in_both_directions() {
    let server = start_server(SyntheticRecording::endless());
    // Each resume is followed by a Ctrl-C, once gdb has said that it resumes.
    let press_ctrl_c = "python import os, signal, threading; \
                        press = lambda: os.kill(os.getpid(), signal.SIGINT); \
                        gdb.events.cont.connect(lambda event: threading.Timer(0.5, press).start())";
    let output = gdb(
        server,
        &[
            "target remote",
            press_ctrl_c,
            "continue",
            "p $ktpos > 0",
            "monitor goto 50%",
            "maintenance flush register-cache",
            "reverse-continue",
            "p $ktpos > 0 && $ktpos < 0x8000000000",
        ],
    );
    assert_eq!(output.matches("Program received signal SIGINT").count(), 2, "{output}");
    assert_eq!(output.matches("ktreplay: interrupted at position ").count(), 2, "{output}");
    assert_contains(&output, "$1 = 1\n");
    assert_contains(&output, "$2 = 1\n");
}

#[test]
fn other_ways_to_connect_work_too() {
    let server = start_server(SyntheticRecording::short());
    for (setting, connect) in [
        ("set remote noack-packet off", "target remote"),
        ("set remote target-features-packet on", "target extended-remote"),
        ("set remote multiprocess-feature-packet off", "target remote"),
        ("set remote verbose-resume-packet off", "target remote"),
        ("set remote fetch-register-packet off", "target remote"),
    ] {
        let output = gdb(
            server,
            &[
                setting,
                connect,
                "monitor goto start",
                "maintenance flush register-cache",
                "stepi 3",
                "reverse-stepi",
                WHERE,
                "break *0x8014",
                "continue",
                "reverse-continue",
                WHERE,
            ],
        );
        assert_eq!(places(&output), ["at 2 pc 0x8008 r0 0", "at 0 pc 0x8000 r0 0"], "{setting}: {output}");
    }
}

/// The loop stores to the counter at positions 3, 7, 11, 15 and 19. gdb shows each behind the store going forward, and before it
/// going backward.
#[test]
fn watchpoints_stop_at_each_store_in_both_directions() {
    let server = start_server(SyntheticRecording::short());
    for watch in ["watch *(int *) 0x9000", "awatch *(int *) 0x9000", "watch *(char *) 0x9000"] {
        let output = gdb(
            server,
            &[
                "target remote",
                "monitor goto 4",
                "maintenance flush register-cache",
                watch,
                "continue",
                WHERE,
                "continue 2",
                WHERE,
                "reverse-continue",
                WHERE,
                "reverse-continue",
                WHERE,
                "stepi 3",
                WHERE,
                "stepi",
                WHERE,
                "delete",
                "detach",
            ],
        );
        assert_eq!(
            places(&output),
            [
                "at 8 pc 0x8010 r0 2",
                "at 16 pc 0x8010 r0 4",
                "at 15 pc 0x800c r0 4",
                "at 11 pc 0x800c r0 3",
                "at 12 pc 0x8010 r0 3",
                "at 13 pc 0x8014 r0 3",
            ],
            "{watch}: {output}"
        );
        if watch.contains("int") {
            assert_contains(&output, "Old value = 1\nNew value = 2");
            // Backward it is the other way round.
            assert_contains(&output, "Old value = 4\nNew value = 3");
        }
    }
}

#[test]
fn watchpoints_and_breakpoints_stop_in_the_order_of_time() {
    let server = start_server(SyntheticRecording::short());
    let output = gdb(
        server,
        &[
            "target remote",
            "monitor goto 4",
            "maintenance flush register-cache",
            "watch *(int *) 0x9000",
            "break *0x800c",
            "break *0x8014 if $r0 == 3",
            "continue",
            WHERE,
            "continue",
            WHERE,
            "continue",
            WHERE,
            "continue",
            WHERE,
            "continue",
            WHERE,
            "reverse-continue",
            WHERE,
            "reverse-continue",
            WHERE,
            "delete",
            "detach",
        ],
    );
    assert_eq!(
        places(&output),
        [
            "at 7 pc 0x800c r0 2",
            "at 8 pc 0x8010 r0 2",
            "at 11 pc 0x800c r0 3",
            "at 12 pc 0x8010 r0 3",
            "at 13 pc 0x8014 r0 3",
            // Back over the stores, each shown before it.
            "at 11 pc 0x800c r0 3",
            "at 7 pc 0x800c r0 2",
        ],
        "{output}"
    );
}

#[test]
fn a_range_that_is_only_written_has_no_reads() {
    let server = start_server(SyntheticRecording::short());
    let output =
        gdb(server, &["target remote", "rwatch *(int *) 0x9000", "continue", WHERE, "delete", "detach"]);
    assert_eq!(places(&output), ["at 26 pc 0x801c r0 5"], "{output}");
}
