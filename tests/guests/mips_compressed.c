/* A guest for QEMU's malta, one source for both byte orders, that works in MIPS16e or microMIPS code (COMPRESSED is the
   attribute, mips16 or micromips), called from MIPS32 code and calling back: loops, branches and their slots where there are any,
   loads and stores of all sizes, and exceptions, from which MIPS32 code returns. Then it says `done` and resets the board.

   Built by build-mips.sh, linked by mips.ld, run with QEMU's -kernel and a processor that has such code. */

#include "mips_board.h"

#define ROUNDS 12
#define COMPACT __attribute__((COMPRESSED, noinline))

volatile u32 exceptions;
u32 words[64];
u8 bytes[256];
u16 halves[64];

/* Back from compressed code to MIPS32. */
PLAIN u32 mixed(u32 one, u32 other)
{
    return (one << 5 | one >> 27) ^ other * 0x9e3779b1;
}

COMPACT static u32 filled(u32 seed)
{
    for (u32 at = 0; at < 64; at++) {
        seed = seed * 1664525 + 1013904223;
        words[at] = seed;
        halves[at] = seed >> 8;
        bytes[at * 3] = seed >> 24;
    }
    return seed;
}

COMPACT static u32 chosen(u32 number)
{
    switch (number % 7) {
    case 0: return number * 3;
    case 1: return number / 5 + (u32)((int)number / 7);
    case 2: return number >> 3 ^ number << 7;
    case 3: return (u32)((int)number >> 2);
    case 4: return ~number;
    case 5: return number % 11 < 5 ? number : -number;
    default: return 77;
    }
}

COMPACT static u32 summed(u32 sum)
{
    for (u32 at = 0; at < 64; at++) {
        sum += words[at] ^ (u32)(signed char)bytes[at * 3] ^ halves[at];
        if ((sum & 7) == 3)
            sum = mixed(sum, chosen(sum));
    }
    /* Two bytes long, in both. */
    __asm__ volatile("break" ::: "memory");
    return sum;
}

COMPACT static u32 worked(u32 seed)
{
    u32 sum = filled(seed);
    for (u32 turn = 0; turn < 3; turn++)
        sum = summed(sum + turn);
    return sum;
}

/* The general exception vector: goes on behind the instruction, in whatever code it is. */
__asm__(".section .general, \"ax\"\n"
        ".set noreorder\n"
        ".set noat\n"
        "   mfc0 $26, $14\n"
        "   addiu $26, $26, 2\n"
        "   mtc0 $26, $14\n"
        "   lui $26, %hi(exceptions)\n"
        "   lw $27, %lo(exceptions)($26)\n"
        "   addiu $27, $27, 1\n"
        "   sw $27, %lo(exceptions)($26)\n"
        "   ehb\n"
        "   eret\n"
        ".set at\n"
        ".set reorder\n"
        ".text\n");

PLAIN void work(void)
{
    __asm__ volatile("mtc0 $0, $12\n\tehb");
    u32 sum = 1;
    for (u32 round = 0; round < ROUNDS; round++)
        sum = mixed(sum, worked(sum + round));
    words[0] = sum;
    end(exceptions == 3 * ROUNDS ? "done\r\n" : "exceptions are missing\r\n");
}
