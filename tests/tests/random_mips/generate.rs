//! Draws random instruction sequences.
//!
//! A sequence only ever branches forward, and to places between units that belong together. Some registers point into the
//! sandbox, and are hardly ever written, so that most loads and stores hit it.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use ktrace_machine::mips::Mode;
use ktrace_machine::mips::instruction::{Instruction, Opaque};
use ktrace_machine::mips::mips32;

use super::assembler::{SYSCALL, immediate, load_constant, load_word, move_to_system, register, system};
use super::image::Shape;
use super::layout::{CODE, LITERALS, REACH, SANDBOX_SIZE, WINDOW};
use super::patterns::{Needs, PATTERNS, Pattern};

/// Which patterns were drawn.
pub type Drawn = BTreeSet<&'static str>;

/// How the target of a branch gets into its code.
#[derive(Clone, Copy, Debug)]
enum Reference {
    /// In the low half of this word, from the slot.
    Branch(usize),
    /// In the low 26 bits of this word.
    Jump(usize),
    /// In the immediates of this word and the next.
    Constant(usize),
}

/// Generates one sequence after the other.
pub struct Generator<'drawn> {
    random: Rng,
    shape: Shape,
    code: Vec<u32>,
    literals: Vec<u32>,
    bases: Vec<u8>,
    /// Branches whose target comes after some more units.
    open: Vec<(Reference, usize)>,
    drawn: &'drawn mut Drawn,
}

/// How many registers point into the sandbox.
const BASES: usize = 4;

/// Weights of what comes next, in a thousand.
const BRANCH: u32 = 120;
const RANDOM_WORD: u32 = 100;
const EXCEPTION: u32 = 2;

impl<'drawn> Generator<'drawn> {
    /// Code for [`CODE`] and up.
    pub fn new(seed: u64, shape: Shape, drawn: &'drawn mut Drawn) -> Self {
        Generator {
            random: Rng::with_seed(seed),
            shape,
            code: Vec::new(),
            literals: Vec::new(),
            bases: Vec::new(),
            open: Vec::new(),
            drawn,
        }
    }

    /// Where the next instruction goes.
    pub fn address(&self) -> u32 {
        CODE + 4 * self.code.len() as u32
    }

    /// The code, its literals, and the sandbox as it is at the start.
    pub fn finish(mut self) -> (Vec<u32>, Vec<u32>, Vec<u8>) {
        let mut sandbox = vec![0; SANDBOX_SIZE as usize];
        self.random.fill(&mut sandbox);
        (self.code, self.literals, sandbox)
    }

    /// One sequence of `length` units: registers are set, then random instructions follow. It goes on with the next one,
    /// and so does every exception in it.
    pub fn sequence(&mut self, length: usize) {
        let next = self.prologue();
        for _ in 0..length {
            self.close(false);
            self.unit();
        }
        self.close(true);
        let address = self.address();
        self.put_constant(next, address);
    }

    /// Returns where the address of the next sequence is loaded.
    fn prologue(&mut self) -> usize {
        let next = self.code.len();
        self.code.extend(load_constant(8, 0));
        self.code.push(move_to_system(8, system::ERROR_EPC));
        let base = 1;
        let literals = LITERALS + 4 * self.literals.len() as u32;
        self.code.extend(load_constant(base, literals));
        let mut offset = 0;
        let mut literal = |generator: &mut Self, value: u32| {
            generator.literals.push(value);
            offset += 4;
            offset - 4
        };
        if self.shape.fpu {
            // LDC1 needs an aligned address.
            if !self.literals.len().is_multiple_of(2) {
                literal(self, 0);
            }
            for pair in 0..16 {
                let (low, high) = (self.float(), self.float());
                let offset = literal(self, low);
                literal(self, high);
                self.code.push(immediate(0x35, base, 2 * pair, offset));
            }
            let value = self.random.u32(..) & 0xff80_0003;
            let offset = literal(self, value);
            self.code.extend([load_word(2, base, offset), 0x44c2_f800]);
        }
        for function in [0x11, 0x13] {
            let value = self.interesting_word();
            let offset = literal(self, value);
            self.code.extend([load_word(2, base, offset), register(function, 2, 0, 0)]);
        }
        self.bases = (0..BASES).map(|_| self.random.u8(1..31)).collect();
        for register in (1..32).rev() {
            let value = if self.bases.contains(&register) {
                self.random.u32(WINDOW) & !7
            } else {
                self.interesting_word()
            };
            let offset = literal(self, value);
            self.code.push(load_word(register, base, offset));
        }
        next
    }

    fn put_constant(&mut self, at: usize, value: u32) {
        self.code[at] = self.code[at] & 0xffff_0000 | value >> 16;
        self.code[at + 1] = self.code[at + 1] & 0xffff_0000 | value & 0xffff;
    }

    /// Gives branches their targets: here.
    fn close(&mut self, all: bool) {
        let here = self.address();
        for (reference, units) in std::mem::take(&mut self.open) {
            if units > 0 && !all {
                self.open.push((reference, units - 1));
                continue;
            }
            match reference {
                Reference::Branch(at) => self.code[at] |= (self.code.len() - at - 1) as u32 & 0xffff,
                Reference::Jump(at) => self.code[at] |= here >> 2 & 0x03ff_ffff,
                Reference::Constant(at) => self.put_constant(at, here),
            }
        }
    }

    /// What comes next: an instruction, or a branch with its slot.
    fn unit(&mut self) {
        match self.random.u32(..1000) {
            // QEMU does not fetch the slot there.
            0..500 if self.address() & 0xfff == 0xffc => self.never_taken(),
            0..BRANCH => self.branch(),
            _ => {
                let word = self.ordinary();
                self.code.push(word);
            }
        }
    }

    /// An instruction that is no branch.
    fn ordinary(&mut self) -> u32 {
        match self.random.u32(..1000) {
            0..RANDOM_WORD => self.random_word(),
            number if number >= 1000 - EXCEPTION => SYSCALL | self.random.u32(..2),
            _ => self.pattern(),
        }
    }

    /// Any word that leaves control and the machine's settings alone.
    fn random_word(&mut self) -> u32 {
        let mode = Mode::of_processor(self.shape.big_endian).with_release_2();
        loop {
            let mut word = self.random.u32(..);
            if self.random.bool() {
                // SPECIAL, SPECIAL2, SPECIAL3.
                word = word & 0x03ff_ffff | [0, 0x7000_0000, 0x7c00_0000][self.random.usize(..3)];
            }
            let coprocessor_0 = word >> 26 == 0x10;
            // The test would have to make the stores of opaque instructions: SWXC1 and its relatives, SC.
            let stores = word & 0xfc00_0038 == 0x4c00_0008 || word >> 26 == 0x38;
            // QEMU's PMON call reads host memory.
            let pmon = word & 0xfc00_003f == 5;
            let accepted = match mips32::decode(word, mode) {
                Instruction::Branch { .. } | Instruction::Jump { .. } | Instruction::JumpRegister { .. } => {
                    false
                }
                Instruction::Opaque(Opaque { mnemonic: "sdbbp", .. }) => false,
                // Most of these are exceptions, which end a sequence.
                Instruction::Opaque(Opaque { mnemonic: "unknown" | "break", .. })
                | Instruction::OpaqueBranch(_)
                | Instruction::Trap
                | Instruction::Load { .. }
                | Instruction::Store { .. }
                | Instruction::LoadPair { .. }
                | Instruction::StorePair { .. }
                | Instruction::LoadPart { .. }
                | Instruction::StorePart { .. } => self.random.u32(..50) == 0,
                _ => true,
            };
            if accepted && !coprocessor_0 && !stores && !pmon {
                return word;
            }
        }
    }

    fn pattern(&mut self) -> u32 {
        let total: u32 = PATTERNS.iter().map(|pattern| pattern.weight).sum();
        loop {
            let mut number = self.random.u32(..total);
            let pattern = PATTERNS.iter().find(|pattern| {
                let found = number < pattern.weight;
                number = number.wrapping_sub(pattern.weight);
                found
            });
            let Some(pattern) = pattern else { continue };
            let possible = match pattern.needs {
                Needs::Nothing => true,
                Needs::Release2 => self.shape.release_2,
                Needs::Fpu => self.shape.fpu,
            };
            if possible {
                self.drawn.insert(pattern.name);
                return self.fill(pattern);
            }
        }
    }

    fn fill(&mut self, pattern: &Pattern) -> u32 {
        let mut values: BTreeMap<char, (u32, u32)> = BTreeMap::new();
        let letters: Vec<char> = pattern.bits.chars().filter(|letter| *letter != ' ').collect();
        assert_eq!(letters.len(), 32, "{}", pattern.name);
        for letter in &letters {
            values.entry(letter.to_ascii_lowercase()).or_default();
        }
        let even = letters.contains(&'F');
        for (letter, (value, _)) in &mut values {
            *value = match letter {
                'd' => self.destination().into(),
                'n' => self.destination().max(1).into(),
                's' | 't' => self.random.u32(..32),
                'b' => self.base().into(),
                'o' => self.offset(pattern.alignment),
                'i' => self.interesting_half(),
                'f' | 'g' if even && self.random.u32(..400) > 0 => self.random.u32(..16) * 2,
                _ => self.random.u32(..32),
            };
        }
        let mut word = 0;
        let mut previous = ' ';
        for letter in letters {
            let bit = match letter {
                '0' => 0,
                '1' => 1,
                'x' => self.random.u32(..2),
                _ => {
                    // A field may come twice: it then begins again at its top bit.
                    let width = if matches!(letter, 'i' | 'o') { 16 } else { 5 };
                    let entry = values.entry(letter.to_ascii_lowercase()).or_default();
                    if previous != letter || entry.1 == width {
                        entry.1 = 0;
                    }
                    entry.1 += 1;
                    entry.0 >> (width - entry.1) & 1
                }
            };
            previous = letter;
            word = word << 1 | bit;
        }
        word
    }

    /// A register to write: hardly ever one that points into the sandbox.
    fn destination(&mut self) -> u8 {
        loop {
            let register = self.random.u8(..32);
            if !self.bases.contains(&register) || self.random.u32(..1000) < 5 {
                return register;
            }
        }
    }

    fn base(&mut self) -> u8 {
        if self.random.u32(..1000) < 5 {
            return self.random.u8(..32);
        }
        self.bases[self.random.usize(..BASES)]
    }

    /// From a base, which has an address that is a multiple of eight.
    fn offset(&mut self, alignment: u32) -> u32 {
        let reach = REACH as i32;
        let offset = self.random.i32(-reach..reach - 8) as u32;
        if self.random.u32(..1000) < 5 { offset } else { offset & !(alignment - 1) }
    }

    fn branch(&mut self) {
        let at = self.code.len();
        // Often the same register twice, and r0.
        let rs = if self.random.u32(..8) == 0 { 0 } else { self.random.u8(..32) };
        let rt = if self.random.u32(..8) == 0 { rs } else { self.random.u8(..32) };
        let likely = if self.random.bool() { 0x14 } else { 0x04 };
        let (word, reference) = match self.random.u32(..if self.shape.fpu { 14 } else { 11 }) {
            0..=1 => (immediate(likely, rs, rt, 0), Reference::Branch(at)),
            2..=3 => (immediate(likely + 1, rs, rt, 0), Reference::Branch(at)),
            4 => (immediate(likely + 2, rs, 0, 0), Reference::Branch(at)),
            5 => (immediate(likely + 3, rs, 0, 0), Reference::Branch(at)),
            6..=8 => {
                let operation = self.random.u8(..4) | self.random.u8(..2) << 4;
                (immediate(1, rs, operation, 0), Reference::Branch(at))
            }
            9 => ((2 + self.random.u32(..2)) << 26, Reference::Jump(at)),
            10 => {
                let target = self.destination().max(1);
                self.code.extend(load_constant(target, 0));
                let hazard = if self.random.bool() { 0x400 } else { 0 };
                let word = if self.random.bool() {
                    register(8 | hazard, target, 0, 0)
                } else {
                    register(9 | hazard, target, 0, self.destination())
                };
                (word, Reference::Constant(at))
            }
            _ => (0x4500_0000 | self.random.u32(..32) << 16, Reference::Branch(at)),
        };
        self.code.push(word);
        let slot = match self.random.u32(..100) {
            // A branch in a slot, which is an exception.
            0 => immediate(0x04, 0, 0, 4),
            1 => SYSCALL,
            _ => self.ordinary(),
        };
        self.code.push(slot);
        let units = self.random.usize(..6);
        self.open.push((reference, units));
    }

    /// A branch-likely that is never taken, by its operands, with what is in its slot.
    fn never_taken(&mut self) {
        let (register, offset) = (self.random.u8(..32), self.random.u32(..0x1_0000));
        self.code.push(match self.random.u32(..4) {
            0 => immediate(0x15, register, register, offset),
            1 => immediate(0x17, 0, 0, offset),
            2 => immediate(1, 0, 0x02, offset),
            _ => immediate(1, 0, 0x12, offset),
        });
        let slot = self.ordinary();
        self.code.push(slot);
    }

    fn interesting_half(&mut self) -> u32 {
        match self.random.u32(..4) {
            0 => [0, 1, 0x7fff, 0x8000, 0xffff, 0xfffe][self.random.usize(..6)],
            1 => self.random.u32(..32),
            _ => self.random.u32(..0x1_0000),
        }
    }

    fn interesting_word(&mut self) -> u32 {
        match self.random.u32(..6) {
            0 => [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 2][self.random.usize(..6)],
            1 => self.random.u32(..64),
            2 => u32::MAX << self.random.u32(..32),
            _ => self.random.u32(..),
        }
    }

    /// Half of a double, or a float.
    fn float(&mut self) -> u32 {
        match self.random.u32(..4) {
            0 => self.random.u32(..),
            1 => [0, 0x8000_0000, 0x7f80_0000, 0x7fc0_0000, 1, 0x7ff0_0000][self.random.usize(..6)],
            _ => (self.random.u32(..2000) as f32 - 1000.0).to_bits(),
        }
    }
}
