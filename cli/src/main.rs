//! `ktracer` records, checks and shows traces. One module per subcommand.

mod condition;
mod demo;
mod disassembly;
mod dump;
mod events;
mod import;
mod index;
mod info;
mod interrupt;
mod output;
mod query;
mod record;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Time-travel debugging for firmware: record a run of ARM or MIPS code in QEMU, then step through it in
/// gdb, forward and backward, with the registers and memory that every instruction really had.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
A first session:
  ktracer record -o trace/ -- qemu-system-arm -M virt -nographic -bios u-boot.bin
  ktreplay trace/ &
  gdb-multiarch -ex 'target remote :1234' -ex 'reverse-continue'

`ktracer help COMMAND` explains a command.";

#[derive(Subcommand)]
enum Command {
    /// Run QEMU and record what the guest's processor does.
    ///
    /// Records every instruction that the guest executes, from reset until QEMU ends, Ctrl-C, or --stop-after. The
    /// guest runs a few times slower than without.
    ///
    /// The trace goes to a directory of its own, which `ktreplay` serves to gdb. A recording that was killed keeps all
    /// but its last second.
    Record(record::Arguments),
    /// Tell what a trace is and what is in it.
    Info(info::Arguments),
    /// Execute a whole trace again and prove that it is right.
    Verify(verify::Arguments),
    /// Print what was executed: instructions, the registers they changed, the memory they read and wrote.
    Dump(dump::Arguments),
    /// List interrupts, exceptions, writes of devices to memory, and accesses to devices.
    Events(events::Arguments),
    /// Make a trace of what another recorder has left.
    Import(import::Arguments),
    /// Ask when something happened: where an instruction ran, who read or wrote memory, what a function was called with.
    Query(query::Arguments),
    /// Make the index of a trace again, which makes searches fast.
    ///
    /// `ktracer record` makes it when a recording ends. It is lost if the recorder was killed, and can be deleted at any time.
    /// Indexes in the recording itself that are damaged or missing are made again, too.
    Index(index::Arguments),
    /// Show what ktracer does, with the recording that comes with it; needs neither QEMU nor gdb.
    Demo,
}

fn main() -> ExitCode {
    let log_settings = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(log_settings)
        .format(|buffer, record| {
            let level = record.level().as_str().to_lowercase();
            writeln!(buffer, "ktracer: {level}: {}", record.args())
        })
        .init();
    let result = match CommandLine::parse().command {
        Command::Record(arguments) => record::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Dump(arguments) => dump::run(&arguments),
        Command::Events(arguments) => events::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Query(arguments) => query::run(&arguments),
        Command::Index(arguments) => index::run(&arguments),
        Command::Demo => demo::run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ktracer: error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::CommandLine::command().debug_assert();
    }
}
