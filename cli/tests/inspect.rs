//! `ktracer info`, `verify`, `dump`, `events` and `demo` on the sample trace, on what is left of it after a tear, and with damage.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ktrace_format::Trace;
use ktrace_format::record::{HEAD_BYTES, records};
use ktrace_timeline::sample;
use serde_json::Value;

fn directory() -> PathBuf {
    sample::directory().expect("tests/samples/arm-u-boot is in the repository")
}

fn ktracer(arguments: &[&str], trace: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ktracer")).args(arguments).arg(trace).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A copy of the sample trace whose `trace.kt` can be replaced.
struct Copy {
    directory: tempfile::TempDir,
    original: Vec<u8>,
}

impl Copy {
    fn new() -> Copy {
        let directory = tempfile::tempdir().unwrap();
        for file in ["trace.json", "trace.kt", "memory.kt"] {
            std::fs::copy(self::directory().join(file), directory.path().join(file)).unwrap();
        }
        let original = std::fs::read(directory.path().join("trace.kt")).unwrap();
        Copy { directory, original }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, bytes: &[u8]) {
        std::fs::write(self.path().join("trace.kt"), bytes).unwrap();
    }

    fn flip(&self, offset: usize) {
        let mut bytes = self.original.clone();
        bytes[offset] ^= 0x10;
        self.write(&bytes);
    }

    /// Nothing panics, and what is printed is either an error or a result.
    fn check_all_commands(&self, what: &str) {
        let commands: [&[&str]; 5] = [
            &["info", "--json"],
            &["verify", "--json"],
            &["dump", "--count", "3"],
            &["dump", "--from", "50%", "--count", "3", "--format", "json"],
            &["events", "--count", "3"],
        ];
        for command in commands {
            let output = ktracer(command, self.path());
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(0 | 1)), "{what}, {command:?}: {errors}");
            assert!(!errors.contains("panicked"), "{what}, {command:?}: {errors}");
            if output.stdout.is_empty() {
                assert!(errors.contains("ktracer: "), "{what}, {command:?} says nothing");
            }
            match command[0] {
                "verify" => assert_eq!(output.status.code(), Some(1), "{what} is not noticed"),
                "info" if output.status.success() => {
                    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
                    assert_ne!(info["faults"], Value::Array(Vec::new()), "{what} is not told");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn info_has_exactly_these_keys() {
    let info: Value = serde_json::from_str(&text(&ktracer(&["info", "--json"], &directory()))).unwrap();
    let mut keys: Vec<_> = info.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "arch",
        "blocks",
        "byte_order",
        "bytes",
        "bytes_per_instruction",
        "closed",
        "command_line",
        "discontinuities",
        "faults",
        "format_version",
        "instructions",
        "opaque",
        "path",
        "qemu_version",
        "segments",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        (&info["arch"], &info["byte_order"], &info["path"]),
        (&"arm".into(), &"little".into(), &"portable".into())
    );
    assert_eq!(info["faults"], Value::Array(Vec::new()));
    let trace = Trace::open(&directory()).unwrap();
    let totals = trace.totals().unwrap();
    assert_eq!(info["instructions"], totals.instructions);
    assert_eq!(info["blocks"], totals.blocks);
    assert_eq!(info["segments"], totals.segments);
    assert_eq!(info["bytes"], trace.bytes());
    assert!(info["opaque"]["mcr"].as_u64().unwrap() > 0);
    let size = trace.bytes() as f64 / totals.instructions as f64;
    assert!((info["bytes_per_instruction"].as_f64().unwrap() - size).abs() < 1e-9);
}

#[test]
fn the_sample_names_no_directory_of_whoever_made_it() {
    let info: Value = serde_json::from_str(&text(&ktracer(&["info", "--json"], &directory()))).unwrap();
    for word in info["command_line"].as_array().unwrap() {
        assert!(!word.as_str().unwrap().contains('/'), "{word}");
    }
}

#[test]
fn verify_proves_the_sample_with_any_number_of_threads() {
    for jobs in ["1", "2", "0"] {
        let output = ktracer(&["verify", "--json", "-j", jobs], &directory());
        let verdict: Value = serde_json::from_str(&text(&output)).unwrap();
        assert_eq!(verdict["proved"], verdict["instructions"]);
        assert_eq!(verdict["divergences"], Value::Array(Vec::new()));
        assert!(verdict["instructions_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(verdict["closed"], true);
        assert!(output.stderr.is_empty(), "no progress bar without a terminal");
    }
}

#[test]
fn a_tear_anywhere_is_noticed() {
    let copy = Copy::new();
    let mut random = fastrand::Rng::with_seed(1);
    let inside = (0..12).map(|_| random.usize(1..copy.original.len()));
    let borders = records(&copy.original).map(|record| record.unwrap().offset as usize);
    let borders: Vec<_> = borders.collect();
    for length in inside.chain(borders) {
        copy.write(&copy.original[..length]);
        copy.check_all_commands(&format!("a cut at {length}"));
    }
}

#[test]
fn what_is_before_a_tear_is_proved_and_the_rest_reported() {
    let copy = Copy::new();
    let third = Trace::open(&directory()).unwrap().segments()[2];
    copy.write(&copy.original[..third.offset as usize + 1000]);
    let output = ktracer(&["verify", "--json"], copy.path());
    assert_eq!(output.status.code(), Some(1));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&verdict["closed"], &verdict["proved"]), (&false.into(), &third.first.into()));
    assert_eq!(verdict["divergences"], Value::Array(Vec::new()));

    let info: Value = serde_json::from_str(&text(&ktracer(&["info", "--json"], copy.path()))).unwrap();
    assert_eq!((&info["closed"], &info["segments"]), (&false.into(), &2.into()));
    assert_eq!(info["instructions"], third.first);
    assert_eq!(info["discontinuities"], 0, "they are counted in the segments");
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let copy = Copy::new();
    let mut random = fastrand::Rng::with_seed(2);
    let mut offsets = Vec::new();
    for record in records(&copy.original).map(|record| record.unwrap()) {
        let start = record.offset as usize;
        offsets.push(start + random.usize(0..HEAD_BYTES));
        offsets.push(start + HEAD_BYTES + random.usize(0..record.payload_len()));
    }
    offsets.push(copy.original.len() - 1);
    for offset in offsets {
        copy.flip(offset);
        copy.check_all_commands(&format!("a flipped bit at {offset}"));
    }
}

#[test]
fn a_damaged_segment_costs_itself_only() {
    let copy = Copy::new();
    let damaged = Trace::open(&directory()).unwrap().segments()[1];
    copy.flip(damaged.offset as usize + HEAD_BYTES + 500);
    let verdict: Value = serde_json::from_slice(&ktracer(&["verify", "--json"], copy.path()).stdout).unwrap();
    let divergences = verdict["divergences"].as_array().unwrap();
    assert_eq!(divergences.len(), 1, "{divergences:?}");
    assert_eq!(
        (&divergences[0]["from"], &divergences[0]["to"]),
        (&damaged.first.into(), &damaged.end().into())
    );

    let from = (damaged.first - 2).to_string();
    let output = ktracer(&["dump", "--format", "json", "--from", &from], copy.path());
    assert_eq!(output.status.code(), Some(1));
    let lines = lines(&output);
    assert_eq!(lines.len(), 3, "it stops where nothing is known");
    assert_eq!(lines[2]["unknown"]["from"], damaged.first);
}

#[test]
fn a_damaged_memory_image_is_noticed() {
    let copy = Copy::new();
    let file = copy.path().join("memory.kt");
    let mut image = std::fs::read(&file).unwrap();
    let middle = image.len() / 2;
    image[middle] ^= 1;
    std::fs::write(&file, image).unwrap();
    let output = ktracer(&["verify", "--json"], copy.path());
    assert_eq!(output.status.code(), Some(1));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(verdict["faults"][0].as_str().unwrap().starts_with("memory.kt"), "{verdict}");
}

#[test]
fn what_is_no_trace_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    for command in ["info", "verify", "dump", "events"] {
        for directory in [empty.path(), Path::new("/nonexistent")] {
            let output = ktracer(&[command], directory);
            assert_eq!(output.status.code(), Some(1));
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(errors.contains("is not a ktracer trace") && errors.lines().count() == 1, "{errors}");
        }
    }
}

fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn dumped_instructions_follow_one_another() {
    let output = ktracer(&["dump", "--format", "json", "--from", "50%", "--count", "5000"], &directory());
    assert!(output.status.success());
    let lines = lines(&output);
    assert_eq!(lines.len(), 5000);
    let middle = Trace::open(&directory()).unwrap().instructions() / 2;
    let mut expected = None;
    for (position, line) in (middle..).zip(&lines) {
        assert_eq!(line["position"], position);
        let address = number(&line["address"]);
        assert!(expected.is_none_or(|expected| expected == address), "{line}");
        let target = line["registers"].get("pc").map(number);
        expected = Some(target.unwrap_or(address + line["bytes"].as_str().unwrap().len() as u64 / 2));
    }
    let memory: Vec<_> = lines.iter().flat_map(|line| line["memory"].as_array().unwrap()).collect();
    assert!(memory.len() > 100, "U-Boot accesses memory all the time");
    assert!(
        memory.iter().all(|access| number(&access["value"]) >> (8 * access["size"].as_u64().unwrap()) == 0)
    );
}

#[test]
fn from_takes_positions_of_every_form() {
    let end = Trace::open(&directory()).unwrap().instructions();
    let first = |from: &str| {
        let output = ktracer(&["dump", "--format", "json", "--count", "1", "--from", from], &directory());
        assert!(output.status.success(), "{from}");
        lines(&output).first().map(|line| line["position"].as_u64().unwrap())
    };
    assert_eq!(first("start"), Some(0));
    assert_eq!(first("0x10"), Some(16));
    assert_eq!(first("50%"), Some(end / 2));
    assert_eq!(first("-5"), Some(end - 5));
    assert_eq!(first("end"), None);
    for from in ["nowhere", "101%", "-9000000000"] {
        let output = ktracer(&["dump", "--from", from], &directory());
        assert_eq!(output.status.code(), Some(1), "{from}");
    }
}

/// QEMU's own log of the same firmware begins with these blocks.
#[test]
fn the_original_format_is_as_it_was() {
    let output = text(&ktracer(&["dump", "--format", "original", "--count", "3"], &directory()));
    let zeros = "\
r0=00000000  r1=00000000  r2=00000000  r3=00000000  r4=00000000  r5=00000000
r6=00000000  r7=00000000  r8=00000000  r9=00000000 r10=00000000 r11=00000000
";
    let last =
        |pc: &str| format!("ip=00000000  sp=00000000  cl=00000000  pc={pc} cspr=400001d3 xspr=40000000\n");
    let expected: String =
        [("00000000", "0x0", "0x2e8"), ("000002e8", "0x2e8", "0x348"), ("00000348", "0x348", "0x2ec")]
            .map(|(pc, address, target)| format!("{zeros}{}{address} :b\t\t#{target}\n\n", last(pc)))
            .concat();
    assert_eq!(output, expected);
}

/// Every access to a device that `dump` shows is an event, with the same values.
#[test]
fn events_are_what_dump_shows_of_devices() {
    let range = ["--from", "3559000", "--to", "3560999", "--json"];
    let output = ktracer(&[&["events", "--kind", "io"], &range[..]].concat(), &directory());
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let events = lines(&output);
    let dump = ["dump", "--from", "3559000", "--count", "2000", "--format", "json"];
    let mut expected = Vec::new();
    for line in lines(&ktracer(&dump, &directory())) {
        for access in line["memory"].as_array().unwrap().iter().filter(|access| !access["device"].is_null()) {
            let mut event = access.clone();
            event["position"] = line["position"].clone();
            event["kind"] = "io".into();
            expected.push(event);
        }
    }
    assert!(expected.len() > 3, "{expected:?}");
    assert_eq!(events, expected);
}

#[test]
fn events_are_a_table_for_people() {
    let output = ktracer(&["events", "--count", "2"], &directory());
    let expected = " position  kind       details
      129  io         write 0x00000000  [09000030] pl011 at physical 0x09000030
      132  io         write 0x00000070  [0900002c] pl011 at physical 0x0900002c
";
    assert_eq!(text(&output), expected);
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not see what devices write to memory"));
    let none = ktracer(&["events", "--kind", "irq,exception", "--kind", "exception"], &directory());
    assert_eq!(text(&none), " position  kind       details\n");
    assert_eq!(String::from_utf8_lossy(&none.stderr), "", "it concerns dma only");
    assert_eq!(text(&ktracer(&["events", "--to", "128"], &directory())).lines().count(), 1);
    assert_eq!(text(&ktracer(&["events", "--from", "129", "--to", "129"], &directory())).lines().count(), 2);
    assert_eq!(ktracer(&["events", "--kind", "nmi"], &directory()).status.code(), Some(2));
    let dma = ktracer(&["events", "--kind", "dma"], &directory());
    assert_eq!((dma.status.code(), &dma.stdout[..]), (Some(1), &b""[..]), "none in the trace is no answer");
    assert!(String::from_utf8_lossy(&dma.stderr).contains("writes of devices to memory were not recorded"));
}

/// The last events before a position are the end of the list up to there.
#[test]
fn the_last_events_are_listed_in_order() {
    let list =
        |arguments: &[&str]| lines(&ktracer(&[&["events", "--json"], arguments].concat(), &directory()));
    let all = list(&[]);
    assert!(all.len() > 20, "{}", all.len());
    for count in [1, 7, all.len() - 1, all.len() + 10] {
        let last = list(&["--last", &count.to_string()]);
        assert_eq!(last, all[all.len() - count.min(all.len())..], "{count}");
    }
    let position = all[10]["position"].to_string();
    assert_eq!(list(&["--from", &position, "--last", "1000"]), all[10..]);
    let position = all[15]["position"].to_string();
    assert_eq!(list(&["--to", &position, "--last", "1"]), all[15..16]);
    assert_eq!(ktracer(&["events", "--last", "1", "--count", "1"], &directory()).status.code(), Some(2));
}

/// A table that says what it lacks, and an end that is told on standard error.
#[test]
fn events_go_on_behind_damage_and_tell_of_a_tear() {
    let copy = Copy::new();
    let segments = Trace::open(&directory()).unwrap().segments().to_vec();
    let damaged = segments[1];
    copy.flip(damaged.offset as usize + HEAD_BYTES + 500);
    let output = ktracer(&["events", "--json"], copy.path());
    assert_eq!(output.status.code(), Some(0));
    let found = lines(&output);
    let unknown: Vec<_> = found.iter().filter(|line| !line["unknown"].is_null()).collect();
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert_eq!(
        (&unknown[0]["unknown"]["from"], &unknown[0]["unknown"]["to"]),
        (&damaged.first.into(), &damaged.end().into())
    );
    let last = found.last().unwrap()["position"].as_u64().unwrap();
    assert!(last > damaged.end(), "it goes on: {last}");

    copy.write(&copy.original[..segments[2].offset as usize + 1000]);
    let output = ktracer(&["events"], copy.path());
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the trace is torn at position"));
}

#[test]
fn text_shows_devices_by_name() {
    let demo = text(&Command::new(env!("CARGO_BIN_EXE_ktracer")).arg("demo").output().unwrap());
    assert!(demo.contains("| U-Boot 20"), "the guest's banner is read back: {demo}");
    assert!(demo.contains("write [09000000] of pl011"), "{demo}");
    assert!(demo.contains("instructions are proved"), "{demo}");
    assert!(demo.contains("ktreplay --demo"), "{demo}");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let start = |command: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ktracer"));
        child.arg(command).arg(directory()).stdout(Stdio::piped()).stderr(Stdio::piped());
        child.spawn().unwrap()
    };
    let mut dump = start("dump");
    let mut first = String::new();
    BufReader::new(dump.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.trim_start().starts_with("0  00000000"), "{first}");
    let output = dump.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    // The events of the sample fit into the pipe: this reader leaves before they come.
    let mut events = start("events");
    drop(events.stdout.take());
    let output = events.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).lines().all(|line| line.contains("note:")));
}
