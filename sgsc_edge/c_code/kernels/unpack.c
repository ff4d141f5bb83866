/* n weights of `bits` each, least significant bit first, to a byte each; the first byte behind them. */
static const int8_t *sgsc_unpack(const int8_t *packed, int32_t bits, int32_t n, int8_t *weights)
{
    uint32_t held = 0;
    int32_t holds = 0;
    for (int32_t i = 0; i < n; i++) {
        while (holds < bits) {
            held |= (uint32_t)(uint8_t)*packed++ << holds;
            holds += 8;
        }
        weights[i] = (int8_t)((int32_t)(held << (32 - bits)) >> (32 - bits));
        held >>= bits;
        holds -= bits;
    }
    return packed;
}
