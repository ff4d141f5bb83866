/* Two weights a byte, the first in the low half. */
#define SGSC_LOW(pair) ((int8_t)((uint32_t)(pair) << 4) >> 4)
#define SGSC_HIGH(pair) ((pair) >> 4)

static int32_t sgsc_weight_int4(const int8_t *weights, int32_t at)
{
    const int8_t pair = weights[at >> 1];
    return (at & 1) != 0 ? SGSC_HIGH(pair) : SGSC_LOW(pair);
}
