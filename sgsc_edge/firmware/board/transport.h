/* The two functions that carry bytes to and from the host, and the end. One file implements them a way. */
#ifndef BOARD_TRANSPORT_H
#define BOARD_TRANSPORT_H

#include <stdint.h>

/* Wait for exactly `size` bytes. Does not return where the host has gone. */
void board_read(uint8_t *bytes, uint32_t size);

void board_write(const uint8_t *bytes, uint32_t size);

/* End with an exit code where there is somebody to take it, else start again from reset. */
void board_exit(uint32_t code) __attribute__((noreturn));

#endif
