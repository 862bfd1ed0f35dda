/* What the small guests for QEMU's malta share: a line of text on the serial port, an end, and where they begin: at `work`. */
#ifndef MIPS_BOARD_H
#define MIPS_BOARD_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

#define WORD(address) (*(volatile u32 *)(address))
#define HALF(address) (*(volatile u16 *)(address))
#define BYTE(address) (*(volatile u8 *)(address))
/* MIPS32 code, whatever else there is. */
#define PLAIN __attribute__((nomips16, nomicromips, noinline))

/* The serial port in the south bridge: data, line status. */
#define UART 0xb80003f8
#define UART_STATUS (UART + 5)
#define SOFTRES 0xbf000500
#define GORESET 0x42

/* Prints a text and resets the board. */
PLAIN static void end(const char *text)
{
    for (; *text; text++) {
        while (!(BYTE(UART_STATUS) & 0x20))
            ;
        BYTE(UART) = *text;
    }
    for (;;)
        WORD(SOFTRES) = GORESET;
}

__asm__(".section .text.start, \"ax\"\n"
        ".set nomips16\n"
        ".set nomicromips\n"
        ".globl start\n"
        ".set noreorder\n"
        "start:\n"
        "   lui $29, 0x8030\n"
        "   la $25, work\n"
        "   jr $25\n"
        "   nop\n"
        ".set reorder\n"
        ".text\n");

#endif
