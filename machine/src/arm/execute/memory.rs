//! Loads and stores, and the addresses that they use.

use super::Target;
use crate::arm::arithmetic::shift;
use crate::arm::cpu::Cpu;
use crate::arm::instruction::{Address, Index, Offset, Register, Width};
use crate::arm::lower::multiple_offsets;
use crate::bus::{AccessSize, Bus, Halt};

/// The address of an access, and what the base register becomes.
struct Addresses {
    access: u32,
    write_back: Option<(Register, u32)>,
}

fn addresses(cpu: &Cpu, address: Address) -> Addresses {
    let base = if address.base == 15 { cpu.get(15) & !3 } else { cpu.get(address.base) };
    let moved = match address.offset {
        Offset::Immediate(offset) => base.wrapping_add_signed(offset),
        Offset::Register { rm, shift: by, subtract } => {
            let offset = shift(cpu.get(rm), by, cpu.c);
            if subtract { base.wrapping_sub(offset) } else { base.wrapping_add(offset) }
        }
    };
    let write_back = Some((address.base, moved));
    match address.index {
        Index::Offset => Addresses { access: moved, write_back: None },
        Index::Pre => Addresses { access: moved, write_back },
        Index::Post => Addresses { access: base, write_back },
    }
}

impl Addresses {
    fn finish(self, cpu: &mut Cpu) {
        if let Some((base, value)) = self.write_back {
            cpu.set(base, value);
        }
    }
}

fn size(width: Width) -> AccessSize {
    match width {
        Width::Byte | Width::SignedByte => AccessSize::Byte,
        Width::Half | Width::SignedHalf => AccessSize::Half,
        Width::Word => AccessSize::Word,
    }
}

/// Loads and writes back; the caller then sets the destination, so that a loaded base wins.
pub(super) fn load<B: Bus>(cpu: &mut Cpu, width: Width, address: Address, bus: &mut B) -> Result<u32, Halt> {
    let addresses = addresses(cpu, address);
    let value = bus.load(addresses.access, size(width))?;
    addresses.finish(cpu);
    Ok(match width {
        Width::Byte => u32::from(value as u8),
        Width::SignedByte => i32::from(value as i8) as u32,
        Width::Half => u32::from(value as u16),
        Width::SignedHalf => i32::from(value as i16) as u32,
        Width::Word => value as u32,
    })
}

pub(super) fn store<B: Bus>(
    cpu: &mut Cpu,
    width: Width,
    rt: Register,
    address: Address,
    bus: &mut B,
) -> Result<(), Halt> {
    let addresses = addresses(cpu, address);
    let value = match width {
        Width::Byte | Width::SignedByte => cpu.get(rt) & 0xff,
        Width::Half | Width::SignedHalf => cpu.get(rt) & 0xffff,
        Width::Word => cpu.get(rt),
    };
    bus.store(addresses.access, size(width), value.into())?;
    addresses.finish(cpu);
    Ok(())
}

pub(super) fn load_dual<B: Bus>(
    cpu: &mut Cpu,
    rt: Register,
    rt2: Register,
    address: Address,
    bus: &mut B,
) -> Result<(), Halt> {
    let addresses = addresses(cpu, address);
    let value = bus.load(addresses.access, AccessSize::Double)?;
    cpu.set(rt, value as u32);
    cpu.set(rt2, (value >> 32) as u32);
    addresses.finish(cpu);
    Ok(())
}

pub(super) fn store_dual<B: Bus>(
    cpu: &mut Cpu,
    rt: Register,
    rt2: Register,
    address: Address,
    bus: &mut B,
) -> Result<(), Halt> {
    let addresses = addresses(cpu, address);
    let value = u64::from(cpu.get(rt)) | u64::from(cpu.get(rt2)) << 32;
    bus.store(addresses.access, AccessSize::Double, value)?;
    addresses.finish(cpu);
    Ok(())
}

pub(super) fn load_multiple<B: Bus>(
    cpu: &mut Cpu,
    base: Register,
    list: u16,
    increment: bool,
    before: bool,
    writeback: bool,
    bus: &mut B,
) -> Result<Option<Target>, Halt> {
    let (start, step) = multiple_offsets(list, increment, before);
    let original = cpu.get(base);
    let mut address = original.wrapping_add_signed(start.into());
    let mut values = [0; 16];
    for register in (0..16u8).filter(|register| list >> register & 1 != 0) {
        values[usize::from(register)] = bus.load(address, AccessSize::Word)? as u32;
        address = address.wrapping_add(4);
    }
    if writeback {
        cpu.set(base, original.wrapping_add_signed(step.into()));
    }
    for register in (0..15u8).filter(|register| list >> register & 1 != 0) {
        cpu.set(register, values[usize::from(register)]);
    }
    Ok((list & 1 << 15 != 0).then(|| Target::interworking(values[15])))
}

pub(super) fn store_multiple<B: Bus>(
    cpu: &mut Cpu,
    base: Register,
    list: u16,
    increment: bool,
    before: bool,
    writeback: bool,
    bus: &mut B,
) -> Result<(), Halt> {
    let (start, step) = multiple_offsets(list, increment, before);
    let original = cpu.get(base);
    let mut address = original.wrapping_add_signed(start.into());
    for register in (0..16u8).filter(|register| list >> register & 1 != 0) {
        bus.store(address, AccessSize::Word, cpu.get(register).into())?;
        address = address.wrapping_add(4);
    }
    if writeback {
        cpu.set(base, original.wrapping_add_signed(step.into()));
    }
    Ok(())
}

/// The entry that TBB and TBH load.
pub(super) fn table_entry<B: Bus>(
    cpu: &Cpu,
    rn: Register,
    rm: Register,
    halfword: bool,
    bus: &mut B,
) -> Result<u32, Halt> {
    let scale = if halfword { 1 } else { 0 };
    let address = cpu.get(rn).wrapping_add(cpu.get(rm) << scale);
    if halfword {
        Ok(bus.load(address, AccessSize::Half)? as u32 & 0xffff)
    } else {
        Ok(bus.load(address, AccessSize::Byte)? as u32 & 0xff)
    }
}
