/* The transport over a UART like National Semiconductor's 16550, with its registers at neighbouring bytes. */
#include "core.h"

enum { DATA = 0, INTERRUPTS = 1, BUFFERS = 2, LINE = 3, STATE = 5 };
enum { DIVISOR_LOW = 0, DIVISOR_HIGH = 1 };                 /* while LINE has DIVISOR */
enum { EIGHT_BITS = 3, DIVISOR = 0x80 };                    /* of LINE */
enum { BUFFERS_ON = 7 };                                    /* of BUFFERS: on, and emptied */
enum { RECEIVED = 1, SEND_EMPTY = 0x20, LINE_IDLE = 0x40 }; /* of STATE */
enum { SAMPLES_A_BIT = 16 };

/* The device, set up when it is first needed. */
static volatile uint8_t *device(void)
{
    static uint8_t ready;
    volatile uint8_t *uart = (volatile uint8_t *)SGSC_UART_BASE;
    const uint32_t divisor = SGSC_UART_CLOCK / (SAMPLES_A_BIT * SGSC_UART_BAUD);

    if (!ready) {
        ready = 1;
        uart[INTERRUPTS] = 0;
        uart[LINE] = EIGHT_BITS | DIVISOR;
        uart[DIVISOR_LOW] = (uint8_t)divisor;
        uart[DIVISOR_HIGH] = (uint8_t)(divisor >> 8);
        uart[LINE] = EIGHT_BITS;
        uart[BUFFERS] = BUFFERS_ON;
        (void)uart[DATA]; /* QEMU then sends what it had no room for */
    }
    return uart;
}

void board_read(uint8_t *bytes, uint32_t size)
{
    volatile uint8_t *uart = device();

    for (uint32_t i = 0; i < size; i++) {
        while ((uart[STATE] & RECEIVED) == 0) {
        }
        bytes[i] = uart[DATA];
    }
}

void board_write(const uint8_t *bytes, uint32_t size)
{
    volatile uint8_t *uart = device();

    for (uint32_t i = 0; i < size; i++) {
        while ((uart[STATE] & SEND_EMPTY) == 0) {
        }
        uart[DATA] = bytes[i];
    }
}

void board_exit(uint32_t code)
{
    volatile uint8_t *uart = device();

    (void)code; /* there is nobody to take it */
    while ((uart[STATE] & LINE_IDLE) == 0) {
    }
    board_restart();
}
