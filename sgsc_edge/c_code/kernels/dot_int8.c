/* Sum of n products of inputs and 8-bit weights that start at weight number `at`. */
static int32_t sgsc_dot_int8(const int8_t *x, const int8_t *weights, int32_t at, int32_t n)
{
    const int8_t *w = weights + at;
    int32_t sum = 0;
    for (; n >= 4; n -= 4, x += 4, w += 4) {
        sum += x[0] * w[0];
        sum += x[1] * w[1];
        sum += x[2] * w[2];
        sum += x[3] * w[3];
    }
    for (; n > 0; n--) {
        sum += *x++ * *w++;
    }
    return sum;
}
