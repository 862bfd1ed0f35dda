//! The program itself: what it says on the command line.

use std::process::{Command, Output};

fn ktreplay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ktreplay")).args(arguments).output().expect("the program runs")
}

#[test]
fn help_teaches() {
    let output = ktreplay(&["--help"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    for lesson in ["target remote :1234", "reverse-stepi", "monitor goto 50%", "$ktpos", "--demo", "--at"] {
        assert!(text.contains(lesson), "{lesson} is missing in:\n{text}");
    }
}

#[test]
fn a_missing_trace_is_one_clear_line_and_status_1() {
    let output = ktreplay(&["/nowhere/trace"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("ktreplay: /nowhere/trace is not a ktracer trace"), "{text}");
}

#[test]
fn a_trace_or_the_demo_must_be_named() {
    assert_eq!(ktreplay(&[]).status.code(), Some(2));
    assert_eq!(ktreplay(&["trace", "--demo"]).status.code(), Some(2));
}
