//! Random code: loads and stores of all kinds around the hot addresses, arithmetic, branches, opaque instructions.

use fastrand::Rng;

/// The address of one of the few places that branches go to.
pub fn slot(number: u32) -> u32 {
    0x8000 + 64 * (number % 6)
}

/// Registers with hot addresses in A32; in T32 mostly the stack pointer has.
const BASES: [u32; 5] = [8, 9, 10, 11, 13];

/// The code of a block, a few instructions.
pub fn block(random: &mut Rng, address: u32, thumb: bool) -> Vec<u8> {
    let count = random.u32(1..9);
    let mut code = Vec::new();
    for _ in 0..count {
        if thumb {
            for half in t32(random) {
                code.extend(half.to_le_bytes());
            }
        } else {
            code.extend(a32(random).to_le_bytes());
        }
    }
    let here = address.wrapping_add(code.len() as u32);
    let target = slot(random.u32(..));
    match (random.u32(0..4), thumb) {
        (0 | 1, false) => {
            let offset = target.wrapping_sub(here.wrapping_add(8)) >> 2 & 0xff_ffff;
            code.extend((condition(random) | 0x0a00_0000 | offset).to_le_bytes());
        }
        (2, false) => {
            let offset = target.wrapping_sub(here.wrapping_add(8)) >> 2 & 0xff_ffff;
            code.extend((0xfa00_0000 | offset).to_le_bytes());
        }
        (0 | 1, true) => {
            let offset = target.wrapping_sub(here.wrapping_add(4)) >> 1 & 0x7ff;
            code.extend((0xe000 | offset as u16).to_le_bytes());
        }
        _ => {}
    }
    code
}

fn condition(random: &mut Rng) -> u32 {
    (if random.bool() { 14 } else { random.u32(0..14) }) << 28
}

fn a32(random: &mut Rng) -> u32 {
    let always = 14 << 28;
    let condition = condition(random);
    let (rd, rm) = (random.u32(0..8) << 12, random.u32(0..8));
    let rn = BASES[random.usize(..BASES.len())] << 16;
    let up = random.u32(0..2) << 23;
    let load = random.u32(0..2) << 20;
    match random.u32(0..32) {
        0 => condition | 0x0320_f000,
        1 => condition | 0x03a0_0000 | rd | random.u32(0..256),
        2 => condition | 0x0090_0000 | rm << 16 | rd | random.u32(0..8),
        3 => condition | 0x0020_0000 | rm << 16 | rd | random.u32(0..8),
        4..=11 => {
            let byte = random.u32(0..2) << 22;
            condition | 0x0500_0000 | up | byte | load | rn | rd | random.u32(0..24)
        }
        12 | 13 => condition | 0x0400_0000 | up | load | rn | rd | random.u32(0..8),
        14..=17 => condition | 0x0140_00b0 | up | load | rn | rd | random.u32(0..16),
        18..=20 => {
            let store = random.u32(0..2) << 5;
            condition | 0x0140_00d0 | up | store | rn | rd & !0x1000 | random.u32(0..16)
        }
        21..=24 => {
            let (before, writeback) = (random.u32(0..2) << 24, random.u32(0..2) << 21);
            condition | 0x0800_0000 | before | up | writeback | load | rn | random.u32(1..256)
        }
        25 => condition | 0x0e11_0f10 | rd,
        26 => condition | 0x0e01_0f10 | rd,
        27 => condition | 0x0190_0f9f | rn | rd,
        28 => always | 0x0180_0f90 | rn | rd | rm,
        29 => always | 0x0c90_0b08 | rn,
        30 => always | [0x0121_f000 | rm, 0x07f0_00f0, 0x0f00_0000][random.usize(..3)],
        _ => [0xf102_0013, 0xf57f_f01f, 0xe1a0_0000][random.usize(..3)],
    }
}

fn t32(random: &mut Rng) -> Vec<u16> {
    let (rd, rn) = (random.u16(0..8), random.u16(0..8));
    let base = [8, 9, 10, 11, 13][random.usize(..5)];
    match random.u32(0..16) {
        0 => vec![0xbf00],
        1 => vec![0x2000 | rd << 8 | random.u16(0..256)],
        2 => vec![0x1800 | rn << 6 | rd << 3 | random.u16(0..8)],
        3 | 4 => vec![0x9000 | random.u16(0..2) << 11 | rd << 8 | random.u16(0..8)],
        5 => vec![0x6000 | random.u16(0..2) << 11 | random.u16(0..32) << 6 | rn << 3 | rd],
        6 => vec![0xb400 | random.u16(1..256)],
        7 => vec![0xbc00 | random.u16(1..256)],
        8 | 9 => vec![0xf8c0 | random.u16(0..2) << 4 | base, rd << 12 | random.u16(0..24)],
        10 => vec![0xe9c0 | random.u16(0..2) << 4 | base, rd << 12 | ((rd + 1) % 8) << 8 | random.u16(0..8)],
        11 => vec![0xbf00 | random.u16(0..14) << 4 | random.u16(1..16)],
        12 => vec![0xe850 | base, rd << 12 | 0xf00],
        13 => vec![0xee11, rd << 12 | 0xf10],
        14 => vec![0xee01, rd << 12 | 0xf10],
        _ => vec![[0xdf00, 0xde00, 0xbf30][random.usize(..3)]],
    }
}
