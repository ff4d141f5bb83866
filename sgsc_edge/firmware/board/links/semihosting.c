/* The transport over semihosting: the debugger or the emulator is the host's standard input and output. RISC-V
 * has taken over Arm's operations. */
#include "transport.h"

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { MODE_READ = 0, MODE_WRITE = 4, APPLICATION_EXIT = 0x20026 };

static uint32_t call(uint32_t operation, const uint32_t *parameters)
{
#if defined(__riscv)
    register uint32_t a0 __asm__("a0") = operation;
    register const uint32_t *a1 __asm__("a1") = parameters;

    /* The three instructions are the mark: uncompressed, and in one page. */
    __asm__ volatile(".option push\n\t"
                     ".option norvc\n\t"
                     ".balign 16\n\t"
                     "slli zero, zero, 0x1f\n\t"
                     "ebreak\n\t"
                     "srai zero, zero, 7\n\t"
                     ".option pop"
                     : "+r"(a0)
                     : "r"(a1)
                     : "memory");
    return a0;
#else
    register uint32_t r0 __asm__("r0") = operation;
    register const uint32_t *r1 __asm__("r1") = parameters;

    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
#endif
}

/* The console, opened when it is first needed. `handle` 0: not yet; kept with 1 added. */
static uint32_t console(uint32_t *handle, uint32_t mode)
{
    static const char name[] = ":tt";

    if (*handle == 0) {
        const uint32_t parameters[3] = {(uint32_t)name, mode, sizeof name - 1};
        *handle = call(SYS_OPEN, parameters) + 1u;
    }
    return *handle - 1u;
}

void board_read(uint8_t *bytes, uint32_t size)
{
    static uint32_t input;

    while (size > 0) {
        const uint32_t parameters[3] = {console(&input, MODE_READ), (uint32_t)bytes, size};
        uint32_t missing = call(SYS_READ, parameters);
        if (missing >= size) { /* the end of the input: the host has gone */
            board_exit(0);
        }
        bytes += size - missing;
        size = missing;
    }
}

void board_write(const uint8_t *bytes, uint32_t size)
{
    static uint32_t output;
    const uint32_t parameters[3] = {console(&output, MODE_WRITE), (uint32_t)bytes, size};

    if (call(SYS_WRITE, parameters) != 0) {
        board_exit(1);
    }
}

void board_exit(uint32_t code)
{
    const uint32_t parameters[2] = {APPLICATION_EXIT, code};

    for (;;) {
        call(SYS_EXIT_EXTENDED, parameters);
    }
}
