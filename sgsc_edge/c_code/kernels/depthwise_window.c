/* The sum of one position of a filter of one input channel that starts at weight number `at`. */
static int32_t sgsc_depthwise_window_WIDTH(const sgsc_layer *p, const int8_t *x, const int8_t *weights, int32_t at,
                                           int32_t top, int32_t left)
{
    int32_t sum = 0;
    for (int32_t ky = 0; ky < p->kernel_h; ky++) {
        const int32_t y = top + ky * p->dilation_h;
        for (int32_t kx = 0; kx < p->kernel_w; kx++) {
            const int32_t column = left + kx * p->dilation_w;
            const int32_t inside = y >= 0 && y < p->in_h && column >= 0 && column < p->in_w;
            const int32_t value = inside ? x[(y * p->in_w + column) * p->in_c] : p->x_zero;
            sum += value * sgsc_weight_WIDTH(weights, at++);
        }
    }
    return sum;
}
