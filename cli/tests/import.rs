//! `ktracer import original`: files as the original ktracer wrote them, made from code that is executed here, so that what
//! the imported trace shows can be held against the truth.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ktrace_format::Position;
use ktrace_machine::bus::{AccessSize, Bus, Halt};
use ktrace_machine::{Block, Cpu, Encoding, Exit, InstructionSet, Registers};
use ktrace_timeline::events::{Event, Kinds};
use ktrace_timeline::{Recording, Replay};

const SUPERVISOR: u32 = 0x1d3;
const THUMB: u32 = 1 << 5;

/// The two files under way, and the directory that the trace goes to.
struct Files {
    scratch: tempfile::TempDir,
    context: Vec<u32>,
    execution: Vec<u32>,
}

/// The status word that the original wrote behind CPSR.
fn xpsr(cpsr: u32) -> u32 {
    cpsr & 0xfe0f_fc00 & !(1 << 24) | if cpsr & THUMB != 0 { 1 << 24 } else { 0 }
}

impl Files {
    fn new() -> Files {
        let scratch = tempfile::tempdir().unwrap();
        Files { scratch, context: Vec::new(), execution: Vec::new() }
    }

    /// A record of an ARM block: registers before it, and its instructions.
    fn record(&mut self, registers: &[u32; 17], instructions: &[u32]) {
        let first = self.execution.len() as u32;
        self.context.extend([registers[15], first, first + instructions.len() as u32]);
        self.context.extend(registers);
        self.context.push(xpsr(registers[16]));
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
            "arm".as_ref(),
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
    assert_eq!(printed(&["events", "--kind", "irq,exception,dma,io"], &files.trace()).lines().count(), 1);
    let dumped = printed(&["dump"], &files.trace());
    assert_eq!(dumped.matches("-- discontinuity: a gap in the recording, to 0000").count(), 2, "{dumped}");
    assert!(dumped.contains("r2=(not known)  r6=00000104\n"), "{dumped}");
    let verified = printed(&["verify"], &files.trace());
    assert!(verified.contains("all 16 instructions are as they were imported"), "{verified}");
    assert!(verified.contains("note: an imported recording"), "{verified}");
    let information = printed(&["info"], &files.trace());
    for words in ["original path", "closed           yes (imported)", "discontinuities  2\n"] {
        assert!(information.contains(words), "{words} is missing in:\n{information}");
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
    let mut files = Files::new();
    // A MIPS record has 43 words; the program counter is the sixth from its end.
    let mut record = vec![0x8000_5ce0, 0, 1];
    record.extend([0; 40]);
    record[3 + 37] = 0x8000_5ce0;
    files.context = record.repeat(2);
    files.execution = vec![0x4008_6000];
    files.write();
    let fault = files.fault();
    assert!(fault.contains("context.trace, offset 0:") && fault.contains("Is --arch wrong?"), "{fault}");
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

/// Random code, executed with random results of opaque instructions: the registers before each instruction are the truth.
fn random_recording(random: &mut fastrand::Rng, blocks: usize) -> (Files, Vec<Registers>) {
    let set = InstructionSet::Arm;
    let (mut files, mut truth) = (Files::new(), Vec::new());
    while truth.len() < blocks * 4 {
        let thumb = random.bool();
        let mut registers: [u32; 17] = std::array::from_fn(|_| random.u32(..));
        registers[15] = 0x8000 + 64 * random.u32(..16);
        registers[16] = registers[16] & 0xf80f_0000 | SUPERVISOR | if thumb { THUMB } else { 0 };
        if thumb && random.u8(..4) == 0 {
            // ITSTATE.
            registers[16] |= random.u32(..) & 0x0600_fc00;
        }
        let mode = set.mode(|number| registers.get(number).copied()).unwrap();
        let words: Vec<u32> = (0..random.usize(1..10))
            .map(|_| match (thumb, random.u8(..3)) {
                (true, _) => random.u16(..).into(),
                (false, 0) => random.u32(..),
                (false, _) => 0xe000_0000 | random.u32(..) & 0x07ff_ffff,
            })
            .collect();
        let code = |count: usize| -> Vec<u8> {
            let bytes = words[..count].iter().map(|word| word.to_le_bytes());
            bytes.flat_map(|bytes| bytes[..if thumb { 2 } else { 4 }].to_vec()).collect()
        };
        // As much of it as makes a block.
        let whole = (1..=words.len())
            .rev()
            .find_map(|count| Some((count, Block::decode(set, registers[15], mode, &code(count)).ok()?)));
        let Some((count, block)) = whole else { continue };
        files.record(&registers, &words[..count]);
        let mut cpu = Cpu::new(set, &registers.into());
        for index in 0..block.len() {
            truth.push(cpu.registers());
            if let Exit::Opaque(_) = cpu.run(&block, index, index + 1, &mut Memory) {
                let opaque = block.opaque(index).unwrap();
                let results = opaque.results(cpu.status(), |_| Ok::<_, ()>(random.u32(..))).unwrap();
                cpu.complete_opaque(&block, index, &results).unwrap();
            }
            assert!(index + 1 == block.len() || cpu.pc() == block.address_of(index + 1));
            assert!(matches!(set.encoding(mode), Encoding::T32 { .. }) == thumb);
        }
    }
    (files, truth)
}

#[test]
fn no_register_is_shown_that_the_guest_did_not_have() {
    let mut random = fastrand::Rng::with_seed(2026);
    for _ in 0..4 {
        let (files, truth) = random_recording(&mut random, 1000);
        files.import();
        let starts: Vec<u64> = {
            let recording = Recording::open(&files.trace()).unwrap();
            let gaps =
                recording.events(Kinds::ALL, &mut || false).map(|event| event.position()).collect::<Vec<_>>();
            std::iter::once(0).chain(gaps).collect()
        };
        assert_eq!(starts.len(), files.context.len() / 21);
        let mut recording = Recording::open(&files.trace()).unwrap();
        assert_eq!(recording.end(), Position(truth.len() as u64));
        let (mut known, mut all) = (0, 0);
        for (position, truth) in truth.iter().enumerate() {
            recording.seek(Position(position as u64)).unwrap();
            let shown = recording.registers().unwrap();
            let starts_block = starts.binary_search(&(position as u64)).is_ok();
            for (number, (shown, truth)) in shown.iter().zip(truth.iter()).enumerate() {
                assert!(shown.is_none_or(|shown| shown == *truth), "position {position}, register {number}");
                assert!(shown.is_some() || !starts_block, "position {position}, register {number}");
            }
            known += shown.iter().flatten().count();
            all += shown.len();
        }
        assert!(known * 10 > all * 6, "{known} of {all} are known: too few to have tested much");
        assert!(known < all, "nothing was unknown");
    }
}
