/* Reset and faults of a Cortex-M. The stack lies at the bottom of RAM: what overflows it leaves RAM. */
#include "core.h"
#include "protocol.h"

union vector {
    uint32_t *stack;
    void (*handler)(void);
};

extern const union vector board_vectors[16];

enum { FRAME_WORDS = 8, FRAME_LR = 5, FRAME_PC = 6 };
enum { GUARD_BYTES = 0x10000 };

static volatile uint32_t *system_register(uint32_t address)
{
    return (volatile uint32_t *)address;
}

#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
static void enable_float(void)
{
    *system_register(0xE000ED88u) |= 0xFu << 20; /* CPACR: coprocessors 10 and 11 */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
}
#endif

uint32_t board_core(void)
{
    return *system_register(0xE000ED00u) >> 4 & 0xFFFu; /* CPUID: the part's number */
}

void board_restart(void)
{
    *system_register(0xE000ED0Cu) = 0x05FA0004u; /* AIRCR: the key, and SYSRESETREQ */
    for (;;) {
    }
}

/* What is below the stack may be another memory: make touching it a fault. */
static void guard_stack(void)
{
#if defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
    __asm__ volatile("msr msplim, %0" ::"r"(board_stack_limit));
#else
    /* PMSAv7, where the chip has it: one region that nobody may access, ending where the stack does. Its size is
     * a power of two and divides its address. */
    uint32_t end = (uint32_t)board_stack_limit;
    uint32_t size = 32;
    uint32_t exponent = 5;

    if (*system_register(0xE000ED90u) >> 8 == 0) { /* MPU_TYPE: no regions */
        return;
    }
    while (size < GUARD_BYTES && (end & size) == 0) {
        size *= 2;
        exponent++;
    }
    *system_register(0xE000ED98u) = 0;                                        /* MPU_RNR */
    *system_register(0xE000ED9Cu) = end - size;                               /* MPU_RBAR */
    *system_register(0xE000EDA0u) = 1u << 28 | (exponent - 1u) << 1 | 1u;     /* MPU_RASR: XN, no access, on */
    *system_register(0xE000ED94u) = 1u << 2 | 1u;                             /* MPU_CTRL: else as without */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
}

__attribute__((noreturn)) void board_reset(void)
{
    /* VTOR: whoever started this image, a boot loader say, has handlers of its own there. A core without the
     * register takes the write for nothing. */
    *system_register(0xE000ED08u) = (uint32_t)board_vectors;
    guard_stack();
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    enable_float();
#endif
    board_fill_memory();
    board_start();
}

/* Tell the host which fault it was and where, and end. `frame`: what the processor pushed, if it could. */
__attribute__((noreturn, used)) void board_fault(const uint32_t *frame)
{
    uint32_t vector;
    uint32_t status = 0;
    uint64_t address = FAULT_NOT_KNOWN;
    uint64_t pc = FAULT_NOT_KNOWN;
    uint64_t caller = FAULT_NOT_KNOWN;

    __asm__ volatile("mrs %0, ipsr" : "=r"(vector));
#if !defined(__ARM_ARCH_6M__)
    status = *system_register(0xE000ED28u); /* CFSR */
    if (status & 1u << 15) {
        address = *system_register(0xE000ED38u); /* BFAR */
    } else if (status & 1u << 7) {
        address = *system_register(0xE000ED34u); /* MMFAR */
    }
#endif
    /* Bits 4, 12 and 20: the processor could not push the frame. */
    if ((status & 0x00101010u) == 0 && frame >= board_stack_limit && frame + FRAME_WORDS <= board_stack_top) {
        pc = frame[FRAME_PC];
        caller = frame[FRAME_LR];
    }
    protocol_fault(vector, status, pc, address, caller);
    board_exit(FAULT_EXIT);
}

/* The stack may be what failed: start again at its top, for nothing on it is needed any more. */
__attribute__((naked)) static void fault(void)
{
    __asm__ volatile("mrs r0, msp\n\t"
                     "ldr r1, =board_stack_top\n\t"
                     "msr msp, r1\n\t"
                     "ldr r1, =board_fault\n\t"
                     "bx r1\n\t"
                     ".ltorg");
}

__attribute__((section(".vectors"), used)) const union vector board_vectors[16] = {
    {.stack = board_stack_top},
    {.handler = board_reset},
    {.handler = fault}, /* NMI */
    {.handler = fault}, /* HardFault */
    {.handler = fault}, /* MemManage */
    {.handler = fault}, /* BusFault */
    {.handler = fault}, /* UsageFault */
    {.handler = fault}, /* SecureFault */
    {.stack = 0},
    {.stack = 0},
    {.stack = 0},
    {.handler = fault}, /* SVCall */
    {.handler = fault}, /* DebugMonitor */
    {.stack = 0},
    {.handler = fault}, /* PendSV */
    {.handler = fault}, /* SysTick */
};
