@ Changes what a virtual address shows, by another entry of a translation table, another table, and an entry taken away, with
@ accesses only now and then. With BIG_ENDIAN_TABLES the tables are big-endian (SCTLR.EE).
@ Labels name the places that the test looks at. For -bios of QEMU's virt, with semihosting, by which it ends.
        .syntax unified
        .arm
        .global _start, shown, rewritten, switched, shown_again, taken_away
        .type   shown, %function
        .type   rewritten, %function
        .type   switched, %function
        .type   shown_again, %function
        .type   taken_away, %function
        .equ    TABLE, 0x40004000
        .equ    OTHER_TABLE, 0x40008000
        .equ    SECTION, 0xc02          @ readable and writable (DDI 0406C, B3.5.1)
        .macro  entry register, value
        ldr     \register, =\value
        .ifdef  BIG_ENDIAN_TABLES
        rev     \register, \register
        .endif
        .endm
_start:
        ldr     r0, =TABLE
        ldr     r1, =OTHER_TABLE
        entry   r2, SECTION             @ the code, at 0
        str     r2, [r0]
        str     r2, [r1]
        entry   r2, 0x40000000 | SECTION
        ldr     r3, =0x400 * 4
        str     r2, [r0, r3]
        str     r2, [r1, r3]
        ldr     r3, =0x800 * 4          @ 0x80000000
        entry   r2, 0x40100000 | SECTION
        str     r2, [r0, r3]
        entry   r2, 0x40200000 | SECTION
        str     r2, [r1, r3]
        ldr     r4, =0x40100000
        ldr     r2, =0x11111111
        str     r2, [r4]
        ldr     r4, =0x40200000
        ldr     r2, =0x22222222
        str     r2, [r4]

        mov     r2, #3
        mcr     p15, 0, r2, c3, c0, 0   @ DACR: no permissions
        mov     r2, #0
        mcr     p15, 0, r2, c2, c0, 2   @ TTBCR
        mcr     p15, 0, r0, c2, c0, 0   @ TTBR0
        mcr     p15, 0, r2, c8, c7, 0   @ TLBIALL
        mrc     p15, 0, r2, c1, c0, 0
        orr     r2, r2, #1
        .ifdef  BIG_ENDIAN_TABLES
        orr     r2, r2, #1 << 25
        .endif
        mcr     p15, 0, r2, c1, c0, 0   @ SCTLR.M
        isb

        mov     r6, #1 << 20            @ two million instructions: what comes is in another segment of the trace
wait:   subs    r6, r6, #1
        bne     wait
        mov     r8, #0x80000000
        ldr     r9, [r8]
shown:
        nop
        entry   r2, 0x40200000 | SECTION
        str     r2, [r0, r3]
        dsb
        mcr     p15, 0, r2, c8, c7, 0
        dsb
        isb
rewritten:
        nop
        mcr     p15, 0, r1, c2, c0, 0
        isb
        mcr     p15, 0, r2, c8, c7, 0
        dsb
        isb
switched:
        nop
        ldr     r9, [r8]
shown_again:
        nop
        mov     r5, #0
        str     r5, [r1, r3]
        dsb
        mcr     p15, 0, r2, c8, c7, 0
        dsb
        isb
taken_away:
        nop
        mov     r0, #0x18               @ SYS_EXIT
        ldr     r1, =0x20026
        svc     #0x123456
        .ltorg
