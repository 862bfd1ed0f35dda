//! What `ktreplay` says when it cannot serve: one clear line, and exit status 1.
//!
//! Needs QEMU, U-Boot (both from scripts/setup.sh) and `cargo build --release --workspace`.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use ktrace_format::header::{Architecture, ByteOrder, FORMAT_VERSION, Header, Path as RecordingPath};
use ktrace_format::writer::TraceWriter;
use ktracer_tests::programs::{Guest, program};
use ktracer_tests::session::Session;

/// Runs ktreplay, which must refuse, and returns its one line.
fn refusal(trace: &Path, options: &[&str]) -> Result<String> {
    let output = Command::new("timeout")
        .arg("60")
        .arg(program("ktreplay")?)
        .arg(trace)
        .args(options)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("ktreplay: ") && !text.contains("panicked"), "{text}");
    assert!(output.stdout.is_empty());
    Ok(text)
}

#[test]
fn a_real_trace_that_cannot_be_served() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let arguments = Guest::UBoot.arguments("")?;
    let trace = Session::start(scratch.path(), &["--stop-after", "20k"], arguments)?.finish()?;

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let text = refusal(&trace, &["--port", &port])?;
    assert!(text.contains(&format!("can't listen on 127.0.0.1:{port}")), "{text}");
    assert!(text.contains("in use"), "{text}");

    let text = refusal(&trace, &["--port", "0", "--at", "1000000000"])?;
    assert!(text.contains("--at"), "{text}");

    let file = std::fs::read(trace.join("trace.kt"))?;
    let damaged = scratch.path().join("damaged");
    std::fs::create_dir(&damaged)?;
    let mut flipped = file.clone();
    flipped[40] ^= 0x10;
    let mut other = file.clone();
    other[0] = b'X';
    let cases: [(&[u8], &str); 5] = [
        (&file[..10], "ends inside the record at offset 0"),
        (&file[..60], "ends inside the record at offset 0"),
        (&[], "the file is empty"),
        (&flipped, "the record at offset 0 is damaged"),
        (&other, "no record at offset 0"),
    ];
    for (bytes, expected) in cases {
        std::fs::write(damaged.join("trace.kt"), bytes)?;
        let text = refusal(&damaged, &["--port", "0"])?;
        assert!(text.contains(expected) && text.contains("damaged/trace.kt"), "{text}");
    }
    Ok(())
}

#[test]
fn no_trace_at_all() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let text = refusal(scratch.path(), &["--port", "0"])?;
    assert!(text.contains("is not a ktracer trace: it has no trace.kt"), "{text}");
    let text = refusal(&scratch.path().join("nothing"), &["--port", "0"])?;
    assert!(text.contains("there is no such directory"), "{text}");
    Ok(())
}

#[test]
fn another_format() -> Result<()> {
    for (version, wanted) in [(FORMAT_VERSION + 1, "a newer ktracer is needed"), (1, "or record again")] {
        let text = refusal(of_version(version)?.path(), &["--port", "0"])?;
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains(&format!("trace format {version}")), "{text}");
    }
    Ok(())
}

fn of_version(format_version: u32) -> Result<tempfile::TempDir> {
    let scratch = tempfile::tempdir()?;
    let header = Header {
        format_version,
        arch: Architecture::Arm,
        byte_order: ByteOrder::Little,
        cpu: String::new(),
        path: RecordingPath::Portable,
        qemu_version: String::new(),
        command_line: Vec::new(),
        tracer_version: "99.0.0".to_owned(),
        host: String::new(),
        started: String::new(),
    };
    TraceWriter::create(scratch.path(), header)?.close("exit")?;
    Ok(scratch)
}
