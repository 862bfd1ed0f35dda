//! How fast the MIPS executor is by itself: a loop of ordinary integer code over a memory that is one small array, in both
//! byte orders.
//!
//! `cargo bench -p ktrace-machine` reports elements per second; an element is an instruction.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ktrace_machine::bus::{AccessSize, Bus, Halt};
use ktrace_machine::mips::Mode;
use ktrace_machine::mips::block::Block;
use ktrace_machine::mips::cpu::{Cpu, Exit, Registers};

/// 64 KiB that repeat through the whole address space, and room for an access at their end.
struct Memory(Box<[u8; 0x1_0008]>);

impl Memory {
    fn at(address: u32) -> usize {
        address as usize & 0xffff
    }
}

impl Bus for Memory {
    #[inline(always)]
    fn load(&mut self, address: u32, size: AccessSize) -> Result<u64, Halt> {
        let at = Memory::at(address);
        let bytes: [u8; 8] = self.0[at..at + 8].try_into().map_err(|_| Halt)?;
        Ok(u64::from_le_bytes(bytes) & u64::MAX >> (64 - 8 * size as u32))
    }

    #[inline(always)]
    fn store(&mut self, address: u32, size: AccessSize, value: u64) -> Result<(), Halt> {
        let at = Memory::at(address);
        let size = size as usize;
        self.0[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        Ok(())
    }
}

const START: u32 = 0x8000_8000;

/// The blocks that QEMU makes of a loop with a call, in the order in which they run.
const BLOCKS: [(u32, &[u32]); 3] = [
    (
        START,
        &[
            0x8c8b_0000, // lw t3, 0(a0)
            0x2484_0004, // addiu a0, a0, 4
            0x018b_6021, // addu t4, t4, t3
            0x000b_68c0, // sll t5, t3, 3
            0x01cd_7026, // xor t6, t6, t5
            0xacab_0004, // sw t3, 4(a1)
            0x90af_0004, // lbu t7, 4(a1)
            0x2de2_000b, // sltiu v0, t7, 11
            0x0302_c021, // addu t8, t8, v0
            0x31f9_000f, // andi t9, t7, 15
            0x000e_09c2, // srl at, t6, 7
            0x0c00_2011, // jal the next block
            0x24e7_0001, // addiu a3, a3, 1
        ],
    ),
    (
        START + 68,
        &[
            0x27bd_ffe8, // addiu sp, sp, -24
            0xafbf_0014, // sw ra, 20(sp)
            0xafb0_0010, // sw s0, 16(sp)
            0x8fa8_0008, // lw t0, 8(sp)
            0x0100_4825, // move t1, t0
            0x0008_5080, // sll t2, t0, 2
            0x314a_00ff, // andi t2, t2, 255
            0x008a_2021, // addu a0, a0, t2
            0x008a_2023, // subu a0, a0, t2
            0x8fb0_0010, // lw s0, 16(sp)
            0x8fbf_0014, // lw ra, 20(sp)
            0x03e0_0008, // jr ra
            0x27bd_0018, // addiu sp, sp, 24
        ],
    ),
    (
        START + 52,
        &[
            0x3084_00ff, // andi a0, a0, 255
            0x24c6_ffff, // addiu a2, a2, -1
            0x14c0_fff0, // bnez a2, the first block
            0x0000_0000, // nop
        ],
    ),
];

fn execute(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("execute_mips");
    for (name, big_endian) in [("little-endian loop", false), ("big-endian loop", true)] {
        let mode = Mode::of_processor(big_endian).with_release_2();
        let blocks = BLOCKS.map(|(address, words)| {
            let bytes = |word: &u32| if big_endian { word.to_be_bytes() } else { word.to_le_bytes() };
            let code: Vec<u8> = words.iter().flat_map(bytes).collect();
            Block::decode(address, mode, &code).expect("the code is a block")
        });
        let mut registers = Registers::default();
        registers.0[29] = 0x8000_4000;
        registers.0[37] = START;
        let mut cpu = Cpu::new(&registers, mode);
        let mut memory = Memory(Box::new([1; 0x1_0008]));
        const ITERATIONS: u64 = 10_000;
        let instructions: usize = blocks.iter().map(Block::len).sum();
        group.throughput(Throughput::Elements(ITERATIONS * instructions as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..ITERATIONS {
                    for block in &blocks {
                        assert_eq!(cpu.pc(), block.address());
                        assert_eq!(cpu.run(block, 0, block.len(), &mut memory), Exit::Done);
                    }
                }
                cpu.registers()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, execute);
criterion_main!(benches);
