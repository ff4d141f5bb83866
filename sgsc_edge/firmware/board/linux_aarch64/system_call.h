/* System calls of Linux on a 64-bit Arm core, without a C library. */
#ifndef BOARD_SYSTEM_CALL_H
#define BOARD_SYSTEM_CALL_H

#include <stdint.h>

enum { CALL_READ = 63, CALL_WRITE = 64, CALL_EXIT_GROUP = 94, CALL_SIGALTSTACK = 132, CALL_RT_SIGACTION = 134 };

/* What the kernel returns; from -4095 to -1 it is an error. */
static inline int64_t system_call(int64_t number, uint64_t first, uint64_t second, uint64_t third, uint64_t fourth)
{
    register int64_t x8 __asm__("x8") = number;
    register uint64_t x0 __asm__("x0") = first;
    register uint64_t x1 __asm__("x1") = second;
    register uint64_t x2 __asm__("x2") = third;
    register uint64_t x3 __asm__("x3") = fourth;

    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return (int64_t)x0;
}

#endif
