/* Rows divided by their Euclidean length. */
typedef struct {
    int32_t rows, size;
    int32_t x_zero;
} sgsc_l2norm_of;

static void sgsc_l2norm(const sgsc_l2norm_of *p, const int8_t *x, int8_t *y)
{
    for (int32_t row = 0; row < p->rows; row++, x += p->size, y += p->size) {
        int32_t sum = 0;
        for (int32_t i = 0; i < p->size; i++) {
            sum += (x[i] - p->x_zero) * (x[i] - p->x_zero);
        }
        int32_t factor = INT32_MAX;
        int32_t shift = 0;
        if (sum > 1) {
            /* 1 / sqrt(sum) by five Newton-Raphson steps in Q3.28, from 1. */
            for (shift = 11; sum >= 1 << 29; sum /= 4) {
                shift++;
            }
            for (; sum < 1 << 27; sum *= 4) {
                shift--;
            }
            const int32_t half = ((sum >> 1) + 1) >> 1;
            int32_t root = 1 << 28;
            for (int32_t i = 0; i < 5; i++) {
                const int32_t cube = sgsc_saturate((int64_t)sgsc_high(sgsc_high(root, root), root) * 64);
                root = sgsc_saturate(((int64_t)sgsc_high(root, 3 << 27) - sgsc_high(half, cube)) * 8);
            }
            factor = sgsc_high(root, 1518500250);
            for (; shift < 0; shift++) {
                factor *= 2;
            }
        }
        for (int32_t i = 0; i < p->size; i++) {
            y[i] = sgsc_clamp(sgsc_rescale(x[i] - p->x_zero, factor, 7 - shift), INT8_MIN, INT8_MAX);
        }
    }
}
