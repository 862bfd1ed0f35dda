/* A guest for QEMU's malta, one source for both byte orders, that has a device write to its memory: a virtio entropy source on
   the PCI bus (-device virtio-rng-pci,addr=0x13), driven through the interface of Virtio 1.2, section 4.1.4.10, "Legacy
   Interfaces". It asks for a page of bytes a few times, looks only at the queue for a while, and reads what has come at the end.
   Then it says `done` and resets the board.

   Built by build-mips.sh, linked by mips.ld, run with QEMU's -kernel. */

#include "mips_board.h"

/* Configuration of PCI devices through the north bridge, where QEMU's boot code has moved it. Its own registers are
   little-endian, and it passes data on in the processor's order. */
#define CONFIG_ADDRESS 0xbbe00cf8
#define CONFIG_DATA 0xbbe00cfc
#define DEVICE (0x80000000 | 0x13 << 11)
#define VENDOR_VIRTIO 0x1af4

/* Where the device's registers are, in the PCI bus's I/O space, and that as the processor sees it. */
#define PORT 0x2000
#define REGISTERS (0xb8000000 + PORT)
#define QUEUE_ADDRESS 8
#define QUEUE_SIZE 12
#define QUEUE_SELECT 14
#define QUEUE_NOTIFY 16
#define DEVICE_STATUS 18

/* Physical addresses: the queue, and what the device writes. */
#define QUEUE 0x00400000
#define BUFFERS 0x00500100
#define BUFFER_BYTES 4096
#define BUFFER_COUNT 3
#define CACHED(physical) (0x80000000 + (physical))

/* What is little-endian, like all on the PCI bus, as a number of the processor's, and the other way round. */
static u32 little(u32 value)
{
#ifdef __MIPSEB__
    return __builtin_bswap32(value);
#else
    return value;
#endif
}

static u16 little_half(u16 value)
{
#ifdef __MIPSEB__
    return __builtin_bswap16(value);
#else
    return value;
#endif
}

static u32 configured(u32 place)
{
    WORD(CONFIG_ADDRESS) = little(DEVICE | place);
    return WORD(CONFIG_DATA);
}

static void configure(u32 place, u32 value)
{
    WORD(CONFIG_ADDRESS) = little(DEVICE | place);
    WORD(CONFIG_DATA) = value;
}

void work(void)
{
    if ((configured(0) & 0xffff) != VENDOR_VIRTIO)
        end("no device\r\n");
    configure(0x10, PORT);
    /* I/O space, and that the device may access memory. */
    configure(0x04, 5);

    BYTE(REGISTERS + DEVICE_STATUS) = 0;
    BYTE(REGISTERS + DEVICE_STATUS) = 1 | 2;
    HALF(REGISTERS + QUEUE_SELECT) = 0;
    u32 size = little_half(HALF(REGISTERS + QUEUE_SIZE));
    WORD(REGISTERS + QUEUE_ADDRESS) = little(QUEUE / 4096);
    BYTE(REGISTERS + DEVICE_STATUS) = 1 | 2 | 4;

    /* Virtio 1.2, section 2.7: descriptors, the ring of those that are offered, that of those that were used; in the
       processor's byte order. */
    u32 descriptors = CACHED(QUEUE), offered = descriptors + 16 * size;
    u32 used = (offered + 6 + 2 * size + 4095) & ~4095u;
    u32 sum = 0;
    for (u32 number = 0; number < BUFFER_COUNT; number++) {
        /* The first word of its address is the upper one on a big-endian processor. */
#ifdef __MIPSEB__
        WORD(descriptors) = 0;
        WORD(descriptors + 4) = BUFFERS + number * BUFFER_BYTES;
#else
        WORD(descriptors) = BUFFERS + number * BUFFER_BYTES;
        WORD(descriptors + 4) = 0;
#endif
        WORD(descriptors + 8) = BUFFER_BYTES;
        HALF(descriptors + 12) = 2;
        HALF(descriptors + 14) = 0;
        HALF(offered + 4 + 2 * (number % size)) = 0;
        __sync_synchronize();
        HALF(offered + 2) = (u16)(number + 1);
        HALF(REGISTERS + QUEUE_NOTIFY) = 0;
        while (HALF(used + 2) != (u16)(number + 1))
            ;
        /* It goes on for a while with other things. */
        for (u32 turn = 0; turn < 1000; turn++)
            sum = sum * 31 + turn;
    }
    for (u32 at = 0; at < BUFFER_COUNT * BUFFER_BYTES; at++)
        sum = sum * 31 + BYTE(CACHED(BUFFERS) + at);
    WORD(CACHED(QUEUE) - 4) = sum;
    end("done\r\n");
}
