//! The guest's image: start-up code, exception vectors, sequences, translation table and data.

use super::assembler::a32;
use super::generate::{Drawn, Generator};
use super::layout::{CHUNKS, CODE, CODE_SIZE, SANDBOX, SANDBOX_SIZE, SWEPT, TRANSLATION_TABLE, VECTORS};

/// What QEMU loads at [`CODE`].
pub struct Image {
    /// The bytes from [`CODE`] on.
    pub bytes: Vec<u8>,
    /// Where each sequence starts, and where the last one ends.
    pub sequences: Vec<u32>,
}

/// Shape of an image.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The sequences are mostly T32, not A32.
    pub thumb: bool,
    /// How many there are.
    pub sequences: usize,
    /// About how many instructions each has.
    pub length: usize,
}

impl Image {
    /// The image for a seed: the same for the same seed and shape.
    pub fn generate(seed: u64, shape: Shape, drawn: &mut Drawn) -> Image {
        let mut bytes = vec![0; (SANDBOX + SANDBOX_SIZE - CODE) as usize];
        let mut put = |address: u32, words: &[u32]| {
            for (index, word) in words.iter().enumerate() {
                let at = (address - CODE) as usize + index * 4;
                bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        };
        put(CODE, &start_up());
        put(VECTORS, &vectors());
        put(TRANSLATION_TABLE, &translation_table());

        let mut generator = Generator::new(seed, CHUNKS, drawn);
        let mut sequences = Vec::new();
        for _ in 0..shape.sequences {
            sequences.push(generator.address());
            generator.sequence(shape.thumb, shape.length);
        }
        sequences.push(generator.address());
        let code = generator.into_code();
        assert!(
            code.len() < (CODE_SIZE - (CHUNKS - CODE) - 64) as usize,
            "the sequences do not fit into the image"
        );
        put(CHUNKS + code.len() as u32, &end_code());
        let start = (CHUNKS - CODE) as usize;
        bytes[start..start + code.len()].copy_from_slice(&code);

        let mut random = fastrand::Rng::with_seed(!seed);
        random.fill(&mut bytes[(SANDBOX - CODE) as usize..]);
        Image { bytes, sequences }
    }

    /// Whether the instruction at an address is the one that switches the machine off.
    pub fn switches_off(&self, address: u32) -> bool {
        let last = self.sequences.last().map(|end| end + 4 * (end_code().len() as u32 - 1));
        last == Some(address)
    }
}

/// Sets the vectors, switches on the floating-point unit and the MMU (without it QEMU insists on alignment), and goes
/// to the first sequence.
fn start_up() -> Vec<u32> {
    const DOMAIN_0_CLIENT: u32 = 1;
    const FULL_ACCESS_TO_CP10_AND_CP11: u32 = 0x00f0_0000;
    const FPEXC_ENABLE: u32 = 0x4000_0000;
    // The reset value of a Cortex-A15, and M, the MMU.
    const SCTLR: u32 = 0x00c5_0078 | 1;
    let mut words = Vec::new();
    // MCR p15, and for the floating-point unit VMSR FPEXC, from r0.
    for (value, write) in [
        (VECTORS, 0xee0c_0f10),
        (FULL_ACCESS_TO_CP10_AND_CP11, 0xee01_0f50),
        (FPEXC_ENABLE, 0xeee8_0a10),
        (TRANSLATION_TABLE, 0xee02_0f10),
        (DOMAIN_0_CLIENT, 0xee03_0f10),
        (SCTLR, 0xee01_0f10),
    ] {
        words.extend(a32::load_constant(0, value));
        words.extend([write, a32::ISB]);
    }
    let here = CODE + 4 * words.len() as u32;
    words.push(a32::branch(14, false, CHUNKS - here));
    assert!(words.len() * 4 <= (VECTORS - CODE) as usize);
    words
}

/// All exceptions go on with the next sequence, in supervisor mode.
fn vectors() -> Vec<u32> {
    let mut words: Vec<u32> = (0..8).map(|vector| a32::branch(14, false, (8 - vector) * 4)).collect();
    words.extend([a32::CPS_SUPERVISOR, a32::READ_NEXT, a32::BX_LR]);
    words
}

/// Two sections of normal memory, mapped one to one.
fn translation_table() -> Vec<u32> {
    const SECTION: u32 = 2;
    const NORMAL_CACHED: u32 = 1 << 12 | 1 << 3 | 1 << 2;
    const READ_ONLY: u32 = 1 << 15 | 3 << 10;
    const READ_WRITE: u32 = 3 << 10;
    const NEVER_EXECUTED: u32 = 1 << 4;
    let mut table = vec![0; 4096];
    table[(CODE >> 20) as usize] = CODE | SECTION | NORMAL_CACHED | READ_ONLY;
    table[(SANDBOX >> 20) as usize] = SANDBOX | SECTION | NORMAL_CACHED | READ_WRITE | NEVER_EXECUTED;
    table
}

/// Loads everything that was stored, and switches the machine off with PSCI SYSTEM_OFF.
fn end_code() -> Vec<u32> {
    // ldmia r0!, {r1-r12}; cmp r0, lr; blo back to the first
    const SWEEP: [u32; 3] = [0xe8b0_1ffe, 0xe150_000e, 0x3aff_fffc];
    let mut words = a32::load_constant(0, SWEPT.start).to_vec();
    words.extend(a32::load_constant(14, SWEPT.end));
    words.extend(SWEEP);
    words.extend(a32::load_constant(0, 0x8400_0008));
    words.push(a32::HVC);
    words
}
