/* A guest for QEMU's malta, one source for both byte orders: it works, is interrupted by a timer every few hundred
   instructions, and does all that is hard to record and to replay of MIPS32: exceptions and accesses to devices in delay
   slots, branches whose slot is in another page, pages that show something else in turn, user mode.

   Built by build-mips.sh with mipsel-linux-gnu-gcc or mips-linux-gnu-gcc, linked by mips.ld, run with QEMU's -kernel. The
   kernel's command line is the number of rounds; with a `?` behind it the guest says `?` and a letter now and then, and waits for a
   key. After the last round it says `done` and resets the board.

   An instruction that is meant to raise an exception uses $8 for what is wrong, and $25 for where to go on: `handle` repairs $8 or
   the TLB and lets the processor try again, branch and slot, or where there is nothing to repair goes on at $25. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NOINLINE __attribute__((noinline))
#define DEVICE_WORD(address) (*(volatile u32 *)(address))
#define DEVICE_BYTE(address) (*(volatile u8 *)(address))

/* The serial port in the south bridge: data, line status, and a register that does nothing but keep a byte. */
#define UART 0xb80003f8
#define UART_STATUS (UART + 5)
#define UART_SCRATCH (UART + 7)
#define INTERRUPT_MASK_8259 0xb8000021
/* The north bridge, where QEMU's boot code has moved it: its interrupt mask. */
#define GT64120_MASK 0xbbe00c1c
#define SOFTRES 0xbf000500
#define GORESET 0x42

/* Coprocessor 0, as number and select. */
#define INDEX "$0"
#define ENTRY_LO_0 "$2"
#define ENTRY_LO_1 "$3"
#define PAGE_MASK "$5"
#define WIRED "$6"
#define COUNT "$9"
#define ENTRY_HI "$10"
#define COMPARE "$11"
#define STATUS "$12"
#define CAUSE "$13"

#define READ(register) ({ u32 value; __asm__ volatile("mfc0 %0, " register : "=r"(value)); value; })
#define WRITE(register, value) __asm__ volatile("mtc0 %0, " register "\n\tehb" : : "r"(value) : "memory")

/* Status: CU1, the timer's and the first software interrupt; user mode. */
#define STATUS_WORK 0x20008101
#define STATUS_USER 0x10
/* Cause: the timer's interrupt, and the first one that software raises. */
#define TIMER 0x8000
#define SOFTWARE 0x100

/* Bits of EntryLo. */
#define GLOBAL 1
#define VALID 2
#define DIRTY 4
#define UNCACHED (2 << 3)
#define CACHED (3 << 3)

/* Sixteen pages of each of four address spaces, and of kseg2, filled on demand from `page_tables`. */
#define USER 0x00400000
#define KSEG2 0xc0000000
#define PAGES 16
#define SPACES 4
/* Two pages of 16 KiB and two of 1 MiB, in wired entries. */
#define MEDIUM 0x01000000
#define LARGE 0xd0000000
/* Pages in wired entries that are never accessed, in one address space or another, and in kseg2. */
#define QUIET 0x02000000
#define QUIET_KSEG2 0xc8000000
/* The memory that these show: four pages. */
#define QUIET_POOL 0xa1000000
#define QUIET_FRAME(number) ((0x01000000 + ((number) << 12)) >> 6)
#define QUIET_PAGES 4
/* Entries of the TLB that TLBWR leaves alone. */
#define WIRED_ENTRIES 4
/* The memory that the others show: 512 pages, in kseg0 and kseg1. */
#define POOL 0x80800000
#define POOL_UNCACHED 0xa0800000
#define POOL_PHYSICAL 0x00800000

/* What an exception interrupted: general registers, HI, LO, EPC, Status, Cause, BadVAddr. */
struct frame {
    u32 r[32], hi, lo, epc, status, cause, address;
};

struct frame frame;
u32 exception_stack[512];
/* One of each address space, and kseg2's. */
u32 page_tables[SPACES + 1][PAGES];

static volatile u32 exceptions[32], software_interrupts, timer_interrupts;
/* Of the processor's counter, some thousand instructions. */
static u32 thousand = 1000;
static u32 timer_state = 2463534242u;
/* Of which the floating-point unit loads pairs. */
static u32 numbers[128] __attribute__((aligned(8)));

__asm__(".set noreorder\n"
        ".set noat\n"
        /* TLB refill, at 0x80000000. */
        ".section .refill, \"ax\"\n"
        "mfc0 $26, $8\n"
        "mfc0 $27, $10\n"
        "bltz $26, 1f\n"
        "andi $27, $27, 3\n"
        "b 2f\n"
        "sll $27, $27, 6\n"
        "1: li $27, 4 << 6\n"
        "2: srl $26, $26, 10\n"
        "andi $26, $26, 0x38\n"
        "addu $27, $27, $26\n"
        "lui $26, %hi(page_tables)\n"
        "addiu $26, $26, %lo(page_tables)\n"
        "addu $27, $27, $26\n"
        "lw $26, 0($27)\n"
        "lw $27, 4($27)\n"
        "mtc0 $26, $2\n"
        "mtc0 $27, $3\n"
        "ehb\n"
        "tlbwr\n"
        "eret\n"
        /* All other exceptions, at 0x80000180. */
        ".section .general, \"ax\"\n"
        "j exception\n"
        "nop\n"
        ".text\n"
        ".globl exception\n"
        ".ent exception\n"
        "exception:\n"
        "lui $27, %hi(frame)\n"
        "addiu $27, $27, %lo(frame)\n"
        ".irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 28, 29, 30, 31\n"
        "sw $\\n, 4 * \\n($27)\n"
        ".endr\n"
        "mfhi $8\n"
        "mflo $9\n"
        "mfc0 $10, $14\n"
        "mfc0 $11, $12\n"
        "mfc0 $12, $13\n"
        "mfc0 $13, $8\n"
        "sw $8, 128($27)\n"
        "sw $9, 132($27)\n"
        "sw $10, 136($27)\n"
        "sw $11, 140($27)\n"
        "sw $12, 144($27)\n"
        "sw $13, 148($27)\n"
        "lui $29, %hi(exception_stack + 2016)\n"
        "addiu $29, $29, %lo(exception_stack + 2016)\n"
        "jal handle\n"
        "move $4, $27\n"
        "lui $27, %hi(frame)\n"
        "addiu $27, $27, %lo(frame)\n"
        "lw $8, 128($27)\n"
        "lw $9, 132($27)\n"
        "lw $10, 136($27)\n"
        "lw $11, 140($27)\n"
        "mthi $8\n"
        "mtlo $9\n"
        "mtc0 $10, $14\n"
        "mtc0 $11, $12\n"
        "ehb\n"
        ".irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 28, 29, 30, 31\n"
        "lw $\\n, 4 * \\n($27)\n"
        ".endr\n"
        "eret\n"
        ".end exception\n"
        /* Runs at an address in user mode, until that makes a system call with -1 in $2. $4: where, $5: its $31, $6 and $7: its
           $4 and $5. */
        ".globl run_in_user_mode\n"
        ".ent run_in_user_mode\n"
        "run_in_user_mode:\n"
        "addiu $29, $29, -8\n"
        "sw $31, 4($29)\n"
        "lui $25, %hi(back_in_kernel_mode)\n"
        "addiu $25, $25, %lo(back_in_kernel_mode)\n"
        "mfc0 $8, $12\n"
        "ori $8, $8, 0x12\n"
        "mtc0 $8, $12\n"
        "ehb\n"
        "mtc0 $4, $14\n"
        "move $31, $5\n"
        "move $4, $6\n"
        "move $5, $7\n"
        "ehb\n"
        "eret\n"
        "back_in_kernel_mode:\n"
        "lw $31, 4($29)\n"
        "jr $31\n"
        "addiu $29, $29, 8\n"
        ".end run_in_user_mode\n"
        /* The start: a stack, no delay slot to hold it in. $4 and $5: arguments, from QEMU. */
        ".globl start\n"
        ".ent start\n"
        "start:\n"
        "lui $29, 0x8080\n"
        "jal work\n"
        "addiu $29, $29, -64\n"
        "1: b 1b\n"
        "nop\n"
        ".end start\n"
        ".set at\n"
        ".set reorder\n");

void run_in_user_mode(u32 address, u32 then, u32 first, u32 second);

static u32 next(u32 *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

static void set_timer(void)
{
    u32 interval = thousand / 4 + next(&timer_state) % thousand, at;
    /* Should the counter be there before it is told, nothing would happen until it has gone all around. */
    do {
        at = READ(COUNT) + interval;
        WRITE(COMPARE, at);
        interval *= 2;
    } while ((int)(READ(COUNT) - at) >= 0);
}

/* Writes one entry of the TLB. */
static void write_entry(u32 index, u32 page_mask, u32 high, u32 low_0, u32 low_1)
{
    WRITE(INDEX, index);
    WRITE(PAGE_MASK, page_mask);
    WRITE(ENTRY_HI, high);
    WRITE(ENTRY_LO_0, low_0);
    WRITE(ENTRY_LO_1, low_1);
    __asm__ volatile("tlbwi" : : : "memory");
    WRITE(PAGE_MASK, 0);
}

/* A page was not valid, or not to be written: makes it so. */
static void allow(u32 address, u32 bits)
{
    u32 *table = address & KSEG2 ? page_tables[SPACES] : page_tables[READ(ENTRY_HI) & 3];
    u32 page = address >> 12 & (PAGES - 1);
    table[page] |= bits;
    __asm__ volatile("tlbp\n\tehb");
    if (!(READ(INDEX) >> 31)) {
        WRITE(ENTRY_LO_0, table[page & ~1]);
        WRITE(ENTRY_LO_1, table[page | 1]);
        __asm__ volatile("tlbwi" : : : "memory");
    }
}

__attribute__((used)) void handle(struct frame *frame)
{
    u32 code = frame->cause >> 2 & 31;
    exceptions[code]++;
    switch (code) {
    case 0:
        if (frame->cause & SOFTWARE) {
            software_interrupts++;
            WRITE(CAUSE, 0);
        }
        if (frame->cause & TIMER) {
            timer_interrupts++;
            set_timer();
        }
        break;
    case 1:
    case 3: allow(frame->address, VALID | DIRTY); break;
    case 2: allow(frame->address, VALID); break;
    case 4:
    case 5:
        /* An instruction at an odd address can't be repaired. */
        if (frame->epc & 3)
            frame->epc = frame->r[25];
        else
            frame->r[8] &= ~7;
        break;
    case 8:
        if (frame->status & STATUS_USER && frame->r[2] != -1u) {
            frame->epc += 4;
        } else {
            frame->status &= ~STATUS_USER;
            frame->epc = frame->r[25];
        }
        break;
    case 12:
    case 13: frame->r[8] = 0; break;
    case 15: __asm__ volatile(".set push\n\t.set hardfloat\n\tctc1 $0, $31\n\t.set pop"); /* fallthrough */
    default: frame->epc = frame->r[25]; break;
    }
}

static void put(char letter)
{
    while (!(DEVICE_BYTE(UART_STATUS) & 0x20))
        continue;
    DEVICE_BYTE(UART) = letter;
}

static void print(const char *text)
{
    while (*text)
        put(*text++);
}

/* gcc calls these. */
void *memset(void *to, int byte, u32 count)
{
    u8 *here = to;
    while (count--)
        *here++ = byte;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, u32 count)
{
    u32 *to_word = to;
    const u32 *from_word = from;
    for (; count >= 4; count -= 4)
        *to_word++ = *from_word++;
    u8 *to_byte = (u8 *)to_word;
    const u8 *from_byte = (const u8 *)from_word;
    while (count--)
        *to_byte++ = *from_byte++;
    return to;
}

/* --- work like any program's ----------------------------------------------------------------------------------------- */

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

NOINLINE u32 fibonacci(u32 number)
{
    return number < 2 ? number : fibonacci(number - 1) + fibonacci(number - 2);
}

/* A jump table, multiplication, division and bytes. */
NOINLINE u64 calculate(u32 operation, u32 a, u32 b)
{
    switch (operation) {
    case 0: return (u64)a + b;
    case 1: return (u64)a - b;
    case 2: return (u64)a * b;
    case 3: return (u64)((long long)(int)a * (int)b);
    case 4: return a / (b | 1);
    case 5: return a % (b | 1);
    case 6: return (u32)((int)a / (short)(b | 1));
    case 7: return (u32)((int)a % ((short)b | 1));
    case 8: return __builtin_clz(a | 1) + __builtin_bswap32(b);
    case 9: return a << (b & 31) | a >> (-b & 31);
    default: return a > b ? a ^ b : (signed char)a + (u32)(short)b;
    }
}

/* Instructions that gcc seldom uses, each by itself. */
NOINLINE u32 compute_by_name(u32 a, u32 b)
{
    u32 sum = 0, result;
#define TAKE(instruction)                                                                                              \
    __asm__ volatile("move %0, %1\n\t" instruction : "=&r"(result) : "r"(sum), "r"(a), "r"(b) : "hi", "lo");          \
    sum = (sum << 1 | sum >> 31) ^ result
    TAKE("clz %0, %2");
    TAKE("clo %0, %2");
    TAKE("ext %0, %2, 7, 13");
    TAKE("ins %0, %3, 11, 9");
    TAKE("ins %0, %3, 0, 32");
    TAKE("wsbh %0, %2");
    TAKE("seb %0, %2");
    TAKE("seh %0, %3");
    TAKE("rotr %0, %2, 5");
    TAKE("rotrv %0, %2, %3");
    TAKE("movz %0, %2, %3");
    TAKE("movn %0, %2, %3");
    TAKE("movz %0, %2, $0");
    TAKE("movn %0, %2, $0");
    TAKE("mul %0, %2, %3");
    TAKE("mult %2, %3\n\tmadd %2, %3\n\tmfhi %0");
    TAKE("multu %2, %3\n\tmaddu %3, %3\n\tmflo %0");
    TAKE("mult %2, %2\n\tmsub %2, %3\n\tmfhi %0");
    TAKE("multu %2, %3\n\tmsubu %3, %2\n\tmflo %0");
    TAKE("mthi %2\n\tmtlo %3\n\tmaddu %2, %3\n\tmfhi %0");
    TAKE("srav %0, %2, %3");
    TAKE("nor %0, %2, %3");
    TAKE("slt %0, %2, %3");
    TAKE("sltiu %0, %2, -5");
    TAKE("sync\n\tpref 0, 0(%1)\n\tssnop");
#undef TAKE
    return sum;
}

/* Each of the four unaligned instructions by itself at each offset, and bytes and halfwords. */
NOINLINE u32 unaligned(u8 *bytes)
{
    u32 sum = 0;
    for (u32 offset = 0; offset < 8; offset++) {
        u8 *here = bytes + offset;
        u32 left = sum, right = ~sum, byte, half;
        __asm__ volatile("lwl %0, 0(%2)\n\tlwr %1, 0(%2)" : "+&r"(left), "+&r"(right) : "r"(here) : "memory");
        sum = (sum << 3 | sum >> 29) + (left ^ right);
        __asm__ volatile("swl %0, 16(%2)\n\tswr %1, 24(%2)" : : "r"(sum), "r"(left), "r"(here) : "memory");
        __asm__ volatile("lb %0, 0(%2)\n\tlhu %1, 0(%3)\n\tsb %0, 40(%2)\n\tsh %1, 48(%3)"
                         : "=&r"(byte), "=&r"(half)
                         : "r"(here), "r"(bytes + (offset & ~1u))
                         : "memory");
        sum += byte ^ half;
    }
    return sum;
}

/* A word across two pages, which may both have to be mapped first: the left part faults, then the right one. */
struct word { u32 value; } __attribute__((packed));

NOINLINE u32 across_pages(u32 page, u32 value)
{
    struct word *word = (struct word *)(page + 0xffe);
    u32 before = word->value;
    word->value = value;
    return before + word->value;
}

/* Load-linked and store-conditional: the latter fails when an interrupt came between. */
NOINLINE void add_atomically(u32 *word, u32 value)
{
    u32 old, done;
    do
        __asm__ volatile("ll %0, 0(%3)\n\taddu %1, %0, %2\n\tsc %1, 0(%3)"
                         : "=&r"(old), "=&r"(done)
                         : "r"(value), "r"(word)
                         : "memory");
    while (!done);
}

/* Registers of the floating-point unit: loaded, stored and moved, some arithmetic, its conditions. */
NOINLINE u32 floating(u32 *data)
{
    u32 result;
    __asm__ volatile(".set push\n\t.set hardfloat\n\t.set noreorder\n\t"
                     "lwc1 $f0, 0(%1)\n\t"
                     "lwc1 $f1, 4(%1)\n\t"
                     "ldc1 $f2, 8(%1)\n\t"
                     "mtc1 %1, $f4\n\t"
                     "mov.d $f6, $f2\n\t"
                     "add.s $f8, $f0, $f4\n\t"
                     "cvt.d.w $f10, $f1\n\t"
                     "mul.d $f12, $f10, $f10\n\t"
                     "neg.s $f13, $f0\n\t"
                     "c.lt.s $f0, $f8\n\t"
                     "bc1t 1f\n\t"
                     "mov.s $f14, $f0\n\t"
                     "swc1 $f8, 16(%1)\n\t"
                     "1: c.ult.d $fcc3, $f10, $f12\n\t"
                     "bc1fl $fcc3, 2f\n\t"
                     "lwc1 $f15, 4(%1)\n\t"
                     "2: mtc1 $0, $f16\n\t"
                     "b 3f\n\t"
                     "sdc1 $f12, 24(%1)\n\t"
                     "3: cfc1 %0, $31\n\t"
                     "movf %0, $0, $fcc3\n\t"
                     "mfc1 $8, $f13\n\t"
                     "swc1 $f13, 20(%1)\n\t"
                     "addu %0, %0, $8\n\t"
                     ".set pop"
                     : "=&r"(result)
                     : "r"(data)
                     : "$8", "memory");
    return result;
}

/* --- exceptions ------------------------------------------------------------------------------------------------------ */

/* Every kind of branch, taken or not, before a slot. $9 is 1; $12 is the address of label 1. */
#define WITH_EACH_BRANCH(slot, value)                                                                                  \
    BRANCH_AND_SLOT("b 1f", slot, value);                                                                              \
    BRANCH_AND_SLOT("bne $9, $0, 1f", slot, value);                                                                    \
    BRANCH_AND_SLOT("beq $9, $0, 1f", slot, value);                                                                    \
    BRANCH_AND_SLOT("bgtzl $9, 1f", slot, value);                                                                      \
    BRANCH_AND_SLOT("beql $9, $0, 1f", slot, value);                                                                   \
    BRANCH_AND_SLOT("bgezal $9, 1f", slot, value);                                                                     \
    BRANCH_AND_SLOT("bltzall $9, 1f", slot, value);                                                                    \
    BRANCH_AND_SLOT("j 1f", slot, value);                                                                              \
    BRANCH_AND_SLOT("jal 1f", slot, value);                                                                            \
    BRANCH_AND_SLOT("jr $12", slot, value);                                                                            \
    BRANCH_AND_SLOT("jalr $12", slot, value)

#define BRANCH_AND_SLOT(branch, slot, value)                                                                           \
    __asm__ volatile(".set push\n\t.set noreorder\n\t.set hardfloat\n\t"                                               \
                     "move $8, %0\n\t"                                                                                 \
                     "la $25, 2f\n\t"                                                                                  \
                     "la $12, 1f\n\t"                                                                                  \
                     "li $9, 1\n\t" branch "\n\t" slot "\n\t"                                                          \
                     "addiu $10, $10, 1\n\t"                                                                           \
                     "1: addiu $10, $10, 2\n\t"                                                                        \
                     "2: .set pop"                                                                                     \
                     :                                                                                                 \
                     : "r"(value)                                                                                      \
                     : "$8", "$9", "$10", "$11", "$12", "$25", "$31", "memory")

/* Exceptions that their handler repairs: branch and slot run again. */
NOINLINE void repaired_in_slots(u32 *data)
{
    WITH_EACH_BRANCH("add $11, $8, $8", 0x7fffffff);
    WITH_EACH_BRANCH("addi $11, $8, -1", 0x80000000);
    WITH_EACH_BRANCH("tnei $8, 0", 5);
    WITH_EACH_BRANCH("lw $11, 4($8)", (u32)data + 2);
    WITH_EACH_BRANCH("sh $11, 8($8)", (u32)data + 1);
}

/* Exceptions that are not: the branch is forgotten. */
NOINLINE void abandoned_in_slots(void)
{
    WITH_EACH_BRANCH("syscall", 0);
    WITH_EACH_BRANCH("break 7", 0);
    /* A reserved instruction; a coprocessor that there is not. */
    WITH_EACH_BRANCH(".word 0xec000000", 0);
    WITH_EACH_BRANCH("mfc2 $11, $3", 0);
}

/* Loads and stores in slots, of pages that are in the page table but not in the TLB, or in neither. */
NOINLINE void tlb_misses_in_slots(u32 page)
{
    extern void flush_tlb(void);
    flush_tlb();
    WITH_EACH_BRANCH("lw $11, 16($8)", page);
    flush_tlb();
    WITH_EACH_BRANCH("sw $9, 20($8)", page);
    flush_tlb();
    BRANCH_AND_SLOT("bne $9, $0, 1f", "lwl $11, 17($8)", page);
    flush_tlb();
    BRANCH_AND_SLOT("bltzl $9, 1f", "sw $11, 24($8)", page);
    flush_tlb();
    BRANCH_AND_SLOT("jal 1f", "sb $8, 24($8)", page);
    flush_tlb();
    BRANCH_AND_SLOT("jr $12", "swr $8, 25($8)", page);
    flush_tlb();
    BRANCH_AND_SLOT("b 1f", "ldc1 $f4, 24($8)", page);
}

/* The same exceptions elsewhere than in slots, and more: an instruction at an odd address, the floating-point
   unit's, a coprocessor that is switched off. */
NOINLINE void exceptions_elsewhere(u32 *data)
{
    BRANCH_AND_SLOT("nop", "add $11, $8, $8", 0x7fffffff);
    BRANCH_AND_SLOT("nop", "teq $8, $9", 1);
    BRANCH_AND_SLOT("nop", "lh $11, 0($8)", (u32)data + 1);
    BRANCH_AND_SLOT("nop", "sw $11, 0($8)", (u32)data + 2);
    BRANCH_AND_SLOT("nop", "syscall 9", 0);
    BRANCH_AND_SLOT("nop", "break", 0);
    BRANCH_AND_SLOT("addiu $12, $12, 2", "jr $12\n\tnop", 0);
    BRANCH_AND_SLOT("mtc1 $0, $f2\n\tli $8, 0xc00\n\tctc1 $8, $31", "div.s $f4, $f2, $f2", 0);
    BRANCH_AND_SLOT("mtc1 $0, $f2\n\tli $8, 0xc00\n\tctc1 $8, $31\n\tb 1f", "div.s $f4, $f2, $f2", 0);
    u32 status = READ(STATUS);
    WRITE(STATUS, status & ~0x20000000);
    BRANCH_AND_SLOT("nop", "lwc1 $f0, 0($8)", data);
    BRANCH_AND_SLOT("bne $9, $0, 1f", "mtc1 $8, $f0", data);
    WRITE(STATUS, status);
}

/* An interrupt that an instruction raises, by itself and in a slot; one that comes as soon as interrupts are let in, in a slot;
   and a wait for the timer's. */
NOINLINE void interrupts_on_request(void)
{
    u32 before = software_interrupts;
    WRITE(CAUSE, SOFTWARE);
    while (software_interrupts == before)
        continue;
    BRANCH_AND_SLOT("b 1f", "mtc0 $8, $13", SOFTWARE);
    __asm__ volatile("di\n\tehb");
    WRITE(CAUSE, SOFTWARE);
    BRANCH_AND_SLOT("jal 1f", "ei", 0);
    BRANCH_AND_SLOT("jr $12", "mfc0 $11, $9", 0);
    BRANCH_AND_SLOT("beql $9, $0, 1f", "mfc0 $11, $12", 0);
    before = timer_interrupts;
    while (timer_interrupts == before)
        __asm__ volatile("wait");
}

/* --- devices --------------------------------------------------------------------------------------------------------- */

/* Accesses to devices in slots, where QEMU leaves the block and runs branch and slot again. */
NOINLINE void devices_in_slots(void)
{
    WITH_EACH_BRANCH("lw $11, 0($8)", GT64120_MASK);
    WITH_EACH_BRANCH("sw $0, 0($8)", GT64120_MASK);
    WITH_EACH_BRANCH("lbu $11, 0($8)", UART_STATUS);
    WITH_EACH_BRANCH("sb $8, 0($8)", UART_SCRATCH);
    WITH_EACH_BRANCH("lb $11, 0($8)", INTERRUPT_MASK_8259);
}

/* … and in the middle of a block, among other instructions and accesses. */
NOINLINE u32 devices_in_blocks(u32 *data)
{
    u32 sum = DEVICE_BYTE(UART_SCRATCH);
    DEVICE_BYTE(UART_SCRATCH) = sum + 1;
    data[0] += sum;
    sum ^= DEVICE_WORD(GT64120_MASK);
    data[1] = sum * 3;
    DEVICE_WORD(GT64120_MASK) = 0;
    sum += DEVICE_BYTE(INTERRUPT_MASK_8259) + data[2];
    DEVICE_BYTE(INTERRUPT_MASK_8259) = 0xff;
    data[3] = sum + DEVICE_BYTE(UART_SCRATCH);
    return sum;
}

/* --- branches at the end of a page ----------------------------------------------------------------------------------- */

/* Two pages: a loop around a branch that is the last word of the first page, with its slot in the second. QEMU ends a block
   between the two, and interrupts fall there; in memory that is mapped, fetching the slot may fault. Runs anywhere: $4 turns,
   $5 something to load from. At the start of the first page is a system call that ends user mode; at `entry` one begins. */
#define CROSSING(name, branch, slot)                                                                                   \
    __asm__(".section .crossing, \"ax\"\n\t"                                                                           \
            ".set push\n\t.set noreorder\n\t"                                                                          \
            ".balign 4096\n"                                                                                           \
            #name ":\n\t"                                                                                              \
            "li $2, -1\n\t"                                                                                            \
            "syscall\n\t"                                                                                              \
            ".org " #name " + 4096 - 40\n\t"                                                                           \
            /* entry */                                                                                                \
            "move $24, $31\n\t"                                                                                        \
            "bal 1f\n\t"                                                                                               \
            "li $3, 0\n"                                                                                               \
            "1: addiu $12, $31, 36\n\t"                                                                                \
            "2: addiu $4, $4, -1\n\t"                                                                                  \
            "li $2, 7\n\t"                                                                                             \
            "addu $3, $3, $4\n\t"                                                                                      \
            "andi $9, $4, 1\n\t"                                                                                       \
            "xor $10, $3, $9\n\t" branch "\n\t"                                                                        \
            /* the second page */                                                                                      \
            slot "\n\t"                                                                                                \
            "addiu $3, $3, 1\n\t"                                                                                      \
            "3: addiu $3, $3, 3\n\t"                                                                                   \
            "bgtz $4, 2b\n\t"                                                                                          \
            "nop\n\t"                                                                                                  \
            "jr $24\n\t"                                                                                               \
            "move $2, $3\n\t"                                                                                          \
            ".org " #name " + 8192\n\t"                                                                                \
            ".set pop\n\t.previous");                                                                                  \
    extern u8 name[]

#define ENTRY (4096 - 40)
#define CROSSINGS 8

CROSSING(cross_always, "b 3f", "addiu $3, $3, 16");
CROSSING(cross_sometimes, "bne $9, $0, 3f", "lw $11, 0($5)");
CROSSING(cross_likely, "bnel $9, $0, 3f", "sw $3, 4($5)");
CROSSING(cross_likely_call, "bltzall $0, 3f", "addiu $3, $3, 64");
CROSSING(cross_call, "bgezal $9, 3f", "lwl $11, 1($5)");
CROSSING(cross_register, "jr $12", "sb $3, 8($5)");
CROSSING(cross_register_call, "jalr $12", "lbu $11, 0($5)");
CROSSING(cross_nothing, "beq $9, $10, 3f", "mult $3, $4");

static u8 *const crossings[CROSSINGS] = {cross_always, cross_sometimes, cross_likely, cross_likely_call,
                                         cross_call, cross_register, cross_register_call, cross_nothing};

typedef u32 crossing(u32 turns, void *data);

NOINLINE u32 cross_pages(u32 turns)
{
    u32 sum = 0;
    for (u32 index = 0; index < CROSSINGS; index++) {
        crossing *code = (crossing *)(crossings[index] + ENTRY);
        sum += code(turns, numbers);
        /* A device in the slot. */
        if (index == 1 || index == 6)
            sum += code(3, (void *)(index == 1 ? GT64120_MASK : UART_STATUS));
    }
    return sum;
}

/* --- mapped memory --------------------------------------------------------------------------------------------------- */

/* Empties the TLB but for the wired entries. */
NOINLINE void flush_tlb(void)
{
    u32 space = READ(ENTRY_HI) & 0xff;
    /* The timer's handler may change these registers only where it repairs the TLB, which it does not here. */
    for (u32 index = WIRED_ENTRIES; index < 16; index++)
        write_entry(index, 0, 0x80000000 + (index << 13), 0, 0);
    WRITE(ENTRY_HI, space);
}

/* The physical page that a round shows at a page of an address space. */
static u32 frame_number(u32 round, u32 space, u32 page)
{
    return (round * 29 + space * 37 + page * 11) & 255;
}

/* Other pages for all. They are valid in the page table or not, for reading only or not, in turn. */
NOINLINE void remap(u32 round)
{
    for (u32 space = 0; space <= SPACES; space++)
        for (u32 page = 0; page < PAGES; page++) {
            u32 physical = POOL_PHYSICAL + (frame_number(round, space, page) << 12);
            u32 rights = (round + page) % 3 ? VALID : 0;
            page_tables[space][page] = physical >> 6 | CACHED | rights | (space == SPACES ? GLOBAL : 0);
        }
    flush_tlb();
    u32 start = POOL_PHYSICAL + (round % 4 << 20);
    write_entry(0, 0x6000, MEDIUM, (start + 0x8000) >> 6 | CACHED | VALID | DIRTY | GLOBAL,
                start >> 6 | CACHED | VALID | DIRTY | GLOBAL);
    write_entry(1, 0x1fe000, LARGE, POOL_PHYSICAL >> 6 | UNCACHED | VALID | DIRTY | GLOBAL,
                start >> 6 | CACHED | VALID | DIRTY | GLOBAL);
    WRITE(ENTRY_HI, round % SPACES);
}

/* The same virtual pages in each address space, kseg2, larger pages, and the aliases of all of them. */
NOINLINE u32 walk_memory(u32 round)
{
    u32 sum = 0;
    for (u32 space = 0; space < SPACES; space++) {
        WRITE(ENTRY_HI, space);
        for (u32 page = 0; page < PAGES; page += 1 + (round + space) % 3) {
            volatile u32 *word = (u32 *)(USER + (page << 12) + (round * 4 & 0xfc));
            sum += *word;
            *word = sum + page;
            u32 offset = (frame_number(round, space, page) << 12) + (round * 4 & 0xfc);
            sum ^= *(volatile u32 *)(POOL_UNCACHED + offset);
            *(volatile u32 *)(POOL + offset + 256) = sum;
            sum += word[64];
        }
        sum += across_pages(USER + (round % (PAGES - 1) << 12), sum);
    }
    for (u32 page = 0; page < PAGES; page += 3) {
        u8 *bytes = (u8 *)(KSEG2 + (page << 12) + 0x800);
        bytes[round & 63] = sum;
        sum += unaligned(bytes);
    }
    sum += across_pages(KSEG2 + 0x2000, round);
    for (u32 offset = 0; offset < 0x8000; offset += 0x1ffc) {
        *(volatile u32 *)(MEDIUM + offset) += sum;
        sum += *(volatile u32 *)(LARGE + offset) ^ *(volatile u32 *)(LARGE + 0x100000 + offset);
        *(volatile u16 *)(LARGE + 0x80000 + offset) = sum;
    }
    add_atomically((u32 *)(USER + 0x3000), sum);
    WRITE(ENTRY_HI, round % SPACES);
    return sum;
}

/* Says where it is, and waits for a key, if somebody is there who looks at the memory that is mapped. */
static u32 asks;

static void look(void)
{
    static char place = 'a';
    if (!asks)
        return;
    put('?');
    put(place++);
    while (!(DEVICE_BYTE(UART_STATUS) & 1))
        __asm__ volatile("wait");
    (void)DEVICE_BYTE(UART);
}

/* What `map_quietly` shows, stored long before through kseg1: each word says where it is. */
NOINLINE void fill_quiet_pages(void)
{
    for (u32 page = 0; page < QUIET_PAGES; page++)
        for (u32 offset = 0; offset < 64; offset += 4)
            *(volatile u32 *)(QUIET_POOL + (page << 12) + offset) = 0x51000000 | page << 12 | offset;
}

/* Pages that come, go, show something else and are another address space's, and nobody accesses them. */
NOINLINE void map_quietly(void)
{
    u32 bits = CACHED | VALID;
    look();
    write_entry(2, 0, QUIET | 1, QUIET_FRAME(0) | bits, QUIET_FRAME(1) | bits | DIRTY);
    look();
    WRITE(ENTRY_HI, 2);
    look();
    write_entry(3, 0, QUIET | 2, QUIET_FRAME(2) | bits, QUIET_FRAME(3) | bits);
    look();
    WRITE(ENTRY_HI, 1);
    look();
    write_entry(2, 0, QUIET | 1, QUIET_FRAME(3) | bits, QUIET_FRAME(0) | CACHED);
    look();
    write_entry(3, 0, QUIET_KSEG2 | 1, QUIET_FRAME(1) | bits | GLOBAL, QUIET_FRAME(2) | bits | GLOBAL);
    look();
    write_entry(2, 0, 0x80000000 | 1, 0, 0);
    look();
}

/* Code in mapped pages, in user mode: the slot's page is fetched for the first time between a branch and its slot. */
NOINLINE void run_mapped(u32 round)
{
    u8 *code = crossings[round % CROSSINGS];
    u32 space = READ(ENTRY_HI) & 3;
    u32 page = round * 3 % 13;
    for (u32 half = 0; half < 2; half++) {
        u32 number = frame_number(round, space, page + half);
        memcpy((void *)(POOL + (number << 12)), code + (half << 12), 4096);
    }
    __asm__ volatile("sync");
    for (u32 time = 0; time < 2; time++) {
        flush_tlb();
        run_in_user_mode(USER + (page << 12) + ENTRY, USER + (page << 12), 9, USER + ((page + 2) << 12));
    }
}

/* --- code that changes ----------------------------------------------------------------------------------------------- */

/* A function in memory whose constant is stored through the other alias, run, and stored again. */
NOINLINE u32 change_code(u32 round)
{
    u32 sum = 0;
    volatile u32 *code = (u32 *)(POOL_UNCACHED + 0x1f0000);
    for (u32 number = 0; number < 4; number++) {
        u32 constant = (round + number * 771) & 0xffff;
        code[0] = 0x03e00008;            /* jr $31 */
        code[1] = 0x24020000 | constant; /* li $2, constant, in the slot */
        __asm__ volatile("synci 0(%0)\n\tsync" : : "r"(POOL + 0x1f0000) : "memory");
        sum += ((u32(*)(void))(POOL + 0x1f0000))();
    }
    return sum;
}

/* --------------------------------------------------------------------------------------------------------------------- */

/* How far the counter goes during a thousand instructions: it counts time, and how many instructions that is depends on
   who looks on. */
NOINLINE void measure(void)
{
    u32 start = READ(COUNT), turns = 500;
    __asm__ volatile(".set push\n\t.set noreorder\n\t1: bnez %0, 1b\n\taddiu %0, %0, -1\n\t.set pop" : "+r"(turns));
    u32 measured = READ(COUNT) - start;
    thousand = measured < 1000 ? 1000 : measured > 10000000 ? 10000000 : measured;
}

static u32 parse(const char *digits)
{
    u32 number = 0;
    while (*digits >= '0' && *digits <= '9')
        number = number * 10 + (*digits++ - '0');
    return number;
}

__attribute__((used)) void work(u32 count, char **arguments)
{
    u32 rounds = count > 1 ? parse(arguments[1]) : 4, state = 88172645, sum = 0;
    for (const char *text = count > 1 ? arguments[1] : ""; *text; text++)
        asks |= *text == '?';
    WRITE(STATUS, STATUS_WORK & ~1);
    WRITE(CAUSE, 0);
    WRITE(WIRED, WIRED_ENTRIES);
    __asm__ volatile(".set push\n\t.set hardfloat\n\tctc1 $0, $31\n\t.set pop");
    measure();
    measure();
    fill_quiet_pages();
    remap(0);
    set_timer();
    WRITE(STATUS, STATUS_WORK);
    for (u32 round = 0; round < rounds; round++) {
        put('0' + round % 10);
        measure();
        for (u32 index = 0; index < 32; index++)
            numbers[index] = next(&state);
        sort(numbers, numbers + 31);
        for (u32 index = 0; index < 31; index++) {
            u64 result = calculate(numbers[index] % 11, numbers[index] ^ sum, numbers[index + 1]);
            sum += (u32)result ^ (u32)(result >> 32);
        }
        sum += compute_by_name(sum, numbers[0]) + compute_by_name(numbers[1], 0);
        sum += unaligned((u8 *)(numbers + 32)) + fibonacci(7);
        numbers[64] = hash((const u8 *)numbers, 32);
        add_atomically(numbers + 65, sum);
        sum += floating(numbers + 72);
        remap(round);
        map_quietly();
        sum += walk_memory(round);
        for (u32 space = 0; space < SPACES; space++) {
            WRITE(ENTRY_HI, space);
            look();
        }
        WRITE(ENTRY_HI, round % SPACES);
        repaired_in_slots(numbers + 80);
        abandoned_in_slots();
        exceptions_elsewhere(numbers + 80);
        tlb_misses_in_slots(USER + (round % PAGES << 12));
        tlb_misses_in_slots(KSEG2 + ((round + 5) % PAGES << 12));
        devices_in_slots();
        sum += devices_in_blocks(numbers + 96);
        sum += cross_pages(21);
        run_mapped(round);
        sum += change_code(round);
        interrupts_on_request();
        look();
        numbers[100] = sum;
    }
    __asm__ volatile("di\n\tehb");
    print("\r\ndone\r\n");
    DEVICE_WORD(SOFTRES) = GORESET;
    for (;;)
        continue;
}
