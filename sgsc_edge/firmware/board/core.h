/* What start-up code of every core shares, and what it says of the core. */
#ifndef BOARD_CORE_H
#define BOARD_CORE_H

#include <stdint.h>
#include <string.h>

#include "stack.h"
#include "transport.h"

/* From the linker script. `load`: where the initial values lie in flash. */
extern uint32_t board_data[], board_data_end[], board_data_load[];
extern uint32_t board_zero[], board_zero_end[];

int main(void);

/* Which core it is, by the number that it has for itself; 0 where it has none. */
uint32_t board_core(void);

/* Start again from reset. */
__attribute__((noreturn)) void board_restart(void);

/* What the firmware ends with when the core has reported a fault. */
enum { FAULT_EXIT = 70 };

/* Give variables their first values. */
static inline void board_fill_memory(void)
{
    memcpy(board_data, board_data_load, (size_t)((uintptr_t)board_data_end - (uintptr_t)board_data));
    memset(board_zero, 0, (size_t)((uintptr_t)board_zero_end - (uintptr_t)board_zero));
}

__attribute__((noreturn)) static inline void board_start(void)
{
    board_stack_paint();
    board_exit((uint32_t)main());
}

#endif
