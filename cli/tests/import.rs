//! `ktracer import original`: files as the original ktracer wrote them, made from code that is executed here, so that what
//! the imported trace shows can be held against the truth.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ktrace_format::Position;
use ktrace_machine::bus::{AccessSize, Bus, Halt};
use ktrace_machine::{Block, ByteOrder, Cpu, Exit, InstructionSet, Registers};
use ktrace_timeline::events::{Event, Kinds};
use ktrace_timeline::{Recording, Replay};

const SUPERVISOR: u32 = 0x1d3;
const THUMB: u32 = 1 << 5;

/// The two files under way, and the directory that the trace goes to.
struct Files {
    scratch: tempfile::TempDir,
    arch: &'static str,
    context: Vec<u32>,
    execution: Vec<u32>,
}

/// The status word that the original wrote behind CPSR.
fn xpsr(cpsr: u32) -> u32 {
    cpsr & 0xfe0f_fc00 & !(1 << 24) | if cpsr & THUMB != 0 { 1 << 24 } else { 0 }
}

impl Files {
    fn new() -> Files {
        Files::of("arm")
    }

    fn of(arch: &'static str) -> Files {
        let scratch = tempfile::tempdir().unwrap();
        Files { scratch, arch, context: Vec::new(), execution: Vec::new() }
    }

    /// A record of an ARM block: registers before it, and its instructions.
    fn record(&mut self, registers: &[u32; 17], instructions: &[u32]) {
        let first = self.execution.len() as u32;
        self.context.extend([registers[15], first, first + instructions.len() as u32]);
        self.context.extend(registers);
        self.context.push(xpsr(registers[16]));
        self.execution.extend(instructions);
    }

    /// A record of a MIPS block: registers before it in the order of a keyframe, and its instructions.
    fn mips_record(&mut self, registers: &[u32; 72], instructions: &[u32]) {
        let first = self.execution.len() as u32;
        self.context.extend([registers[37] & !1, first, first + instructions.len() as u32]);
        self.context.extend(&registers[..38]);
        self.context.extend(&registers[70..]);
        self.execution.extend(instructions);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn trace(&self) -> PathBuf {
        self.path("trace")
    }

    fn write(&self) {
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        fs::write(self.path("context.trace"), bytes(&self.context)).unwrap();
        fs::write(self.path("execution.trace"), bytes(&self.execution)).unwrap();
    }

    fn import_written(&self) -> Output {
        ktracer(&[
            "import".as_ref(),
            "original".as_ref(),
            "--arch".as_ref(),
            self.arch.as_ref(),
            &self.path("context.trace"),
            &self.path("execution.trace"),
            "-o".as_ref(),
            &self.trace(),
        ])
    }

    fn import(&self) -> Output {
        self.write();
        let output = self.import_written();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// What is said about files that can't be imported. Nothing is left of the attempt.
    #[track_caller]
    fn fault(&self) -> String {
        let output = self.import_written();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(!self.trace().exists(), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    }
}

fn ktracer(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ktracer")).args(arguments).output().unwrap()
}

/// What a command prints about a trace.
#[track_caller]
fn printed(command: &[&str], trace: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ktracer")).args(command).arg(trace).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn registers(values: &[(usize, u32)]) -> [u32; 17] {
    let mut registers = [0; 17];
    registers[16] = SUPERVISOR;
    for &(number, value) in values {
        registers[number] = value;
    }
    registers
}

/// The first block of the original's documentation.
const FIRST_BLOCK: [u32; 4] = [0xe3a0_0000, 0xe59f_1004, 0xe59f_2004, 0xe59f_f004];

#[test]
fn the_text_of_the_original_comes_back() {
    let mut files = Files::new();
    files.record(&registers(&[(16, 0x4000_01d3)]), &FIRST_BLOCK);
    // With a halfword each for the two parts of a BL, as the original has them.
    let thumb = registers(&[(0, 0xabc), (15, 0x4001_0000), (16, 0x6000_01f3)]);
    files.record(&thumb, &[0x2001, 0xf000, 0xf800]);
    files.import();
    let expected = "\
r0=00000000  r1=00000000  r2=00000000  r3=00000000  r4=00000000  r5=00000000
r6=00000000  r7=00000000  r8=00000000  r9=00000000 r10=00000000 r11=00000000
ip=00000000  sp=00000000  cl=00000000  pc=00000000 cspr=400001d3 xspr=40000000
0x0 :mov\t\tr0, #0
0x4 :ldr\t\tr1, [pc, #4]
0x8 :ldr\t\tr2, [pc, #4]
0xc :ldr\t\tpc, [pc, #4]

r0=00000abc  r1=00000000  r2=00000000  r3=00000000  r4=00000000  r5=00000000
r6=00000000  r7=00000000  r8=00000000  r9=00000000 r10=00000000 r11=00000000
ip=00000000  sp=00000000  cl=00000000  pc=40010000 cspr=600001f3 xspr=61000000
0x40010000 :movs\t\tr0, #1
0x40010002 :bl\t\t#0x40010006

";
    assert_eq!(printed(&["dump", "--format", "original"], &files.trace()), expected);
}

/// Blocks of three kinds, the first of them twice.
fn three_blocks() -> Files {
    let mut files = Files::new();
    // mov r0, #5; add r1, r0, #1; ldr r2, [r6], #4; add r3, r2, r1; mov r4, r1; movs r2, #7; b .
    let code = [0xe3a0_0005, 0xe280_1001, 0xe496_2004, 0xe082_3001, 0xe1a0_4001, 0xe3b0_2007, 0xeaff_fffe];
    let start = registers(&[(6, 0x100), (15, 0x8000)]);
    files.record(&start, &code);
    // push {r4, lr}; bx lr
    files.record(
        &registers(&[(13, 0x2000), (14, 0x8000), (15, 0x9000), (16, SUPERVISOR | THUMB)]),
        &[0xb510, 0x4770],
    );
    files.record(&start, &code);
    files
}

#[test]
fn what_depends_on_a_load_is_not_known_until_the_next_block() {
    let files = three_blocks();
    files.import();
    let mut recording = Recording::open(&files.trace()).unwrap();
    assert_eq!(recording.end(), Position(16));
    let mut at = |position| {
        recording.seek(Position(position)).unwrap();
        recording.registers().unwrap()
    };
    let unknown = |registers: &[Option<u32>]| -> Vec<usize> {
        registers.iter().enumerate().filter(|(_, value)| value.is_none()).map(|(number, _)| number).collect()
    };
    for (position, expected) in [
        (0, &[][..]),
        (2, &[]),
        (3, &[2]),
        (4, &[2, 3]),
        (5, &[2, 3]),
        (6, &[3]),
        (7, &[]),
        (8, &[]),
        (9, &[]),
        (12, &[2]),
    ] {
        assert_eq!(unknown(&at(position)), expected, "position {position}");
    }
    let before_the_branch = at(6);
    assert_eq!(
        before_the_branch[..8],
        [5, 6, 7]
            .map(Some)
            .into_iter()
            .chain([None, Some(6), Some(0), Some(0x104), Some(0)])
            .collect::<Vec<_>>()
    );
    assert_eq!(before_the_branch[15], Some(0x8018));
    assert_eq!(at(8)[13], Some(0x1ff8), "the address that a push leaves is known");
    assert_eq!(unknown(&at(16)).len(), 17, "where the last block went is not known");

    // Back over a gap, and forward.
    for position in (0..16).rev().chain(0..16) {
        let again = at(position);
        assert_eq!(again, at(position));
        assert!(again[15].is_some());
    }
}

#[test]
fn memory_is_the_code_of_the_block_at_hand() {
    let files = three_blocks();
    files.import();
    let mut recording = Recording::open(&files.trace()).unwrap();
    let mut read = |position, address| {
        recording.seek(Position(position)).unwrap();
        let mut bytes = [None; 4];
        recording.read_memory(address, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(1, 0x8000), [0x05, 0x00, 0xa0, 0xe3].map(Some));
    assert_eq!(read(1, 0x801a), [Some(0xff), Some(0xea), None, None]);
    assert_eq!(read(7, 0x8000), [None; 4]);
    assert_eq!(read(7, 0x9000), [0x10, 0xb5, 0x70, 0x47].map(Some));
    assert_eq!(read(1, 0x100), [None; 4], "what a load sees was not recorded");
}

#[test]
fn gaps_are_told_wherever_something_is_told() {
    let files = three_blocks();
    let output = files.import();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("3 blocks with 16 instructions, a gap between each two, are in"), "{message}");
    let recording = Recording::open(&files.trace()).unwrap();
    let positions: Vec<u64> =
        recording.events(Kinds::ALL, &mut || false).map(|event| event.position()).collect();
    assert_eq!(positions, [7, 9]);
    let mut never = || false;
    let event = recording.events(Kinds::ALL, &mut never).next().unwrap();
    assert!(
        matches!(&event, Event::Discontinuity(gap) if gap.pc.is_none() && gap.to == Some(0x9000)),
        "{event:?}"
    );

    let listed = printed(&["events", "--kind", "gap"], &files.trace());
    assert!(listed.contains("7  gap        a gap in the recording, to 0x00009000\n"), "{listed}");
    assert_eq!(printed(&["events"], &files.trace()).lines().count(), 3);
    let dumped = printed(&["dump"], &files.trace());
    assert_eq!(dumped.matches("-- discontinuity: a gap in the recording, to 0000").count(), 2, "{dumped}");
    assert!(dumped.contains("r2=(not known)  r6=00000104\n"), "{dumped}");
    let verified = printed(&["verify"], &files.trace());
    assert!(verified.contains("all 16 instructions are as they were imported"), "{verified}");
    assert!(verified.contains("note: an imported recording"), "{verified}");
    assert!(recording.summary().contains("imported: registers are known where blocks begin"));
    let information = printed(&["info"], &files.trace());
    for words in ["original path", "closed           yes (imported)", "discontinuities  2\n"] {
        assert!(information.contains(words), "{words} is missing in:\n{information}");
    }
}

/// What such a recording can't have is no list without lines.
#[test]
fn a_question_that_an_imported_recording_cannot_answer_is_an_error_or_a_note_says_so() {
    let files = three_blocks();
    files.import();
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ktracer"));
        let command = command.arg(arguments[0]).arg(files.trace()).args(&arguments[1..]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (question, what) in [
        (&["query", "writes", "0x100"][..], "memory accesses"),
        (&["query", "reads", "0x100"], "memory accesses"),
        (&["query", "changes", "phys:0x100"], "memory accesses"),
        (&["query", "io", "uart"], "accesses to devices"),
        (&["events", "--kind", "irq"], "interrupts"),
        (
            &["events", "--kind", "io,dma", "--last", "1"],
            "writes of devices to memory and accesses to devices",
        ),
    ] {
        let (status, told) = ask(question);
        assert_eq!(status, Some(1), "{question:?}: {told}");
        assert!(told.contains(&format!("error: {what} were not recorded: this is an imported")), "{told}");
    }
    for (question, words) in [
        (&["query", "exec", "0x8000"][..], "there may be more"),
        (&["query", "calls", "0x9000"], "there may be more"),
        (&["query", "mem", "0x100"], "it has no memory"),
        (
            &["events"],
            "interrupts, exceptions, writes of devices to memory and accesses to devices were not recorded",
        ),
    ] {
        let (status, told) = ask(question);
        assert_eq!(status, Some(0), "{question:?}: {told}");
        assert!(told.contains("note: ") && told.contains(words), "{question:?}: {told}");
    }
}

#[test]
fn a_record_that_is_cut_is_named() {
    let files = three_blocks();
    files.write();
    let context = files.path("context.trace");
    let bytes = fs::read(&context).unwrap();
    for (length, message) in [
        (0, "context.trace, offset 0: there is no record"),
        (83, "context.trace, offset 0: the file ends inside a record: 83 bytes are left of 84"),
        (2 * 84 + 1, "context.trace, offset 168: the file ends inside a record: 1 bytes are left of 84"),
    ] {
        fs::write(&context, &bytes[..length]).unwrap();
        let fault = files.fault();
        assert!(fault.contains(message), "{fault}");
    }
    files.write();
    let execution = files.path("execution.trace");
    let bytes = fs::read(&execution).unwrap();
    for (length, message) in [
        (30, "execution.trace, offset 28: the file ends inside a word"),
        // The second record's words are 7 and 8.
        (32, "context.trace, offset 92: the block's instructions end before word 9, but "),
        (0, "context.trace, offset 8: the block's instructions end before word 7, but "),
    ] {
        fs::write(&execution, &bytes[..length]).unwrap();
        let fault = files.fault();
        assert!(fault.contains(message), "{fault}");
    }
    fs::remove_file(&execution).unwrap();
    assert!(files.fault().contains("execution.trace, offset 0: it can't be read: No such file"));
}

#[test]
fn a_record_that_contradicts_itself_or_others_is_named() {
    let (address, first, end, xpsr) = (0, 1, 2, 20);
    for (word, value, message) in [
        (
            address,
            0x8004,
            "offset 0: the block is said to begin at 0x00008004, but its program counter is 0x00008000",
        ),
        (first, 7, "offset 4: the block's instructions are the words from 7 to before 7: there are none"),
        (first, 8, "offset 4: the block's instructions are the words from 8 to before 7: there are none"),
        (
            21 + first,
            6,
            "offset 88: the block's instructions begin at word 6, but the record before had those up to word 7",
        ),
        (42 + end, 17, "offset 176: the block's instructions end before word 17"),
        (42 + end, u32::MAX, "offset 172: the block has 4294967286 words of instructions"),
        (xpsr, 0x0100_000b, "offset 0: xPSR is 0x0100000b, but by CPSR it would be 0x00000000"),
    ] {
        let mut files = three_blocks();
        files.context[word] = value;
        files.write();
        let fault = files.fault();
        assert!(fault.contains(&format!("context.trace, {message}")), "{fault}");
    }
    for (word, value, message) in [
        (
            7,
            0x1_b510,
            "offset 28: the word 0x0001b510 is no halfword, and the block at 0x00009000 is Thumb code",
        ),
        (
            8,
            0xf000,
            "offset 28: the block at 0x00009000 can't be decoded: the code ends inside the instruction at offset 2",
        ),
        (
            2,
            0xeaff_fffe,
            "offset 0: the block at 0x00008000 can't be decoded: the branch at offset 8 is not the last",
        ),
    ] {
        let mut files = three_blocks();
        files.execution[word] = value;
        files.write();
        let fault = files.fault();
        assert!(fault.contains(&format!("execution.trace, {message}")), "{fault}");
    }
}

#[test]
fn a_recording_of_another_instruction_set_is_refused() {
    let mut mips = Files::of("mips");
    let mut registers = [0; 72];
    registers[37] = 0x8000_5ce0;
    for _ in 0..4 {
        mips.mips_record(&registers, &[0x4008_6000]);
    }
    let mut arm = three_blocks();
    (arm.arch, mips.arch) = (mips.arch, arm.arch);
    for files in [arm, mips] {
        files.write();
        let fault = files.fault();
        assert!(fault.contains("context.trace, offset 0:") && fault.contains("Is --arch wrong?"), "{fault}");
    }
    let mut mips = Files::of("mipsel");
    registers[0] = 1;
    mips.mips_record(&registers, &[0]);
    mips.write();
    assert!(mips.fault().contains("context.trace, offset 0: r0 is 0x00000001, but it is always zero"));
}

/// Files with a few wrong bytes are imported or refused with a line, and what is imported can be looked at.
#[test]
fn damaged_files_are_imported_or_refused() {
    let mut random = fastrand::Rng::with_seed(3);
    let (mut imported, mut refused) = (0, 0);
    for _ in 0..150 {
        let mut files = if random.bool() {
            random_arm(&mut random, 30).0
        } else {
            random_mips(&mut random, ByteOrder::Big, 30).0
        };
        for _ in 0..random.usize(1..4) {
            let words = if random.bool() { &mut files.context } else { &mut files.execution };
            let place = random.usize(..words.len());
            match random.u8(..3) {
                0 => words[place] ^= 1 << random.u32(..32),
                1 => words[place] = random.u32(..),
                _ => words.truncate(place),
            }
            if words.is_empty() {
                words.push(0);
            }
        }
        files.write();
        let output = files.import_written();
        if output.status.success() {
            imported += 1;
            let dumped = printed(&["dump", "--format", "json"], &files.trace());
            assert!(dumped.lines().count() > 0);
        } else {
            refused += 1;
            let fault = files.fault();
            assert!(fault.starts_with("ktracer: error: ") && fault.contains(".trace, offset "), "{fault}");
        }
    }
    assert!(imported > 20 && refused > 20, "{imported} imported, {refused} refused");
}

#[test]
fn words_that_belong_to_no_record_are_told() {
    let mut files = Files::new();
    files.execution = vec![0; 3];
    files.record(&registers(&[]), &FIRST_BLOCK);
    files.execution.push(0);
    let message = String::from_utf8(files.import().stderr).unwrap();
    assert!(message.contains("note: 4 words of"), "{message}");
    assert_eq!(printed(&["dump", "--count", "1"], &files.trace()).matches("e3a00000").count(), 1);
}

#[test]
fn an_existing_trace_is_replaced_only_by_force() {
    let files = three_blocks();
    files.import();
    let output = files.import_written();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--force replaces a trace"));
    let again = ktracer(&[
        "import".as_ref(),
        "original".as_ref(),
        "--force".as_ref(),
        "--arch".as_ref(),
        "arm".as_ref(),
        &files.path("context.trace"),
        &files.path("execution.trace"),
        "-o".as_ref(),
        &files.trace(),
    ]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
}

/// Memory whose values depend on the address alone.
struct Memory;

impl Bus for Memory {
    fn load(&mut self, address: u32, size: AccessSize) -> Result<u64, Halt> {
        let value = u64::from(address).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        Ok(value & (u64::MAX >> (64 - 8 * size as u32)))
    }

    fn store(&mut self, _: u32, _: AccessSize, _: u64) -> Result<(), Halt> {
        Ok(())
    }
}

/// Executes a block with random results of opaque instructions, and notes the registers before each instruction.
fn execute(
    set: InstructionSet,
    registers: Registers,
    block: &Block,
    random: &mut fastrand::Rng,
    truth: &mut Vec<Registers>,
) {
    let mut cpu = Cpu::new(set, &registers);
    for index in 0..block.len() {
        // MIPS goes on behind a nullified delay slot, which counts all the same.
        let mut here = cpu.registers();
        let pc = set.program_counter();
        here[pc] = block.address_of(index) | here[pc] & u32::from(set != InstructionSet::Arm);
        truth.push(here);
        if let Exit::Opaque(_) = cpu.run(block, index, index + 1, &mut Memory) {
            let opaque = block.opaque(index).unwrap();
            let results = opaque.results(cpu.status(), |_| Ok::<_, ()>(random.u32(..))).unwrap();
            cpu.complete_opaque(block, index, &results).unwrap();
        }
    }
}

/// As many of the words as make a block.
fn block_of(
    set: InstructionSet,
    registers: &[u32],
    words: &[u32],
    bytes: impl Fn(u32) -> Vec<u8>,
) -> Option<(usize, Block)> {
    let mode = set.mode(|number| registers.get(number).copied()).unwrap();
    let address = registers[set.program_counter()] & !1;
    (1..=words.len()).rev().find_map(|count| {
        let code: Vec<u8> = words[..count].iter().flat_map(|word| bytes(*word)).collect();
        Some((count, Block::decode(set, address, mode, &code).ok()?))
    })
}

/// Random ARM and Thumb code, and the registers before each of its instructions.
fn random_arm(random: &mut fastrand::Rng, instructions: usize) -> (Files, Vec<Registers>) {
    let (mut files, mut truth) = (Files::new(), Vec::new());
    while truth.len() < instructions {
        let thumb = random.bool();
        let mut registers: [u32; 17] = std::array::from_fn(|_| random.u32(..));
        registers[15] = 0x8000 + 64 * random.u32(..16);
        registers[16] = registers[16] & 0xf80f_0000 | SUPERVISOR | if thumb { THUMB } else { 0 };
        if thumb && random.u8(..4) == 0 {
            // ITSTATE.
            registers[16] |= random.u32(..) & 0x0600_fc00;
        }
        let words: Vec<u32> = (0..random.usize(1..10))
            .map(|_| match (thumb, random.u8(..3)) {
                (true, _) => random.u16(..).into(),
                (false, 0) => random.u32(..),
                (false, _) => 0xe000_0000 | random.u32(..) & 0x07ff_ffff,
            })
            .collect();
        let bytes = |word: u32| word.to_le_bytes()[..if thumb { 2 } else { 4 }].to_vec();
        let set = InstructionSet::Arm;
        let Some((count, block)) = block_of(set, &registers, &words, bytes) else { continue };
        files.record(&registers, &words[..count]);
        execute(set, registers.into(), &block, random, &mut truth);
    }
    (files, truth)
}

/// The same for MIPS.
fn random_mips(random: &mut fastrand::Rng, order: ByteOrder, instructions: usize) -> (Files, Vec<Registers>) {
    let (mut files, mut truth) =
        (Files::of(if order == ByteOrder::Big { "mips" } else { "mipsel" }), Vec::new());
    while truth.len() < instructions {
        let compressed = random.u8(..8) == 0;
        let mut registers: [u32; 72] = std::array::from_fn(|_| random.u32(..));
        registers[0] = 0;
        registers[37] = 0x8000_8000 + 64 * random.u32(..16) + u32::from(compressed);
        let words: Vec<u32> = (0..random.usize(1..10))
            .map(|_| match (compressed, random.u8(..4)) {
                // Not the first half of a longer one.
                (true, _) => 0x6500 | random.u32(..) & 0xff,
                (false, 0) => random.u32(..),
                (false, 1) => {
                    // sll to srav, mfhi to mtlo, mult to divu, add to nor, slt and sltu
                    let functions =
                        [0, 2, 3, 4, 6, 7, 16, 18, 24, 25, 26, 32, 33, 35, 36, 37, 38, 39, 42, 43];
                    random.u32(..) & 0x03ff_f800 | functions[random.usize(..functions.len())]
                }
                // addi to lui, and now and then a load
                (false, _) if random.u8(..8) > 0 => 0x2000_0000 | random.u32(..) & 0x1fff_ffff,
                (false, _) => 0x8c00_0000 | random.u32(..) & 0x23ff_ffff,
            })
            .collect();
        let bytes = |word: u32| {
            let mut bytes = word.to_le_bytes()[..if compressed { 2 } else { 4 }].to_vec();
            if order == ByteOrder::Big {
                bytes.reverse();
            }
            bytes
        };
        let set = InstructionSet::mips(order);
        let Some((count, block)) = block_of(set, &registers, &words, bytes) else { continue };
        files.mips_record(&registers, &words[..count]);
        execute(set, registers.into(), &block, random, &mut truth);
    }
    (files, truth)
}

/// Imports a recording and holds all that it shows against the truth. `never` are registers that were not recorded.
fn check(files: &Files, truth: &[Registers], never: &dyn Fn(usize) -> bool) {
    files.import();
    let starts: Vec<u64> = {
        let recording = Recording::open(&files.trace()).unwrap();
        let gaps: Vec<u64> =
            recording.events(Kinds::ALL, &mut || false).map(|event| event.position()).collect();
        std::iter::once(0).chain(gaps).collect()
    };
    assert_eq!(starts.len(), files.context.len() / if files.arch == "arm" { 21 } else { 43 });
    let mut recording = Recording::open(&files.trace()).unwrap();
    assert_eq!(recording.end(), Position(truth.len() as u64));
    let (mut known, mut all) = (0, 0);
    for (position, truth) in truth.iter().enumerate() {
        recording.seek(Position(position as u64)).unwrap();
        let shown = recording.registers().unwrap();
        let starts_block = starts.binary_search(&(position as u64)).is_ok();
        for (number, (shown, truth)) in shown.iter().zip(truth.iter()).enumerate() {
            let right = shown.is_none_or(|shown| shown == *truth);
            assert!(right, "position {position}, register {number}: {shown:x?}, not {truth:#x}");
            assert!(
                shown.is_some() || !starts_block || never(number),
                "position {position}, register {number}"
            );
        }
        let recorded = shown.iter().enumerate().filter(|(number, _)| !never(*number));
        known += recorded.clone().filter(|(_, shown)| shown.is_some()).count();
        all += recorded.count();
    }
    assert!(known * 10 > all * 4, "{known} of {all} are known: too few to have tested much");
    assert!(known < all, "nothing was unknown");
    assert!(printed(&["verify"], &files.trace()).contains("are as they were imported"));
}

#[test]
fn no_register_is_shown_that_an_arm_guest_did_not_have() {
    let mut random = fastrand::Rng::with_seed(2026);
    for _ in 0..4 {
        let (files, truth) = random_arm(&mut random, 4000);
        check(&files, &truth, &|_| false);
    }
}

#[test]
fn no_register_is_shown_that_a_mips_guest_did_not_have() {
    let mut random = fastrand::Rng::with_seed(2027);
    for order in [ByteOrder::Big, ByteOrder::Little] {
        let (files, truth) = random_mips(&mut random, order, 8000);
        check(&files, &truth, &|number| (38..70).contains(&number));
    }
}

#[test]
fn the_text_of_the_original_comes_back_for_mips() {
    let mut files = Files::of("mips");
    let mut registers = [0; 72];
    (registers[32], registers[37], registers[71]) = (0x0040_0004, 0x8000_5ce0, 0x0073_9300);
    let code = [0x4008_6000, 0x3c01_1000, 0x3421_001f, 0x0101_4025, 0x3908_001f, 0x4088_6000];
    files.mips_record(&registers, &code);
    files.import();
    let expected = "    zero       at       v0       v1       a0       a1       a2       a3
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
      t0       t1       t2       t3       t4       t5       t6       t7
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
      s0       s1       s2       s3       s4       s5       s6       s7
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
      t8       t9       k0       k1       gp       sp       s8       ra
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
      sr       lo       hi      bad    cause       pc      fsr      fir
00400004 00000000 00000000 00000000 00000000 80005ce0 00000000 00739300
0x80005ce0:     mfc0    $t0, $t4, 0
0x80005ce4:     lui     $at, 0x1000
0x80005ce8:     ori     $at, $at, 0x1f
0x80005cec:     or      $t0, $t0, $at
0x80005cf0:     xori    $t0, $t0, 0x1f
0x80005cf4:     mtc0    $t0, $t4, 0

";
    assert_eq!(printed(&["dump", "--format", "original"], &files.trace()), expected);
    let lines = printed(&["dump", "--format", "json"], &files.trace());
    assert_eq!(lines.matches("\"opaque\":false").count(), 6, "no result was recorded: {lines}");
}
