/* The transport of a program: its own standard input and output. */
#include "linux_aarch64/system_call.h"
#include "transport.h"

enum { STANDARD_INPUT = 0, STANDARD_OUTPUT = 1 };

void board_read(uint8_t *bytes, uint32_t size)
{
    while (size > 0) {
        int64_t done = system_call(CALL_READ, STANDARD_INPUT, (uintptr_t)bytes, size, 0);
        if (done <= 0) { /* the end of the input: the host has gone */
            board_exit(0);
        }
        bytes += done;
        size -= (uint32_t)done;
    }
}

void board_write(const uint8_t *bytes, uint32_t size)
{
    while (size > 0) {
        int64_t done = system_call(CALL_WRITE, STANDARD_OUTPUT, (uintptr_t)bytes, size, 0);
        if (done <= 0) {
            board_exit(1);
        }
        bytes += done;
        size -= (uint32_t)done;
    }
}

void board_exit(uint32_t code)
{
    for (;;) {
        system_call(CALL_EXIT_GROUP, code, 0, 0, 0);
    }
}
