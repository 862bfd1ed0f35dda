//! The guest's memory, what is behind virtual pages, and the recorder's side of each access and of each device's write.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use ktrace_format::memory::{Image, RegionKind};
use ktrace_format::segment::access;
use ktrace_format::segment::encoder::{Encoder, InitialMemory, NameId};
use ktrace_format::shadow::Target;
use ktrace_machine::bus::{AccessSize, Bus, Halt};

use ktrace_timeline::provenance::Provenance;

use super::{DeviceAccess, DeviceWrite, Setup};

/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;
/// Virtual pages that most accesses go to.
pub const HOT_PAGES: u32 = 6;
pub(super) const ROM_PAGE: u64 = 0x10;
pub(super) const ROM_PAGES: usize = 2;
pub(super) const RAM_PAGE: u64 = 0x4_0000;
pub(super) const RAM_PAGES: usize = 5;
/// The same RAM once more.
pub(super) const ALIAS_PAGE: u64 = 0x8_0000;
const HOT: u32 = 0x1000_0000;
/// Also the last pages and the first count as hot: accesses wrap around between them.
const TOP: u32 = 0xffff_f000;

/// What a physical page holds before the first instruction.
pub(super) fn initial_bytes(seed: u64, page: u64, pages: usize) -> Vec<u8> {
    let byte = |at: usize| (seed ^ page).wrapping_mul(at as u64 | 1).rotate_left(23) as u8;
    (0..pages * PAGE_BYTES).map(byte).collect()
}

/// What is really behind a virtual page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Memory(u64),
    Device(u32),
}

fn canonical(page: u64) -> u64 {
    if page >= ALIAS_PAGE { page - ALIAS_PAGE + RAM_PAGE } else { page }
}

fn is_rom(page: u64) -> bool {
    page < RAM_PAGE
}

/// What last happened to a byte in the present segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touched {
    /// A load was the first to touch it, and found what was known before.
    Confirmed,
    /// It is this because of that.
    Changed(Provenance),
}

/// What a segment did to a line.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// Position after the segment.
    by: u64,
    /// Bytes that a device wrote last.
    device: u64,
}

/// What a recording can know of where bytes come from. Pages are those that the recorder knows.
#[derive(Debug, Default)]
struct Origins {
    /// Of the present segment, by page and offset.
    touched: HashMap<(u64, u32), Touched>,
    /// Of the present segment: lines of which a byte was changed, or found changed, by page and line.
    changed: HashSet<(u64, u32)>,
    /// Of earlier segments, the last that changed the line.
    left: HashMap<(u64, u32), Line>,
}

impl Origins {
    fn change(&mut self, page: u64, offset: u32, provenance: Provenance) {
        self.touched.insert((page, offset), Touched::Changed(provenance));
        self.changed.insert((page, offset / 64));
    }

    fn end_segment(&mut self, by: u64) {
        for (page, line) in self.changed.drain() {
            let device = |byte: u32| {
                let touched = self.touched.get(&(page, 64 * line + byte));
                matches!(touched, Some(Touched::Changed(Provenance::Device { .. })))
            };
            let device = (0..64).filter(|byte| device(*byte)).fold(0, |set, byte| set | 1 << byte);
            self.left.insert((page, line), Line { by, device });
        }
        self.touched.clear();
    }

    fn of(&self, page: u64, offset: u32) -> Provenance {
        match self.touched.get(&(page, offset)) {
            Some(Touched::Changed(provenance)) => *provenance,
            _ => match self.left.get(&(page, offset / 64)) {
                Some(Line { by, device }) => {
                    Provenance::LeftBy { by: *by, device: device >> (offset % 64) & 1 != 0 }
                }
                None => Provenance::Initial,
            },
        }
    }
}

/// The initial memory as the plugin finds it in the image.
pub struct Initial(Option<Image>);

impl InitialMemory for Initial {
    fn fill(&self, page: u64, data: &mut [u8; PAGE_BYTES], known: &mut [u64; 64]) {
        let Some(image) = &self.0 else { return };
        let address = page * PAGE_BYTES as u64;
        for offset in image.read(address, data).into_iter().flatten() {
            known[offset / 64] |= 1 << (offset % 64);
        }
    }

    fn is_read_only(&self, page: u64) -> bool {
        let region = self.0.as_ref().and_then(|image| image.region(page * PAGE_BYTES as u64));
        region.is_some_and(|region| region.kind == RegionKind::Rom)
    }

    fn canonical(&self, page: u64) -> u64 {
        self.0.as_ref().map_or(page, |image| image.canonical(page * PAGE_BYTES as u64) / PAGE_BYTES as u64)
    }
}

/// See the [module](self).
pub struct World {
    pub encoder: Encoder<Initial>,
    /// Accesses that the block may still make.
    pub budget: u32,
    random: fastrand::Rng,
    image: bool,
    /// By canonical page.
    memory: HashMap<u64, Vec<u8>>,
    table: HashMap<u32, Behind>,
    told: HashMap<u32, Behind>,
    /// Virtual pages that this segment has accessed: of the others nothing says what is behind them now.
    pub accessed: HashSet<u32>,
    /// What a recording can know: the last value that was seen, by the page that the recorder knows and the offset.
    seen: HashMap<(u64, u32), u8>,
    origins: Origins,
    /// Position of the instruction that runs.
    pub position: u64,
    pub device_accesses: Vec<DeviceAccess>,
}

impl World {
    pub fn new(directory: &Path, setup: Setup) -> World {
        let (rom, ram) =
            (initial_bytes(setup.seed, ROM_PAGE, ROM_PAGES), initial_bytes(setup.seed, RAM_PAGE, RAM_PAGES));
        let pages = (ROM_PAGE..).zip(rom.chunks(PAGE_BYTES)).chain((RAM_PAGE..).zip(ram.chunks(PAGE_BYTES)));
        let memory: HashMap<u64, Vec<u8>> = pages.map(|(page, bytes)| (page, bytes.to_vec())).collect();
        let mut seen = HashMap::new();
        if setup.image {
            for (&page, bytes) in &memory {
                seen.extend((0..).zip(bytes).map(|(offset, byte)| ((page, offset), *byte)));
            }
        }
        World {
            encoder: Encoder::new(Initial(Image::open(directory).ok())).unwrap(),
            budget: u32::MAX,
            random: fastrand::Rng::with_seed(!setup.seed),
            image: setup.image,
            memory,
            table: HashMap::new(),
            told: HashMap::new(),
            accessed: HashSet::new(),
            seen,
            origins: Origins::default(),
            position: 0,
            device_accesses: Vec::new(),
        }
    }

    /// An address that accesses like: often just before the end of a page, rarely at the end of the address space.
    pub fn hot_address(&mut self) -> u32 {
        let page = match self.random.u32(..12) {
            0 => TOP,
            1 => 0,
            _ => HOT + (self.random.u32(..HOT_PAGES) << 12),
        };
        let offset = if self.random.bool() { 0xff0 + self.random.u32(..16) } else { self.random.u32(..256) };
        page + offset
    }

    fn choice(&self, to: u8) -> Behind {
        match u64::from(to % 12) {
            page @ 0..=4 => Behind::Memory(RAM_PAGE + page),
            page @ 5..=7 => Behind::Memory(ALIAS_PAGE + page - 5),
            // Without an image nobody can tell that stores to ROM are dropped.
            page @ 8..=9 if self.image => Behind::Memory(ROM_PAGE + page - 8),
            page => Behind::Device(page as u32 & 1),
        }
    }

    pub fn remap(&mut self, page: u8, to: u8) {
        let behind = self.choice(to);
        self.table.insert((HOT >> 12) + u32::from(page), behind);
    }

    pub fn change_from_outside(&mut self, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..random.u32(1..40) {
            let page = RAM_PAGE + random.u64(..RAM_PAGES as u64);
            let offset = if random.bool() { 0xff0 + random.usize(..16) } else { random.usize(..256) };
            self.memory.get_mut(&page).unwrap()[offset] = random.u8(..);
        }
    }

    /// A device writes to memory: some bytes, often at an end of a page, mostly where they matter. Returns what the
    /// recording has of it, and virtual addresses that may show it.
    pub fn write_from_device(&mut self, seed: u64, position: u64) -> (Vec<DeviceWrite>, Vec<u32>) {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut writes, mut places) = (Vec::new(), Vec::new());
        for _ in 0..random.u32(1..4) {
            let length = [random.usize(1..8), random.usize(1..200), random.usize(1..9000)][random.usize(..3)];
            // To ROM, too: that is how flash memory is programmed. Without an image nobody knows that it is ROM.
            let (first, pages) = match random.u32(..8) {
                0 if self.image => (ROM_PAGE, ROM_PAGES),
                1 | 2 => (ALIAS_PAGE, RAM_PAGES),
                _ => (RAM_PAGE, RAM_PAGES),
            };
            let start = first * PAGE_BYTES as u64;
            let end = start + (pages * PAGE_BYTES) as u64;
            let offset = if random.bool() { 0xff0 + random.u64(..16) } else { random.u64(..256) };
            let physical = start + random.u64(..pages as u64) * PAGE_BYTES as u64 + offset;
            let bytes: Vec<u8> = (0..length.min((end - physical) as usize)).map(|_| random.u8(..)).collect();
            self.encoder.device_write(physical, &bytes);
            for (here, byte) in (physical..).zip(&bytes) {
                let (page, offset) = (here / PAGE_BYTES as u64, here as usize % PAGE_BYTES);
                self.memory.get_mut(&canonical(page)).unwrap()[offset] = *byte;
                let recorded = self.recorded_page(page);
                self.seen.insert((recorded, offset as u32), *byte);
                self.origins.change(recorded, offset as u32, Provenance::Device { at: position });
            }
            let recorded = self.recorded_page(physical / PAGE_BYTES as u64) * PAGE_BYTES as u64
                + physical % PAGE_BYTES as u64;
            writes.push(DeviceWrite { position, physical: recorded, bytes: bytes.len() as u64 });
            places.extend(self.addresses_of(recorded));
        }
        (writes, places)
    }

    /// Virtual addresses that show a physical one, as this segment's accesses tell.
    fn addresses_of(&self, recorded: u64) -> Vec<u32> {
        let shows = |page: &u32| match self.told.get(page) {
            Some(Behind::Memory(number)) => self.recorded_page(*number) == recorded / PAGE_BYTES as u64,
            _ => false,
        };
        let pages = self.accessed.iter().copied().filter(shows);
        pages.map(|page| page << 12 | (recorded % PAGE_BYTES as u64) as u32).collect()
    }

    /// A segment has ended.
    pub fn end_segment(&mut self, by: u64) {
        self.origins.end_segment(by);
    }

    fn behind(&self, address: u32) -> Behind {
        let page = address >> 12;
        self.table.get(&page).copied().unwrap_or_else(|| self.choice((page ^ page >> 8) as u8))
    }

    /// The page under which the recorder knows memory: only an image tells it of aliases.
    fn recorded_page(&self, page: u64) -> u64 {
        if self.image { canonical(page) } else { page }
    }

    /// What a recording can say of a byte: its value, and where that comes from.
    pub fn known(&self, address: u32) -> Option<(u8, Provenance)> {
        match self.told.get(&(address >> 12)).filter(|_| self.accessed.contains(&(address >> 12)))? {
            Behind::Memory(page) => {
                let (page, offset) = (self.recorded_page(*page), address & 0xfff);
                Some((*self.seen.get(&(page, offset))?, self.origins.of(page, offset)))
            }
            Behind::Device(_) => None,
        }
    }

    fn spend(&mut self) -> bool {
        let left = self.budget.checked_sub(1);
        self.budget = left.unwrap_or(0);
        left.is_some()
    }

    fn read(&mut self, address: u32) -> u8 {
        match self.behind(address) {
            Behind::Memory(page) => self.memory[&canonical(page)][address as usize % PAGE_BYTES],
            Behind::Device(_) => self.random.u8(..),
        }
    }

    fn write(&mut self, address: u32, byte: u8) {
        let Behind::Memory(page) = self.behind(address) else { return };
        if !is_rom(page) {
            self.memory.get_mut(&canonical(page)).unwrap()[address as usize % PAGE_BYTES] = byte;
            let (page, offset) = (self.recorded_page(page), address & 0xfff);
            self.seen.insert((page, offset), byte);
            self.origins.change(page, offset, Provenance::Store { at: self.position });
        }
    }

    /// A load showed a byte.
    fn learn(&mut self, address: u32, byte: u8) {
        if let Behind::Memory(page) = self.behind(address) {
            let place = (self.recorded_page(page), address & 0xfff);
            if self.seen.insert(place, byte) == Some(byte) {
                self.origins.touched.entry(place).or_insert(Touched::Confirmed);
            } else {
                self.origins.change(place.0, place.1, Provenance::Load { at: self.position });
            }
        }
    }

    /// Tells what is behind an access, as the plugin does. Returns the device's name and the physical address, if any of it
    /// is a device.
    fn look(&mut self, address: u32, bytes: usize) -> Option<(u32, u64)> {
        let last = address.wrapping_add(bytes as u32 - 1);
        let second = (address >> 12 != last >> 12).then_some(last & !0xfff);
        let mut device = None;
        for address in std::iter::once(address).chain(second) {
            let behind = self.behind(address);
            self.accessed.insert(address >> 12);
            if self.told.insert(address >> 12, behind) != Some(behind) {
                let target = match behind {
                    Behind::Memory(page) => Target::Ram(page),
                    Behind::Device(_) => Target::Device,
                };
                self.encoder.map(address, target);
            }
            if let Behind::Device(name) = behind {
                device.get_or_insert((name, 0x900_0000 | u64::from(address & 0xfff)));
            }
        }
        if let Some((name, physical)) = device {
            self.encoder.device(NameId(name), physical);
        }
        device
    }

    fn note_access(
        &mut self,
        device: Option<(u32, u64)>,
        address: u32,
        bytes: usize,
        store: bool,
        value: u128,
    ) {
        if let Some((name, physical)) = device {
            let position = self.position;
            self.device_accesses.push(DeviceAccess {
                position,
                name,
                physical,
                address,
                bytes,
                store,
                value,
            });
        }
    }

    /// An opaque instruction's access. False: it faults.
    pub fn opaque_access(&mut self, index: u16, address: u32, flags: u8, stored: u128) -> bool {
        if !self.spend() {
            return false;
        }
        let size = 1usize << (flags & access::SIZE);
        let at = |offset: usize| address.wrapping_add(offset as u32);
        let device = self.look(address, size);
        let mut memory = [0; 16];
        if flags & access::STORE != 0 {
            memory[..size].copy_from_slice(&stored.to_le_bytes()[..size]);
            (0..size).for_each(|offset| self.write(at(offset), memory[offset]));
        } else {
            for (offset, byte) in memory.iter_mut().take(size).enumerate() {
                *byte = self.read(at(offset));
                self.learn(at(offset), *byte);
            }
        }
        if flags & access::BIG_ENDIAN != 0 {
            memory[..size].reverse();
        }
        let value = u128::from_le_bytes(memory);
        self.encoder.opaque_access(index, address, flags, value as u64, (value >> 64) as u64);
        self.note_access(device, address, size, flags & access::STORE != 0, value);
        true
    }
}

impl Bus for World {
    fn load(&mut self, address: u32, size: AccessSize) -> Result<u64, Halt> {
        if !self.spend() {
            return Err(Halt);
        }
        let bytes = size as usize;
        let mut value = [0; 8];
        for (offset, byte) in (0..).zip(&mut value[..bytes]) {
            *byte = self.read(address.wrapping_add(offset));
        }
        let device = self.look(address, bytes);
        self.encoder.load(address, bytes as u8, u64::from_le_bytes(value));
        self.note_access(device, address, bytes, false, u64::from_le_bytes(value).into());
        if device.is_none() {
            (0..)
                .zip(&value[..bytes])
                .for_each(|(offset, byte)| self.learn(address.wrapping_add(offset), *byte));
        }
        Ok(u64::from_le_bytes(value))
    }

    fn store(&mut self, address: u32, size: AccessSize, value: u64) -> Result<(), Halt> {
        if !self.spend() {
            return Err(Halt);
        }
        let bytes = size as usize;
        let memory = &value.to_le_bytes()[..bytes];
        let device = self.look(address, bytes);
        let mut masked = [0; 8];
        masked[..bytes].copy_from_slice(memory);
        self.encoder.store(address, bytes as u8, u64::from_le_bytes(masked));
        self.note_access(device, address, bytes, true, u64::from_le_bytes(masked).into());
        (0..).zip(memory).for_each(|(offset, byte)| self.write(address.wrapping_add(offset), *byte));
        Ok(())
    }
}
