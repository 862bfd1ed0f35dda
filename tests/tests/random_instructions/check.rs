//! The model against the oracle: instruction by instruction, and in blocks.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, bail, ensure};
use capstone::prelude::*;
use ktrace_machine::Opaque;
use ktrace_machine::arm::block::Block;
use ktrace_machine::arm::cpu::{Cpu, Exit, Registers};
use ktrace_machine::arm::{Flow, Mode};
use ktrace_machine::bus::{AccessSize, Bus, Halt};
use ktracer_tests::oracle::State;

use super::image::Image;
use super::layout::{CODE, CODE_SIZE, SANDBOX, SANDBOX_SIZE, VECTORS, VECTORS_SIZE};

/// The guest's memory as the translation table maps it. Everything else faults, and so does what must be aligned
/// and is not.
struct Memory<'image> {
    code: &'image [u8],
    sandbox: Vec<u8>,
    /// The instruction is one that faults on a misaligned address whatever the processor's settings.
    aligned: bool,
}

impl<'image> Memory<'image> {
    fn new(image: &'image Image) -> Self {
        Memory {
            code: &image.bytes[..CODE_SIZE as usize],
            sandbox: image.bytes[(SANDBOX - CODE) as usize..].to_vec(),
            aligned: false,
        }
    }

    fn range(
        &self,
        start: u32,
        length: u32,
        address: u32,
        size: AccessSize,
    ) -> Option<std::ops::Range<usize>> {
        let size = size as u32;
        let offset = address.wrapping_sub(start);
        (offset <= length - size).then(|| offset as usize..(offset + size) as usize)
    }

    fn check_alignment(&self, address: u32, size: AccessSize) -> Result<(), Halt> {
        // LDRD and STRD are the only accesses of eight bytes, and always need an aligned word.
        let must_be_aligned = self.aligned || size == AccessSize::Double;
        if must_be_aligned && !address.is_multiple_of(4) { Err(Halt) } else { Ok(()) }
    }
}

impl Bus for Memory<'_> {
    fn load(&mut self, address: u32, size: AccessSize) -> Result<u64, Halt> {
        self.check_alignment(address, size)?;
        let bytes = if let Some(range) = self.range(SANDBOX, SANDBOX_SIZE, address, size) {
            &self.sandbox[range]
        } else if let Some(range) = self.range(CODE, CODE_SIZE, address, size) {
            &self.code[range]
        } else {
            return Err(Halt);
        };
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn store(&mut self, address: u32, size: AccessSize, value: u64) -> Result<(), Halt> {
        self.check_alignment(address, size)?;
        let range = self.range(SANDBOX, SANDBOX_SIZE, address, size).ok_or(Halt)?;
        let bytes = value.to_le_bytes();
        self.sandbox[range.clone()].copy_from_slice(&bytes[..range.len()]);
        Ok(())
    }
}

/// What was compared.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Positions compared.
    pub positions: usize,
    /// Of them, modelled instructions.
    pub modelled: usize,
    /// Opaque ones, by mnemonic.
    pub opaque: BTreeMap<&'static str, usize>,
    /// Instructions that ended in an exception.
    pub exceptions: usize,
    /// Blocks of two and more instructions.
    pub blocks: usize,
}

/// Compares one run.
pub struct Checker<'image> {
    image: &'image Image,
    single: Memory<'image>,
    blocks: Memory<'image>,
    /// States of the block that is being collected; the last one is not part of it.
    pending: Vec<State>,
    /// The last instruction of the pending block faulted.
    faulted: bool,
    random: fastrand::Rng,
    /// So far.
    pub counts: Counts,
}

fn registers(state: &State) -> Registers {
    let mut registers = Registers::default();
    registers.0[..16].copy_from_slice(&state.registers);
    registers.0[16] = state.psr;
    registers
}

fn in_vectors(state: &State) -> bool {
    (VECTORS..VECTORS + VECTORS_SIZE).contains(&state.registers[15])
}

impl<'image> Checker<'image> {
    /// A checker for a run of `image`.
    pub fn new(image: &'image Image, seed: u64) -> Self {
        Checker {
            image,
            single: Memory::new(image),
            blocks: Memory::new(image),
            pending: Vec::new(),
            faulted: false,
            random: fastrand::Rng::with_seed(seed),
            counts: Counts::default(),
        }
    }

    fn code(&self, address: u32, length: usize) -> anyhow::Result<&'image [u8]> {
        let start = address.wrapping_sub(CODE) as usize;
        self.image
            .bytes
            .get(start..start.saturating_add(length))
            .filter(|_| start + length <= CODE_SIZE as usize)
            .with_context(|| format!("{address:#010x} is outside of the code"))
    }

    /// The instruction at a state, as a block of its own.
    fn instruction(&self, state: &State) -> anyhow::Result<Block> {
        let address = state.registers[15];
        let mode = Mode::from_cpsr(state.psr);
        let halfword = u16::from_le_bytes(self.code(address, 2)?.try_into()?);
        let length = if mode.thumb() && halfword < 0xe800 { 2 } else { 4 };
        Ok(Block::decode(address, mode, self.code(address, length)?)?)
    }

    /// Executes the instruction at `before` in the model, which must lead to `after`.
    pub fn step(&mut self, before: &State, after: &State) -> anyhow::Result<()> {
        self.step_single(before, after).with_context(|| self.describe(before, after))?;
        self.collect(before, after).with_context(|| self.describe(before, after))?;
        self.counts.positions += 1;
        Ok(())
    }

    fn step_single(&mut self, before: &State, after: &State) -> anyhow::Result<()> {
        let block = self.instruction(before)?;
        self.single.aligned = self.insists_on_alignment(&block)?;
        let mut cpu = Cpu::new(&registers(before));
        match cpu.run(&block, 0, 1, &mut self.single) {
            Exit::Halted(_) => {
                ensure!(in_vectors(after), "the model's access faults, but no exception was taken");
                self.counts.exceptions += 1;
                self.counts.modelled += 1;
                return Ok(());
            }
            Exit::Done => {
                ensure!(!in_vectors(after), "the instruction is modelled, but took an exception");
                self.counts.modelled += 1;
            }
            Exit::Opaque(index) => {
                let opaque = block.opaque(index).context("the opaque instruction is not there")?;
                *self.counts.opaque.entry(opaque.mnemonic).or_default() += 1;
                if in_vectors(after) {
                    self.counts.exceptions += 1;
                    return Ok(());
                }
                complete(&mut cpu, &block, index, before, after)?;
            }
        }
        compare(&cpu.registers(), after)
    }

    /// Adds an instruction to the pending block, and executes that when it ends.
    fn collect(&mut self, before: &State, after: &State) -> anyhow::Result<()> {
        let block = self.instruction(before)?;
        let faults = in_vectors(after);
        if faults && self.insists_on_alignment(&block)? {
            // The bus is told so, and knows one instruction at a time.
            self.run_block()?;
        }
        if self.pending.is_empty() {
            self.pending.push(*before);
        }
        self.pending.push(*after);
        self.faulted = faults;
        let sequential =
            block.flow() == Flow::Sequential && after.registers[15] == block.address_of(block.len());
        let long_enough = self.pending.len() > 2 + self.random.usize(..40);
        if !sequential || long_enough || faults { self.run_block() } else { Ok(()) }
    }

    /// Whether a block's only instruction is one that faults on a misaligned address whatever the settings.
    fn insists_on_alignment(&self, block: &Block) -> anyhow::Result<bool> {
        Ok(needs_alignment(block, self.code(block.address(), block.length_of(0) as usize)?))
    }

    fn run_block(&mut self) -> anyhow::Result<()> {
        let states = std::mem::take(&mut self.pending);
        let faulted = std::mem::take(&mut self.faulted);
        let (Some(first), Some(last)) = (states.first(), states.last()) else { return Ok(()) };
        let final_before = &states[states.len() - 2];
        let final_block = self.instruction(final_before)?;
        let address = first.registers[15];
        let length = final_before.registers[15] + final_block.length_of(0) - address;
        let block = Block::decode(address, Mode::from_cpsr(first.psr), self.code(address, length as usize)?)?;
        ensure!(
            block.len() == states.len() - 1,
            "the block at {address:#010x} has {} instructions, but {} were executed",
            block.len(),
            states.len() - 1
        );
        self.blocks.aligned = faulted && self.insists_on_alignment(&final_block)?;
        self.counts.blocks += usize::from(block.len() > 1);
        let mut cpu = Cpu::new(&registers(first));
        let mut from = 0;
        while from < block.len() {
            let to = if self.random.bool() { block.len() } else { self.random.usize(from + 1..=block.len()) };
            match cpu.run(&block, from, to, &mut self.blocks) {
                Exit::Done => from = to,
                Exit::Opaque(index) => {
                    if index + 1 == block.len() && faulted {
                        return Ok(());
                    }
                    complete(&mut cpu, &block, index, &states[index], &states[index + 1])?;
                    from = index + 1;
                }
                Exit::Halted(index) => {
                    ensure!(
                        index + 1 == block.len() && faulted,
                        "instruction {index} of the block at {address:#010x} halts"
                    );
                    return Ok(());
                }
            }
            compare(&cpu.registers(), &states[from])
                .with_context(|| format!("in the block at {address:#010x}, up to instruction {from}"))?;
        }
        ensure!(!faulted, "the block at {address:#010x} does not fault");
        compare(&cpu.registers(), last)
    }

    /// Executes what is left at the end of a run.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.run_block()
    }

    /// The sequence up to the instruction, with its registers.
    fn describe(&self, before: &State, after: &State) -> String {
        let address = before.registers[15];
        let start =
            self.image.sequences.iter().rev().find(|start| **start <= address).copied().unwrap_or(CODE);
        let mut text = format!("at {address:#010x}, in the sequence at {start:#010x}\n");
        let thumb = Mode::from_cpsr(before.psr).thumb();
        // The literals of the sequence's prologue are no code, and where it switches instruction sets this shows only
        // what follows the last switch.
        let shown = address.saturating_sub(40).max(start) & !3;
        let _ = writeln!(
            text,
            "{}",
            disassemble(self.code(shown, (address - shown) as usize).unwrap_or(&[]), shown, thumb)
        );
        let _ = writeln!(
            text,
            "-> {}",
            disassemble(self.code(address, 4).unwrap_or(&[]), address, thumb).lines().next().unwrap_or("?")
        );
        let _ = writeln!(text, "before {}", show(&registers(before)));
        let _ = write!(text, "after  {}", show(&registers(after)));
        text
    }
}

/// Gives an opaque instruction the results that the oracle has.
fn complete(cpu: &mut Cpu, block: &Block, index: usize, before: &State, after: &State) -> anyhow::Result<()> {
    let opaque = block.opaque(index).context("the opaque instruction is not there")?;
    let all = registers(after).0;
    let results = Opaque::from(opaque).results(before.psr, |register| anyhow::Ok(all[register]))?;
    cpu.complete_opaque(block, index, results.written.bits() as u32, results.values())?;
    Ok(())
}

fn compare(model: &Registers, oracle: &State) -> anyhow::Result<()> {
    let expected = registers(oracle);
    if *model == expected {
        return Ok(());
    }
    let mut text = String::new();
    for (register, (got, expected)) in model.0.iter().zip(expected.0).enumerate() {
        if *got != expected {
            let name = if register == 16 { "cpsr".to_owned() } else { format!("r{register}") };
            let _ = write!(text, " {name} is {got:#010x}, QEMU has {expected:#010x};");
        }
    }
    bail!("the model differs:{text}")
}

/// Whether the block's one instruction is a load or store multiple.
fn needs_alignment(block: &Block, code: &[u8]) -> bool {
    use ktrace_machine::arm::instruction::Instruction;
    use ktrace_machine::arm::{a32, t32};
    let halfword =
        |at: usize| code.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let decoded = if block.mode().thumb() {
        t32::decode(halfword(0), halfword(2), block.mode().in_it_block())
    } else {
        a32::decode(u32::from(halfword(2)) << 16 | u32::from(halfword(0)))
    };
    matches!(decoded.instruction, Instruction::LoadMultiple { .. } | Instruction::StoreMultiple { .. })
}

fn show(registers: &Registers) -> String {
    let mut text = String::new();
    for (register, value) in registers.0.iter().enumerate() {
        let _ = match register {
            16 => write!(text, "cpsr={value:08x}"),
            _ => write!(text, "r{register}={value:08x} "),
        };
    }
    text
}

fn disassemble(code: &[u8], address: u32, thumb: bool) -> String {
    let mode = if thumb { arch::arm::ArchMode::Thumb } else { arch::arm::ArchMode::Arm };
    let Ok(mut disassembler) = Capstone::new().arm().mode(mode).build() else { return String::new() };
    let _ = disassembler.set_skipdata(true);
    let Ok(instructions) = disassembler.disasm_all(code, u64::from(address)) else { return String::new() };
    let mut text = String::new();
    for instruction in instructions.iter() {
        let hexadecimal: String =
            instruction.bytes().iter().rev().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(
            text,
            "   {:#010x}: {hexadecimal:>8}  {} {}",
            instruction.address(),
            instruction.mnemonic().unwrap_or("?"),
            instruction.op_str().unwrap_or_default()
        );
    }
    text.trim_end().to_owned()
}
