//! What the executor makes of real encodings, against results computed another way: wide integers, or values that the
//! manual gives. The words are `arm-none-eabi-as`'s output for the comments beside them.

mod blocks;
mod branches;
mod data;
mod decoding;
mod dependencies;
mod media;
mod memory;
mod multiply;
mod properties;
mod thumb;

use super::Mode;
use super::block::Block;
use super::cpu::{Cpu, Exit, Registers};
use crate::bus::{AccessSize, Bus, Halt};
use std::collections::BTreeMap;

pub const N: u32 = 1 << 31;
pub const Z: u32 = 1 << 30;
pub const C: u32 = 1 << 29;
pub const V: u32 = 1 << 28;
pub const Q: u32 = 1 << 27;
pub const NZCV: u32 = N | Z | C | V;
pub const GE: u32 = 0xf << 16;
pub const T: u32 = 1 << 5;
pub const SUPERVISOR: u32 = 0x1d3;
pub const START: u32 = 0x8000;

/// One access as the bus saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Load(u32, AccessSize, u64),
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

    pub fn put(&mut self, address: u32, value: u32) {
        for (index, byte) in (0..).zip(value.to_le_bytes()) {
            self.bytes.insert(address.wrapping_add(index), byte);
        }
    }

    pub fn word(&self, address: u32) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|index| self.byte(address.wrapping_add(index))))
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
        let bytes =
            (0..size as u32).map(|index| u64::from(self.byte(address.wrapping_add(index))) << (8 * index));
        let value = bytes.sum();
        self.accesses.push(Access::Load(address, size, value));
        Ok(value)
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

/// Registers with some values set, others distinct, in supervisor mode at [`START`].
pub fn registers(values: &[(usize, u32)]) -> Registers {
    let mut registers = Registers(std::array::from_fn(|index| 0x0101_0101 * (index as u32 + 1)));
    registers.0[15] = START;
    registers.0[16] = SUPERVISOR;
    for &(register, value) in values {
        registers.0[register] = value;
    }
    registers
}

pub fn arm_code(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn arm_block(words: &[u32]) -> Block {
    Block::decode(START, Mode::default(), &arm_code(words)).expect("the words are a block")
}

/// Executes a block of A32 words, both as compact operations and in the neutral form, which must agree.
pub fn run(words: &[u32], before: Registers, memory: &mut Memory) -> Registers {
    let block = arm_block(words);
    let neutral =
        Block::decode_neutral(START, Mode::default(), &arm_code(words)).expect("the words are a block");
    let mut neutral_memory = memory.clone();
    let mut neutral_cpu = Cpu::new(&before);
    let mut cpu = Cpu::new(&before);
    assert_eq!(cpu.run(&block, 0, block.len(), memory), Exit::Done);
    assert_eq!(neutral_cpu.run(&neutral, 0, block.len(), &mut neutral_memory), Exit::Done);
    assert_eq!(cpu.registers(), neutral_cpu.registers());
    assert_eq!(*memory, neutral_memory);
    cpu.registers()
}

/// Executes one A32 word that accesses no memory.
pub fn step(word: u32, before: Registers) -> Registers {
    let mut memory = Memory::default();
    let after = run(&[word], before, &mut memory);
    assert_eq!(memory.accesses, []);
    after
}
