/* Both operands at twice the larger scale, with 20 more bits; their sum rescaled. */
static void sgsc_add(const sgsc_binary *p, const int8_t *a, const int8_t *b, int8_t *y)
{
    for (int32_t i = 0; i < p->size[0]; i++) {
        for (int32_t j = 0; j < p->size[1]; j++) {
            for (int32_t k = 0; k < p->size[2]; k++) {
                const int8_t *u = a + i * p->a_step[0] + j * p->a_step[1] + k * p->a_step[2];
                const int8_t *v = b + i * p->b_step[0] + j * p->b_step[1] + k * p->b_step[2];
                for (int32_t n = p->size[3]; n > 0; n--, u += p->a_step[3], v += p->b_step[3]) {
                    const int32_t first = sgsc_rescale((*u - p->a_zero) * (1 << 20), p->a_multiplier, p->a_shift);
                    const int32_t second = sgsc_rescale((*v - p->b_zero) * (1 << 20), p->b_multiplier, p->b_shift);
                    const int32_t sum = sgsc_rescale(first + second, p->multiplier, p->shift);
                    *y++ = sgsc_clamp(p->y_zero + sum, p->low, p->high);
                }
            }
        }
    }
}
