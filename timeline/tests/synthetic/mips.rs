//! Random MIPS code: branches of all kinds with and without their delay slots, loads and stores of all kinds around the hot
//! addresses, arithmetic, opaque instructions.

use fastrand::Rng;
use ktrace_machine::ByteOrder;

use super::code::slot;

/// The number of Status.
pub const STATUS: usize = 32;
/// Bits of Status that it may have here: not ERL, which would map all of the lower half of memory.
pub const STATUS_BITS: u32 = !4;

/// Registers with hot addresses.
const BASES: [u32; 5] = [8, 9, 10, 11, 13];

/// The code of a block, a few instructions; of a block that begins in a delay slot, that instruction.
pub fn block(random: &mut Rng, address: u32, in_slot: bool, order: ByteOrder) -> Vec<u8> {
    let mut words = Vec::new();
    if in_slot {
        words.push(plain(random));
    } else {
        words.extend((0..random.u32(1..9)).map(|_| plain(random)));
        if random.u32(..4) > 0 {
            branch(random, address, &mut words);
            // Often QEMU's block ends before the slot.
            if random.u32(..3) > 0 {
                words.push(plain(random));
            }
        } else if random.bool() {
            // eret, syscall, wait, an unknown encoding
            words.push([0x4200_0018, 0x0000_000c, 0x4200_0020, 0x7000_003e][random.usize(..4)]);
        }
    }
    let bytes = |word: u32| if order == ByteOrder::Big { word.to_be_bytes() } else { word.to_le_bytes() };
    words.into_iter().flat_map(bytes).collect()
}

fn branch(random: &mut Rng, address: u32, words: &mut Vec<u32>) {
    let target = slot(random.u32(..));
    let here = address.wrapping_add(4 * words.len() as u32);
    let offset = target.wrapping_sub(here.wrapping_add(4)) >> 2 & 0xffff;
    let (rs, rt) = (random.u32(..8) << 21, random.u32(..8) << 16);
    match random.u32(..12) {
        // beq, bne, and the same likely
        number @ 0..=3 => words
            .push([0x1000_0000, 0x1400_0000, 0x5000_0000, 0x5400_0000][number as usize] | rs | rt | offset),
        // blez, bgtz, and the same likely
        number @ 4..=7 => words
            .push([0x1800_0000, 0x1c00_0000, 0x5800_0000, 0x5c00_0000][number as usize - 4] | rs | offset),
        // bltzal, bgezall
        8 => words.push([0x0410_0000, 0x0413_0000][random.usize(..2)] | rs | offset),
        // j, jal
        9 | 10 => words.push([0x0800_0000, 0x0c00_0000][random.usize(..2)] | target >> 2 & 0x3ff_ffff),
        // ori t9, zero, target; jr t9
        _ => words.extend([0x3419_0000 | target, 0x0320_0008]),
    }
}

fn plain(random: &mut Rng) -> u32 {
    let (rs, rt, rd) = (random.u32(..8) << 21, random.u32(..8) << 16, random.u32(..8) << 11);
    let base = BASES[random.usize(..BASES.len())] << 21;
    let offset = random.u32(..24);
    match random.u32(..32) {
        0 => 0x2400_0000 | rs | rt | random.u32(..0x1_0000),
        // sll, srl, sra, movz, movn, mult, mfhi, mflo, addu, subu, and, or, xor, nor, slt, sltu
        1..=6 => {
            const FUNCTIONS: [u32; 16] = [
                0x00, 0x02, 0x03, 0x0a, 0x0b, 0x18, 0x10, 0x12, 0x21, 0x23, 0x24, 0x25, 0x26, 0x27, 0x2a,
                0x2b,
            ];
            match FUNCTIONS[random.usize(..16)] {
                function @ 0x00..=0x03 => rt | rd | random.u32(..32) << 6 | function,
                0x18 => rs | rt | 0x18,
                function @ (0x10 | 0x12) => rd | function,
                function => rs | rt | rd | function,
            }
        }
        // lb, lh, lwl, lw, lbu, lhu, lwr, sb, sh, swl, sw, swr
        7..=19 => {
            const OPCODES: [u32; 12] =
                [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x28, 0x29, 0x2a, 0x2b, 0x2e];
            OPCODES[random.usize(..12)] << 26 | base | rt | offset
        }
        // ll, sc
        20 => [0x30, 0x38][random.usize(..2)] << 26 | base | rt | offset & !3,
        // lwc1, swc1
        21 => [0x31, 0x39][random.usize(..2)] << 26 | base | rt | offset & !3,
        // mfc0, mtc0 of Count, Status, Cause, EPC
        22..=24 => 0x4000_0000 | random.u32(..2) << 23 | rt | [9, 12, 13, 14][random.usize(..4)] << 11,
        // mfc1, mtc1
        25 => 0x4400_0000 | random.u32(..2) << 23 | rt | rd,
        // add.s
        26 => 0x4600_0000 | rt | rd | random.u32(..8) << 6,
        // tlbwi, tlbr
        27 => [0x4200_0002, 0x4200_0001][random.usize(..2)],
        // div, multu
        28 => rs | rt | [0x1a, 0x19][random.usize(..2)],
        // teq
        29 => rs | rt | 0x34,
        _ => 0,
    }
}
