//! A MIPS guest that is recorded by hand, in either byte order, with what each of its positions must show. What it does is
//! written down here, not computed by the model.
//!
//! It runs in kseg0, where no access need say what is behind a page; there is an image of the first pages of memory. It has a
//! taken branch with its slot, a branch-likely that nullifies its slot, unaligned loads and stores, a branch whose slot is in a
//! block of its own, opaque instructions of coprocessor 0, an exception in a delay slot, a return from it, and a loop. Its TLB,
//! which is told from the second segment on, shows [`MAPPED`] pages that no instruction accesses.

use std::path::Path;

use ktrace_format::TraceWriter;
use ktrace_format::header::{self, Architecture, ByteOrder, Header};
use ktrace_format::memory::{ImageWriter, Region, RegionKind};
use ktrace_format::segment::encoder::{BlockTraits, Encoder, Finished, InitialMemory, OpaqueInstruction};
use ktrace_format::shadow::Target;
use ktrace_machine::mips::tlb::{self, Entry, State as Tlb};
use ktrace_machine::{self as machine, Block, InstructionSet, Mode};

const CODE: u32 = 0x8000_1000;
/// What the image has at physical 0x2000, one byte after the other.
pub const DATA: [u8; 8] = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
/// The virtual address of that.
pub const DATA_ADDRESS: u32 = 0x8000_2000;
/// Where the loop begins.
pub const LOOP: u32 = 0x8000_1080;
/// The first position of the loop, of which each turn has three.
pub const LOOP_POSITION: u64 = 19;
/// The first address of the first page of two that the TLB maps: it shows the image's third page from the second segment on, its second
/// page does from [`REMAPPED`] on, and between [`OTHER_SPACE`] and that neither shows anything.
pub const MAPPED: u32 = 0x0040_0000;
/// The first position of the second segment.
pub const SECOND_SEGMENT: u64 = 15;
/// The first position in another address space.
pub const OTHER_SPACE: u64 = LOOP_POSITION + 3 + 1;
/// The first position at which the pages are those of all address spaces.
pub const REMAPPED: u64 = LOOP_POSITION + 6 + 2;
/// How often it is executed.
pub const TURNS: u64 = 3;
/// The position of the instruction in a delay slot that faults.
pub const FAULT: u64 = 16;
/// The number of the exception's cause: an address error.
pub const ADDRESS_ERROR: u8 = 4;

const STATUS: usize = 32;
const BAD_ADDRESS: usize = 35;
const CAUSE: usize = 36;
const PC: usize = 37;
/// Of release 2.
const RELEASE_2: u16 = 1 << 7;
const IN_DELAY_SLOT: u16 = 1 << 4;
/// Of EntryLo, and of an entry's EntryHi in a trace.
const VALID: u64 = 1 << 1;
const GLOBAL: u32 = 1 << 12;

/// Registers at a position: `None` if nothing proves the value.
pub type State = Vec<Option<u32>>;

/// The bytes of the image.
fn initial() -> Vec<u8> {
    let mut memory = vec![0; 0x4000];
    memory[0x2000..0x2008].copy_from_slice(&DATA);
    memory
}

/// The image as the recorder knows it.
struct Initial;

impl InitialMemory for Initial {
    fn fill(&self, page: u64, data: &mut [u8; 4096], known: &mut [u64; 64]) {
        if let Some(bytes) = initial().chunks(4096).nth(page as usize) {
            data.copy_from_slice(bytes);
            known.fill(u64::MAX);
        }
    }

    fn is_read_only(&self, _: u64) -> bool {
        false
    }

    fn canonical(&self, page: u64) -> u64 {
        page
    }
}

struct Recorder {
    order: ByteOrder,
    trace: TraceWriter,
    encoder: Encoder<Initial>,
    registers: [u32; 72],
    /// Cause is known here.
    cause_known: bool,
    states: Vec<State>,
    position: u64,
}

impl Recorder {
    fn is_big(&self) -> bool {
        self.order == ByteOrder::Big
    }

    fn begin_segment(&mut self) {
        self.encoder.begin_segment(self.position, 0, &self.registers);
        self.cause_known = true;
    }

    fn end_segment(&mut self) {
        let mut finished = Finished::default();
        self.encoder.finish_segment(false, &mut finished).unwrap();
        self.trace.segment(&finished).unwrap();
        self.position += finished.head.instructions;
    }

    /// Enters a block at the program counter.
    fn enter(&mut self, words: &[u32], in_slot: bool) -> Block {
        let bytes = |word: &u32| if self.is_big() { word.to_be_bytes() } else { word.to_le_bytes() };
        let code: Vec<u8> = words.iter().flat_map(bytes).collect();
        let mode = RELEASE_2 | u16::from(self.is_big()) | if in_slot { IN_DELAY_SLOT } else { 0 };
        let address = self.registers[PC];
        let set = instruction_set(self.order);
        let decoded = Block::decode(set, address, Mode::from_bits(mode), &code).unwrap();
        let opaque = decoded.opaque_indices().iter().map(|&index| {
            let opaque = decoded.opaque(index.into()).unwrap();
            OpaqueInstruction { index, memory: opaque.memory, name: self.trace.name(opaque.mnemonic) }
        });
        let traits =
            BlockTraits { address, mode, instructions: words.len() as u16, opaque: opaque.collect() };
        let id = self.trace.block(address, mode, &code);
        if id.0 as usize == self.encoder.block_count() {
            self.encoder.define_block(traits);
        }
        self.encoder.enter_block(id);
        decoded
    }

    /// An instruction executes, after which these registers have new values.
    fn step(&mut self, changes: &[(usize, u32)]) {
        let known = self.cause_known;
        let show = |(number, value): (usize, &u32)| (number != CAUSE || known).then_some(*value);
        self.states.push(self.registers.iter().enumerate().map(show).collect());
        self.cause_known = false;
        self.registers[PC] += 4;
        for (number, value) in changes {
            self.registers[*number] = *value;
        }
    }

    /// The same for an opaque instruction, with its results.
    fn step_opaque(&mut self, block: &Block, index: usize, changes: &[(usize, u32)]) {
        self.step(changes);
        let opaque = block.opaque(index).unwrap();
        let registers = self.registers;
        let results = opaque.results(0, |number| Ok::<_, ()>(registers[number])).unwrap();
        self.encoder.opaque_results(results.values());
        self.cause_known = results.written.contains(CAUSE);
    }

    fn load(&mut self, address: u32, bytes: usize) {
        let at = (address - DATA_ADDRESS) as usize;
        let value = DATA[at..at + bytes].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        self.encoder.load(address, bytes as u8, value);
    }

    fn store_bytes(&mut self, stores: &[(u32, u8)]) {
        for (address, byte) in stores {
            self.encoder.store(*address, 1, u64::from(*byte));
        }
    }

    /// What the TLB is after so many instructions of the present block: one entry, which is told if there is one.
    fn tlb(&mut self, index: u32, asid: u16, alone: bool, told: Option<Entry>) {
        let told: Vec<(usize, Entry)> = told.map(|entry| (0, entry)).into_iter().collect();
        let state = Tlb::Tlb { asid, in_use: 1 };
        tlb::record(state, alone, &told, |values| self.encoder.translation(index, values));
    }

    fn run(&mut self) {
        // lui t0, 0x8000; ori t0, t0, 0x2000; addiu t1, zero, 5; bne t1, zero, 0x80001020; addiu t2, t1, 1
        self.enter(&[0x3c08_8000, 0x3508_2000, 0x2409_0005, 0x1520_0004, 0x252a_0001], false);
        self.step(&[(8, 0x8000_0000)]);
        self.step(&[(8, DATA_ADDRESS)]);
        self.step(&[(9, 5)]);
        self.step(&[]);
        self.step(&[(10, 6), (PC, CODE + 0x20)]);
        self.encoder.end_block(5);

        // beql zero, t1, 0x80001030, which is not taken; addiu t3, zero, 7, which does nothing
        self.enter(&[0x5009_0003, 0x240b_0007], false);
        self.step(&[]);
        self.step(&[]);
        self.encoder.end_block(2);

        // lwl t4, 1(t0); lwr t4, 4(t0); swl t4, 9(t0); swr t4, 12(t0); b 0x80001060, without its slot
        self.enter(&[0x890c_0001, 0x990c_0004, 0xa90c_0009, 0xb90c_000c, 0x1000_0009], false);
        self.encoder.map(DATA_ADDRESS, Target::Ram(2));
        let t4 = self.registers[12];
        self.load(DATA_ADDRESS + 1, 1);
        self.load(DATA_ADDRESS, 4);
        self.load(DATA_ADDRESS + 4, 1);
        self.load(DATA_ADDRESS + 4, 4);
        if self.is_big() {
            self.step(&[(12, 0x2233_4400 | t4 & 0xff)]);
            self.step(&[(12, 0x2233_4455)]);
            self.store_bytes(&[(0x8000_2009, 0x22), (0x8000_200a, 0x33), (0x8000_200b, 0x44)]);
            self.store_bytes(&[(0x8000_200c, 0x55)]);
        } else {
            self.step(&[(12, 0x2211_0000 | t4 & 0xffff)]);
            self.step(&[(12, 0x8877_6655)]);
            self.store_bytes(&[(0x8000_2009, 0x88), (0x8000_2008, 0x77)]);
            let bytes = [0x55, 0x66, 0x77, 0x88];
            (0x8000_200c..).zip(bytes).for_each(|(address, byte)| self.store_bytes(&[(address, byte)]));
        }
        self.step(&[]);
        self.step(&[]);
        self.step(&[]);
        self.encoder.end_block(5);

        // addiu t2, t2, 10, in the slot
        self.enter(&[0x254a_000a], true);
        self.step(&[(10, 16), (PC, CODE + 0x60)]);
        self.encoder.end_block(1);

        // mfc0 t5, cause; mtc0 t5, cause
        let block = self.enter(&[0x400d_6800, 0x408d_6800], false);
        self.step_opaque(&block, 0, &[(13, 0x8100)]);
        self.step_opaque(&block, 1, &[(CAUSE, 0x8300)]);
        self.encoder.end_block(2);
        self.end_segment();
        // An interrupt line has changed since.
        self.registers[CAUSE] = 0x8700;
        self.begin_segment();
        let page = |frame: u64| frame << 6 | VALID;
        self.tlb(0, 1, true, Some(Entry { hi: MAPPED | 1, page_mask: 0, lo: [page(2), page(1)] }));

        // j 0x80001080; lw t6, 0x100(t1), which faults
        let block = self.enter(&[0x0800_0420, 0x8d2e_0100], false);
        self.step(&[]);
        self.step(&[(STATUS, 0x0040_0002), (BAD_ADDRESS, 0x105), (CAUSE, 0x8000_8710), (PC, 0x8000_0180)]);
        self.cause_known = true;
        let keyframe: Vec<u32> =
            block.keyframe_after(2).iter().map(|number| self.registers[number]).collect();
        assert_eq!(keyframe.len(), 39);
        self.encoder.discontinuity(ADDRESS_ERROR, &keyframe);
        self.encoder.end_block(2);

        // mfc0 k0, epc; eret
        let block = self.enter(&[0x401a_7000, 0x4200_0018], false);
        self.step_opaque(&block, 0, &[(26, CODE + 0x68)]);
        self.step_opaque(&block, 1, &[(STATUS, 0x0040_0000), (PC, LOOP)]);
        self.encoder.end_block(2);

        // addiu v0, v0, 1; b 0x80001080; nop
        for turn in 0..TURNS {
            self.enter(&[0x2442_0001, 0x1000_fffe, 0], false);
            match turn {
                1 => self.tlb(1, 2, false, None),
                2 => {
                    let entry = Entry { hi: MAPPED | GLOBAL, page_mask: 0, lo: [page(1), page(2)] };
                    self.tlb(2, 2, false, Some(entry));
                }
                _ => {}
            }
            self.step(&[(2, self.registers[2] + 1)]);
            self.step(&[]);
            self.step(&[(PC, LOOP)]);
            self.encoder.end_block(3);
        }
        self.end_segment();
    }
}

/// What the guest executes.
pub fn instruction_set(order: ByteOrder) -> InstructionSet {
    InstructionSet::mips(if order == ByteOrder::Big {
        machine::ByteOrder::Big
    } else {
        machine::ByteOrder::Little
    })
}

/// Records the guest. Returns its states at all positions.
pub fn record(directory: &Path, order: ByteOrder) -> Vec<State> {
    let region =
        Region { start: 0, length: 0x4000, kind: RegionKind::Ram, name: "ram".into(), block_offset: 0 };
    let mut image = ImageWriter::create(directory).unwrap();
    image.add_region(&region, &initial()[..]).unwrap();
    image.finish().unwrap();

    let header = Header {
        format_version: 2,
        arch: Architecture::Mips,
        byte_order: order,
        cpu: "24Kf".into(),
        path: header::Path::Fast,
        qemu_version: String::new(),
        command_line: Vec::new(),
        tracer_version: "0".into(),
        host: String::new(),
        started: String::new(),
    };
    let mut registers = std::array::from_fn(|number| 0x1000 + number as u32);
    (registers[0], registers[2], registers[STATUS], registers[PC]) = (0, 0, 0x0040_0000, CODE);
    let mut recorder = Recorder {
        order,
        trace: TraceWriter::create(directory, header).unwrap(),
        encoder: Encoder::new(Initial).unwrap(),
        registers,
        cause_known: true,
        states: Vec::new(),
        position: 0,
    };
    recorder.begin_segment();
    recorder.run();
    recorder.step(&[]);
    recorder.trace.close("exit").unwrap();
    recorder.states
}
