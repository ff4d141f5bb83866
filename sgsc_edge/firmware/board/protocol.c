#include "protocol.h"

#include "stack.h"
#include "transport.h"

enum { SEQUENCE = 4, LENGTH = 8, CHECKSUM = 12 };
enum { PART_BYTES = 32, CHECK_BYTES = 8 };
enum { HELLO_NUMBERS = 5, INFO_BYTES = HASH_BYTES + 4 * HELLO_NUMBERS, FAULT_BYTES = 32 };

/* The last answer, kept for a request that comes again. */
static struct {
    uint32_t sequence;
    uint8_t request; /* 0: none yet */
    uint8_t type;
    const uint8_t *payload;
    uint32_t size;
} last;

/* From the linker script: what was written to flash. */
extern const uint8_t board_flash_origin[], board_image_end[];

static uint8_t info[INFO_BYTES];   /* the payload of every answer but that of RUN */
static uint8_t asked[CHECK_BYTES]; /* the payload of CHECK */
static uint32_t inference_stack; /* bytes, the most of any RUN */

/* CRC-32 (IEEE 802.3, reflected) of `size` more bytes; it starts with `crc` 0. */
static uint32_t crc32(uint32_t crc, const uint8_t *bytes, uint32_t size)
{
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu};

    crc = ~crc;
    for (uint32_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}

static uint32_t get(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* Little-endian. */
static void put(uint8_t *bytes, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
}

static void put_wide(uint8_t *bytes, uint64_t value)
{
    put(bytes, (uint32_t)value);
    put(bytes + 4, (uint32_t)(value >> 32));
}

static void send(uint8_t type, uint32_t sequence, const uint8_t *payload, uint32_t size)
{
    uint8_t header[HEADER_BYTES] = {'S', 'G', type, PROTOCOL_VERSION};
    uint8_t trailer[4];

    put(header + SEQUENCE, sequence);
    put(header + LENGTH, size);
    uint32_t crc = crc32(0, header, CHECKSUM);
    put(header + CHECKSUM, crc);
    board_write(header, HEADER_BYTES);
    if (size > 0) {
        put(trailer, crc32(crc, payload, size));
        board_write(payload, size);
        board_write(trailer, sizeof trailer);
    }
}

void protocol_fault(uint32_t vector, uint32_t status, uint64_t pc, uint64_t address, uint64_t caller)
{
    uint8_t report[FAULT_BYTES];

    put(report, vector);
    put(report + 4, status);
    put_wide(report + 8, pc);
    put_wide(report + 16, address);
    put_wide(report + 24, caller);
    send(FAULT, 0, report, sizeof report);
}

/* Read up to the end of the next sound header; what comes before it is noise. */
static void read_header(uint8_t header[HEADER_BYTES])
{
    board_read(header, HEADER_BYTES);
    while (header[0] != 'S' || header[1] != 'G' || header[3] != PROTOCOL_VERSION ||
           crc32(0, header, CHECKSUM) != get(header + CHECKSUM)) {
        for (int i = 0; i < HEADER_BYTES - 1; i++) {
            header[i] = header[i + 1];
        }
        board_read(header + HEADER_BYTES - 1, 1);
    }
}

/* Read a payload into `wanted` where it has room for exactly that, else drop it; 1 if the checksum fits. */
static int read_payload(const uint8_t *header, uint8_t *wanted, uint32_t room)
{
    uint32_t left = get(header + LENGTH);
    uint32_t crc = get(header + CHECKSUM);
    int keep = left == room;
    uint8_t part[PART_BYTES];

    if (left == 0) {
        return 1;
    }
    /* In parts: a line without a buffer does not wait until the checksum of all is computed. */
    while (left > 0) {
        uint32_t size = left < PART_BYTES ? left : PART_BYTES;
        uint8_t *to = part;
        if (keep) {
            to = wanted;
            wanted += size;
        }
        board_read(to, size);
        crc = crc32(crc, to, size);
        left -= size;
    }
    board_read(part, 4);
    return crc == get(part);
}

static void run(const struct board_model *model)
{
    board_stack_paint();
    uintptr_t before = board_stack_pointer();
    model->invoke();
    uint32_t used = (uint32_t)(before - board_stack_lowest());
    if (used > inference_stack) {
        inference_stack = used;
    }
}

static void answer(uint8_t type, const uint8_t *payload, uint32_t size)
{
    last.type = type;
    last.payload = payload;
    last.size = size;
}

static void refuse(uint32_t reason)
{
    put(info, reason);
    answer(ERROR, info, 4);
}

/* Where the payload of a request goes; NULL where it has none. */
static uint8_t *place_for(const struct board_model *model, uint8_t request)
{
    return request == RUN ? model->input : request == CHECK ? asked : 0;
}

static uint32_t bytes_for(const struct board_model *model, uint8_t request)
{
    return request == RUN ? model->input_bytes : request == CHECK ? CHECK_BYTES : 0;
}

/* The checksum of a part of what lies in flash. */
static void check(void)
{
    uint32_t offset = get(asked);
    uint32_t size = get(asked + 4);
    uint32_t whole = (uint32_t)((uintptr_t)board_image_end - (uintptr_t)board_flash_origin);

    if (offset > whole || size > whole - offset) {
        refuse(OUTSIDE_IMAGE);
        return;
    }
    put(info, crc32(0, board_flash_origin + offset, size));
    answer(CHECK | ANSWER, info, 4);
}

/* Carry out a request whose payload of `size` bytes lies where it belongs. */
static void carry_out(const struct board_model *model, uint8_t request, uint32_t size)
{
    uint8_t type = (uint8_t)(request | ANSWER);

    if (request < HELLO || request > BYE) {
        refuse(UNKNOWN_REQUEST);
    } else if (size != bytes_for(model, request)) {
        refuse(WRONG_LENGTH);
    } else if (request == HELLO) {
        const uint32_t numbers[] = {model->input_bytes, model->output_bytes, model->arena_bytes,
                                    board_stack_size(), model->core};
        for (int i = 0; i < HASH_BYTES; i++) {
            info[i] = model->hash[i];
        }
        for (int i = 0; i < HELLO_NUMBERS; i++) {
            put(info + HASH_BYTES + 4 * i, numbers[i]);
        }
        answer(type, info, INFO_BYTES);
    } else if (request == RUN) {
        run(model);
        answer(type, model->output, model->output_bytes);
    } else if (request == SELFTEST) {
        put(info, (uint32_t)model->selftest());
        answer(type, info, 4);
    } else if (request == STACK) {
        put(info, board_stack_used());
        put(info + 4, inference_stack);
        answer(type, info, 8);
    } else if (request == CHECK) {
        check();
    } else {
        answer(type, info, 0);
    }
}

void protocol_serve(const struct board_model *model)
{
    uint8_t header[HEADER_BYTES];

    do {
        read_header(header);
        uint8_t request = header[2];
        uint32_t sequence = get(header + SEQUENCE);
        int whole = read_payload(header, place_for(model, request), bytes_for(model, request));
        if (!whole) {
            continue;
        }
        if (request != last.request || sequence != last.sequence) {
            carry_out(model, request, get(header + LENGTH));
            last.request = request;
            last.sequence = sequence;
        }
        send(last.type, sequence, last.payload, last.size);
    } while (last.request != BYE);
}
