/* Reset and traps of a 32-bit RISC-V core in machine mode. The stack lies at the bottom of RAM. */
#include "core.h"
#include "protocol.h"

/* From the linker script: the chip's memory. */
extern uint8_t board_flash_origin[], board_flash_limit[], board_ram_origin[], board_ram_limit[];

void board_reset(void);
__attribute__((noreturn)) void board_begin(void);

uint32_t board_core(void)
{
    return 0;
}

void board_restart(void)
{
    board_reset();
    for (;;) {
    }
}

/* Tell the host which trap it was and where, and end. `caller`: the register that calls return by. */
__attribute__((noreturn, used)) void board_fault(uint32_t caller)
{
    uint32_t cause, pc, address;

    __asm__ volatile(".option arch, +zicsr\n\tcsrr %0, mcause\n\tcsrr %1, mepc\n\tcsrr %2, mtval"
                     : "=r"(cause), "=r"(pc), "=r"(address));
    protocol_fault(cause, 0, pc, address, caller);
    board_exit(FAULT_EXIT);
}

/* The stack may be what failed: start again at its top, for nothing on it is needed any more. */
__attribute__((naked, used, aligned(4))) static void board_trap(void)
{
    __asm__ volatile("mv a0, ra\n\t"
                     "la sp, board_stack_top\n\t"
                     "andi sp, sp, -16\n\t"
                     "j board_fault");
}

/* Physical memory protection, where the core has it, for this mode, too: flash is read and executed, RAM read and
 * written, the link's device read and written; everything else is a trap. An address is given without its two
 * lowest bits, a region of 4096 bytes by 9 ones behind its first address. */
static void close_memory(void)
{
    enum { READ = 1, WRITE = 2, EXECUTE = 4, UP_TO = 1 << 3, REGION = 3 << 3, LOCKED = 1 << 7 };
    const uint32_t flash = LOCKED | UP_TO | READ | EXECUTE;
    const uint32_t ram = LOCKED | UP_TO | READ | WRITE;
    const uint32_t first = flash << 8 | ram << 24;
    uint32_t second = (uint32_t)(LOCKED | REGION) << 8;
    uint32_t device = 0;

#if defined(SGSC_UART_BASE)
    device = SGSC_UART_BASE >> 2 | 0x1FFu;
    second |= LOCKED | REGION | READ | WRITE;
#endif
    /* Entries 0 and 2 are where flash and RAM begin, 1 and 3 are these, 4 is the device, 5 all the rest. A core
     * without the protection traps on its first register, and goes on behind its last. */
    __asm__ volatile(".option arch, +zicsr\n\t"
                     "la t0, 1f\n\t"
                     "csrw mtvec, t0\n\t"
                     "csrw pmpaddr0, %0\n\t"
                     "csrw pmpaddr1, %1\n\t"
                     "csrw pmpaddr2, %2\n\t"
                     "csrw pmpaddr3, %3\n\t"
                     "csrw pmpaddr4, %4\n\t"
                     "li t0, -1\n\t"
                     "csrw pmpaddr5, t0\n\t"
                     "csrw pmpcfg0, %5\n\t"
                     "csrw pmpcfg1, %6\n\t"
                     ".balign 4\n"
                     "1:\n\t"
                     "la t0, %7\n\t"
                     "csrw mtvec, t0"
                     ::"r"((uint32_t)board_flash_origin >> 2), "r"((uint32_t)board_flash_limit >> 2),
                     "r"((uint32_t)board_ram_origin >> 2), "r"((uint32_t)board_ram_limit >> 2), "r"(device),
                     "r"(first), "r"(second), "i"(board_trap)
                     : "t0", "memory");
}

__attribute__((noreturn, used)) void board_begin(void)
{
    close_memory();
    board_fill_memory();
    board_start();
}

/* Where execution begins: there is no stack yet. */
__attribute__((naked, section(".vectors"), used)) void board_reset(void)
{
    __asm__ volatile("la sp, board_stack_top\n\t"
                     "andi sp, sp, -16\n\t"
                     "j board_begin");
}
