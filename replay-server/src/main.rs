//! `ktreplay`: serves a ktracer trace to gdb.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ktrace_timeline::cache::Limits;
use ktrace_timeline::destination::Destination;
use ktrace_timeline::{Recording, Replay, sample};
use replay_server::Server;

const EXAMPLES: &str = "\
In gdb, gdb-multiarch, or arm-none-eabi-gdb:
  (gdb) target remote :1234
  (gdb) stepi                     one instruction forward
  (gdb) reverse-stepi             one instruction back
  (gdb) break *0x8000
  (gdb) continue                  forward to the breakpoint, or the end
  (gdb) reverse-continue          back to the breakpoint before, or the start
  (gdb) info registers            as they were, with the position as $ktpos
  (gdb) x/4i $pc                  memory as it was
  (gdb) monitor help              go anywhere in time: `monitor goto 50%`
  (gdb) source gdb-scripts/ktreplay.py
  (gdb) kt goto end               the same, and gdb shows the new place

A position is the number of instructions since the start of the recording.
gdb's `detach`, `kill` and `quit` leave the server running, at the same
position, for the next client; one that comes earlier waits its turn.
More in the log: RUST_LOG=debug (or trace: every packet) ktreplay …";

/// Serves a recording made by `ktracer record` to gdb, which can step it forward and backward.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The trace: a directory that `ktracer record -o` wrote
    #[arg(required_unless_present = "demo")]
    trace: Option<PathBuf>,
    /// Serve the small sample trace that ships with ktracer
    #[arg(long, conflicts_with = "trace")]
    demo: bool,
    /// TCP port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 1234)]
    port: u16,
    /// Address to listen on; beyond 127.0.0.1, anyone who can connect can read the recording
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Position to start at: N, N%, start or end
    #[arg(long, value_name = "T", default_value = "start")]
    at: String,
    /// Memory for what is kept only to be faster; k, M and G stand for 1024, its square and cube
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    cache: Limits,
}

fn main() -> ExitCode {
    let log_settings = env_logger::Env::default().default_filter_or("info,gdbstub=warn");
    env_logger::Builder::from_env(log_settings)
        .format(|buffer, record| match record.level() {
            log::Level::Info => writeln!(buffer, "{}", record.args()),
            level => writeln!(buffer, "{}: {}", level.as_str().to_lowercase(), record.args()),
        })
        .init();
    match serve(&Arguments::parse()) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("ktreplay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<std::convert::Infallible> {
    let mut replay = open(arguments)?;
    let position = Destination::find(&arguments.at, replay.position(), replay.end()).context("--at")?;
    replay.seek(position).context("--at")?;
    let (host, port) = (arguments.host.as_str(), arguments.port);
    let server =
        Server::bind(host, port, replay).with_context(|| format!("can't listen on {host}:{port}"))?;
    log::info!("listening on {}", server.address().context("can't tell the port")?);
    server.run()
}

/// Opens the recording that the arguments name.
fn open(arguments: &Arguments) -> Result<Box<dyn Replay>> {
    let directory = match &arguments.trace {
        Some(directory) => directory.clone(),
        None => {
            sample::directory().context("the sample trace is not here: scripts/make-sample.sh makes one")?
        }
    };
    let recording = Recording::open_within(&directory, arguments.cache)?;
    for fault in recording.program().trace().faults() {
        log::warn!("{}: {fault}", recording.program().trace().path().display());
    }
    if recording.program().trace().totals().is_none() {
        log::warn!(
            "{} was not closed properly: it ends at position {}, what the guest did after that is missing",
            directory.display(),
            recording.end()
        );
    }
    Ok(Box::new(recording))
}
