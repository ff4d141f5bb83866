static void sgsc_KIND(const sgsc_binary *p, const int8_t *a, const int8_t *b, int8_t *y)
{
    for (int32_t i = 0; i < p->size[0]; i++) {
        for (int32_t j = 0; j < p->size[1]; j++) {
            for (int32_t k = 0; k < p->size[2]; k++) {
                const int8_t *u = a + i * p->a_step[0] + j * p->a_step[1] + k * p->a_step[2];
                const int8_t *v = b + i * p->b_step[0] + j * p->b_step[1] + k * p->b_step[2];
                for (int32_t n = p->size[3]; n > 0; n--, u += p->a_step[3], v += p->b_step[3]) {
                    const int32_t value = sgsc_KIND_of(p, *u - p->a_zero, *v - p->b_zero);
                    *y++ = sgsc_clamp(p->y_zero + value, p->low, p->high);
                }
            }
        }
    }
}
