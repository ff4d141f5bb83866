/* Softmax over rows: exponentials from a table of Q0.31, by how far a value lies below the largest; their sum's
   reciprocal by three Newton-Raphson steps. Differences beyond the table count as nothing. */
typedef struct {
    const int32_t *exponentials;
    int32_t counted;
    int32_t rows, size;
} sgsc_softmax_of;

static int32_t sgsc_shift_right(int32_t x, int32_t by)
{
    const int32_t mask = (int32_t)((UINT32_C(1) << by) - 1);
    return (x >> by) + ((x & mask) > (mask >> 1) + (x < 0));
}

/* 1 / (1 + a) of a in [0, 1), Q0.31. */
static int32_t sgsc_reciprocal(int32_t a)
{
    const int32_t half = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
    int32_t x = 1515870810 + sgsc_high(half, -1010580540);
    for (int32_t i = 0; i < 3; i++) {
        const int32_t error = (1 << 29) - sgsc_high(half, x);
        x += sgsc_saturate((int64_t)sgsc_high(x, error) * 4);
    }
    return sgsc_saturate((int64_t)x * 2);
}

static void sgsc_softmax(const sgsc_softmax_of *p, const int8_t *x, int8_t *y)
{
    for (int32_t row = 0; row < p->rows; row++, x += p->size, y += p->size) {
        int32_t largest = INT8_MIN;
        for (int32_t i = 0; i < p->size; i++) {
            largest = x[i] > largest ? x[i] : largest;
        }
        int32_t sum = 0;
        for (int32_t i = 0; i < p->size; i++) {
            if (largest - x[i] < p->counted) {
                sum += sgsc_shift_right(p->exponentials[largest - x[i]], 12);
            }
        }
        int32_t leading = 0;
        while (((uint32_t)sum << leading & UINT32_C(0x80000000)) == 0) {
            leading++;
        }
        const int32_t reciprocal = sgsc_reciprocal((int32_t)(((uint32_t)sum << leading) - UINT32_C(0x80000000)));
        const int32_t power = 12 - leading + 31 - 8;
        for (int32_t i = 0; i < p->size; i++) {
            int32_t share = 0;
            if (largest - x[i] < p->counted) {
                share = sgsc_shift_right(sgsc_high(reciprocal, p->exponentials[largest - x[i]]), power);
            }
            y[i] = sgsc_clamp(share - 128, INT8_MIN, INT8_MAX);
        }
    }
}
