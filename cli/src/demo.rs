//! `ktracer demo`: a tour of the sample trace that comes with ktracer. It needs neither QEMU nor gdb.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use ktrace_timeline::walk::{Event, Walk};
use ktrace_timeline::{Program, sample};

use crate::{dump, info, output, verify};

/// Instructions shown before and after the interesting one.
const BEFORE: u64 = 6;
const AFTER: u64 = 3;
/// The serial port of QEMU's `virt` machine begins with its data register, to which each character is written.
const SERIAL_DEVICE: &str = "pl011";
const SERIAL_DATA: u64 = 0x0900_0000;

/// What the guest wrote to its serial port.
#[derive(Default)]
struct Console {
    text: String,
    /// The position at which the first visible character was written.
    first: Option<u64>,
}

fn read_console(program: &Arc<Program>) -> Console {
    let mut console = Console::default();
    for event in Walk::new(Arc::clone(program), 0) {
        let Event::Instruction(instruction) = event else { continue };
        for access in instruction.accesses.iter().filter(|access| access.store) {
            let Some((name, SERIAL_DATA)) = access.device else { continue };
            if program.trace().name(name).contains(SERIAL_DEVICE) {
                let letter = char::from(access.value as u8);
                console.text.push(letter);
                if letter.is_ascii_graphic() {
                    console.first.get_or_insert(instruction.position);
                }
            }
        }
    }
    console
}

/// Runs the subcommand.
pub fn run() -> Result<ExitCode> {
    let directory =
        sample::directory().context("the sample trace is not here: scripts/make-sample.sh makes one")?;
    let program = Arc::new(Program::open(&directory)?);
    // The tour is short: collect it, and let nothing but the writing fail on the way out.
    let mut tour = Vec::new();
    let out: &mut dyn Write = &mut tour;
    writeln!(
        out,
        "ktracer comes with a recording: the first {} million instructions of U-Boot from reset, in {} kB.",
        program.trace().instructions() / 1_000_000,
        program.trace().bytes() / 1000
    )?;
    heading(out, "ktracer info: what is in it")?;
    info::describe(&directory, program.trace(), out)?;

    heading(out, "ktracer verify: every instruction is executed again, and compared with what QEMU did")?;
    let proved = verify::describe(directory.clone(), out)?;

    let console = read_console(&program);
    heading(out, "What the guest wrote to its serial port, read back from the recording")?;
    for line in console.text.lines().filter(|line| !line.trim().is_empty()) {
        writeln!(out, "| {line}")?;
    }
    let first = console.first.unwrap_or_default();
    let (from, count) = (first.saturating_sub(BEFORE), BEFORE + 1 + AFTER);
    heading(out, &format!("ktracer dump --from {from} --count {count}: how it wrote the first character"))?;
    dump::print_text(&program, from, count, out)?;

    heading(out, "Go through it in gdb, forward and backward")?;
    write!(out, "{}", next_steps(first))?;
    output::print(|out| out.write_all(&tour))?;
    Ok(if proved { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn heading(out: &mut dyn Write, text: &str) -> io::Result<()> {
    writeln!(out, "\n== {text}\n")
}

fn next_steps(position: u64) -> String {
    let goto = format!("monitor goto {position}");
    format!(
        "  ktreplay --demo                                    # serves this recording on port 1234
  gdb-multiarch -ex 'set architecture arm' -ex 'target remote :1234'
  (gdb) {goto:<36} # where U-Boot writes its first character
  (gdb) x/i $pc
  (gdb) info registers
  (gdb) reverse-stepi                                # one instruction back
  (gdb) break *$pc
  (gdb) continue                                     # the next time that it comes here
  (gdb) reverse-continue                             # and back
  (gdb) monitor help                                 # more

Record something of your own:
  ktracer record -o trace/ -- qemu-system-arm -M virt -nographic -bios u-boot.bin
"
    )
}
