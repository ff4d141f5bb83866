/* The stack's high-water mark: unused stack is painted, and what has lost its paint was used. */
#ifndef BOARD_STACK_H
#define BOARD_STACK_H

#include <stdint.h>

/* From the linker script: the stack's first word, and the word after its last. */
extern uint32_t board_stack_limit[];
extern uint32_t board_stack_top[];

/* Paint all that lies below the caller's frame; what was used before stays counted. */
void board_stack_paint(void);

/* Address of the lowest word that was written since it was painted. */
uintptr_t board_stack_lowest(void);

/* Bytes: the most that were in use since reset; all that there are. */
uint32_t board_stack_used(void);
uint32_t board_stack_size(void);

static inline uintptr_t board_stack_pointer(void)
{
    uintptr_t pointer;

#if defined(__riscv)
    __asm__ volatile("mv %0, sp" : "=r"(pointer));
#else
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
#endif
    return pointer;
}

#endif
