//! `ktracer record` as a program, against `fake/qemu-system-arm`, which plays QEMU with the plugin loaded.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

struct Scene {
    scratch: tempfile::TempDir,
    command: Command,
}

impl Scene {
    /// `ktracer record` with `options`, in a directory of its own, about to run the fake, which will say `messages`.
    fn new(options: &[&str], messages: Value) -> Self {
        Self::with_program(fake().to_str().unwrap(), options, messages)
    }

    /// The same with another command after `--`.
    fn with_program(program: &str, options: &[&str], messages: Value) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ktracer"));
        command
            .args(["record", "-o", "trace"])
            .args(options)
            .args(["--", program])
            .args(["-M", "virt"])
            .current_dir(scratch.path())
            .env("KTRACER_PLUGIN", fake())
            .env("FAKE_LOG", scratch.path().join("log"))
            .env("FAKE_MESSAGES", messages.to_string())
            .stdin(Stdio::null());
        Scene { scratch, command }
    }

    fn run(&mut self) -> (Output, String) {
        let output = self.command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, errors)
    }

    /// What the fake wrote down, one value for each thing that it was told.
    fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn trace(&self) -> PathBuf {
        self.scratch.path().join("trace")
    }
}

fn fake() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/qemu-system-arm")
}

fn finished(reason: &str, error: Option<&str>) -> Value {
    json!({ "finished": { "instructions": 2_000_000, "blocks": 300_000, "segments": 2, "bytes": 60_000,
        "closed": true, "reason": reason, "error": error } })
}

#[test]
fn a_recording_is_summarised_and_ends_with_qemus_status() {
    let messages = json!([{ "progress": { "instructions": 1000, "bytes": 10 } }, finished("exit", None)]);
    let mut scene = Scene::new(&["--stop-after", "2M", "--start-at", "0x100"], messages);
    scene.command.env("FAKE_STATUS", "7");
    let (output, errors) = scene.run();
    assert_eq!(output.status.code(), Some(7), "{errors}");
    assert!(errors.contains("recorded 2,000,000 instructions in 300,000 blocks"), "{errors}");
    assert!(errors.contains("0.030 bytes per instruction"), "{errors}");
    assert!(errors.contains("replay it with: ktreplay trace"), "{errors}");

    let log = scene.log();
    let arguments: Vec<&str> =
        log[0]["arguments"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()).collect();
    assert_eq!(arguments[..3], ["-M", "virt", "-plugin"]);
    let out = format!(",out={},control=/", scene.trace().display());
    assert!(arguments[3].contains(&out), "an absolute directory: {}", arguments[3]);
    assert!(arguments[3].ends_with(",stop_after=2000000,start_at=0x100"), "{}", arguments[3]);
    let hello = &log[1]["hello"];
    assert_eq!(hello["qemu_version"], "QEMU emulator version 10.0.2 (fake)");
    assert_eq!(hello["command_line"][1], "-M");
    let started = hello["started"].as_str().unwrap();
    assert!(started.starts_with("20") && started.ends_with('Z') && started.contains('T'), "{started}");
}

#[test]
fn without_a_monitor_recording_goes_on_without_memory() {
    let mut scene = Scene::new(&[], json!([{ "memory_wanted": {} }, finished("exit", None)]));
    let (output, errors) = scene.run();
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("warning: memory from before the recording is missing"), "{errors}");
    let answer = &scene.log()[2]["memory_ready"];
    assert_eq!(answer["captured"], false);
    assert!(answer["reason"].as_str().unwrap().contains("monitor"), "{answer}");
}

#[test]
fn signals_go_to_qemu() {
    let mut scene = Scene::new(&[], json!(["wait", finished("exit", None)]));
    let mut child = scene.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "waiting\n");
    let recorder = Pid::from_raw(child.id() as i32).unwrap();
    kill_process(recorder, Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scene.log().last().unwrap(), &json!({ "terminated": true }));
}

#[test]
fn enough_recorded_ends_qemu() {
    // The fake has no monitor, so that SIGTERM must do.
    let mut scene = Scene::new(&["--stop-after", "2M"], json!([finished("stop-after", None), "wait"]));
    let (output, errors) = scene.run();
    assert!(output.status.success(), "{errors}");
    assert_eq!(scene.log().last().unwrap(), &json!({ "terminated": true }));
}

#[test]
fn qemu_can_run_on() {
    let mut scene =
        Scene::new(&["--stop-after", "2M", "--keep-running"], json!([finished("stop-after", None)]));
    let (output, errors) = scene.run();
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains("SIGTERM"), "{errors}");
    assert!(errors.contains("QEMU runs on"), "{errors}");
}

#[test]
fn a_killed_qemu_is_reported() {
    let messages = json!([{ "progress": { "instructions": 123_456, "bytes": 10 } }, "die"]);
    let (output, errors) = Scene::new(&[], messages).run();
    assert_eq!(output.status.code(), Some(137), "{errors}");
    assert!(errors.contains("was not closed"), "{errors}");
    assert!(errors.contains("123,456 instructions"), "{errors}");
}

#[test]
fn a_failed_recording_fails_even_if_qemu_is_content() {
    let (output, errors) = Scene::new(&[], json!([finished("error", Some("no space left"))])).run();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("no space left"), "{errors}");
}

#[test]
fn a_qemu_that_never_loads_the_plugin_leaves_no_directory() {
    let mut scene = Scene::new(&[], json!("unconnected"));
    scene.command.env("FAKE_STATUS", "3");
    let (output, errors) = scene.run();
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("nothing was recorded"), "{errors}");
    assert!(!scene.trace().exists());
}

#[test]
fn what_cannot_be_recorded_is_refused_before_anything_is_created() {
    let mut scene = Scene::new(&[], json!([]));
    scene.command.env("FAKE_VERSION", "7.2.0");
    let (output, errors) = scene.run();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("QEMU 7.2 is too old"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(!scene.trace().exists());

    scene.command.env("FAKE_VERSION", "10.0.2");
    std::fs::create_dir(scene.trace()).unwrap();
    let (output, errors) = scene.run();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("exists already"), "{errors}");
}

#[test]
fn the_patched_qemu_is_started_with_the_plugin() {
    let mut scene = Scene::with_program("qemu-system-arm", &["--patched"], json!([finished("exit", None)]));
    let build = scene.scratch.path().canonicalize().unwrap().join("cache/qemu/0123/bin");
    std::fs::create_dir_all(&build).unwrap();
    std::os::unix::fs::symlink(fake(), build.join("qemu-system-arm")).unwrap();
    std::os::unix::fs::symlink("0123", scene.scratch.path().join("cache/qemu/current")).unwrap();
    scene.command.env("KTRACER_CACHE", scene.scratch.path().join("cache")).env_remove("KTRACER_QEMU");
    let (output, errors) = scene.run();
    assert!(output.status.success(), "{errors}");
    let log = scene.log();
    let arguments = log[0]["arguments"].as_array().unwrap();
    assert_eq!(arguments[..3], ["-M", "virt", "-plugin"]);
    assert!(arguments[3].as_str().unwrap().contains("/trace,control=/"), "{}", arguments[3]);
    let program = log[1]["hello"]["command_line"][0].as_str().unwrap();
    assert_eq!(Path::new(program), build.join("qemu-system-arm"), "the trace says which QEMU ran");
}

#[test]
fn the_patched_qemu_can_be_anywhere() {
    let mut scene = Scene::with_program("qemu-system-arm", &["--patched"], json!([finished("exit", None)]));
    let programs = scene.scratch.path().join("elsewhere/bin");
    std::fs::create_dir_all(&programs).unwrap();
    std::os::unix::fs::symlink(fake(), programs.join("qemu-system-arm")).unwrap();
    // From where ktracer runs, as any path that a user types.
    scene.command.env("KTRACER_QEMU", "elsewhere");
    let (output, errors) = scene.run();
    assert!(output.status.success(), "{errors}");
}

#[test]
fn without_a_patched_qemu_the_way_to_one_is_shown() {
    let refused = |program: &str| {
        let mut scene = Scene::with_program(program, &["--patched"], json!([]));
        scene.command.env("KTRACER_CACHE", scene.scratch.path()).env_remove("KTRACER_QEMU");
        let (output, errors) = scene.run();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(!scene.trace().exists());
        errors
    };
    let errors = refused("qemu-system-arm");
    assert!(errors.contains("`make qemu`"), "{errors}");
    let errors = refused(fake().to_str().unwrap());
    assert!(errors.contains("leave --patched out"), "{errors}");
}

/// What a terminal shows of a recording with one report of progress, whose QEMU has `extra` as its last argument.
fn on_a_terminal(extra: &str) -> String {
    let messages = json!([{ "progress": { "instructions": 123_456, "bytes": 10 } }, finished("exit", None)]);
    let scene = Scene::new(&[], messages);
    let quoted: Vec<String> = std::iter::once(scene.command.get_program())
        .chain(scene.command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .chain([extra.to_owned()])
        .collect();
    let mut script = Command::new("script");
    script
        .args(["-qec", &quoted.join(" "), "/dev/null"])
        .stdin(Stdio::null())
        .current_dir(scene.scratch.path());
    for (name, value) in scene.command.get_envs() {
        script.env(name, value.unwrap());
    }
    let output =
        script.env("TERM", "xterm").output().expect("this test needs `script` of Debian's package bsdutils");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn progress_is_shown_on_a_terminal_unless_the_guest_owns_it() {
    let shown = on_a_terminal("-display none");
    assert!(shown.contains("123,456 instructions"), "{shown}");
    let shown = on_a_terminal("-nographic");
    assert!(!shown.contains("123,456 instructions"), "{shown}");
    assert!(shown.contains("recorded 2,000,000 instructions"), "{shown}");
}
