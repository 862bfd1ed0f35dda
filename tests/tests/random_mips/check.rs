//! The model against the oracle: instruction by instruction, and in blocks.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, bail, ensure};
use capstone::prelude::*;
use ktrace_machine::bus::{AccessSize, Bus, Halt};
use ktrace_machine::mips::block::{Block, DecodeError};
use ktrace_machine::mips::cpu::{Cpu, Exit, Registers};
use ktrace_machine::mips::description::REGISTERS;
use ktrace_machine::mips::{Flow, Mode};
use ktracer_tests::mips_oracle::State;

use super::image::{Image, Shape};
use super::layout::{CODE, CODE_SIZE, KERNEL, PHYSICAL_CODE, PHYSICAL_SANDBOX, SANDBOX, SANDBOX_SIZE};

/// The guest's memory as user mode sees it. Everything else faults, and so does what is misaligned.
struct Memory<'image> {
    code: &'image [u8],
    sandbox: Vec<u8>,
}

impl<'image> Memory<'image> {
    fn new(image: &'image Image) -> Self {
        let code = PHYSICAL_CODE as usize;
        Memory {
            code: &image.bytes[code..code + CODE_SIZE as usize],
            sandbox: image.bytes[PHYSICAL_SANDBOX as usize..].to_vec(),
        }
    }
}

impl Memory<'_> {
    /// Makes a store of a word that succeeded in QEMU.
    fn make(&mut self, store: Option<(u32, [u8; 4])>) {
        if let Some((address, bytes)) = store
            && let Some(range) = range(SANDBOX, SANDBOX_SIZE, address, AccessSize::Word)
        {
            self.sandbox[range].copy_from_slice(&bytes);
        }
    }
}

fn range(start: u32, length: u32, address: u32, size: AccessSize) -> Option<std::ops::Range<usize>> {
    let offset = address.wrapping_sub(start);
    let inside = address.is_multiple_of(size as u32) && offset < length;
    inside.then(|| offset as usize..offset as usize + size as usize)
}

impl Bus for Memory<'_> {
    fn load(&mut self, address: u32, size: AccessSize) -> Result<u64, Halt> {
        let bytes = if let Some(range) = range(SANDBOX, SANDBOX_SIZE, address, size) {
            &self.sandbox[range]
        } else {
            &self.code[range(CODE, CODE_SIZE, address, size).ok_or(Halt)?]
        };
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn store(&mut self, address: u32, size: AccessSize, value: u64) -> Result<(), Halt> {
        let range = range(SANDBOX, SANDBOX_SIZE, address, size).ok_or(Halt)?;
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
    /// Exceptions, by their code in Cause.
    pub exceptions: BTreeMap<u32, usize>,
    /// Instructions in delay slots.
    pub slots: usize,
    /// Blocks of two and more instructions.
    pub blocks: usize,
    /// Instructions that reach into the next page: branches that are never taken, with their slots.
    pub across_pages: usize,
}

/// Exception codes (MD00090, the Cause register).
mod code {
    pub const MEMORY: std::ops::RangeInclusive<u32> = 1..=5;
    pub const RESERVED: u32 = 10;
    pub const COPROCESSOR: u32 = 11;
    pub const OVERFLOW: u32 = 12;
    pub const TRAP: u32 = 13;
}

/// The part of an address in a page: QEMU's blocks end with it.
const PAGE_MASK: u32 = 0xfff;

/// Compares one run.
pub struct Checker<'image> {
    image: &'image Image,
    processor: Mode,
    single_memory: Memory<'image>,
    /// The processor that executed the instruction before, alone.
    single: Option<Cpu>,
    block_memory: Memory<'image>,
    /// The processor that executed the block before.
    block: Option<Cpu>,
    /// States of the block that is being collected; the last one is not part of it.
    pending: Vec<State>,
    /// The last instruction of the pending block had an exception.
    faulted: bool,
    random: fastrand::Rng,
    /// So far.
    pub counts: Counts,
}

fn in_kernel(state: &State) -> bool {
    state.address() >= KERNEL
}

/// Status.CU1.
fn fpu_usable(state: &State) -> bool {
    state.registers[32] & 1 << 29 != 0
}

fn exception(state: &State) -> u32 {
    state.registers[36] >> 2 & 31
}

/// The processor that goes on at a state: the one before if it has a branch pending, or a new one.
fn processor_at(state: &State, processor: Mode, before: Option<Cpu>) -> anyhow::Result<Cpu> {
    if state.in_delay_slot() {
        let cpu = before.context("QEMU is in a delay slot of no branch")?;
        ensure!(cpu.mode().in_delay_slot(), "QEMU is in a delay slot, the model is not");
        return Ok(cpu);
    }
    let mut all = state.registers;
    if let Some(before) = &before {
        // What the log does not have does not change, or the comparison leaves it out.
        for (number, register) in all.iter_mut().enumerate() {
            if state.known >> number & 1 == 0 {
                *register = before.registers().0[number];
            }
        }
    }
    Ok(Cpu::new(&Registers(all), processor))
}

impl<'image> Checker<'image> {
    /// A checker for a run of `image`.
    pub fn new(image: &'image Image, seed: u64) -> Self {
        let Shape { big_endian, release_2, .. } = image.shape;
        let processor = Mode::of_processor(big_endian);
        Checker {
            image,
            processor: if release_2 { processor.with_release_2() } else { processor },
            single_memory: Memory::new(image),
            single: None,
            block_memory: Memory::new(image),
            block: None,
            pending: Vec::new(),
            faulted: false,
            random: fastrand::Rng::with_seed(seed),
            counts: Counts::default(),
        }
    }

    fn code(&self, address: u32, length: usize) -> anyhow::Result<&'image [u8]> {
        let offset = address.wrapping_sub(CODE) as usize;
        let code = &self.image.bytes[PHYSICAL_CODE as usize..][..CODE_SIZE as usize];
        code.get(offset..offset.saturating_add(length))
            .with_context(|| format!("{address:#010x} is outside of the code"))
    }

    /// The instruction at an address, as a block of its own.
    fn instruction(&self, address: u32, mode: Mode) -> anyhow::Result<Block> {
        match Block::decode(address, mode, self.code(address, 4)?) {
            // A branch-likely that can't be taken.
            Err(DecodeError::Truncated { .. }) => Ok(Block::decode(address, mode, self.code(address, 8)?)?),
            result => Ok(result?),
        }
    }

    /// Executes the instruction at `before` in the model, which must lead to `after`.
    pub fn step(&mut self, before: &State, after: &State) -> anyhow::Result<()> {
        if in_kernel(before) {
            self.single = None;
            self.block = None;
            return Ok(());
        }
        self.step_both(before, after).with_context(|| self.describe(before, after))?;
        self.counts.positions += 1;
        Ok(())
    }

    fn step_both(&mut self, before: &State, after: &State) -> anyhow::Result<()> {
        let mut cpu = processor_at(before, self.processor, self.single.take())?;
        let block = self.instruction(before.address(), cpu.mode())?;
        self.step_single(&mut cpu, &block, before, after)?;
        self.single = Some(cpu);
        self.collect(&block, before, after)
    }

    fn step_single(
        &mut self,
        cpu: &mut Cpu,
        block: &Block,
        before: &State,
        after: &State,
    ) -> anyhow::Result<()> {
        self.counts.slots += usize::from(before.in_delay_slot());
        let faulted = in_kernel(after);
        if faulted {
            *self.counts.exceptions.entry(exception(after)).or_default() += 1;
        }
        match cpu.run(block, 0, 1, &mut self.single_memory) {
            Exit::Halted(_) => {
                let code = exception(after);
                let expected =
                    code::MEMORY.contains(&code) || code == code::COPROCESSOR && !fpu_usable(before);
                ensure!(faulted && expected, "the model's access faults, but QEMU's did not");
                self.counts.modelled += 1;
                return Ok(());
            }
            Exit::Done => {
                self.counts.modelled += 1;
                if faulted {
                    return self.expect_exception(cpu, block, before, after);
                }
            }
            Exit::Opaque(index) => {
                let opaque = block.opaque(index).context("the opaque instruction is not there")?;
                *self.counts.opaque.entry(opaque.mnemonic).or_default() += 1;
                if faulted {
                    return Ok(());
                }
                let store = self.opaque_store(block, index, before, after)?;
                self.single_memory.make(store);
                complete(cpu, block, index, after)?;
            }
        }
        ensure!(
            cpu.mode().in_delay_slot() == after.in_delay_slot(),
            "QEMU is in a delay slot: {}, the model: {}",
            after.in_delay_slot(),
            cpu.mode().in_delay_slot()
        );
        compare(&cpu.registers(), after)?;
        check_flow(block, cpu)
    }

    /// The store of an opaque instruction, if it made one: an SC that succeeded.
    fn opaque_store(
        &self,
        block: &Block,
        index: usize,
        before: &State,
        after: &State,
    ) -> anyhow::Result<Option<(u32, [u8; 4])>> {
        let bytes = self.code(block.address_of(index), 4)?.try_into()?;
        let big_endian = block.mode().big_endian();
        let word = if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        let register = |low: u32| (word >> low & 31) as usize;
        if word >> 26 != 0x38 || after.registers[register(16)] != 1 || before.nullified() {
            return Ok(None);
        }
        let address = before.registers[register(21)].wrapping_add_signed((word as i16).into());
        let value = before.registers[register(16)];
        Ok(Some((address, if big_endian { value.to_be_bytes() } else { value.to_le_bytes() })))
    }

    /// A modelled instruction that was executed had an exception; is it one that the model leaves to the trace?
    fn expect_exception(
        &self,
        cpu: &Cpu,
        block: &Block,
        before: &State,
        after: &State,
    ) -> anyhow::Result<()> {
        let pc = cpu.pc();
        // A jump to where there is no code: the exception is that of fetching from there.
        let fetched = pc.wrapping_sub(CODE) >= CODE_SIZE || !pc.is_multiple_of(4) || cpu.mode().compressed();
        let code = exception(after);
        let expected = match code {
            code::OVERFLOW | code::TRAP => self.may_stop_inside(block)?,
            code::COPROCESSOR => !fpu_usable(before),
            code::RESERVED => !self.image.shape.release_2,
            _ => fetched && code::MEMORY.contains(&code),
        };
        ensure!(expected, "the instruction is modelled, but had the exception {code}");
        Ok(())
    }

    /// Whether the block's instruction may stop a block that goes on behind it.
    fn may_stop_inside(&self, block: &Block) -> anyhow::Result<bool> {
        if block.mode().in_delay_slot() {
            return Ok(true);
        }
        let two = [self.code(block.address(), 4)?, &[0; 4]].concat();
        Ok(Block::decode(block.address(), block.mode(), &two)?.may_stop_at(0))
    }

    /// Adds an instruction to the pending block, and executes that when it ends.
    fn collect(&mut self, block: &Block, before: &State, after: &State) -> anyhow::Result<()> {
        if self.pending.is_empty() {
            self.pending.push(*before);
        }
        self.pending.push(*after);
        self.faulted = in_kernel(after);
        let ends_page = block.address_of(block.len()) & PAGE_MASK < block.length_of(0);
        let ended = before.in_delay_slot() || block.flow() != Flow::Sequential || self.faulted || ends_page;
        let long_enough = self.pending.len() > 2 + self.random.usize(..40);
        // QEMU splits blocks between a branch and its slot at the end of a page only.
        let splits = !after.in_delay_slot() || self.random.u8(..4) == 0;
        let misplaced = after.address() != block.address_of(block.len());
        if ended || misplaced || long_enough && splits { self.run_block() } else { Ok(()) }
    }

    fn run_block(&mut self) -> anyhow::Result<()> {
        let states = std::mem::take(&mut self.pending);
        let faulted = std::mem::take(&mut self.faulted);
        let (Some(first), [.., final_before, last]) = (states.first(), states.as_slice()) else {
            return Ok(());
        };
        let mut cpu = processor_at(first, self.processor, self.block.take())?;
        let address = first.address();
        // A branch-likely that can't be taken has eight bytes.
        let length =
            self.instruction(final_before.address(), cpu.mode()).map_or(4, |block| block.length_of(0));
        let length = if final_before.in_delay_slot() { 4 } else { length };
        let in_page = PAGE_MASK + 1 - (final_before.address() & PAGE_MASK);
        self.counts.across_pages += usize::from(length > in_page);
        let length = final_before.address() + length.min(in_page) - address;
        let block = Block::decode(address, cpu.mode(), self.code(address, length as usize)?)?;
        ensure!(
            block.len() == states.len() - 1,
            "the block at {address:#010x} has {} instructions, but {} were executed",
            block.len(),
            states.len() - 1
        );
        self.counts.blocks += usize::from(block.len() > 1);
        let mut from = 0;
        while from < block.len() {
            let to = if self.random.bool() { block.len() } else { self.random.usize(from + 1..=block.len()) };
            match cpu.run(&block, from, to, &mut self.block_memory) {
                Exit::Done => from = to,
                Exit::Opaque(index) => {
                    if index + 1 == block.len() && faulted {
                        return Ok(());
                    }
                    let store = self.opaque_store(&block, index, &states[index], &states[index + 1])?;
                    self.block_memory.make(store);
                    complete(&mut cpu, &block, index, &states[index + 1])?;
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
            if from == block.len() && faulted {
                return Ok(());
            }
            compare(&cpu.registers(), &states[from])
                .with_context(|| format!("in the block at {address:#010x}, up to instruction {from}"))?;
            ensure!(
                cpu.mode().in_delay_slot() == states[from].in_delay_slot(),
                "only one of both is in a delay slot, at instruction {from} of the block at {address:#010x}"
            );
        }
        compare(&cpu.registers(), last)?;
        check_flow(&block, &cpu)?;
        self.block = Some(cpu);
        Ok(())
    }

    /// Whether the instruction at a state is behind the last sequence.
    pub fn is_at_end(&self, state: &State) -> bool {
        self.image.sequences.last() == Some(&state.address())
    }

    /// Executes what is left at the end of a run.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.run_block()
    }

    /// The code before the instruction, and its registers.
    fn describe(&self, before: &State, after: &State) -> String {
        let address = before.address();
        let mut text = format!("at {address:#010x}\n");
        let shown = address.saturating_sub(40).max(CODE) & !3;
        let code = self.code(shown, (address - shown) as usize + 8).unwrap_or(&[]);
        let _ = writeln!(text, "{}", disassemble(code, shown, self.image.shape.big_endian));
        let _ = writeln!(text, "before {}", show(before));
        let _ = write!(text, "after  {}", show(after));
        text
    }
}

/// Control is where the block's flow says.
fn check_flow(block: &Block, cpu: &Cpu) -> anyhow::Result<()> {
    let pc = cpu.registers().0[37];
    let behind = block.address_of(block.len());
    let expected = match block.flow() {
        Flow::Sequential => pc == behind,
        Flow::Branch { target, .. } => pc == target || block.conditional() && pc == behind,
        Flow::Register(number) => pc == cpu.registers().0[usize::from(number)],
        // These promise nothing.
        _ => true,
    };
    ensure!(expected, "{:?} of the block at {:#010x} leads to {pc:#010x}", block.flow(), block.address());
    Ok(())
}

/// Gives an opaque instruction the results that the oracle has.
fn complete(cpu: &mut Cpu, block: &Block, index: usize, after: &State) -> anyhow::Result<()> {
    let opaque = block.opaque(index).context("the opaque instruction is not there")?;
    let written = opaque.writes & after.known;
    let numbers = (0..REGISTERS.len()).filter(|number| written >> number & 1 != 0);
    let values: Vec<u32> = numbers.map(|number| after.registers[number]).collect();
    cpu.complete_opaque(block, index, written, &values)?;
    Ok(())
}

/// All that the log has, except for Cause, which changes by itself.
fn compare(model: &Registers, oracle: &State) -> anyhow::Result<()> {
    let mut text = String::new();
    for register in &REGISTERS {
        let number = register.number;
        let (got, expected) = (model.0[number], oracle.registers[number]);
        if oracle.known >> number & 1 != 0 && register.name != "cause" && got != expected {
            let _ = write!(text, " {} is {got:#010x}, QEMU has {expected:#010x};", register.name);
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    bail!("the model differs:{text}")
}

fn show(state: &State) -> String {
    let mut text = String::new();
    for register in REGISTERS.iter().filter(|register| state.known >> register.number & 1 != 0) {
        let _ = write!(text, "{}={:08x} ", register.name, state.registers[register.number]);
    }
    let _ = write!(text, "flags={:x}", state.flags);
    text
}

fn disassemble(code: &[u8], address: u32, big_endian: bool) -> String {
    let endian = if big_endian { capstone::Endian::Big } else { capstone::Endian::Little };
    let builder = Capstone::new().mips().mode(arch::mips::ArchMode::Mips32);
    let Ok(mut disassembler) = builder.endian(endian).build() else { return String::new() };
    let _ = disassembler.set_skipdata(true);
    let Ok(instructions) = disassembler.disasm_all(code, u64::from(address)) else { return String::new() };
    let mut text = String::new();
    for instruction in instructions.iter() {
        let hexadecimal: String = instruction.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
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
