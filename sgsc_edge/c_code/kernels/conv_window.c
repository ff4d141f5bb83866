static int32_t sgsc_weights_WIDTH(const int8_t *weights, int32_t at, int32_t n)
{
    int32_t sum = 0;
    for (; n > 0; n--) {
        sum += sgsc_weight_WIDTH(weights, at++);
    }
    return sum;
}

/* The sum of one position of a filter that starts at weight number `at`. */
static int32_t sgsc_conv_window_WIDTH(const sgsc_layer *p, const int8_t *x, const int8_t *weights, int32_t at,
                                      int32_t top, int32_t left)
{
    const int32_t row = p->kernel_w * p->group_in;
    const int32_t whole = p->group_in == p->in_c && p->dilation_w == 1 && left >= 0 && left + p->kernel_w <= p->in_w;
    int32_t sum = 0;
    for (int32_t ky = 0; ky < p->kernel_h; ky++, at += row) {
        const int32_t y = top + ky * p->dilation_h;
        if (y < 0 || y >= p->in_h) {
            sum += p->x_zero * sgsc_weights_WIDTH(weights, at, row);
        } else if (whole) {
            sum += sgsc_dot_WIDTH(x + (y * p->in_w + left) * p->in_c, weights, at, row);
        } else {
            for (int32_t kx = 0; kx < p->kernel_w; kx++) {
                const int32_t tap = at + kx * p->group_in;
                const int32_t column = left + kx * p->dilation_w;
                if (column < 0 || column >= p->in_w) {
                    sum += p->x_zero * sgsc_weights_WIDTH(weights, tap, p->group_in);
                } else {
                    sum += sgsc_dot_WIDTH(x + (y * p->in_w + column) * p->in_c, weights, tap, p->group_in);
                }
            }
        }
    }
    return sum;
}
