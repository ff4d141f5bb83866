/* What the firmware and its host say to each other: requests and answers in frames with a checksum.
 *
 * A frame, all numbers little-endian:
 *    0  'S' 'G'      where a frame may begin
 *    2  uint8_t      type: a request, or an answer (the request's type with ANSWER set)
 *    3  uint8_t      protocol version
 *    4  uint32_t     sequence number: chosen by the host, repeated in the answer
 *    8  uint32_t     bytes of the payload
 *   12  uint32_t     CRC-32 of bytes 0 to 11
 *   16  the payload, and after a payload that is not empty:
 *       uint32_t     CRC-32 of all before it but bytes 12 to 15
 * The second checksum covers the header, too: the payload of one frame never passes for that of another.
 * A request that comes twice in a row is answered twice and carried out once. What fails its checksum is
 * dropped without an answer: the host asks again.
 */
#ifndef BOARD_PROTOCOL_H
#define BOARD_PROTOCOL_H

#include <stdint.h>

enum {
    PROTOCOL_VERSION = 2,
    HEADER_BYTES = 16,
    HASH_BYTES = 32
};

enum {
    HELLO = 1,    /* -> hash[32], then uint32_t: input, output, arena bytes, stack bytes, core */
    RUN = 2,      /* input -> output */
    SELFTEST = 3, /* -> int32_t: 0 passed */
    STACK = 4,    /* -> uint32_t: most bytes in use since reset, most bytes used by an inference */
    CHECK = 5,    /* uint32_t offset, size -> uint32_t: CRC-32 of so many bytes of the image as it lies in flash */
    BYE = 6,      /* -> empty; then the firmware ends */
    ANSWER = 0x80,
    FAULT = 0xFE, /* sent without a request: uint32_t vector, fault status, uint64_t pc, address, caller */
    ERROR = 0xFF  /* -> uint32_t: one of the reasons below */
};

enum {
    UNKNOWN_REQUEST = 1,
    WRONG_LENGTH = 2,
    OUTSIDE_IMAGE = 3
};

/* The model behind the link: where its input and output lie (bytes as the host sends and reads them). */
struct board_model {
    const uint8_t *hash; /* SHA-256 of the .tflite, HASH_BYTES */
    uint8_t *input;
    uint8_t *output;
    uint32_t input_bytes;
    uint32_t output_bytes;
    uint32_t arena_bytes;
    uint32_t core; /* the number that the core has for itself, 0: none */
    void (*invoke)(void);
    int (*selftest)(void);
};

/* Answer requests until BYE. */
void protocol_serve(const struct board_model *model);

/* What is not known of a fault. */
#define FAULT_NOT_KNOWN UINT64_MAX

/* Tell the host of a fault: which one, by the core's number for it and the bits of its status register; the
 * address of the instruction, of the memory that was accessed, and the one that the function returns to. */
void protocol_fault(uint32_t vector, uint32_t status, uint64_t pc, uint64_t address, uint64_t caller);

#endif
