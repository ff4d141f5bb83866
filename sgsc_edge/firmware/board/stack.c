#include "stack.h"

static const uint32_t paint = 0xC5C5C5C5u;
static uintptr_t lowest_ever; /* 0: never painted */

uintptr_t board_stack_lowest(void)
{
    const uint32_t *word = board_stack_limit;

    while (word < board_stack_top && *word == paint) {
        word++;
    }
    return (uintptr_t)word;
}

/* Write `value` from `word` on up to the stack pointer. In assembly: where the pointer is when it is read, it still
 * is when memory is written, and nothing lives below it, for no interrupt is enabled. */
static inline void fill(uint32_t *word, uint32_t value)
{
    uintptr_t end;

#if defined(__riscv)
    __asm__ volatile("mv %1, sp\n\t"
                     "j 2f\n"
                     "1:\n\t"
                     "sw %2, 0(%0)\n\t"
                     "addi %0, %0, 4\n"
                     "2:\n\t"
                     "bltu %0, %1, 1b"
                     : "+r"(word), "=&r"(end)
                     : "r"(value)
                     : "memory");
#elif defined(__aarch64__)
    __asm__ volatile("mov %1, sp\n\t"
                     "b 2f\n"
                     "1:\n\t"
                     "str %w2, [%0], #4\n"
                     "2:\n\t"
                     "cmp %0, %1\n\t"
                     "b.lo 1b"
                     : "+r"(word), "=&r"(end)
                     : "r"(value)
                     : "memory", "cc");
#else
    __asm__ volatile(".syntax unified\n\t"
                     "mov %1, sp\n\t"
                     "b 2f\n"
                     "1:\n\t"
                     "str %2, [%0]\n\t"
                     "adds %0, #4\n"
                     "2:\n\t"
                     "cmp %0, %1\n\t"
                     "blo 1b"
                     : "+l"(word), "=&l"(end)
                     : "l"(value)
                     : "memory", "cc");
#endif
}

__attribute__((noinline)) void board_stack_paint(void)
{
    uintptr_t lowest = lowest_ever != 0 ? board_stack_lowest() : board_stack_pointer();

    lowest_ever = lowest_ever != 0 && lowest_ever < lowest ? lowest_ever : lowest;
    fill(board_stack_limit, paint);
}

uint32_t board_stack_used(void)
{
    uintptr_t lowest = board_stack_lowest();

    lowest = lowest < lowest_ever ? lowest : lowest_ever;
    return (uint32_t)((uintptr_t)board_stack_top - lowest);
}

uint32_t board_stack_size(void)
{
    return (uint32_t)((uintptr_t)board_stack_top - (uintptr_t)board_stack_limit);
}
