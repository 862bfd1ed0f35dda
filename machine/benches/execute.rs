//! How fast the executor is by itself: a loop of ordinary integer code over a memory that is one small array.
//!
//! `cargo bench -p ktrace-machine` reports elements per second; an element is an instruction.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ktrace_machine::arm::Mode;
use ktrace_machine::arm::block::Block;
use ktrace_machine::arm::cpu::{Cpu, Exit, Registers};
use ktrace_machine::bus::{AccessSize, Bus, Halt};

/// 64 KiB that repeat through the whole address space.
struct Memory(Box<[u8; 0x1_0000]>);

impl Memory {
    fn at(address: u32) -> usize {
        // Keeps eight bytes inside the array.
        address as usize & 0xfff8
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

const START: u32 = 0x8000;

/// `arm-none-eabi-as`'s output for the comments. The blocks are those that QEMU makes of it.
const BLOCKS: [(u32, &[u32]); 3] = [
    (
        START,
        &[
            0xe490_3004, // ldr r3, [r0], #4
            0xe084_4003, // add r4, r4, r3
            0xe025_5183, // eor r5, r5, r3, lsl #3
            0xe581_3004, // str r3, [r1, #4]
            0xe5d1_6004, // ldrb r6, [r1, #4]
            0xe356_000a, // cmp r6, #10
            0x9287_7001, // addls r7, r7, #1
            0xe206_800f, // and r8, r6, #15
            0xe188_93a5, // orr r9, r8, r5, lsr #7
            0xebff_ffff, // bl the next block
        ],
    ),
    (
        START + 40,
        &[
            0xe92d_40f0, // push {r4-r7, lr}
            0xe59d_4008, // ldr r4, [sp, #8]
            0xe1a0_5004, // mov r5, r4
            0xe154_0005, // cmp r4, r5
            0x03a0_6001, // moveq r6, #1
            0xe1a0_7104, // lsl r7, r4, #2
            0xe6ef_7077, // uxtb r7, r7
            0xe080_0007, // add r0, r0, r7
            0xe040_0007, // sub r0, r0, r7
            0xe8bd_80f0, // pop {r4-r7, pc}
        ],
    ),
    (
        START + 80,
        &[
            0xe200_00ff, // and r0, r0, #255
            0xe252_2001, // subs r2, r2, #1
            0x1aff_ffe8, // bne the first block
        ],
    ),
];

fn execute(criterion: &mut Criterion) {
    let blocks = BLOCKS.map(|(address, words)| {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Block::decode(address, Mode::default(), &code).expect("the code is a block")
    });
    let mut registers = Registers::default();
    registers.0[13] = 0x4000;
    registers.0[15] = START;
    registers.0[16] = 0x1d3;
    let mut cpu = Cpu::new(&registers);
    let mut memory = Memory(Box::new([1; 0x1_0000]));
    const ITERATIONS: u64 = 10_000;
    let instructions: usize = blocks.iter().map(Block::len).sum();

    let mut group = criterion.benchmark_group("execute");
    group.throughput(Throughput::Elements(ITERATIONS * instructions as u64));
    group.bench_function("loop", |bencher| {
        bencher.iter(|| {
            for _ in 0..ITERATIONS {
                for block in &blocks {
                    assert_eq!(cpu.run(block, 0, block.len(), &mut memory), Exit::Done);
                }
            }
            cpu.registers()
        });
    });
    group.finish();
}

criterion_group!(benches, execute);
criterion_main!(benches);
