/* The same values on another grid, within bounds. */
typedef struct {
    int32_t size;
    int32_t x_zero, y_zero;
    int32_t multiplier, shift;
    int32_t low, high;
} sgsc_grid;

static void sgsc_requantize(const sgsc_grid *p, const int8_t *x, int8_t *y)
{
    for (int32_t i = 0; i < p->size; i++) {
        const int32_t scaled = sgsc_rescale(x[i] - p->x_zero, p->multiplier, p->shift);
        y[i] = sgsc_clamp(p->y_zero + scaled, p->low, p->high);
    }
}
