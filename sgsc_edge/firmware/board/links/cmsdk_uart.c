/* The transport over the UART of Arm's Cortex-M System Design Kit: one byte each way, no buffer. */
#include "core.h"

enum { SEND_FULL = 1, RECEIVE_FULL = 2 }; /* of `state` */
enum { SEND = 1, RECEIVE = 2 };           /* of `control` */
enum { LEAST_DIVISOR = 16, FRAME_BITS = 10 };

struct uart {
    volatile uint32_t data;
    volatile uint32_t state;
    volatile uint32_t control;
    volatile uint32_t interrupt;
    volatile uint32_t divisor;
};

/* The device, switched on when it is first needed. */
static struct uart *device(void)
{
    static uint8_t ready;
    struct uart *uart = (struct uart *)SGSC_UART_BASE;
    const uint32_t divisor = SGSC_UART_CLOCK / SGSC_UART_BAUD;

    if (!ready) {
        ready = 1;
        uart->divisor = divisor < LEAST_DIVISOR ? LEAST_DIVISOR : divisor;
        uart->control = SEND | RECEIVE;
        (void)uart->data; /* empties the register; QEMU then sends what it had no room for */
    }
    return uart;
}

void board_read(uint8_t *bytes, uint32_t size)
{
    struct uart *uart = device();

    for (uint32_t i = 0; i < size; i++) {
        while ((uart->state & RECEIVE_FULL) == 0) {
        }
        bytes[i] = (uint8_t)uart->data;
    }
}

void board_write(const uint8_t *bytes, uint32_t size)
{
    struct uart *uart = device();

    for (uint32_t i = 0; i < size; i++) {
        while ((uart->state & SEND_FULL) != 0) {
        }
        uart->data = bytes[i];
    }
}

void board_exit(uint32_t code)
{
    struct uart *uart = device();

    (void)code; /* there is nobody to take it */
    while ((uart->state & SEND_FULL) != 0) {
    }
    /* The last byte has left the register and is on the line. */
    for (volatile uint32_t left = SGSC_UART_CLOCK / SGSC_UART_BAUD * FRAME_BITS; left > 0; left--) {
    }
    board_restart();
}
