//! Draws random instruction sequences.
//!
//! A sequence only ever branches forward, and to places that were made to be branched to. Some registers point into the
//! sandbox or hold small values, and the generator keeps track of which, so that most loads and stores hit it.

use std::collections::BTreeMap;

use fastrand::Rng;
use ktrace_machine::arm::instruction::{
    Address, DataOperation, Decoded, Index, Instruction, Offset, Opaque, ShiftKind,
};
use ktrace_machine::arm::{a32 as a32_decoder, t32 as t32_decoder};

use super::assembler::{a32, t32};
use super::layout::WINDOW;
use super::patterns::{A32, NARROW, Pattern, WIDE};

/// A register that points into the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Base {
    register: u8,
    aligned: bool,
}

/// What of each pattern was drawn.
pub type Drawn = BTreeMap<(&'static str, &'static str), usize>;

/// Generates one sequence after the other into one piece of code.
pub struct Generator<'drawn> {
    random: Rng,
    code: Vec<u8>,
    /// The address of the first byte of `code`.
    origin: u32,
    thumb: bool,
    bases: Vec<Base>,
    small: Vec<u8>,
    /// The instruction being drawn may access anything.
    may_miss: bool,
    drawn: &'drawn mut Drawn,
}

/// How often to draw before giving up on an encoding that is acceptable.
const ATTEMPTS: usize = 200;

/// How many registers point into the sandbox at most; fewer than there are low registers.
const MOST_BASES: usize = 5;

/// Weights of what comes next.
const PATTERN: u32 = 750;
const RANDOM_WORD: u32 = 100;
const IF_THEN: u32 = 60;
const BRANCH: u32 = 80;
const EXCEPTION: u32 = 3;

impl<'drawn> Generator<'drawn> {
    /// Code for `origin` and up.
    pub fn new(seed: u64, origin: u32, drawn: &'drawn mut Drawn) -> Self {
        Generator {
            random: Rng::with_seed(seed),
            code: Vec::new(),
            origin,
            thumb: false,
            bases: Vec::new(),
            small: Vec::new(),
            may_miss: false,
            drawn,
        }
    }

    /// The code so far.
    pub fn into_code(self) -> Vec<u8> {
        self.code
    }

    /// Where the next instruction goes.
    pub fn address(&self) -> u32 {
        self.origin + self.code.len() as u32
    }

    /// One sequence of about `length` instructions: registers are set, then random instructions follow, mostly in one
    /// instruction set. It starts and ends in A32 and goes on with the next one; so does every exception in it.
    pub fn sequence(&mut self, thumb: bool, length: usize) {
        let registers = self.draw_registers();
        let flags = self.random.u32(..) & 0xf80f_0000;
        // Behind these seven instructions are the literals: the next sequence's address, the flags, the registers.
        const PROLOGUE: u32 = 7 * 4;
        for word in [
            a32::load_literal(0, PROLOGUE - 8),
            a32::WRITE_NEXT,
            a32::load_literal(0, PROLOGUE + 4 - 16),
            a32::WRITE_FLAGS,
            a32::add_to_pc(0, (PROLOGUE + 8 - 24) as u8),
            a32::LOAD_ALL,
            a32::branch(14, false, 4 + 17 * 4),
        ] {
            self.word(word);
        }
        let next_literal = self.code.len();
        self.word(0);
        self.word(flags);
        for value in registers {
            self.word(value);
        }
        self.thumb = false;
        if thumb {
            self.switch_instruction_set();
        }
        for _ in 0..length {
            self.unit();
            if self.random.u32(..100) < 2 {
                self.switch_instruction_set();
            }
            if self.thumb != thumb && self.random.u32(..100) < 40 {
                self.switch_instruction_set();
            }
        }
        if self.thumb {
            self.switch_instruction_set();
        }
        let next = self.address();
        self.code[next_literal..next_literal + 4].copy_from_slice(&next.to_le_bytes());
    }

    /// Initial values of r0 to r14, and which of them are bases and small.
    fn draw_registers(&mut self) -> [u32; 15] {
        let mut registers = [0; 15];
        for value in &mut registers {
            *value = self.interesting_word();
        }
        self.bases.clear();
        self.small.clear();
        let mut order: Vec<u8> = (0..15).collect();
        self.random.shuffle(&mut order);
        // A low register for 16-bit encodings, and the stack pointer for those that imply it.
        let low = self.random.u8(..8);
        let mut wanted = vec![low];
        if self.random.bool() {
            wanted.push(13);
        }
        wanted.extend(order.iter().filter(|register| **register != low && **register != 13).take(2));
        for register in wanted {
            let aligned = register == low || register == 13 || self.random.u32(..100) < 60;
            registers[usize::from(register)] = self.sandbox_address(aligned);
            self.bases.push(Base { register, aligned });
        }
        let is_free = |register: &u8| !self.bases.iter().any(|base| base.register == *register);
        self.small =
            order.iter().copied().filter(is_free).filter(|register| *register < 13).take(3).collect();
        if let Some(low) = (0..8).rev().find(is_free)
            && !self.small.contains(&low)
        {
            self.small.push(low);
        }
        for register in self.small.clone() {
            let value = self.random.i32(-300..300);
            let value = if self.random.u32(..100) < 60 { value & !3 } else { value };
            registers[usize::from(register)] = value as u32;
        }
        registers
    }

    fn sandbox_address(&mut self, aligned: bool) -> u32 {
        let address = self.random.u32(WINDOW);
        if aligned { address & !3 } else { address }
    }

    fn interesting_word(&mut self) -> u32 {
        const EDGES: [u32; 12] = [
            0,
            1,
            2,
            0xffff_ffff,
            0x8000_0000,
            0x7fff_ffff,
            0x8000_8000,
            0x7fff_7fff,
            0x8080_8080,
            0xffff_8000,
            31,
            32,
        ];
        match self.random.u32(..10) {
            0..=3 => EDGES[self.random.usize(..EDGES.len())],
            4 => self.random.u32(..0x100),
            5 => self.random.u32(..) & 0xff00_ff00,
            _ => self.random.u32(..),
        }
    }

    fn word(&mut self, word: u32) {
        self.code.extend(word.to_le_bytes());
    }

    fn halfword(&mut self, halfword: u16) {
        self.code.extend(halfword.to_le_bytes());
    }

    /// A 32-bit T32 encoding, its first halfword on top.
    fn wide(&mut self, word: u32) {
        self.halfword((word >> 16) as u16);
        self.halfword(word as u16);
    }

    /// A 32-bit encoding of the current instruction set.
    fn emit(&mut self, word: u32) {
        if self.thumb { self.wide(word) } else { self.word(word) }
    }

    fn patch(&mut self, position: usize, word: u32) {
        let bytes = if self.thumb { word.rotate_left(16).to_le_bytes() } else { word.to_le_bytes() };
        self.code[position..position + 4].copy_from_slice(&bytes);
    }

    fn nops_to_word(&mut self) {
        if !self.code.len().is_multiple_of(4) {
            self.halfword(t32::NOP);
        }
    }

    /// One instruction, or a few that belong together.
    fn unit(&mut self) {
        self.restore_bases();
        let total = PATTERN + RANDOM_WORD + IF_THEN + BRANCH + EXCEPTION;
        let mut choice = self.random.u32(..total);
        for (weight, action) in [
            (PATTERN, Self::draw_pattern as fn(&mut Self)),
            (RANDOM_WORD, Self::random_word),
            (IF_THEN, Self::if_then),
            (BRANCH, Self::branch),
        ] {
            if choice < weight {
                return action(self);
            }
            choice -= weight;
        }
        self.exception();
    }

    /// Keeps an aligned base and a small offset among the low registers.
    fn restore_bases(&mut self) {
        if !self.bases.iter().any(|base| base.aligned && base.register < 8) {
            let register = self.random.u8(..8);
            let address = self.sandbox_address(true);
            self.set_register(register, address);
            self.bases.push(Base { register, aligned: true });
            // The oldest are forgotten, so that not all registers become bases in time.
            let surplus = self.bases.len().saturating_sub(MOST_BASES);
            self.bases.drain(..surplus);
        }
        if !self.small.iter().any(|small| *small < 8) {
            let register = loop {
                let register = self.random.u8(..8);
                if !self.bases.iter().any(|base| base.register == register) {
                    break register;
                }
            };
            let value = self.random.u32(..64) * 4;
            self.set_register(register, value);
            self.small.push(register);
        }
    }

    fn set_register(&mut self, register: u8, value: u32) {
        let words = if self.thumb {
            t32::load_constant(register, value)
        } else {
            a32::load_constant(register, value)
        };
        for word in words {
            self.emit(word);
        }
        self.forget(register);
    }

    fn draw_pattern(&mut self) {
        self.instruction(false);
    }

    /// One instruction from the tables.
    fn instruction(&mut self, in_it_block: bool) {
        let (table, set) = match (self.thumb, self.random.bool()) {
            (false, _) => (A32, "A32"),
            (true, false) => (NARROW, "T32 narrow"),
            (true, true) => (WIDE, "T32 wide"),
        };
        let total: u32 = table.iter().map(|pattern| pattern.weight).sum();
        let mut choice = self.random.u32(..total);
        let pattern = table
            .iter()
            .find(|pattern| {
                let found = choice < pattern.weight;
                choice = choice.wrapping_sub(pattern.weight);
                found
            })
            .expect("the choice is below the sum of all weights");
        self.may_miss = self.random.u32(..1000) < 3;
        for _ in 0..ATTEMPTS {
            let (bits, length) = self.fill(pattern);
            if self.accept(bits, length, in_it_block) {
                *self.drawn.entry((set, pattern.name)).or_default() += 1;
                return;
            }
        }
        // Not every pattern may be in an IT block, or has registers here that it could use.
        self.instruction(in_it_block);
    }

    /// One instruction that is nothing but random bits.
    fn random_word(&mut self) {
        self.may_miss = false;
        for _ in 0..ATTEMPTS {
            let (bits, length) = if !self.thumb {
                (self.random.u32(..0xf800_0000), 32)
            } else if self.random.bool() {
                (self.random.u32(..0xe800), 16)
            } else {
                (self.random.u32(0xe800_0000..), 32)
            };
            let modelled = !matches!(self.decode(bits, length, false).instruction, Instruction::Opaque(_));
            if (modelled || self.random.u32(..100) < 5) && self.accept(bits, length, false) {
                return;
            }
        }
        // There is always something in the tables.
        self.instruction(false);
    }

    fn decode(&self, bits: u32, length: u32, in_it_block: bool) -> Decoded {
        match (self.thumb, length) {
            (false, _) => a32_decoder::decode(bits),
            (true, 16) => t32_decoder::decode(bits as u16, 0, in_it_block),
            (true, _) => t32_decoder::decode((bits >> 16) as u16, bits as u16, in_it_block),
        }
    }

    /// Emits the encoding if it is one that a sequence can have.
    fn accept(&mut self, bits: u32, length: u32, in_it_block: bool) -> bool {
        let decoded = self.decode(bits, length, in_it_block);
        if !acceptable(&decoded.instruction) || waits_or_swaps_bytes(self.thumb, bits) {
            return false;
        }
        if in_it_block && reads_system_register(&decoded.instruction) {
            return false;
        }
        if !self.may_miss && !self.hits_the_sandbox(&decoded.instruction) {
            return false;
        }
        let written = written(&decoded.instruction);
        let precious = self.bases.iter().any(|base| overwritten(&decoded.instruction, base.register));
        if precious && self.random.u32(..100) < 90 {
            return false;
        }
        if length == 16 {
            self.halfword(bits as u16)
        } else {
            self.emit(bits)
        }
        self.small.retain(|register| written >> register & 1 == 0);
        self.bases.retain_mut(|base| {
            if written >> base.register & 1 == 0 {
                return true;
            }
            let (keep, aligned) = write_back(&decoded.instruction, base.register);
            base.aligned &= aligned;
            keep
        });
        true
    }

    /// Whether the addresses that a load or store makes are probably mapped, and aligned where they must be.
    fn hits_the_sandbox(&self, instruction: &Instruction) -> bool {
        let (register, offset, needs_alignment) = match *instruction {
            Instruction::Load { address, .. } | Instruction::Store { address, .. } => {
                (address.base, Some(address.offset), false)
            }
            Instruction::LoadDual { address, .. } | Instruction::StoreDual { address, .. } => {
                (address.base, Some(address.offset), true)
            }
            Instruction::LoadMultiple { base, .. } | Instruction::StoreMultiple { base, .. } => {
                (base, None, true)
            }
            _ => return true,
        };
        let small_offset = match offset {
            Some(Offset::Register { rm, shift, .. }) => {
                self.small.contains(&rm) && shift.kind == ShiftKind::Lsl && shift.amount < 8
            }
            _ => true,
        };
        let base = self.bases.iter().find(|base| base.register == register);
        let literal =
            register == 15 && matches!(instruction, Instruction::Load { .. } | Instruction::LoadDual { .. });
        small_offset && (literal || base.is_some_and(|base| base.aligned || !needs_alignment))
    }

    /// Fills a pattern's fields.
    fn fill(&mut self, pattern: &Pattern) -> (u32, u32) {
        let bits: Vec<u8> = pattern.bits.bytes().filter(|byte| *byte != b' ').collect();
        let mut values: BTreeMap<u8, (u32, u32)> = BTreeMap::new();
        for letter in bits.iter().filter(|byte| byte.is_ascii_alphabetic()) {
            values.entry(*letter).or_default().1 += 1;
        }
        for (letter, (value, width)) in &mut values {
            *value = self.draw_field(*letter, *width);
        }
        let mut word = 0;
        for byte in &bits {
            let bit = match byte {
                b'0' => 0,
                b'1' => 1,
                letter => {
                    let (value, width) = values.get_mut(letter).expect("every letter has a value");
                    *width -= 1;
                    *value >> *width & 1
                }
            };
            word = word << 1 | bit;
        }
        (word, bits.len() as u32)
    }

    fn draw_field(&mut self, letter: u8, width: u32) -> u32 {
        let all_ones = ((1_u64 << width) - 1) as u32;
        match letter {
            b'c' if self.random.u32(..100) < 65 => 14,
            b'c' => self.random.u32(..14),
            b'd' | b'D' | b't' | b'T' => self.destination(width),
            b'e' => self.destination(width) & !1,
            b'n' | b'm' | b'a' => self.source(width),
            b'b' => self.base(width, false),
            b'B' => self.base(width, true),
            b'o' => self.small_register(width),
            b'l' => self.list(width),
            b'k' if self.random.u32(..100) < 80 => self.random.u32(..4),
            b'y' if self.random.u32(..100) < 80 => 0,
            b'i' => match self.random.u32(..100) {
                0..15 => 0,
                15..30 => all_ones,
                30..36 => 1,
                36..42 => 1 << (width - 1),
                _ => self.random.u32(..) & all_ones,
            },
            _ => self.random.u32(..) & all_ones,
        }
    }

    fn destination(&mut self, width: u32) -> u32 {
        loop {
            let register = self.source(width);
            let is_base = self.bases.iter().any(|base| u32::from(base.register) == register);
            let is_small = self.small.iter().any(|small| u32::from(*small) == register);
            if !(is_base || is_small) || self.random.u32(..100) < 10 {
                return register;
            }
        }
    }

    fn source(&mut self, width: u32) -> u32 {
        if width == 4 {
            if self.random.u32(..100) < 4 { 15 } else { self.random.u32(..15) }
        } else {
            self.random.u32(..1 << width)
        }
    }

    fn base(&mut self, width: u32, aligned: bool) -> u32 {
        let possible: Vec<u8> = self
            .bases
            .iter()
            .filter(|base| base.register >> width == 0 && (base.aligned || !aligned))
            .map(|base| base.register)
            .collect();
        if possible.is_empty() {
            self.source(width)
        } else {
            u32::from(possible[self.random.usize(..possible.len())])
        }
    }

    fn small_register(&mut self, width: u32) -> u32 {
        let possible: Vec<u8> =
            self.small.iter().copied().filter(|register| register >> width == 0).collect();
        if possible.is_empty() {
            self.source(width)
        } else {
            u32::from(possible[self.random.usize(..possible.len())])
        }
    }

    fn list(&mut self, width: u32) -> u32 {
        let mut list = self.random.u32(..) & ((1 << width) - 1);
        if self.random.bool() {
            list &= self.random.u32(..);
        }
        if self.random.u32(..100) < 85 {
            for base in &self.bases {
                list &= !(1 << base.register);
            }
        }
        // The program counter can be stored in A32, and must not be loaded here.
        if self.random.u32(..100) < 90 { list & 0x7fff } else { list }
    }

    /// Makes what the given code is skipped over by some branches and executed by others.
    fn skippable(&mut self, units: usize) {
        let (bases, small) = (self.bases.clone(), self.small.clone());
        for _ in 0..units {
            self.instruction(false);
        }
        self.join(&bases, &small);
    }

    /// Two ways meet: only what both know about the registers holds.
    fn join(&mut self, bases: &[Base], small: &[u8]) {
        self.bases.retain_mut(|base| {
            let other = bases.iter().find(|other| other.register == base.register);
            base.aligned &= other.is_some_and(|other| other.aligned);
            other.is_some()
        });
        self.small.retain(|register| small.contains(register));
    }

    /// A register that may hold a branch's target for a moment.
    fn scratch(&mut self) -> u8 {
        loop {
            let register = self.random.u8(..13);
            if !self.bases.iter().any(|base| base.register == register) {
                self.small.retain(|small| *small != register);
                return register;
            }
        }
    }

    /// Goes on in the other instruction set.
    fn switch_instruction_set(&mut self) {
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

    fn forget(&mut self, register: u8) {
        self.small.retain(|small| *small != register);
        self.bases.retain(|base| base.register != register);
    }

    fn aligned_base(&mut self) -> Option<u8> {
        let aligned: Vec<u8> =
            self.bases.iter().filter(|base| base.aligned).map(|base| base.register).collect();
        (!aligned.is_empty()).then(|| aligned[self.random.usize(..aligned.len())])
    }

    fn count(&mut self, name: &'static str) {
        *self.drawn.entry((if self.thumb { "T32 branch" } else { "A32 branch" }, name)).or_default() += 1;
    }

    /// A branch over a few instructions.
    fn branch(&mut self) {
        let skipped = self.random.usize(..4);
        if self.random.u32(..3) == 0 {
            return self.branch_to_computed_address(skipped);
        }
        if self.thumb { self.thumb_branch(skipped) } else { self.arm_branch(skipped) }
    }

    fn arm_branch(&mut self, skipped: usize) {
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

    fn thumb_branch(&mut self, skipped: usize) {
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
    fn table_branch(&mut self) {
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
    fn branch_to_computed_address(&mut self, skipped: usize) {
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
    fn if_then(&mut self) {
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
    fn exception(&mut self) {
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

/// Whether the instruction waits for an interrupt, of which there are none, or may make data big-endian.
fn waits_or_swaps_bytes(thumb: bool, bits: u32) -> bool {
    if thumb {
        bits == 0xbf30 || bits == 0xf3af_8003 || bits & 0xffe0_f2ff == 0xf380_8200
    } else {
        bits & 0x0fff_ffff == 0x0320_f003 || bits & 0x0db2_f000 == 0x0122_f000
    }
}

/// Whether a sequence can have the instruction: no branches but those that are made on purpose; of the opaque ones those
/// that neither change the machine nor memory.
fn acceptable(instruction: &Instruction) -> bool {
    match *instruction {
        Instruction::Data { rd: 15, operation, .. } => is_comparison(operation),
        Instruction::AddressOf { rd: 15, .. } | Instruction::Load { rt: 15, .. } => false,
        Instruction::LoadMultiple { list, .. } => list >> 15 == 0,
        Instruction::Branch { .. }
        | Instruction::BranchExchange { .. }
        | Instruction::BranchRegister { .. }
        | Instruction::CompareBranch { .. }
        | Instruction::TableBranch { .. }
        | Instruction::IfThen { .. } => false,
        Instruction::Opaque(Opaque { mnemonic, writes, changes_mode, memory, changes_mapping }) => {
            const CHANGES_THE_MACHINE: [&str; 12] = [
                "hvc", "smc", "svc", "bkpt", "udf", "setend", "mcr", "mcrr", "mcr2", "vmsr", "bxj", "unknown",
            ];
            let loads = mnemonic.starts_with("ldrex") || mnemonic.starts_with("vld");
            !changes_mode
                && !changes_mapping
                && (!memory || loads)
                && writes >> 15 & 1 == 0
                && !CHANGES_THE_MACHINE.contains(&mnemonic)
        }
        _ => true,
    }
}

/// QEMU 10.0 saves ITSTATE before it checks the access to a system register. At the end of an IT block nothing clears
/// that again, and the instruction after it is conditional too: so this compares nothing there.
fn reads_system_register(instruction: &Instruction) -> bool {
    matches!(instruction, Instruction::Opaque(Opaque { mnemonic: "mrc" | "mrrc", .. }))
}

fn is_comparison(operation: DataOperation) -> bool {
    matches!(operation, DataOperation::Tst | DataOperation::Teq | DataOperation::Cmp | DataOperation::Cmn)
}

/// The registers that the instruction may write, bit n for rn.
fn written(instruction: &Instruction) -> u32 {
    let address_written =
        |address: Address| if address.index == Index::Offset { 0 } else { 1 << address.base };
    match *instruction {
        Instruction::Data { operation, .. } if is_comparison(operation) => 0,
        Instruction::Data { rd, .. }
        | Instruction::AddressOf { rd, .. }
        | Instruction::MoveTop { rd, .. }
        | Instruction::Multiply { rd, .. }
        | Instruction::MultiplyHalves { rd, .. }
        | Instruction::MultiplyWordHalf { rd, .. }
        | Instruction::MultiplyDual { rd, .. }
        | Instruction::MultiplyMostSignificant { rd, .. }
        | Instruction::Divide { rd, .. }
        | Instruction::SaturatingArithmetic { rd, .. }
        | Instruction::Saturate { rd, .. }
        | Instruction::Saturate16 { rd, .. }
        | Instruction::Parallel { rd, .. }
        | Instruction::Select { rd, .. }
        | Instruction::SumAbsoluteDifferences { rd, .. }
        | Instruction::Pack { rd, .. }
        | Instruction::Extend { rd, .. }
        | Instruction::BitFieldInsert { rd, .. }
        | Instruction::BitFieldExtract { rd, .. }
        | Instruction::Unary { rd, .. } => 1 << rd,
        Instruction::MultiplyLong { low, high, .. }
        | Instruction::MultiplyAccumulateAccumulate { low, high, .. }
        | Instruction::MultiplyHalvesLong { low, high, .. }
        | Instruction::MultiplyDualLong { low, high, .. } => 1 << low | 1 << high,
        Instruction::Load { rt, address, .. } => 1 << rt | address_written(address),
        Instruction::Store { address, .. } | Instruction::StoreDual { address, .. } => {
            address_written(address)
        }
        Instruction::LoadDual { rt, rt2, address } => 1 << rt | 1 << rt2 | address_written(address),
        Instruction::LoadMultiple { base, list, writeback, .. } => {
            u32::from(list) | if writeback { 1 << base } else { 0 }
        }
        Instruction::StoreMultiple { base, writeback, .. } => {
            if writeback {
                1 << base
            } else {
                0
            }
        }
        Instruction::Branch { link, .. } | Instruction::BranchRegister { link, .. } => u32::from(link) << 14,
        Instruction::BranchExchange { .. } => 1 << 14,
        Instruction::Opaque(opaque) => opaque.writes,
        Instruction::CompareBranch { .. }
        | Instruction::TableBranch { .. }
        | Instruction::IfThen { .. }
        | Instruction::Nop => 0,
    }
}

/// The register gets a value that need not be an address in the sandbox any more.
fn overwritten(instruction: &Instruction, register: u8) -> bool {
    written(instruction) >> register & 1 != 0 && !write_back(instruction, register).0
}

/// For a register that the instruction writes: is it still near where it was, and aligned if it was?
fn write_back(instruction: &Instruction, register: u8) -> (bool, bool) {
    let address = match *instruction {
        Instruction::Load { rt, address, .. } if rt != register => address,
        Instruction::Store { address, .. } | Instruction::StoreDual { address, .. } => address,
        Instruction::LoadDual { rt, rt2, address } if rt != register && rt2 != register => address,
        Instruction::LoadMultiple { list, .. } => return (list >> register & 1 == 0, true),
        Instruction::StoreMultiple { .. } => return (true, true),
        _ => return (false, false),
    };
    match address.offset {
        Offset::Immediate(offset) => (true, offset % 4 == 0),
        Offset::Register { shift, .. } => (shift.kind == ShiftKind::Lsl && shift.amount < 5, false),
    }
}
