# Both ways into the kernel, the first page tables and the segments.
# They end alike: long mode, interrupts off, our page tables, segments and stack, then
# kernel_main(edi = protocol, rsi = physical address of what the loader left).

    .section .text.boot, "ax"

# PVH: 32-bit protected mode, paging off, EBX = start info.
    .code32
    .globl pvh_start32
pvh_start32:
    cli
    cld
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                 # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER
    rdmsr
    orl $0x100, %eax                # LME
    wrmsr
    movl %cr0, %eax
    orl $0x80010000, %eax           # PG and WP
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $0x08, $pvh_start64

    .code64
pvh_start64:
    movl %ebx, %esi
    movl $0, %edi
    jmp common_start64

# As a loader of a Linux vmlinux leaves it: long mode, low 4 GiB mapped one to one, RSI = zero page.
    .globl linux_start64
linux_start64:
    cli
    cld
    movq $boot_pml4, %rax
    movq %rax, %cr3
    lgdt boot_gdt_pointer(%rip)
    movq $boot_stack_top, %rsp
    pushq $0x08
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
1:  movl $1, %edi

common_start64:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    call kernel_main
2:  cli
    hlt
    jmp 2b

# Low 4 GiB one to one, readable, writable and executable, in 2 MiB pages.
    .section .data.tables, "aw"
    .balign 4096
    .globl boot_pml4
boot_pml4:
    .quad boot_pdpt + 3
    .skip 4096 - 8
boot_pdpt:
    .quad boot_pd + 0x0003
    .quad boot_pd + 0x1003
    .quad boot_pd + 0x2003
    .quad boot_pd + 0x3003
    .skip 4096 - 32
    .globl boot_pd
boot_pd:
    .set frame, 0
    .rept 2048
    .quad frame + 0x83
    .set frame, frame + 0x200000
    .endr

    .balign 16
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08: 64-bit code
    .quad 0x00cf93000000ffff        # 0x10: data
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

    .section .bss.stack, "aw", @nobits
    .balign 4096
    .globl boot_stack_guard
boot_stack_guard:
    .skip 4096
boot_stack:
    .skip 512 * 1024
boot_stack_top:
