//! The image that QEMU runs: vectors, start-up code, random sequences, their data.

use super::assembler::{
    EHB, ERET, NOP, SYSCALL, TLBWI, immediate, load_constant, load_word, move_from_system, move_to_system,
    register, system,
};
use super::generate::{Drawn, Generator};
use super::layout::{
    CODE, CODE_SIZE, KERNEL, LITERALS, PHYSICAL_CODE, PHYSICAL_SANDBOX, REACH, SANDBOX_SIZE, START, WINDOW,
};

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The byte order.
    pub big_endian: bool,
    /// The processor is of release 2.
    pub release_2: bool,
    /// The floating-point unit can be used.
    pub fpu: bool,
    /// How many sequences.
    pub sequences: usize,
    /// How many units each has, of mostly one instruction.
    pub length: usize,
}

/// Everything from physical address 0 on.
pub struct Image {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Addresses of the sequences, and of what follows the last one.
    pub sequences: Vec<u32>,
    /// What it was made for.
    pub shape: Shape,
}

impl Image {
    /// The image of a seed.
    pub fn generate(seed: u64, shape: Shape, drawn: &mut Drawn) -> Image {
        let mut generator = Generator::new(seed, shape, drawn);
        let mut sequences = Vec::new();
        for _ in 0..shape.sequences {
            sequences.push(generator.address());
            generator.sequence(shape.length);
        }
        sequences.push(generator.address());
        let (mut code, literals, sandbox) = generator.finish();
        code.extend(sweep());
        assert!(code.len() * 4 <= (LITERALS - CODE) as usize, "the code is too long");
        assert!(literals.len() * 4 <= (CODE + CODE_SIZE - LITERALS) as usize, "too many literals");

        let mut bytes = vec![0; (PHYSICAL_SANDBOX + SANDBOX_SIZE) as usize];
        let mut put = |at: u32, words: &[u32]| {
            for (index, word) in words.iter().enumerate() {
                let at = at as usize + 4 * index;
                let word = if shape.big_endian { word.to_be_bytes() } else { word.to_le_bytes() };
                bytes[at..at + 4].copy_from_slice(&word);
            }
        };
        // TLB refill, and all other exceptions.
        put(0, &handler());
        put(0x180, &handler());
        put(START, &start_up(shape.fpu));
        put(PHYSICAL_CODE, &code);
        put(PHYSICAL_CODE + (LITERALS - CODE), &literals);
        bytes[PHYSICAL_SANDBOX as usize..].copy_from_slice(&sandbox);
        Image { bytes, sequences, shape }
    }
}

/// Maps code and sandbox, and goes to the first sequence in user mode, which may use coprocessor 0. QEMU starts it at a
/// low address, which is not mapped as long as Status.ERL is set.
fn start_up(fpu: bool) -> Vec<u32> {
    const CACHED_GLOBAL_VALID: u32 = 3 << 3 | 2 | 1;
    const DIRTY: u32 = 4;
    const MEGABYTE_PAGES: u32 = 0x1f_e000;
    // CU0, KSU user, EXL.
    const STATUS: u32 = 0x1000_0012;
    const CU1: u32 = 0x2000_0000;
    let mut words = load_constant(8, KERNEL + START + 16).to_vec();
    words.extend([register(8, 8, 0, 0), NOP]);
    let mut set = |number, value| {
        words.extend(load_constant(8, value));
        words.push(move_to_system(8, number));
    };
    set(system::ENTRY_HI, CODE);
    set(system::ENTRY_LO_0, PHYSICAL_CODE >> 6 | CACHED_GLOBAL_VALID);
    set(system::ENTRY_LO_1, PHYSICAL_SANDBOX >> 6 | CACHED_GLOBAL_VALID | DIRTY);
    set(system::PAGE_MASK, MEGABYTE_PAGES);
    set(system::INDEX, 0);
    words.extend([EHB, TLBWI]);
    let mut set = |number, value| {
        words.extend(load_constant(8, value));
        words.push(move_to_system(8, number));
    };
    set(system::STATUS, if fpu { STATUS | CU1 } else { STATUS });
    set(system::EPC, CODE);
    words.extend([EHB, ERET]);
    words
}

/// Goes on with the next sequence, or resets the machine if there is none: with a write to the Malta board's SOFTRES.
fn handler() -> Vec<u32> {
    const SOFTRES: u32 = 0xbf00_0500;
    const GORESET: u32 = 0x42;
    let (k0, k1) = (26, 27);
    let mut words = vec![
        move_from_system(k0, system::ERROR_EPC),
        immediate(0x04, k0, 0, 4),
        NOP,
        move_to_system(k0, system::EPC),
        EHB,
        ERET,
    ];
    words.extend(load_constant(k0, SOFTRES));
    words.extend([
        immediate(0x0d, 0, k1, GORESET),
        immediate(0x2b, k0, k1, 0),
        immediate(0x04, 0, 0, 0xffff),
        NOP,
    ]);
    words
}

/// Loads everything that was stored, and ends with an exception that has no next sequence.
fn sweep() -> Vec<u32> {
    let mut words = load_constant(4, WINDOW.start - REACH).to_vec();
    words.extend(load_constant(5, WINDOW.end + REACH));
    words.extend([
        load_word(6, 4, 0),
        immediate(0x09, 4, 4, 4),
        immediate(0x05, 4, 5, -3i32 as u32),
        NOP,
        move_to_system(0, system::ERROR_EPC),
        SYSCALL,
    ]);
    words
}
