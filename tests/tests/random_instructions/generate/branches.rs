//! Branches of all kinds, forward and to places that were made to be branched to; IT blocks, and exceptions.

use super::{Base, Generator};
use crate::assembler::{a32, t32};

impl Generator<'_> {
    /// Makes what the given code is skipped over by some branches and executed by others.
    pub(super) fn skippable(&mut self, units: usize) {
        let (bases, small) = (self.bases.clone(), self.small.clone());
        for _ in 0..units {
            self.instruction(false);
        }
        self.join(&bases, &small);
    }

    /// Two ways meet: only what both know about the registers holds.
    pub(super) fn join(&mut self, bases: &[Base], small: &[u8]) {
        self.bases.retain_mut(|base| {
            let other = bases.iter().find(|other| other.register == base.register);
            base.aligned &= other.is_some_and(|other| other.aligned);
            other.is_some()
        });
        self.small.retain(|register| small.contains(register));
    }

    /// Goes on in the other instruction set.
    pub(super) fn switch_instruction_set(&mut self) {
        if self.thumb {
            self.nops_to_word();
            if self.random.u32(..4) == 0 {
                // blx to the word behind this one; both halves of the offset are 0 from the aligned program counter.
                self.wide(0xf000_e800);
                self.forget(14);
            } else {
                self.halfword(t32::BX_PC);
                self.halfword(t32::NOP);
            }
        } else if self.random.u32(..4) == 0 {
            // blx to the next instruction: 8 - 4 bytes back from the program counter.
            self.word(0xfaff_ffff);
            self.forget(14);
        } else {
            let register = self.scratch();
            self.word(a32::add_to_pc(register, 1));
            let load = self.random.u32(..3) == 0;
            match self.aligned_base().filter(|_| load) {
                Some(base) => {
                    // str register, [base]; ldr pc, [base]: where it goes on is two instructions further.
                    let position = self.code.len() - 4;
                    self.patch(position, a32::add_to_pc(register, 5));
                    self.word(0xe580_0000 | u32::from(base) << 16 | u32::from(register) << 12);
                    self.word(0xe590_f000 | u32::from(base) << 16);
                }
                None => self.word(0xe12f_ff10 | u32::from(register)),
            }
        }
        self.thumb = !self.thumb;
    }

    /// A branch over a few instructions.
    pub(super) fn branch(&mut self) {
        let skipped = self.random.usize(..4);
        if self.random.u32(..3) == 0 {
            return self.branch_to_computed_address(skipped);
        }
        if self.thumb { self.thumb_branch(skipped) } else { self.arm_branch(skipped) }
    }

    pub(super) fn arm_branch(&mut self, skipped: usize) {
        let position = self.code.len();
        let link = self.random.bool();
        self.word(0);
        if link {
            self.forget(14);
        }
        self.skippable(skipped);
        let condition = self.draw_field(b'c', 4);
        let distance = (self.code.len() - position) as u32;
        self.patch(position, a32::branch(condition, link, distance));
        self.count(if link { "bl" } else { "b" });
    }

    pub(super) fn thumb_branch(&mut self, skipped: usize) {
        let position = self.code.len();
        let kind = self.random.u32(..7);
        match kind {
            0..=2 => self.halfword(0),
            3..=5 => self.wide(0),
            _ => return self.table_branch(),
        }
        if kind == 4 {
            self.forget(14);
        }
        self.skippable(skipped.max(1));
        let distance = (self.code.len() - position) as u32;
        let halfword = match kind {
            // From the program counter, which is 4 bytes on; there is at least one instruction in between.
            0 => 0xd000 | self.random.u32(..14) << 8 | (distance - 4) >> 1,
            1 => 0xe000 | (distance - 4) >> 1,
            2 => 0xb100 | self.random.u32(..2) << 11 | (distance - 4) >> 1 << 3 | self.random.u32(..8),
            3 => {
                self.patch(position, t32::branch(false, distance));
                return self.count("b.w");
            }
            4 => {
                self.patch(position, t32::branch(true, distance));
                return self.count("bl");
            }
            _ => {
                let condition = self.random.u32(..14);
                self.patch(position, t32::branch_conditional(condition, distance));
                return self.count("b<c>.w");
            }
        };
        self.code[position..position + 2].copy_from_slice(&(halfword as u16).to_le_bytes());
        self.count(["b<c>", "b", "cbz"][kind as usize]);
    }

    /// TBB or TBH with a table behind it.
    pub(super) fn table_branch(&mut self) {
        let register = loop {
            let register = self.scratch();
            if register != 15 {
                break register;
            }
        };
        let entries = 2 * self.random.u32(1..4);
        let chosen = self.random.u32(..entries);
        let halfwords = self.random.bool();
        self.wide(t32::load_constant(register, chosen)[0]);
        self.wide(0xe8df_f000 | u32::from(halfwords) << 4 | u32::from(register));
        let table = self.code.len();
        let size = entries as usize * if halfwords { 2 } else { 1 };
        self.code.resize(table + size, 0);
        for entry in 0..entries as usize {
            let target = ((self.code.len() - table) / 2) as u16;
            if halfwords {
                self.code[table + 2 * entry..table + 2 * entry + 2].copy_from_slice(&target.to_le_bytes());
            } else {
                self.code[table + entry] = target as u8;
            }
            if entry < 3 {
                self.skippable(1);
            }
        }
        self.count(if halfwords { "tbh" } else { "tbb" });
    }

    /// A register or a word in memory gets the address of what follows a few instructions, and is branched to.
    pub(super) fn branch_to_computed_address(&mut self, skipped: usize) {
        let register = self.scratch();
        let base = self.aligned_base();
        let start = self.code.len();
        self.emit(0);
        let (thumb, r) = (self.thumb, u32::from(register));
        let condition = if thumb { 14 } else { self.draw_field(b'c', 4) };
        let name = match (self.random.u32(..5), base) {
            (0, Some(base)) => {
                // stmdb base!, {r}; ldmia base!, {pc}
                let base = u32::from(base) << 16;
                self.emit(0xe920_0000 | base | 1 << r);
                self.emit(if thumb { 0xe8b0_8000 } else { condition << 28 | 0x08b0_8000 } | base);
                "ldm pc"
            }
            (1, Some(base)) => {
                // str r, [base]; ldr pc, [base]
                let base = u32::from(base) << 16;
                self.emit(if thumb { 0xf8c0_0000 } else { 0xe580_0000 } | base | r << 12);
                self.emit(if thumb { 0xf8d0_f000 } else { condition << 28 | 0x0590_f000 } | base);
                "ldr pc"
            }
            (2, _) => {
                if thumb {
                    self.halfword(0x4687 | (r << 3) as u16);
                } else {
                    self.word(condition << 28 | 0x01a0_f000 | r);
                }
                "mov pc"
            }
            (3, _) => {
                self.forget(14);
                if thumb {
                    self.halfword(0x4780 | (r << 3) as u16);
                } else {
                    self.word(condition << 28 | 0x012f_ff30 | r);
                }
                "blx"
            }
            _ => {
                if thumb {
                    self.halfword(0x4700 | (r << 3) as u16);
                } else {
                    self.word(condition << 28 | 0x012f_ff10 | r);
                }
                "bx"
            }
        };
        self.skippable(skipped);
        let target = self.code.len() as u32;
        if thumb {
            // The origin is aligned, so that positions are as good as addresses.
            let pc = (start as u32 + 4) & !3;
            self.patch(start, t32::adr(register, (target - pc) | 1));
        } else {
            self.patch(start, a32::add_to_pc(register, (target - start as u32 - 8) as u8));
        }
        self.count(name);
    }

    /// An IT block with one to four instructions; the last may branch.
    pub(super) fn if_then(&mut self) {
        if !self.thumb {
            return self.draw_pattern();
        }
        let condition = self.random.u32(..15);
        let mask = if condition == 14 { 1 << self.random.u32(..4) } else { self.random.u32(1..16) };
        self.halfword((0xbf00 | condition << 4 | mask) as u16);
        let (bases, small) = (self.bases.clone(), self.small.clone());
        let count = 4 - mask.trailing_zeros();
        let branches = self.random.u32(..4) == 0;
        for _ in 1..count {
            self.instruction(true);
        }
        if branches {
            let position = self.code.len();
            self.halfword(0);
            let skipped = self.random.usize(1..4);
            self.skippable(skipped);
            let distance = (self.code.len() - position) as u32;
            let halfword = (0xe000 | (distance - 4) >> 1) as u16;
            self.code[position..position + 2].copy_from_slice(&halfword.to_le_bytes());
        } else {
            self.instruction(true);
        }
        self.join(&bases, &small);
        self.count("it");
    }

    /// Leaves the sequence through an exception, if its condition holds.
    pub(super) fn exception(&mut self) {
        let immediate = self.random.u32(..0x80);
        if self.thumb {
            let code = [0xdf00, 0xde00, 0xbe00][self.random.usize(..3)];
            // Most under a condition, so that sequences go on.
            let condition = self.random.u32(..14) as u16;
            self.halfword(0xbf08 | condition << 4);
            self.halfword(code | immediate as u16);
        } else {
            let condition = self.random.u32(..14);
            self.word(condition << 28 | 0x0f00_0000 | immediate);
        }
        self.count("exception");
    }
}
