//! A synthetic guest that is recorded: random ARM or MIPS code, executed by the real machine model over a small physical memory,
//! with remapped pages, devices, faults, interrupts, devices that write to memory, and a world outside that changes memory
//! without anybody seeing it.
//!
//! It tells the encoder what the plugin would tell it (`tracer/src/portable.rs`, `tracer/src/encoder.rs`), and keeps a log
//! of its own: all registers at every position, and samples of what is known of memory. It computes these without the
//! encoder's or the replay's help, so a difference between the two halves of the prediction can't hide.

// Every test file includes all of this and uses some.
#![allow(dead_code)]

mod code;
mod mips;
mod steps;
mod world;

use std::convert::Infallible;
use std::rc::Rc;

use ktrace_format::header::{Architecture, ByteOrder, Header, Path};
use ktrace_format::memory::{ImageWriter, Region, RegionKind};
use ktrace_format::segment::encoder::{BlockId, BlockTraits, Finished, LAST_STARTED, OpaqueInstruction};
use ktrace_format::{TraceWriter, segment::access};
use ktrace_machine::{
    Block, ByteOrder as Order, Cause, Cpu, Encoding, Exit, InstructionSet, KnownRegisters, Mode, RegisterSet,
    Registers,
};
use ktrace_timeline::Program;
use ktrace_timeline::events::{self, Event};
use ktrace_timeline::provenance::Provenance;
use tempfile::TempDir;

pub use steps::{Setup, Step, Stop, setup, steps};
use world::World;
pub use world::{HOT_PAGES, PAGE_BYTES};

/// The number of the register CPSR on ARM.
const CPSR: usize = 16;

/// What is known of a byte of memory at a position.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The position.
    pub position: u64,
    /// The virtual address.
    pub address: u32,
    /// The byte, if the recording can know it.
    pub byte: Option<u8>,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// A write of a device as the recording can know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceWrite {
    /// The first position that shows it.
    pub position: u64,
    /// Physical address.
    pub physical: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// An access of the processor to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAccess {
    /// Position of the instruction.
    pub position: u64,
    /// Number of the device's name.
    pub name: u32,
    /// Physical address.
    pub physical: u64,
    /// Virtual address.
    pub address: u32,
    /// Size in bytes.
    pub bytes: usize,
    /// A store.
    pub store: bool,
    /// Value.
    pub value: u128,
}

/// A discontinuity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discontinuity {
    /// Position of the first instruction after it.
    pub position: u64,
    /// Its cause, and those of the ones that followed it at once.
    pub causes: Vec<u8>,
    /// Address of the last instruction of the block before that started.
    pub last: Option<u32>,
    /// That instruction stopped in the middle, or is opaque and may access memory.
    pub at_access: bool,
    /// Address of the first instruction after it.
    pub to: u32,
}

/// A trace on disk and what it must show.
pub struct Recorded {
    /// Where it is.
    pub directory: TempDir,
    /// Registers before each instruction.
    pub registers: Vec<KnownRegisters>,
    /// Registers after the last one.
    pub end: KnownRegisters,
    /// Samples of memory.
    pub samples: Vec<Sample>,
    /// What devices wrote to memory.
    pub device_writes: Vec<DeviceWrite>,
    /// Accesses to devices.
    pub device_accesses: Vec<DeviceAccess>,
    /// Discontinuities.
    pub discontinuities: Vec<Discontinuity>,
    /// Segments that were written.
    pub segments: u64,
}

impl Recorded {
    /// Registers at a position.
    pub fn at(&self, position: u64) -> &KnownRegisters {
        self.registers.get(position as usize).unwrap_or(&self.end)
    }

    /// The guest's events by kind, and in order.
    pub fn events(&self, program: &Program) -> Vec<Event> {
        let mut all = Vec::new();
        for Discontinuity { position, causes, last, at_access, to } in &self.discontinuities {
            for (number, &code) in causes.iter().enumerate() {
                let cause = Cause::new(program.instruction_set(), code);
                let at_fault = match program.instruction_set() {
                    InstructionSet::Arm => matches!(code, 1 | 2 | 4 | 5 | 9),
                    InstructionSet::Mips(_) => match code {
                        2 | 4 | 23 => *at_access,
                        _ => matches!(code, 1 | 3 | 5 | 7..=15 | 18 | 19 | 21 | 22 | 26 | 33),
                    },
                };
                let raised = number == 0 && at_fault && last.is_some();
                all.push(Event::Discontinuity(events::Discontinuity {
                    position: *position,
                    cause,
                    raised_by: raised.then(|| position - 1),
                    pc: last.filter(|_| raised),
                    to: (number + 1 == causes.len()).then_some(*to),
                }));
            }
        }
        for DeviceWrite { position, physical, bytes } in self.device_writes.iter().copied() {
            all.push(Event::DeviceWrite(events::DeviceWrite { position, physical, bytes }));
        }
        for access in &self.device_accesses {
            all.push(Event::DeviceAccess(events::DeviceAccess {
                position: access.position,
                device: program.trace().name(access.name).to_owned(),
                physical: Some(access.physical),
                address: access.address,
                bytes: access.bytes as u8,
                store: access.store,
                value: access.value,
            }));
        }
        all
    }
}

/// Where the processor would have gone on depends on what the code computes, and the log does not have it.
pub fn without_next(mut event: Event) -> Event {
    if let Event::Discontinuity(discontinuity) = &mut event {
        discontinuity.pc = discontinuity.pc.filter(|_| discontinuity.raised_by.is_some());
    }
    event
}

struct KnownBlock {
    code: Rc<[u8]>,
    decoded: Rc<Block>,
    id: Option<BlockId>,
}

/// How a block left the guest.
enum Left {
    /// At the next block.
    Normally,
    /// The last instruction has not completed, or nobody read its results.
    Open(RegisterSet),
}

struct Guest {
    set: InstructionSet,
    cpu: Cpu,
    /// The registers that change by themselves are known here.
    volatile_known: bool,
    /// An instruction of the segment may have changed the mapping, so that what accesses have shown of it proves nothing.
    remapped: bool,
    /// One may.
    remaps: bool,
    random: fastrand::Rng,
    world: World,
    trace: TraceWriter,
    blocks: Vec<KnownBlock>,
    finished: Finished,
    position: u64,
    registers: Vec<KnownRegisters>,
    samples: Vec<Sample>,
    device_writes: Vec<DeviceWrite>,
    discontinuities: Vec<Discontinuity>,
}

/// Runs a guest and records it.
pub fn record(setup: Setup, steps: &[Step]) -> Recorded {
    let directory = tempfile::tempdir().unwrap();
    if setup.image {
        write_image(directory.path(), setup.seed);
    }
    let world = World::new(directory.path(), setup);
    let set = setup.set;
    let mut guest = Guest {
        set,
        cpu: Cpu::new(set, &Registers::zero(set.register_count())),
        volatile_known: true,
        remapped: false,
        remaps: setup.remaps,
        random: fastrand::Rng::with_seed(setup.seed),
        world,
        trace: TraceWriter::create(directory.path(), header(set)).unwrap(),
        blocks: Vec::new(),
        finished: Finished::default(),
        position: 0,
        registers: Vec::new(),
        samples: Vec::new(),
        device_writes: Vec::new(),
        discontinuities: Vec::new(),
    };
    guest.cpu = Cpu::new(set, &guest.keyframe());
    guest.begin_segment();
    for step in steps {
        guest.step(step);
    }
    let mut unknown = RegisterSet::EMPTY;
    if let Some(stop) = setup.open_end
        && let Left::Open(left) = guest.run(255, setup.seed, stop, true)
    {
        unknown = left;
    }
    let end = KnownRegisters::new(guest.cpu.registers(), unknown | guest.unknown());
    if setup.last_dma {
        guest.dma(setup.seed);
    }
    guest.finish_segment(setup.open_end.is_some());
    let totals = guest.trace.close("exit").unwrap();
    assert_eq!(totals.instructions, guest.registers.len() as u64);
    let causes = guest.discontinuities.iter().map(|discontinuity| discontinuity.causes.len() as u64);
    assert_eq!(totals.discontinuities, causes.sum::<u64>());
    Recorded {
        directory,
        registers: guest.registers,
        end,
        samples: guest.samples,
        device_writes: guest.device_writes,
        device_accesses: guest.world.device_accesses,
        discontinuities: guest.discontinuities,
        segments: totals.segments,
    }
}

/// What every trace here says of itself.
pub fn header(set: InstructionSet) -> Header {
    Header {
        format_version: 2,
        arch: if set == InstructionSet::Arm { Architecture::Arm } else { Architecture::Mips },
        byte_order: if set.byte_order() == Order::Big { ByteOrder::Big } else { ByteOrder::Little },
        cpu: String::new(),
        path: Path::Portable,
        qemu_version: String::new(),
        command_line: Vec::new(),
        tracer_version: "0".into(),
        host: String::new(),
        started: String::new(),
    }
}

fn write_image(directory: &std::path::Path, seed: u64) {
    let region = |start, pages: usize, kind, name: &str| Region {
        start,
        length: (pages * PAGE_BYTES) as u64,
        kind,
        name: name.into(),
        block_offset: 0,
    };
    let mut writer = ImageWriter::create(directory).unwrap();
    let rom = world::initial_bytes(seed, world::ROM_PAGE, world::ROM_PAGES);
    let ram = world::initial_bytes(seed, world::RAM_PAGE, world::RAM_PAGES);
    let at = |page: u64| page * PAGE_BYTES as u64;
    writer
        .add_region(&region(at(world::ROM_PAGE), world::ROM_PAGES, RegionKind::Rom, "rom"), &rom[..])
        .unwrap();
    writer
        .add_region(&region(at(world::RAM_PAGE), world::RAM_PAGES, RegionKind::Ram, "ram"), &ram[..])
        .unwrap();
    writer.add_alias(&region(at(world::ALIAS_PAGE), world::RAM_PAGES, RegionKind::Ram, "ram")).unwrap();
    writer.finish().unwrap();
}

impl Guest {
    fn begin_segment(&mut self) {
        self.world.accessed.clear();
        // A position between two segments is shown from the second, which has accessed nothing yet, or from the first if
        // the second is lost.
        self.samples.retain(|sample| sample.position != self.position);
        // What changes by itself has changed since anybody looked.
        let mut registers = self.cpu.registers();
        for number in self.set.volatile_registers().iter() {
            registers[number] = self.random.u32(..);
        }
        self.cpu = Cpu::new(self.set, &registers);
        self.volatile_known = true;
        self.remapped = false;
        self.world.encoder.begin_segment(self.position, 0, &self.cpu.registers());
    }

    fn finish_segment(&mut self, open_end: bool) {
        self.world.encoder.finish_segment(open_end, &mut self.finished).unwrap();
        self.trace.segment(&self.finished).unwrap();
        self.position += self.finished.head.instructions;
        self.world.end_segment(self.position);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Run { which, seed, stop } => {
                self.run(which, seed, stop, false);
            }
            Step::Nothing { seed } => {
                let block = self.block(255, seed);
                let block = self.enter(block);
                let before = self.cpu.registers();
                self.discontinue(&block, 0, false, &before);
                self.world.encoder.end_block(0);
            }
            Step::Remap { page, to } => self.world.remap(page, to),
            Step::Outside { seed } => self.world.change_from_outside(seed),
            Step::Dma { seed } => self.dma(seed),
            // No segment begins in a delay slot.
            Step::Cut if self.set.is_in_delay_slot(self.cpu.mode()) => {}
            Step::Cut => {
                self.finish_segment(false);
                self.begin_segment();
            }
        }
    }

    /// Devices write to memory between two blocks.
    fn dma(&mut self, seed: u64) {
        let position = self.registers.len() as u64;
        let (writes, places) = self.world.write_from_device(seed, position);
        self.device_writes.extend(writes);
        // What was seen here before is not what the position shows.
        self.samples.retain(|sample| sample.position != position);
        for place in places {
            let address = place.wrapping_add(self.random.u32(..8)).wrapping_sub(2);
            // Where the code is, a replay also shows what executes.
            if address >> 12 != code::slot(0) >> 12 {
                self.take_sample(address);
            }
        }
        self.sample();
    }

    /// What is not known now.
    fn unknown(&self) -> RegisterSet {
        if self.volatile_known { RegisterSet::EMPTY } else { self.set.volatile_registers() }
    }

    /// All registers as some exception or context switch might leave them.
    fn keyframe(&mut self) -> Registers {
        let mut registers = Registers::zero(self.set.register_count());
        registers.iter_mut().for_each(|register| *register = self.random.u32(..));
        for number in [8, 9, 10, 11, 13] {
            registers[number] = self.world.hot_address();
        }
        registers[self.set.program_counter()] = code::slot(self.random.u32(..));
        match self.set {
            InstructionSet::Arm => {
                let (thumb, big_endian) = (self.random.u32(0..3) == 0, self.random.u32(0..8) == 0);
                registers[CPSR] = self.cpsr(thumb, big_endian);
            }
            InstructionSet::Mips(_) => {
                registers[0] = 0;
                registers[mips::STATUS] &= mips::STATUS_BITS;
            }
        }
        registers
    }

    fn cpsr(&mut self, thumb: bool, big_endian: bool) -> u32 {
        // In monitor and hypervisor mode other registers govern translation.
        let modes = [0x10, 0x13, 0x12, 0x17, 0x1f, 0x16, 0x1a];
        let mode = modes[self.random.usize(..if self.remaps { 7 } else { 5 })];
        let flags = self.random.u32(..) & 0xf80f_01c0;
        flags | mode | u32::from(thumb) << 5 | u32::from(big_endian) << 9
    }

    /// A block at the program counter, known or new.
    fn block(&mut self, which: u8, seed: u64) -> usize {
        let (address, mode) = (self.cpu.pc(), self.cpu.mode());
        let here = |block: &&KnownBlock| block.decoded.address() == address && block.decoded.mode() == mode;
        let known: Vec<usize> = (0..self.blocks.len()).filter(|&at| here(&&self.blocks[at])).collect();
        // Mostly the one that came last, often an old one: code that is overwritten, or another address space.
        match which {
            0..=199 if !known.is_empty() => known[known.len() - 1],
            200..=235 if !known.is_empty() => known[usize::from(which) % known.len()],
            _ => self.new_block(address, mode, seed),
        }
    }

    fn new_block(&mut self, address: u32, mode: Mode, seed: u64) -> usize {
        let mut random = fastrand::Rng::with_seed(seed);
        loop {
            let code = match self.set.encoding(mode) {
                Encoding::A32 => code::block(&mut random, address, false),
                Encoding::T32 { .. } => code::block(&mut random, address, true),
                _ => {
                    let in_slot = self.set.is_in_delay_slot(mode);
                    mips::block(&mut random, address, in_slot, self.set.byte_order())
                }
            };
            let Ok(decoded) = Block::decode(self.set, address, mode, &code) else { continue };
            let remaps = |&index| decoded.opaque(usize::from(index)).is_some_and(|opaque| opaque.remaps);
            if !self.remaps && decoded.opaque_indices().iter().any(remaps) {
                continue;
            }
            let same = |block: &KnownBlock| {
                block.decoded.address() == address && block.decoded.mode() == mode && *block.code == *code
            };
            if let Some(at) = self.blocks.iter().position(same) {
                return at;
            }
            self.blocks.push(KnownBlock { code: code.into(), decoded: Rc::new(decoded), id: None });
            return self.blocks.len() - 1;
        }
    }

    fn enter(&mut self, number: usize) -> Rc<Block> {
        let known = &mut self.blocks[number];
        let decoded = Rc::clone(&known.decoded);
        let trace = &mut self.trace;
        let encoder = &mut self.world.encoder;
        let id = *known.id.get_or_insert_with(|| {
            let opaque = decoded.opaque_indices().iter().map(|&index| {
                let opaque = decoded.opaque(usize::from(index)).unwrap();
                OpaqueInstruction { index, memory: opaque.memory, name: trace.name(opaque.mnemonic) }
            });
            let (address, mode) = (decoded.address(), decoded.mode().bits());
            let traits =
                BlockTraits { address, mode, instructions: decoded.len() as u16, opaque: opaque.collect() };
            let id = trace.block(address, mode, &known.code);
            assert_eq!(encoder.define_block(traits), id);
            id
        });
        encoder.enter_block(id);
        decoded
    }

    /// A discontinuity follows a block of which so many instructions started, the last perhaps not to its end.
    /// `before` are the registers before that one: it raised an exception, so they are those that the exception keeps.
    fn discontinue(&mut self, block: &Block, started: usize, stopped: bool, before: &Registers) {
        let last = started.checked_sub(1);
        let opaque = last.and_then(|last| block.opaque(last));
        let mut registers = self.keyframe();
        let told = block.keyframe_after(started);
        for number in self.set.all_registers().without(told).iter() {
            registers[number] = before[number];
        }
        self.cpu = Cpu::new(self.set, &registers);
        self.volatile_known = true;
        // Only imported recordings have gaps (254).
        let (set, may_remap) = (self.set, self.remaps);
        let cause = |random: &mut fastrand::Rng| loop {
            let cause = match random.bool() {
                true => random.u8(..36),
                false => [random.u8(..254), 255][usize::from(random.u8(..) == 0)],
            };
            if may_remap || !Cause::new(set, cause).remaps() {
                return cause;
            }
        };
        let mut causes = vec![cause(&mut self.random)];
        let keyframe: Vec<u32> = told.iter().map(|number| registers[number]).collect();
        self.world.encoder.discontinuity(causes[0], &keyframe);
        while self.random.u8(..4) == 0 {
            let further = cause(&mut self.random);
            causes.push(further);
            self.world.encoder.further_discontinuity(further);
        }
        let status = set.status_register();
        self.remapped |= causes.iter().any(|cause| Cause::new(set, *cause).remaps())
            || set.translates_otherwise(before[status], registers[status]);
        let position = self.registers.len() as u64;
        if self.remapped {
            // A position shows what is behind the discontinuity.
            for sample in self.samples.iter_mut().rev().take_while(|sample| sample.position == position) {
                (sample.byte, sample.provenance) = (None, Provenance::Unknown);
            }
        }
        let at_access = stopped || opaque.is_some_and(|opaque| opaque.memory);
        let (last, to) = (last.map(|last| block.address_of(last)), self.cpu.pc());
        self.discontinuities.push(Discontinuity { position, causes, last, at_access, to });
    }

    /// Runs one block. `open`: the recording ends with it.
    fn run(&mut self, which: u8, seed: u64, stop: Stop, open: bool) -> Left {
        let number = self.block(which, seed);
        let block = self.enter(number);
        let length = block.len();
        let last = match stop {
            Stop::Never | Stop::Fault(_) => length,
            Stop::After(index) | Stop::Interrupt(index) => 1 + usize::from(index) % length,
        };
        self.world.budget = if let Stop::Fault(accesses) = stop { accesses.into() } else { u32::MAX };
        let discontinuity = !open && matches!(stop, Stop::Interrupt(_) | Stop::Fault(_));
        let (mut started, mut stopped, mut left) = (0, false, Left::Normally);
        let mut before = self.cpu.registers();
        for index in 0..last {
            self.world.position = self.registers.len() as u64;
            before = self.cpu.registers();
            self.registers.push(KnownRegisters::new(before, self.unknown()));
            self.volatile_known = false;
            started = index + 1;
            match self.cpu.run(&block, index, index + 1, &mut self.world) {
                Exit::Done => {}
                Exit::Halted(_) => {
                    left = Left::Open(self.set.all_registers());
                    stopped = true;
                    break;
                }
                Exit::Opaque(_) => {
                    let results = index + 1 < last || !(discontinuity || open);
                    let fault = !self.opaque_accesses(&block, index, last);
                    let unknown = self.complete_opaque(&block, index, results && !fault);
                    if fault || !results {
                        left = Left::Open(unknown);
                    }
                    if fault {
                        break;
                    }
                }
            }
            self.sample();
        }
        let fault = matches!(left, Left::Open(_)) && matches!(stop, Stop::Fault(_));
        if discontinuity || fault && !open {
            self.discontinue(&block, started, stopped, &before);
        }
        self.sample();
        self.world.encoder.end_block(started as u32);
        left
    }

    /// False: it faulted in the middle.
    fn opaque_accesses(&mut self, block: &Block, index: usize, last: usize) -> bool {
        if !block.opaque(index).unwrap().memory {
            return true;
        }
        for _ in 0..self.random.u32(..4) {
            let mut flags = self.random.u8(..) % 5;
            if self.random.bool() {
                flags |= access::STORE;
            }
            if self.random.bool() {
                flags |= access::BIG_ENDIAN;
            }
            // As the plugin does it where QEMU runs the instruction again in a block of its own.
            let alone = index + 1 == last && self.world.budget == u32::MAX && self.random.bool();
            let index = if alone { LAST_STARTED } else { index as u16 };
            let address = self.world.hot_address();
            if !self.world.opaque_access(index, address, flags, self.random.u128(..)) {
                return false;
            }
        }
        true
    }

    /// Gives an opaque instruction results. Returns the registers that are unknown to those who have not seen them.
    fn complete_opaque(&mut self, block: &Block, index: usize, tell: bool) -> RegisterSet {
        let opaque = block.opaque(index).unwrap();
        self.remapped |= opaque.remaps;
        let before = self.cpu.status();
        let pc = self.set.program_counter();
        let branches = opaque.writes.contains(pc);
        let mut after = before;
        if self.set == InstructionSet::Arm && opaque.writes.contains(CPSR) {
            let last = index + 1 == block.len();
            let big_endian = if last { self.random.u32(0..4) == 0 } else { before >> 9 & 1 != 0 };
            let thumb = self.random.bool();
            after = self.cpsr(thumb, big_endian);
            if opaque.may_write() == opaque.writes {
                after = after & !0x1f | before & 0x1f;
            }
            if !branches {
                // QEMU does not keep these bits in the register inside a block: anything may be read there.
                after |= self.random.u32(..) & 0x0600_fc20;
            }
        }
        let is_arm = self.set == InstructionSet::Arm;
        let results: Result<_, Infallible> = opaque.results(before, |register| {
            let value = match register {
                CPSR if is_arm => after,
                mips::STATUS if !is_arm => self.random.u32(..) & mips::STATUS_BITS,
                _ if register == pc => code::slot(self.random.u32(..)),
                8..=11 | 13 => self.world.hot_address(),
                _ => self.random.u32(..),
            };
            if tell {
                self.world.encoder.opaque_results(&[value]);
            }
            Ok(value)
        });
        self.remapped |= is_arm && tell && self.set.translates_otherwise(before, after);
        self.volatile_known = tell && opaque.writes.intersects(self.set.volatile_registers());
        self.cpu.complete_opaque(block, index, &results.unwrap()).unwrap();
        // It may have ended in an exception, which also changes the stack pointer, the link register, and where to go on.
        opaque.may_write() | self.set.exception_registers()
    }

    fn sample(&mut self) {
        if self.random.u32(..8) > 0 {
            return;
        }
        for _ in 0..4 {
            let address = self.world.hot_address().wrapping_add(self.random.u32(..64)).wrapping_sub(32);
            self.take_sample(address);
        }
    }

    fn take_sample(&mut self, address: u32) {
        let (byte, provenance) = match self.world.known(address).filter(|_| !self.remapped) {
            Some((byte, provenance)) => (Some(byte), provenance),
            None => (None, Provenance::Unknown),
        };
        let position = self.registers.len() as u64;
        self.samples.push(Sample { position, address, byte, provenance });
    }
}
