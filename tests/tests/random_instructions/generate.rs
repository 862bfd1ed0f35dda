//! Draws random instruction sequences.
//!
//! A sequence only ever branches forward, and to places that were made to be branched to. Some registers point into the
//! sandbox or hold small values, and the generator keeps track of which, so that most loads and stores hit it.

mod acceptable;
mod branches;

use std::collections::BTreeMap;

use fastrand::Rng;
use ktrace_machine::arm::instruction::{Decoded, Instruction, Offset, ShiftKind};
use ktrace_machine::arm::{a32 as a32_decoder, t32 as t32_decoder};

use acceptable::{acceptable, overwritten, reads_system_register, waits_or_swaps_bytes, write_back, written};

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
}
