//! The processor's state, and the loop that executes blocks.

use super::block::Block;
use super::execute::{Next, execute, extract_field, load, store};
use super::instruction::{FCSR, HI, LO, PROGRAM_COUNTER, Register, Width};
use super::mode::{Mode, Slot};
use super::operation::Operation;
use crate::Writes;
use crate::bus::Bus;

pub use crate::cpu::Exit;

/// All registers in the order of gdb's numbers (see [`REGISTERS`](super::description::REGISTERS)): r0 to r31, Status, LO,
/// HI, BadVAddr, Cause, the program counter, f0 to f31, FCSR, FIR.
///
/// The program counter is the address of the next instruction; its bit 0 is set in compressed code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers(pub [u32; COUNT]);

impl Default for Registers {
    fn default() -> Self {
        Registers([0; COUNT])
    }
}

/// How many registers there are.
const COUNT: usize = 72;
/// The program counter's number.
const PC: usize = 37;
/// Status's number.
const STATUS: usize = 32;
/// How many registers the executor has room for: a power of two, so that no access needs a check.
const ROOM: usize = 128;

/// One processor. Memory is not part of it: it reaches that through a [`Bus`].
///
/// Besides its registers it has a branch that is pending while the next instruction is in a delay slot.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// The registers, of which number 0 is never written, and room for what is written to it. The program counter has
    /// its bit 0 clear.
    r: [u32; ROOM],
    compressed: bool,
    /// The properties of the processor.
    processor: Mode,
    /// The slot that the next instruction is in.
    slot: Slot,
    /// Where control goes behind that slot, with bit 0 for compressed code.
    pub(super) target: u32,
    /// The slot's instruction does not execute. Only ever set before it.
    pub(super) nullified: bool,
}

/// Recorded results that do not belong to the instruction that they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpaqueError {
    /// The block has no opaque instruction there.
    #[error("instruction {index} of the block at {address:#010x} is not opaque")]
    NotOpaque {
        /// The block's address.
        address: u32,
        /// The index that was given.
        index: usize,
    },
    /// Registers that the instruction cannot write.
    #[error("instruction {index} of the block at {address:#010x} cannot write the registers {excess:#x}")]
    Unwritten {
        /// The block's address.
        address: u32,
        /// The instruction's index.
        index: usize,
        /// Those registers, as in [`Opaque::writes`](super::instruction::Opaque::writes).
        excess: u128,
    },
    /// Not one value for each register.
    #[error("there are {values} values for {registers} registers")]
    Count {
        /// How many registers were named.
        registers: u32,
        /// How many values were given.
        values: usize,
    },
}

impl Cpu {
    /// A processor with these registers, whose next instruction is in no delay slot. Of `processor` the properties of the
    /// processor count ([`Mode::processor`]); the state is in the registers.
    pub fn new(registers: &Registers, processor: Mode) -> Cpu {
        let mut r = [0; ROOM];
        r[1..COUNT].copy_from_slice(&registers.0[1..]);
        let compressed = r[PC] & 1 != 0;
        r[PC] &= !1;
        Cpu { r, compressed, processor: processor.processor(), slot: Slot::None, target: 0, nullified: false }
    }

    /// All registers.
    pub fn registers(&self) -> Registers {
        let mut registers = Registers::default();
        registers.0.copy_from_slice(&self.r[..COUNT]);
        registers.0[PC] |= u32::from(self.compressed);
        registers
    }

    /// One of them; `None` if there is no such register.
    pub fn register(&self, number: usize) -> Option<u32> {
        let value = *self.r[..COUNT].get(number)?;
        Some(if number == PC { value | u32::from(self.compressed) } else { value })
    }

    /// The address of the next instruction; bit 0 is clear, also in compressed code.
    #[inline]
    pub fn pc(&self) -> u32 {
        self.r[PC]
    }

    /// Status.
    pub fn status(&self) -> u32 {
        self.r[STATUS]
    }

    /// The mode in which the next instruction is decoded.
    #[inline]
    pub fn mode(&self) -> Mode {
        self.processor.in_state(self.r[STATUS], self.compressed, self.slot)
    }

    /// Executes the instructions `from..to` of a block (`to` is limited to the block's length), which must be the
    /// next ones for this processor. It stops before an opaque instruction, also one that a branch-likely nullifies: the
    /// results that the trace has for that one are the registers as they were. With nothing to execute nothing changes:
    /// after a branch, the rest of its block is no fall-through.
    ///
    /// After [`Exit::Done`] and [`Exit::Opaque`] the program counter is the address of the next instruction to execute.
    pub fn run<B: Bus>(&mut self, block: &Block, from: usize, to: usize, bus: &mut B) -> Exit {
        if block.mode().big_endian() {
            self.run_in::<true, B>(block, from, to, bus)
        } else {
            self.run_in::<false, B>(block, from, to, bus)
        }
    }

    #[inline(always)]
    fn run_in<const BIG_ENDIAN: bool, B: Bus>(
        &mut self,
        block: &Block,
        from: usize,
        to: usize,
        bus: &mut B,
    ) -> Exit {
        let to = to.min(block.len());
        let Some(operations @ [first, ..]) = block.operations.get(from..to) else {
            return Exit::Done;
        };
        if self.nullified && !matches!(first, Operation::Opaque(_)) {
            // A slot is the last instruction of its block.
            self.leave(block, to);
            return Exit::Done;
        }
        let behind_slot = block.behind_slot();

        macro_rules! access {
            ($position:expr, $access:expr) => {{
                bus.at_instruction(from + $position);
                match $access {
                    Ok(value) => value,
                    Err(_) => return Exit::Halted(from + $position),
                }
            }};
        }
        macro_rules! load {
            ($position:expr, $width:expr, $rt:expr, $base:expr, $offset:expr) => {{
                let address = self.address($base, $offset);
                self.put($rt, access!($position, load::<BIG_ENDIAN, B>(bus, $width, address)));
            }};
        }
        macro_rules! store {
            ($position:expr, $width:expr, $rt:expr, $base:expr, $offset:expr) => {{
                let address = self.address($base, $offset);
                access!($position, store::<BIG_ENDIAN, B>(bus, $width, address, self.get($rt)));
            }};
        }
        macro_rules! branch {
            ($taken:expr, $target:expr) => {
                self.target = if $taken { $target } else { behind_slot }
            };
        }

        for (position, operation) in operations.iter().enumerate() {
            match *operation {
                Operation::Nop => {}
                Operation::Opaque(_) => {
                    let index = from + position;
                    self.stop_before(block, index);
                    return Exit::Opaque(index);
                }
                Operation::General(entry) => {
                    let index = from + position;
                    let instruction = &block.general[usize::from(entry)];
                    let address = block.address_of(index);
                    let next = access!(position, execute::<BIG_ENDIAN, B>(self, instruction, address, bus));
                    if next == Next::Nullified
                        && !matches!(operations.get(position + 1), Some(Operation::Opaque(_)))
                    {
                        break;
                    }
                }

                Operation::MoveImmediate { rd, value } => self.put(rd, value),
                Operation::Move { rd, rs } => self.put(rd, self.get(rs)),
                Operation::AddImmediate { rd, rs, value } => self.put(rd, self.get(rs).wrapping_add(value)),
                Operation::AndImmediate { rd, rs, value } => self.put(rd, self.get(rs) & value),
                Operation::OrImmediate { rd, rs, value } => self.put(rd, self.get(rs) | value),
                Operation::ExclusiveOrImmediate { rd, rs, value } => self.put(rd, self.get(rs) ^ value),
                Operation::SetLessImmediate { rd, rs, value } => {
                    self.put(rd, u32::from((self.get(rs) as i32) < value as i32));
                }
                Operation::SetLessUnsignedImmediate { rd, rs, value } => {
                    self.put(rd, u32::from(self.get(rs) < value));
                }
                Operation::Add { rd, rs, rt } => self.put(rd, self.get(rs).wrapping_add(self.get(rt))),
                Operation::Subtract { rd, rs, rt } => self.put(rd, self.get(rs).wrapping_sub(self.get(rt))),
                Operation::And { rd, rs, rt } => self.put(rd, self.get(rs) & self.get(rt)),
                Operation::Or { rd, rs, rt } => self.put(rd, self.get(rs) | self.get(rt)),
                Operation::ExclusiveOr { rd, rs, rt } => self.put(rd, self.get(rs) ^ self.get(rt)),
                Operation::Nor { rd, rs, rt } => self.put(rd, !(self.get(rs) | self.get(rt))),
                Operation::SetLess { rd, rs, rt } => {
                    self.put(rd, u32::from((self.get(rs) as i32) < self.get(rt) as i32));
                }
                Operation::SetLessUnsigned { rd, rs, rt } => {
                    self.put(rd, u32::from(self.get(rs) < self.get(rt)));
                }
                Operation::MoveIfZero { rd, rs, rt } => {
                    if self.get(rt) == 0 {
                        self.put(rd, self.get(rs));
                    }
                }
                Operation::MoveIfNotZero { rd, rs, rt } => {
                    if self.get(rt) != 0 {
                        self.put(rd, self.get(rs));
                    }
                }
                Operation::Multiply { rd, rs, rt } => self.put(rd, self.get(rs).wrapping_mul(self.get(rt))),
                Operation::ShiftLeft { rd, rt, amount } => {
                    self.put(rd, self.get(rt).wrapping_shl(amount.into()));
                }
                Operation::ShiftRight { rd, rt, amount } => {
                    self.put(rd, self.get(rt).wrapping_shr(amount.into()));
                }
                Operation::ShiftRightArithmetic { rd, rt, amount } => {
                    self.put(rd, (self.get(rt) as i32).wrapping_shr(amount.into()) as u32);
                }
                Operation::ShiftLeftVariable { rd, rt, rs } => {
                    self.put(rd, self.get(rt).wrapping_shl(self.get(rs)));
                }
                Operation::ShiftRightVariable { rd, rt, rs } => {
                    self.put(rd, self.get(rt).wrapping_shr(self.get(rs)));
                }
                Operation::ExtractField { rd, rs, lsb, width } => {
                    self.put(rd, extract_field(self.get(rs), lsb, width));
                }
                Operation::SignExtendByte { rd, rs } => self.put(rd, self.get(rs) as i8 as u32),
                Operation::SignExtendHalf { rd, rs } => self.put(rd, self.get(rs) as i16 as u32),
                Operation::MultiplyUnsigned { rs, rt } => {
                    let product = u64::from(self.get(rs)) * u64::from(self.get(rt));
                    self.put(LO, product as u32);
                    self.put(HI, (product >> 32) as u32);
                }

                Operation::LoadWord { rt, base, offset } => load!(position, Width::Word, rt, base, offset),
                Operation::LoadHalf { rt, base, offset } => load!(position, Width::Half, rt, base, offset),
                Operation::LoadSignedHalf { rt, base, offset } => {
                    load!(position, Width::SignedHalf, rt, base, offset);
                }
                Operation::LoadByte { rt, base, offset } => load!(position, Width::Byte, rt, base, offset),
                Operation::LoadSignedByte { rt, base, offset } => {
                    load!(position, Width::SignedByte, rt, base, offset);
                }
                Operation::StoreWord { rt, base, offset } => store!(position, Width::Word, rt, base, offset),
                Operation::StoreHalf { rt, base, offset } => store!(position, Width::Half, rt, base, offset),
                Operation::StoreByte { rt, base, offset } => store!(position, Width::Byte, rt, base, offset),

                Operation::BranchEqual { rs, rt, target } => branch!(self.get(rs) == self.get(rt), target),
                Operation::BranchNotEqual { rs, rt, target } => branch!(self.get(rs) != self.get(rt), target),
                Operation::BranchNegative { rs, target } => branch!((self.get(rs) as i32) < 0, target),
                Operation::BranchNotNegative { rs, target } => branch!(self.get(rs) as i32 >= 0, target),
                Operation::BranchPositive { rs, target } => branch!(self.get(rs) as i32 > 0, target),
                Operation::BranchNotPositive { rs, target } => branch!(self.get(rs) as i32 <= 0, target),
                Operation::Jump { target } => self.target = target,
                Operation::JumpLink { target } => {
                    self.target = target;
                    self.put(31, behind_slot);
                }
                Operation::JumpRegister { rs } => self.target = self.get(rs),
                Operation::JumpRegisterLink { rs, rd } => {
                    self.target = self.get(rs);
                    self.put(rd, behind_slot);
                }
            }
        }
        self.leave(block, to);
        Exit::Done
    }

    /// Gives the opaque instruction `index` of a block its recorded results and moves on to the next instruction.
    ///
    /// `written` names the registers as [`Opaque::writes`](super::instruction::Opaque::writes) does; `values` are
    /// theirs, in rising order of the bits. If the program counter is among them, control is there, in no delay slot.
    /// After an error nothing has changed.
    pub fn complete_opaque(
        &mut self,
        block: &Block,
        index: usize,
        written: u128,
        values: &[u32],
    ) -> Result<(), OpaqueError> {
        let address = block.address();
        let opaque = block.opaque(index).ok_or(OpaqueError::NotOpaque { address, index })?;
        let excess = written & !opaque.writes;
        if excess != 0 {
            return Err(OpaqueError::Unwritten { address, index, excess });
        }
        if written.count_ones() as usize != values.len() {
            return Err(OpaqueError::Count { registers: written.count_ones(), values: values.len() });
        }
        self.leave(block, index + 1);
        let mut remaining = written;
        for &value in values {
            self.set(remaining.trailing_zeros() as Register, value);
            remaining &= remaining.wrapping_sub(1);
        }
        if written & PROGRAM_COUNTER != 0 {
            self.compressed = self.r[PC] & 1 != 0;
            self.r[PC] &= !1;
            self.slot = Slot::None;
        }
        Ok(())
    }

    /// Whether the instruction `index` of a block, which is the next one, writes a register if it completes. The block must have
    /// been decoded [with dependencies](Block::decode_with_dependencies).
    pub(crate) fn writes(&self, block: &Block, index: usize, register: usize) -> Writes {
        match block.dependencies(index) {
            Some(_) if self.nullified => Writes::No,
            Some(found) => found.writes(register),
            None => Writes::Perhaps,
        }
    }

    /// Ends execution before instruction `index` of a block, which is the next one.
    fn stop_before(&mut self, block: &Block, index: usize) {
        self.r[PC] = block.address_of(index);
        self.slot = block.mode_before(index).slot();
    }

    /// Ends execution before instruction `next` of a block, where that is not behind its branch and slot, or at the
    /// branch's target.
    #[inline(always)]
    fn leave(&mut self, block: &Block, next: usize) {
        if block.ends_slot(next) {
            self.r[PC] = self.target & !1;
            self.compressed = self.target & 1 != 0;
            self.slot = Slot::None;
            self.nullified = false;
        } else {
            self.stop_before(block, next);
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, register: Register) -> u32 {
        self.r[usize::from(register) % ROOM]
    }

    /// Writes a register other than r0.
    #[inline(always)]
    fn put(&mut self, register: Register, value: u32) {
        self.r[usize::from(register) % ROOM] = value;
    }

    /// Writes a register, unless it is r0.
    #[inline(always)]
    pub(super) fn set(&mut self, register: Register, value: u32) {
        if register != 0 {
            self.put(register, value);
        }
    }

    /// A bit of FCSR.
    pub(super) fn flag(&self, bit: u8) -> bool {
        self.get(FCSR) >> (bit & 31) & 1 != 0
    }

    #[inline(always)]
    pub(super) fn address(&self, base: Register, offset: i16) -> u32 {
        self.get(base).wrapping_add_signed(offset.into())
    }
}
