/* A guest in Thumb-2 for QEMU's virt: sorts, hashes and divides for ever, while a timer interrupts it, and it raises all
   other exceptions and calls its firmware. Built by tests/src/thumb.rs with arm-none-eabi-gcc -mthumb -nostdlib; runs from flash at address 0. The
   MMU stays off, so no access may be unaligned. */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define REGISTER(address) (*(volatile u32 *)(address))
#define DISTRIBUTOR 0x08000000
#define INTERFACE 0x08010000
/* The virtual timer's private interrupt. */
#define TIMER 27
/* 3 ms. */
#define TICKS 187500

__asm__(".syntax unified\n"
        ".section .start, \"ax\"\n"
        ".arm\n"
        "vectors: b reset\n"
        "b undefined\n"
        "b supervisor\n"
        "b prefetch\n"
        "b data\n"
        "b .\n"
        "b interrupt\n"
        "b .\n"
        "reset:\n"
        "cps #0x12\n"
        "ldr sp, =0x40010000\n"
        "cps #0x13\n"
        "ldr sp, =0x40020000\n"
        "blx work\n"
        "b .\n"
        "interrupt:\n"
        "sub lr, lr, #4\n"
        "push {r0-r3, r12, lr}\n"
        "blx tick\n"
        "ldm sp!, {r0-r3, r12, pc}^\n"
        /* Each goes on behind the instruction that raised it; where nothing could be fetched, at r12. */
        "undefined:\n"
        "movs pc, lr\n"
        "prefetch:\n"
        "cmp lr, #0x0b000000\n"
        "movshs pc, r12\n"
        "subs pc, lr, #2\n"
        "data:\n"
        "subs pc, lr, #4\n"
        "exceptions_of_a32:\n"
        "push {lr}\n"
        "svc #43\n"
        "udf #44\n"
        "ldr r0, =0x0b000000\n"
        "ldr r0, [r0]\n"
        "pop {pc}\n"
        "supervisor:\n"
        "push {r0, lr}\n"
        "mrs r0, spsr\n"
        "tst r0, #0x20\n"
        "ldrhne r0, [lr, #-2]\n"
        "ldreq r0, [lr, #-4]\n"
        "ldr r12, =0x40000100\n"
        "str r0, [r12]\n"
        "ldm sp!, {r0, pc}^\n"
        ".ltorg\n"
        ".text\n");

static volatile u32 *const ticks = (u32 *)0x40000000;
static u32 *const numbers = (u32 *)0x40001000;

static void start_timer(void)
{
    __asm__ volatile("mcr p15, 0, %0, c14, c3, 0\n\tmcr p15, 0, %1, c14, c3, 1" : : "r"(TICKS), "r"(1));
}

__attribute__((used)) void tick(void)
{
    u32 number = REGISTER(INTERFACE + 0xc);
    ++*ticks;
    start_timer();
    REGISTER(INTERFACE + 0x10) = number;
}

static void start_interrupts(void)
{
    REGISTER(DISTRIBUTOR + 0x100) = 1u << TIMER;
    REGISTER(DISTRIBUTOR) = 1;
    REGISTER(INTERFACE + 4) = 0xff;
    REGISTER(INTERFACE) = 1;
    start_timer();
    __asm__ volatile("cpsie i");
}

static u32 next(u32 *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

static void sort(u32 *first, u32 *last)
{
    while (first < last) {
        u32 pivot = *last, *middle = first;
        for (u32 *here = first; here < last; here++)
            if (*here < pivot) {
                u32 swapped = *here;
                *here = *middle;
                *middle++ = swapped;
            }
        *last = *middle;
        *middle = pivot;
        sort(first, middle - 1);
        first = middle + 1;
    }
}

static u32 hash(const u8 *bytes, u32 count)
{
    u32 sum = ~0u;
    while (count--) {
        sum ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320 : 0);
    }
    return ~sum;
}

__attribute__((noinline)) static u64 calculate(u32 operation, u64 a, u64 b)
{
    switch (operation) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / (b | 1);
    case 4: return a << (b & 63);
    case 5: return (u64)((long long)a >> (b & 63));
    case 6: return (u32)a / ((u32)b | 1);
    case 7: return (u64)((int)a % ((short)b | 1));
    case 8: return __builtin_clz((u32)a | 1) + __builtin_bswap32((u32)b);
    default: return a > b ? a ^ b : (signed char)a + (u64)(short)b;
    }
}

/* Nothing is at 0x0b000000. */
static void raise_exceptions(void)
{
    __asm__ volatile("svc #42\n\t"
                     "udf.n #1\n\t"
                     "udf.w #2\n\t"
                     "nop\n\t"
                     "bkpt #3\n\t"
                     "ldr.w r0, [%0]\n\t"
                     "str.w r0, [%1, #1]\n\t"
                     "adr r12, 1f\n\t"
                     "orr r0, %0, #1\n\t"
                     "bx r0\n\t"
                     ".balign 4\n\t"
                     "1:\n\t"
                     "mov r0, #0x84000000\n\t"
                     "hvc #0\n\t"
                     "blx exceptions_of_a32"
                     :
                     : "r"(0x0b000000), "r"(numbers)
                     : "r0", "r1", "r2", "r3", "r12", "lr", "memory");
}

__attribute__((used)) void work(void)
{
    u32 state = 2463534242u;
    u64 sum = 0;
    *ticks = 0;
    start_interrupts();
    for (;;) {
        for (u32 index = 0; index < 64; index++)
            numbers[index] = next(&state);
        sort(numbers, numbers + 63);
        for (u32 index = 0; index < 63; index++)
            sum = calculate(numbers[index] % 10, sum ^ numbers[index], numbers[index + 1]);
        numbers[64] = hash((const u8 *)numbers, 64);
        *((u8 *)numbers + 271) = (u8)sum;
        *(volatile u64 *)(numbers + 80) = sum;
        raise_exceptions();
    }
}
