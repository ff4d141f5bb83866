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

__attribute__((noinline)) void board_stack_paint(void)
{
    /* Nothing lives below the stack pointer: no interrupt is enabled. */
    uint32_t *end = (uint32_t *)board_stack_pointer();

    if (lowest_ever != 0) {
        uintptr_t lowest = board_stack_lowest();
        lowest_ever = lowest < lowest_ever ? lowest : lowest_ever;
    } else {
        lowest_ever = (uintptr_t)end;
    }
    for (uint32_t *word = board_stack_limit; word < end; word++) {
        *word = paint;
    }
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
