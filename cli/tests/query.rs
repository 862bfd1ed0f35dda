//! `ktracer query` and `ktracer index` on the sample trace, held against a walk over its instructions.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use ktrace_timeline::walk::{Event, Instruction, Walk};
use ktrace_timeline::{Program, sample};
use serde_json::Value;

/// Where lists begin and end: around the border of two segments.
fn range(program: &Program) -> (u64, u64) {
    let border = program.trace().segments()[2].first;
    (border - 30_000, border + 30_000)
}

fn directory() -> PathBuf {
    sample::directory().expect("tests/samples/arm-u-boot is in the repository")
}

fn query(trace: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ktracer"));
    command.arg("query").arg(trace).args(arguments).output().expect("it starts")
}

fn objects(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn positions(objects: &[Value]) -> Vec<u64> {
    objects.iter().map(|object| object["position"].as_u64().expect("a position")).collect()
}

fn instructions(program: &Arc<Program>, from: u64, to: u64) -> Vec<Instruction> {
    Walk::new(Arc::clone(program), from)
        .map(|event| match event {
            Event::Instruction(instruction) => instruction,
            other => panic!("{other:?}"),
        })
        .take_while(|instruction| instruction.position <= to)
        .collect()
}

#[test]
fn lists_are_those_of_a_walk() {
    let program = Arc::new(Program::open(&directory()).unwrap());
    let (from, to) = range(&program);
    let walked = instructions(&program, from, to);
    let bounds = [format!("--from={from}"), format!("--to={to}"), "--json".to_owned()];
    let ask = |question: &[&str]| {
        let bounds: Vec<&str> = bounds.iter().map(String::as_str).collect();
        objects(&query(&directory(), &[question, &bounds].concat()))
    };
    let address = walked[walked.len() / 2].address;
    let executed = ask(&["exec", &format!("{address:#x}")]);
    let expected: Vec<u64> =
        walked.iter().filter(|instruction| instruction.address == address).map(|one| one.position).collect();
    assert_eq!(positions(&executed), expected);

    let stores = walked.iter().flat_map(|instruction| &instruction.accesses).filter(|access| access.store);
    let word = stores.map(|access| access.address & !3).nth(500).expect("the sample stores");
    for (question, store) in [("writes", true), ("reads", false)] {
        let found = ask(&[question, &format!("{word:#x}")]);
        let expected: Vec<(u64, u64)> = walked
            .iter()
            .flat_map(|instruction| {
                instruction.accesses.iter().map(move |access| (instruction.position, access))
            })
            .filter(|(_, access)| {
                access.store == store
                    && access.address < word + 4
                    && access.address + u32::from(access.bytes) > word
            })
            .map(|(position, access)| (position, access.value as u64))
            .collect();
        let found: Vec<(u64, u64)> = found
            .iter()
            .map(|object| {
                let value = object["value"].as_str().expect("a value").trim_start_matches("0x");
                (
                    object["position"].as_u64().expect("a position"),
                    u64::from_str_radix(value, 16).expect("a number"),
                )
            })
            .collect();
        assert_eq!(found, expected, "{question} of {word:#x}");
    }
    assert_eq!(positions(&ask(&["exec", &format!("{address:#x}"), "--count=1"])), expected[..1]);
}

#[test]
fn registers_and_memory_are_those_of_a_walk() {
    let program = Arc::new(Program::open(&directory()).unwrap());
    let (from, _) = range(&program);
    let walked = instructions(&program, from, from + 2000);
    let here = &walked[1500];
    let at = format!("--at={}", here.position);
    let registers = objects(&query(&directory(), &["regs", &at, "--json"]));
    let value = |number: usize| here.before.get(number).map(|value| format!("{value:#010x}"));
    assert_eq!(registers[0]["registers"]["pc"].as_str(), value(15).as_deref());
    assert_eq!(registers[0]["registers"]["r4"].as_str(), value(4).as_deref());
    let change = walked[..1500]
        .iter()
        .rev()
        .find(|one| one.after.as_ref().is_some_and(|after| after.get(3) != one.before.get(3)));
    let change = change.expect("a change");
    let told = objects(&query(&directory(), &["reg", "r3", &at, "--json"]));
    assert_eq!(positions(&told), [change.position]);
    let code = format!("{:#x}+{}", here.address, here.code().len());
    let memory = objects(&query(&directory(), &["mem", &code, &at, "--json"]));
    let bytes: String = here.code().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(memory[0]["bytes"], bytes);
    assert!(!query(&directory(), &["reg", "x9"]).status.success());
    assert!(!query(&directory(), &["exec", "main"]).status.success());
}

#[test]
fn calls_return_where_their_function_was_entered_from() {
    let program = Arc::new(Program::open(&directory()).unwrap());
    let (from, to) = range(&program);
    let walked = instructions(&program, from, to);
    // An instruction that is entered with lr just behind the one before it: BL.
    let mut entries = walked.windows(2).filter(|two| {
        two[1].before.get(14) == Some(two[0].address + 4) && two[1].address != two[0].address + 4
    });
    let entry = entries.nth(20).expect("U-Boot calls functions")[1].address;
    let bounds = [format!("--from={from}"), format!("--to={to}")];
    let calls =
        objects(&query(&directory(), &["calls", &format!("{entry:#x}"), "--json", &bounds[0], &bounds[1]]));
    let entered: Vec<u64> =
        walked.iter().filter(|instruction| instruction.address == entry).map(|one| one.position).collect();
    assert_eq!(positions(&calls), entered);
    let by_position = |position: u64| walked.iter().find(|one| one.position == position);
    let mut returned = 0;
    for call in &calls {
        let entry = by_position(call["position"].as_u64().expect("a position")).expect("walked");
        let argument = entry.before.get(0).map(|value| format!("{value:#010x}"));
        assert_eq!(call["arguments"][0].as_str(), argument.as_deref());
        let Some(back) = call["return"]["position"].as_u64().and_then(by_position) else { continue };
        returned += 1;
        assert_eq!(Some(back.address), entry.before.get(14).map(|address| address & !1));
        assert_eq!(back.before.get(13), entry.before.get(13));
        let value = back.before.get(0).map(|value| format!("{value:#010x}"));
        assert_eq!(call["return"]["value"].as_str(), value.as_deref());
    }
    assert!(returned > 0, "none of {} calls returns", calls.len());
}

/// The program prints more than a pipe holds, so that it is still at it when Ctrl-C comes.
#[test]
fn ctrl_c_ends_a_list_and_says_where() {
    use std::io::{BufRead, BufReader, Read};
    let question = ["writes", "phys:0+0x100000000", "--json"];
    let complete = query(&directory(), &question).stdout;
    let mut command = Command::new(env!("CARGO_BIN_EXE_ktracer"));
    let command = command.arg("query").arg(directory()).args(question);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut first = String::new();
    output.read_line(&mut first).expect("a line");
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::INT).expect("it runs");
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).expect("text");
    let printed = [first.as_bytes(), &rest].concat();
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130));
    assert!(complete.starts_with(&printed) && printed.len() < complete.len(), "{}", printed.len());
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    let told = told.lines().last().expect("a line");
    let position =
        told.strip_prefix("ktracer: interrupted at position ").and_then(|text| text.split(':').next());
    let position: u64 = position.unwrap_or_else(|| panic!("{told}")).parse().expect("a number");
    let position_of = |line: &[u8]| {
        serde_json::from_slice::<Value>(line).expect("JSON")["position"].as_u64().expect("a position")
    };
    let lines = |text: &[u8]| {
        text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(position_of).collect::<Vec<_>>()
    };
    let (printed, complete) = (lines(&printed), lines(&complete));
    // Accesses of the instruction at the position itself may be there.
    assert!(printed.iter().all(|here| *here <= position), "{told}");
    let before = |positions: &[u64]| positions.iter().filter(|here| **here < position).count();
    assert_eq!(before(&printed), before(&complete), "{told}");
}

#[test]
fn a_damaged_index_costs_time_only_and_can_be_made_again() {
    let scratch = tempfile::tempdir().unwrap();
    for file in ["trace.json", "trace.kt", "memory.kt"] {
        std::fs::copy(directory().join(file), scratch.path().join(file)).unwrap();
    }
    let program = Program::open(&directory()).unwrap();
    let mut bytes = std::fs::read(directory().join("trace.kt")).unwrap();
    for segment in &program.trace().segments()[1..4] {
        bytes[segment.index.expect("it has an index") as usize + 100] ^= 1;
    }
    std::fs::write(scratch.path().join("trace.kt"), bytes).unwrap();
    let end = program.trace().segments()[4].end();
    let questions: [&[&str]; 3] = [
        &["changes", "phys:0x40000000+0x4000000", "--count=300", "--from=400000", "--json"],
        &["mem", "0x0+0x2000", "--json"],
        &["exec", "0x0", "--json"],
    ];
    let at = format!("--at={end}");
    for question in questions {
        let question: Vec<&str> =
            question.iter().copied().chain((question[0] == "mem").then_some(at.as_str())).collect();
        let whole = query(&directory(), &question);
        let damaged = query(scratch.path(), &question);
        assert!(damaged.stdout == whole.stdout, "{question:?}");
        let warnings = String::from_utf8_lossy(&damaged.stderr).matches("`ktracer index ").count();
        assert_eq!(warnings, 1, "{question:?}: {}", String::from_utf8_lossy(&damaged.stderr));
        let noted = String::from_utf8_lossy(&damaged.stderr).contains("segments were executed because");
        // The list of changes is full before it comes to one of them.
        assert_eq!(noted, question[0] != "changes", "{question:?}");
    }
    let index = |directory: &Path| {
        Command::new(env!("CARGO_BIN_EXE_ktracer")).arg("index").arg(directory).output().expect("it starts")
    };
    let made = String::from_utf8(index(scratch.path()).stdout).unwrap();
    assert!(made.contains("3 of them had no readable index"), "{made}");
    let again = String::from_utf8(index(scratch.path()).stdout).unwrap();
    assert!(again.contains("3 of them have one in index.kt"), "{again}");
    for question in questions {
        let question: Vec<&str> =
            question.iter().copied().chain((question[0] == "mem").then_some(at.as_str())).collect();
        let damaged = query(scratch.path(), &question);
        assert!(damaged.stdout == query(&directory(), &question).stdout, "{question:?}");
        let stderr = String::from_utf8_lossy(&damaged.stderr);
        assert!(!stderr.contains("index"), "{stderr}");
    }
    let info = Command::new(env!("CARGO_BIN_EXE_ktracer")).arg("info").arg(scratch.path()).output().unwrap();
    let info = String::from_utf8(info.stdout).unwrap();
    assert_eq!(info.matches("index.kt has another in its place").count(), 3, "{info}");
}

/// A question about all of memory takes minutes.
#[test]
fn ctrl_c_ends_a_look_at_memory() {
    use std::io::{BufRead, BufReader, Read};
    let mut command = Command::new(env!("CARGO_BIN_EXE_ktracer"));
    let command = command.arg("query").arg(directory()).args(["mem", "0+0xffffffff"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    output.read_line(&mut String::new()).expect("a line");
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::INT).expect("it runs");
    output.read_to_end(&mut Vec::new()).expect("text");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130));
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(
        told.contains("ktracer: interrupted at position ") && told.contains(" on is not listed"),
        "{told}"
    );
}
