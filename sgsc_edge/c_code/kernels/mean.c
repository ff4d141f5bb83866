/* Means over some dimensions: of every output (kept dimensions) over all its inputs (reduced ones). */
typedef struct {
    int32_t kept[3], kept_step[3];
    int32_t reduced[3], reduced_step[3];
    int32_t x_zero, y_zero;
    int32_t multiplier, shift; /* with the division by the number of inputs */
} sgsc_mean_of;

static void sgsc_mean(const sgsc_mean_of *p, const int8_t *x, int8_t *y)
{
    for (int32_t a = 0; a < p->kept[0]; a++) {
        for (int32_t b = 0; b < p->kept[1]; b++) {
            for (int32_t c = 0; c < p->kept[2]; c++) {
                const int8_t *from = x + a * p->kept_step[0] + b * p->kept_step[1] + c * p->kept_step[2];
                int32_t sum = 0;
                for (int32_t i = 0; i < p->reduced[0]; i++) {
                    for (int32_t j = 0; j < p->reduced[1]; j++) {
                        for (int32_t k = 0; k < p->reduced[2]; k++) {
                            sum += from[i * p->reduced_step[0] + j * p->reduced_step[1] + k * p->reduced_step[2]] -
                                   p->x_zero;
                        }
                    }
                }
                *y++ = sgsc_clamp(p->y_zero + sgsc_rescale(sum, p->multiplier, p->shift), INT8_MIN, INT8_MAX);
            }
        }
    }
}
