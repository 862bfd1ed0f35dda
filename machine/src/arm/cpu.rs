//! The processor's state, and the loop that executes blocks.

use super::arithmetic::{Sum, add, add_with_carry, extract_field, shift, shift_with_carry, subtract};
use super::block::Block;
use super::execute::{Place, Target, execute};
use super::instruction::{BANKED, Condition, Register};
use super::mode::{CPSR_IT, CPSR_THUMB, Mode, it_in_cpsr};
use super::operation::Operation;
use crate::Writes;
use crate::bus::{AccessSize, Bus};

pub use crate::cpu::Exit;

/// The core registers: r0 to r15, then CPSR. r15 is the address of the next instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers(pub [u32; 17]);

/// One processor. Memory is not part of it: it reaches that through a [`Bus`].
#[derive(Clone, Debug)]
pub struct Cpu {
    /// While a block runs, r15 is scratch: what the instruction reads there. At rest it is the program counter.
    pub(super) r: [u32; 16],
    /// The sign is N.
    pub(super) n: u32,
    /// Z is set if this is zero.
    pub(super) z: u32,
    /// C: 0 or 1.
    pub(super) c: u32,
    /// The sign is V.
    pub(super) v: u32,
    pub(super) q: bool,
    /// The four bits of CPSR.GE.
    pub(super) ge: u32,
    /// In one piece: every block begins with reading it, and a processor that has to put it together from what it has just
    /// written waits for that.
    mode: Mode,
    /// The rest of CPSR, and its E, in place.
    system: u32,
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
        excess: u32,
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

const CPSR_N: u32 = 1 << 31;
const CPSR_Z: u32 = 1 << 30;
const CPSR_C: u32 = 1 << 29;
const CPSR_V: u32 = 1 << 28;
const CPSR_Q: u32 = 1 << 27;
const CPSR_GE: u32 = 0xf << 16;
/// What [`Cpu`] keeps outside `system`.
const CPSR_UNPACKED: u32 = CPSR_N | CPSR_Z | CPSR_C | CPSR_V | CPSR_Q | CPSR_GE | CPSR_THUMB | CPSR_IT;

const PROGRAM_COUNTER: u32 = 1 << 15;

impl Cpu {
    /// A processor with these registers.
    pub fn new(registers: &Registers) -> Cpu {
        let mode = Mode::default();
        let mut cpu = Cpu { r: [0; 16], n: 0, z: 0, c: 0, v: 0, q: false, ge: 0, mode, system: 0 };
        cpu.r.copy_from_slice(&registers.0[..16]);
        cpu.set_cpsr(registers.0[16]);
        cpu
    }

    /// All registers.
    pub fn registers(&self) -> Registers {
        let mut registers = Registers::default();
        registers.0[..16].copy_from_slice(&self.r);
        registers.0[16] = self.cpsr();
        registers
    }

    /// One of them; `None` if there is no such register.
    pub fn register(&self, number: usize) -> Option<u32> {
        self.r.get(number).copied().or_else(|| (number == 16).then(|| self.cpsr()))
    }

    /// The address of the next instruction.
    pub fn pc(&self) -> u32 {
        self.r[15]
    }

    /// The mode in which the next instruction is decoded.
    #[inline]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The program status register.
    pub fn cpsr(&self) -> u32 {
        self.system
            | self.n & CPSR_N
            | if self.z == 0 { CPSR_Z } else { 0 }
            | if self.c != 0 { CPSR_C } else { 0 }
            | if self.v & CPSR_N != 0 { CPSR_V } else { 0 }
            | if self.q { CPSR_Q } else { 0 }
            | self.ge << 16
            | if self.mode.thumb() { CPSR_THUMB } else { 0 }
            | it_in_cpsr(self.mode.it())
    }

    fn set_cpsr(&mut self, cpsr: u32) {
        self.n = cpsr;
        self.z = !cpsr & CPSR_Z;
        self.c = u32::from(cpsr & CPSR_C != 0);
        self.v = cpsr << 3;
        self.q = cpsr & CPSR_Q != 0;
        self.ge = (cpsr & CPSR_GE) >> 16;
        self.mode = Mode::from_cpsr(cpsr);
        self.system = cpsr & !CPSR_UNPACKED;
    }

    /// Executes the instructions `from..to` of a block (`to` is limited to the block's length), which must be the
    /// next ones for this processor. It stops before an opaque instruction, also one whose condition does not hold.
    /// With nothing to execute nothing changes: after a branch, the rest of its block is no fall-through.
    ///
    /// After [`Exit::Done`] and [`Exit::Opaque`] the program counter is the address of the next instruction to
    /// execute, and CPSR is as QEMU has it between blocks.
    pub fn run<B: Bus>(&mut self, block: &Block, from: usize, to: usize, bus: &mut B) -> Exit {
        let to = to.min(block.len());
        let Some(operations @ [_, ..]) = block.operations.get(from..to) else {
            return Exit::Done;
        };
        let block_thumb = block.mode().thumb();
        let mut target = Target { address: block.address_of(to), thumb: block_thumb };

        macro_rules! access {
            ($position:expr, $access:expr) => {{
                bus.at_instruction(from + $position);
                match $access {
                    Ok(value) => value,
                    Err(_) => return Exit::Halted(from + $position),
                }
            }};
        }

        for (position, micro) in operations.iter().enumerate() {
            if micro.condition != Condition::ALWAYS && !self.holds(micro.condition) {
                continue;
            }
            match micro.operation {
                Operation::Nop => {}
                Operation::Opaque(_) => {
                    let index = from + position;
                    self.leave(block, index, Target { address: block.address_of(index), thumb: block_thumb });
                    return Exit::Opaque(index);
                }
                Operation::General(entry) => {
                    let place = Place::new(
                        block.address().wrapping_add(u32::from(micro.offset)),
                        block.length_of(from + position),
                        block_thumb,
                    );
                    let instruction = &block.general[usize::from(entry)];
                    if let Some(branch) = access!(position, execute(self, instruction, place, bus)) {
                        target = branch;
                    }
                }

                Operation::MoveImmediate { rd, value } => self.set(rd, value),
                Operation::MoveTop { rd, value } => {
                    self.set(rd, self.get(rd) & 0xffff | u32::from(value) << 16);
                }
                Operation::Move { rd, rm } => self.set(rd, self.get(rm)),
                Operation::MoveNot { rd, rm } => self.set(rd, !self.get(rm)),
                Operation::MoveShifted { rd, rm, shift: by } => {
                    self.set(rd, shift(self.get(rm), by, self.c));
                }
                Operation::AddImmediate { rd, rn, value } => self.set(rd, self.get(rn).wrapping_add(value)),
                Operation::ReverseSubtractImmediate { rd, rn, value } => {
                    self.set(rd, value.wrapping_sub(self.get(rn)));
                }
                Operation::AndImmediate { rd, rn, value } => self.set(rd, self.get(rn) & value),
                Operation::OrImmediate { rd, rn, value } => self.set(rd, self.get(rn) | value),
                Operation::ExclusiveOrImmediate { rd, rn, value } => self.set(rd, self.get(rn) ^ value),
                Operation::Add { rd, rn, rm } => self.set(rd, self.get(rn).wrapping_add(self.get(rm))),
                Operation::Subtract { rd, rn, rm } => self.set(rd, self.get(rn).wrapping_sub(self.get(rm))),
                Operation::And { rd, rn, rm } => self.set(rd, self.get(rn) & self.get(rm)),
                Operation::Or { rd, rn, rm } => self.set(rd, self.get(rn) | self.get(rm)),
                Operation::ExclusiveOr { rd, rn, rm } => self.set(rd, self.get(rn) ^ self.get(rm)),
                Operation::BitClear { rd, rn, rm } => self.set(rd, self.get(rn) & !self.get(rm)),
                Operation::AddShifted { rd, rn, rm, shift: by } => {
                    self.set(rd, self.get(rn).wrapping_add(shift(self.get(rm), by, self.c)));
                }
                Operation::SubtractShifted { rd, rn, rm, shift: by } => {
                    self.set(rd, self.get(rn).wrapping_sub(shift(self.get(rm), by, self.c)));
                }
                Operation::OrShifted { rd, rn, rm, shift: by } => {
                    self.set(rd, self.get(rn) | shift(self.get(rm), by, self.c));
                }
                Operation::ExclusiveOrShifted { rd, rn, rm, shift: by } => {
                    self.set(rd, self.get(rn) ^ shift(self.get(rm), by, self.c));
                }
                Operation::ExtendByte { rd, rm } => self.set(rd, self.get(rm) & 0xff),
                Operation::ExtendHalf { rd, rm } => self.set(rd, self.get(rm) & 0xffff),
                Operation::ExtractField { rd, rn, lsb, width } => {
                    self.set(rd, extract_field(self.get(rn), lsb, width));
                }
                Operation::Multiply { rd, rn, rm } => self.set(rd, self.get(rn).wrapping_mul(self.get(rm))),

                Operation::CompareImmediate { rn, value } => {
                    self.set_sum_flags(subtract(self.get(rn), value));
                }
                Operation::CompareNegativeImmediate { rn, value } => {
                    self.set_sum_flags(add(self.get(rn), value));
                }
                Operation::Compare { rn, rm } => self.set_sum_flags(subtract(self.get(rn), self.get(rm))),
                Operation::TestImmediate { rn, value } => self.set_result_flags(self.get(rn) & value),
                Operation::Test { rn, rm } => self.set_result_flags(self.get(rn) & self.get(rm)),
                Operation::MoveImmediateFlags { rd, value } => self.set_with_flags(rd, value),
                Operation::MoveFlags { rd, rm } => self.set_with_flags(rd, self.get(rm)),
                Operation::MoveShiftedFlags { rd, rm, shift: by } => {
                    let (value, carry) = shift_with_carry(self.get(rm), by, self.c);
                    self.c = carry;
                    self.set_with_flags(rd, value);
                }
                Operation::AddImmediateFlags { rd, rn, value } => self.set_sum(rd, add(self.get(rn), value)),
                Operation::SubtractImmediateFlags { rd, rn, value } => {
                    self.set_sum(rd, subtract(self.get(rn), value));
                }
                Operation::AndImmediateFlags { rd, rn, value } => {
                    self.set_with_flags(rd, self.get(rn) & value);
                }
                Operation::AddFlags { rd, rn, rm } => self.set_sum(rd, add(self.get(rn), self.get(rm))),
                Operation::SubtractFlags { rd, rn, rm } => {
                    self.set_sum(rd, subtract(self.get(rn), self.get(rm)));
                }
                Operation::AndFlags { rd, rn, rm } => self.set_with_flags(rd, self.get(rn) & self.get(rm)),
                Operation::OrFlags { rd, rn, rm } => self.set_with_flags(rd, self.get(rn) | self.get(rm)),
                Operation::AddWithCarry { rd, rn, rm } => {
                    self.set(rd, add_with_carry(self.get(rn), self.get(rm), self.c).result);
                }

                Operation::LoadWord { rt, base, offset } => {
                    let address = self.get(base).wrapping_add(offset);
                    self.set(rt, access!(position, bus.load(address, AccessSize::Word)) as u32);
                }
                Operation::LoadHalf { rt, base, offset } => {
                    let address = self.get(base).wrapping_add(offset);
                    self.set(rt, access!(position, bus.load(address, AccessSize::Half)) as u32 & 0xffff);
                }
                Operation::LoadByte { rt, base, offset } => {
                    let address = self.get(base).wrapping_add(offset);
                    self.set(rt, access!(position, bus.load(address, AccessSize::Byte)) as u32 & 0xff);
                }
                Operation::LoadWordAbsolute { rt, address } => {
                    self.set(rt, access!(position, bus.load(address, AccessSize::Word)) as u32);
                }
                Operation::LoadWordRegister { rt, base, rm, left } => {
                    let address = self.indexed(base, rm, left);
                    self.set(rt, access!(position, bus.load(address, AccessSize::Word)) as u32);
                }
                Operation::LoadHalfRegister { rt, base, rm, left } => {
                    let address = self.indexed(base, rm, left);
                    self.set(rt, access!(position, bus.load(address, AccessSize::Half)) as u32 & 0xffff);
                }
                Operation::LoadByteRegister { rt, base, rm, left } => {
                    let address = self.indexed(base, rm, left);
                    self.set(rt, access!(position, bus.load(address, AccessSize::Byte)) as u32 & 0xff);
                }
                Operation::LoadWordPost { rt, base, offset } => {
                    let address = self.get(base);
                    let value = access!(position, bus.load(address, AccessSize::Word)) as u32;
                    self.set(base, address.wrapping_add(offset));
                    self.set(rt, value);
                }
                Operation::LoadByteWriteback { rt, base, offset, post } => {
                    let before = self.get(base);
                    let after = before.wrapping_add_signed(offset.into());
                    let address = if post { before } else { after };
                    let value = access!(position, bus.load(address, AccessSize::Byte)) as u32 & 0xff;
                    self.set(base, after);
                    self.set(rt, value);
                }
                Operation::StoreWord { rt, base, offset } => {
                    let address = self.get(base).wrapping_add(offset);
                    access!(position, bus.store(address, AccessSize::Word, self.get(rt).into()));
                }
                Operation::StoreHalf { rt, base, offset } => {
                    let address = self.get(base).wrapping_add(offset);
                    access!(position, bus.store(address, AccessSize::Half, (self.get(rt) & 0xffff).into()));
                }
                Operation::StoreByte { rt, base, offset } => {
                    let address = self.get(base).wrapping_add(offset);
                    access!(position, bus.store(address, AccessSize::Byte, (self.get(rt) & 0xff).into()));
                }
                Operation::StoreWordRegister { rt, base, rm, left } => {
                    let address = self.indexed(base, rm, left);
                    access!(position, bus.store(address, AccessSize::Word, self.get(rt).into()));
                }
                Operation::StoreByteRegister { rt, base, rm, left } => {
                    let address = self.indexed(base, rm, left);
                    access!(position, bus.store(address, AccessSize::Byte, (self.get(rt) & 0xff).into()));
                }
                Operation::StoreWordPre { rt, base, offset } => {
                    let address = self.get(base).wrapping_add(offset);
                    access!(position, bus.store(address, AccessSize::Word, self.get(rt).into()));
                    self.set(base, address);
                }
                Operation::StoreWordPost { rt, base, offset } => {
                    let address = self.get(base);
                    access!(position, bus.store(address, AccessSize::Word, self.get(rt).into()));
                    self.set(base, address.wrapping_add(offset));
                }
                Operation::StoreByteWriteback { rt, base, offset, post } => {
                    let before = self.get(base);
                    let after = before.wrapping_add_signed(offset.into());
                    let address = if post { before } else { after };
                    access!(position, bus.store(address, AccessSize::Byte, (self.get(rt) & 0xff).into()));
                    self.set(base, after);
                }
                Operation::LoadMultiple { base, list, start, step } => {
                    let before = self.get(base);
                    let mut address = before.wrapping_add_signed(start.into());
                    // A base that is also in the list is loaded last of all: it has no write-back then.
                    if step != 0 {
                        self.set(base, before.wrapping_add_signed(step.into()));
                    }
                    let mut remaining = list;
                    while remaining != 0 {
                        let register = remaining.trailing_zeros() as Register;
                        remaining &= remaining - 1;
                        let value = access!(position, bus.load(address, AccessSize::Word)) as u32;
                        self.set(register, value);
                        address = address.wrapping_add(4);
                    }
                    if list & 1 << 15 != 0 {
                        target = Target::interworking(self.get(15));
                    }
                }
                Operation::StoreMultiple { base, list, start, step } => {
                    let before = self.get(base);
                    let mut address = before.wrapping_add_signed(start.into());
                    let mut remaining = list;
                    while remaining != 0 {
                        let register = remaining.trailing_zeros() as Register;
                        remaining &= remaining - 1;
                        access!(position, bus.store(address, AccessSize::Word, self.get(register).into()));
                        address = address.wrapping_add(4);
                    }
                    if step != 0 {
                        self.set(base, before.wrapping_add_signed(step.into()));
                    }
                }

                Operation::Branch { target: address } => target.address = address,
                Operation::BranchLink { target: address } => {
                    // A branch is a block's last instruction: it returns behind the block.
                    self.set(14, block.address_of(to) | u32::from(block_thumb));
                    target.address = address;
                }
                Operation::BranchRegister { rm } => target = Target::interworking(self.get(rm)),
                Operation::CompareBranch { rn, nonzero, target: address } => {
                    if (self.get(rn) != 0) == nonzero {
                        target.address = address;
                    }
                }
            }
        }
        self.leave(block, to, target);
        Exit::Done
    }

    /// Gives the opaque instruction `index` of a block its recorded results and moves on to the next instruction.
    ///
    /// `written` names the registers as [`Opaque::writes`](super::instruction::Opaque::writes) does, and r8 to r14 too if
    /// the mode field of CPSR has changed; `values` are theirs, in rising order of the bits. A CPSR that was recorded inside a block has no valid T and IT bits (QEMU
    /// does not keep them in the register there), so these come from the block, unless the program counter is
    /// written. After an error nothing has changed.
    pub fn complete_opaque(
        &mut self,
        block: &Block,
        index: usize,
        written: u32,
        values: &[u32],
    ) -> Result<(), OpaqueError> {
        let address = block.address();
        let opaque = block.opaque(index).ok_or(OpaqueError::NotOpaque { address, index })?;
        let possible = opaque.writes | if opaque.changes_mode { BANKED } else { 0 };
        if written & !possible != 0 {
            return Err(OpaqueError::Unwritten { address, index, excess: written & !possible });
        }
        if written.count_ones() as usize != values.len() {
            return Err(OpaqueError::Count { registers: written.count_ones(), values: values.len() });
        }
        let branched = written & PROGRAM_COUNTER != 0;
        let next = Target { address: block.address_of(index + 1), thumb: block.mode().thumb() };
        let mut cpsr = None;
        let mut remaining = written;
        for &value in values {
            match remaining.trailing_zeros() {
                register @ 0..=15 => self.r[register as usize] = value,
                _ => cpsr = Some(value),
            }
            remaining &= remaining.wrapping_sub(1);
        }
        if branched {
            let pc = self.r[15];
            self.leave(block, index + 1, next);
            self.r[15] = pc;
            if let Some(cpsr) = cpsr {
                self.set_cpsr(cpsr);
            }
        } else {
            if let Some(cpsr) = cpsr {
                self.set_cpsr(cpsr);
            }
            self.leave(block, index + 1, next);
        }
        Ok(())
    }

    /// Ends execution before instruction `next` of a block, at `target`.
    #[inline]
    fn leave(&mut self, block: &Block, next: usize, target: Target) {
        self.r[15] = target.address;
        self.mode = self.mode.moved_to(target.thumb, block.mode_before(next).it());
    }

    #[inline(always)]
    pub(super) fn get(&self, register: Register) -> u32 {
        self.r[usize::from(register & 15)]
    }

    #[inline(always)]
    pub(super) fn set(&mut self, register: Register, value: u32) {
        self.r[usize::from(register & 15)] = value;
    }

    #[inline(always)]
    fn indexed(&self, base: Register, rm: Register, left: u8) -> u32 {
        self.get(base).wrapping_add(self.get(rm) << (left & 31))
    }

    /// Sets N and Z from a result.
    #[inline(always)]
    pub(super) fn set_result_flags(&mut self, result: u32) {
        self.n = result;
        self.z = result;
    }

    /// Sets all four flags from an addition or subtraction.
    #[inline(always)]
    pub(super) fn set_sum_flags(&mut self, sum: Sum) {
        self.set_result_flags(sum.result);
        self.c = sum.carry;
        self.v = sum.overflow;
    }

    #[inline(always)]
    fn set_with_flags(&mut self, rd: Register, value: u32) {
        self.set_result_flags(value);
        self.set(rd, value);
    }

    #[inline(always)]
    fn set_sum(&mut self, rd: Register, sum: Sum) {
        self.set_sum_flags(sum);
        self.set(rd, sum.result);
    }

    /// Whether a condition holds (ConditionPassed, DDI 0406C, A8.3). Kept out of the loop, or the compiler computes all
    /// flags before every instruction.
    #[inline(never)]
    /// Whether the instruction `index` of a block, which is the next one, writes a register if it completes. The block must have
    /// been decoded [with dependencies](Block::decode_with_dependencies).
    pub(crate) fn writes(&self, block: &Block, index: usize, register: usize) -> Writes {
        let executes = block.operations.get(index).is_some_and(|operation| self.holds(operation.condition));
        match block.dependencies(index) {
            Some(_) if !executes => Writes::No,
            Some(found) => found.writes(register),
            None => Writes::Perhaps,
        }
    }

    fn holds(&self, condition: Condition) -> bool {
        /// For each condition, one bit for each value of NZCV.
        const HOLDS: [u16; 16] = [
            0xf0f0, 0x0f0f, 0xcccc, 0x3333, 0xff00, 0x00ff, 0xaaaa, 0x5555, 0x0c0c, 0xf3f3, 0xaa55, 0x55aa,
            0x0a05, 0xf5fa, 0xffff, 0xffff,
        ];
        let flags = self.n >> 31 << 3 | u32::from(self.z == 0) << 2 | self.c << 1 | self.v >> 31;
        HOLDS[usize::from(condition.0 & 15)] >> (flags & 15) & 1 != 0
    }
}
