/* Sum of n products of inputs and 4-bit weights, from weight number `at`. */
static int32_t sgsc_dot_int4(const int8_t *x, const int8_t *weights, int32_t at, int32_t n)
{
    const int8_t *w = weights + (at >> 1);
    int32_t sum = 0;
    if ((at & 1) != 0 && n > 0) {
        sum += *x++ * SGSC_HIGH(*w++);
        n--;
    }
    for (; n >= 2; n -= 2, x += 2) {
        const int8_t pair = *w++;
        sum += x[0] * SGSC_LOW(pair);
        sum += x[1] * SGSC_HIGH(pair);
    }
    if (n > 0) {
        sum += *x * SGSC_LOW(*w);
    }
    return sum;
}
