@ Ends QEMU itself, by a semihosting call (SYS_EXIT of Arm's "Semihosting for AArch32 and AArch64"), at the end of a block that
@ has stored before: no block follows that would tell what became of it. For -bios of QEMU's virt.
        .syntax unified
        .arm
        .global _start
_start:
        mov     r4, #0x40000000
        add     r4, r4, #0x100
        mov     r5, #7
again:
        str     r5, [r4]
        ldr     r6, [r4]
        subs    r5, r5, #1
        bne     again
        str     r4, [r4, #4]
        ldr     r7, [r4, #4]
        mov     r0, #0x18
        ldr     r1, =0x20026
        svc     #0x123456
        .ltorg
