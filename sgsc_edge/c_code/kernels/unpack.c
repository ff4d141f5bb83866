/* A stream of bits, the least significant bit of a byte first. */
typedef struct {
    const int8_t *next;
    uint32_t held;
    int32_t holds;
} sgsc_bits;

/* The next n weights, `bits` bits each, to a byte each; one bit is 1 or -1. */
static void sgsc_take(sgsc_bits *from, int32_t bits, int32_t n, int8_t *weights)
{
    const int32_t unused = 32 - bits;
    const int32_t one = bits == 1;
    const int8_t *next = from->next;
    uint32_t held = from->held;
    int32_t holds = from->holds;
    for (; n > 0; n--) {
        if (holds < bits) {
            held |= (uint32_t)(uint8_t)*next++ << holds;
            holds += 8;
        }
        *weights++ = (int8_t)(((int32_t)(held << unused) >> unused) | one);
        held >>= bits;
        holds -= bits;
    }
    from->next = next;
    from->held = held;
    from->holds = holds;
}

/* The next filter of n weights: three bits say their width less 1, then they come. */
static void sgsc_unpack(sgsc_bits *from, int32_t n, int8_t *weights)
{
    sgsc_take(from, 3, 1, weights);
    sgsc_take(from, (weights[0] & 7) + 1, n, weights);
}
