//! What the executor makes of encodings, against results computed another way, or values that the manual gives. That the
//! encodings are the right ones is for `tests/` to check, with a disassembler and QEMU.

mod blocks;
mod branches;
mod data;
mod dependencies;
mod memory;
mod opaque;
mod properties;

use super::Mode;
use super::block::Block;
use super::cpu::{Cpu, Exit, Registers};
use crate::bus::{AccessSize, Bus, Halt};
use std::collections::BTreeMap;

pub const START: u32 = 0x8000_1000;
pub const PC: usize = 37;
pub const LO: usize = 33;
pub const HI: usize = 34;
pub const FCSR: usize = 70;

/// One access as the bus saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Load(u32, AccessSize),
    Store(u32, AccessSize, u64),
}

/// Memory whose bytes depend on their address until they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub bytes: BTreeMap<u32, u8>,
    pub accesses: Vec<Access>,
    /// How many more accesses succeed, if there is a limit.
    pub limit: Option<usize>,
}

impl Memory {
    pub fn byte(&self, address: u32) -> u8 {
        let unwritten = (address.wrapping_mul(0x9e37_79b1) >> 21) as u8;
        self.bytes.get(&address).copied().unwrap_or(unwritten)
    }

    /// Memory with bytes from an address on.
    pub fn with(address: u32, bytes: &[u8]) -> Memory {
        let bytes = (0..).zip(bytes).map(|(index, byte)| (address.wrapping_add(index), *byte));
        Memory { bytes: bytes.collect(), ..Memory::default() }
    }

    fn spend(&mut self) -> Result<(), Halt> {
        match &mut self.limit {
            Some(0) => Err(Halt),
            Some(limit) => {
                *limit -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Bus for Memory {
    fn load(&mut self, address: u32, size: AccessSize) -> Result<u64, Halt> {
        self.spend()?;
        self.accesses.push(Access::Load(address, size));
        let bytes =
            (0..size as u32).map(|index| u64::from(self.byte(address.wrapping_add(index))) << (8 * index));
        Ok(bytes.sum())
    }

    fn store(&mut self, address: u32, size: AccessSize, value: u64) -> Result<(), Halt> {
        self.spend()?;
        self.accesses.push(Access::Store(address, size, value));
        for index in 0..size as u32 {
            self.bytes.insert(address.wrapping_add(index), (value >> (8 * index)) as u8);
        }
        Ok(())
    }
}

pub fn mode(big_endian: bool) -> Mode {
    Mode::of_processor(big_endian).with_release_2()
}

/// Registers with some values set, others distinct, at [`START`], with Status.FR clear.
pub fn registers(values: &[(usize, u32)]) -> Registers {
    let mut registers = Registers(std::array::from_fn(|index| 0x0101_0101 * index as u32));
    registers.0[PC] = START;
    registers.0[32] = 0x1000_0000;
    for &(register, value) in values {
        registers.0[register] = value;
    }
    registers
}

pub fn code(words: &[u32], mode: Mode) -> Vec<u8> {
    let bytes = |word: &u32| if mode.big_endian() { word.to_be_bytes() } else { word.to_le_bytes() };
    words.iter().flat_map(bytes).collect()
}

pub fn block(words: &[u32]) -> Block {
    Block::decode(START, mode(false), &code(words, mode(false))).expect("the words are a block")
}

/// Executes a block in one byte order, both as compact operations and in the neutral form, which must agree.
pub fn run_in(big_endian: bool, words: &[u32], before: &Registers, memory: &mut Memory) -> Registers {
    let mode = mode(big_endian);
    let code = code(words, mode);
    let block = Block::decode(START, mode, &code).expect("the words are a block");
    let neutral = Block::decode_neutral(START, mode, &code).expect("the words are a block");
    let mut neutral_memory = memory.clone();
    let mut neutral_cpu = Cpu::new(before, mode);
    let mut cpu = Cpu::new(before, mode);
    assert_eq!(cpu.run(&block, 0, block.len(), memory), Exit::Done);
    assert_eq!(neutral_cpu.run(&neutral, 0, block.len(), &mut neutral_memory), Exit::Done);
    assert_eq!(cpu.registers(), neutral_cpu.registers());
    assert_eq!(cpu.mode(), neutral_cpu.mode());
    assert_eq!(*memory, neutral_memory);
    cpu.registers()
}

/// Executes a block that accesses no memory.
pub fn run(words: &[u32], before: &Registers) -> Registers {
    let mut memory = Memory::default();
    let after = run_in(false, words, before, &mut memory);
    assert_eq!(memory.accesses, []);
    after
}
