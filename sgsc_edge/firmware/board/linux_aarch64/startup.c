/* Start and signals of a program for Linux on a 64-bit Arm core. The kernel gives variables their first values.
 * Its stack is not used: ours has a known size, and what overflows it touches memory that is not there. */
#include "core.h"
#include "linux_aarch64/system_call.h"
#include "protocol.h"

/* The signals that a program causes by itself, and the one that asks where it is. */
enum { SIGNAL_ILL = 4, SIGNAL_TRAP = 5, SIGNAL_BUS = 7, SIGNAL_FPE = 8, SIGNAL_SEGV = 11, SIGNAL_ALRM = 14 };
enum { WITH_INFORMATION = 4, ON_ITS_STACK = 0x08000000 };
enum { SIGNAL_SET_BYTES = 8, SIGNAL_STACK_BYTES = 0x4000 };
/* Where the kernel's structures have what is read: siginfo_t, and registers in ucontext_t. */
enum { INFORMATION_CODE = 8, INFORMATION_ADDRESS = 16, CONTEXT_LR = 424, CONTEXT_PC = 440 };

/* As the kernel has them: struct sigaction, stack_t. */
struct action {
    void (*handler)(int signal, const uint8_t *information, const uint8_t *context);
    uint64_t flags;
    void (*restorer)(void);
    uint64_t mask;
};

struct signal_stack {
    uint8_t *first;
    uint64_t flags;
    uint64_t size;
};

__attribute__((noreturn)) void board_begin(void);

uint32_t board_core(void)
{
    return 0;
}

static uint64_t wide_at(const uint8_t *bytes)
{
    uint64_t value;

    memcpy(&value, bytes, sizeof value);
    return value;
}

/* Tell the host which signal it was, with its code, and where, and end. */
static void fault(int signal, const uint8_t *information, const uint8_t *context)
{
    uint32_t code = (uint32_t)wide_at(information + INFORMATION_CODE);
    uint64_t address = signal == SIGNAL_ALRM ? FAULT_NOT_KNOWN : wide_at(information + INFORMATION_ADDRESS);

    protocol_fault((uint32_t)signal, code, wide_at(context + CONTEXT_PC), address, wide_at(context + CONTEXT_LR));
    board_exit(FAULT_EXIT);
}

__attribute__((noreturn, used)) void board_begin(void)
{
    static const int signals[] = {SIGNAL_ILL, SIGNAL_TRAP, SIGNAL_BUS, SIGNAL_FPE, SIGNAL_SEGV, SIGNAL_ALRM};
    static uint8_t memory[SIGNAL_STACK_BYTES] __attribute__((aligned(16)));
    const struct signal_stack stack = {memory, 0, sizeof memory};
    const struct action action = {fault, WITH_INFORMATION | ON_ITS_STACK, 0, 0};

    system_call(CALL_SIGALTSTACK, (uintptr_t)&stack, 0, 0, 0);
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) {
        system_call(CALL_RT_SIGACTION, (uint64_t)signals[i], (uintptr_t)&action, 0, SIGNAL_SET_BYTES);
    }
    board_start();
}

/* Where the program begins. In assembly: gcc has no naked functions for this core. */
__asm__(".section .vectors, \"ax\"\n"
        ".globl board_reset\n"
        ".type board_reset, %function\n"
        "board_reset:\n\t"
        "ldr x0, =board_stack_top\n\t"
        "and sp, x0, #-16\n\t"
        "b board_begin\n\t"
        ".ltorg\n"
        ".size board_reset, . - board_reset\n"
        ".text");
