/* Output channel `o`, whose filter starts at weight number `at`. */
static void sgsc_KIND_channel_WIDTH(const sgsc_layer *p, const int8_t *x, const int8_t *weights, int32_t at, int32_t o,
                                    int8_t *out)
{
    const int32_t multiplier = p->multiplier[o * p->scales];
    const int32_t shift = p->shift[o * p->scales];
    const int8_t *group = x + o / p->group_out * p->group_in;
    int8_t *y = out + o;
    for (int32_t row = 0; row < p->out_h; row++) {
        for (int32_t column = 0; column < p->out_w; column++, y += p->out_c) {
            /* Rescaling never turns an order around: the largest sum gives the largest output. */
            int32_t best = INT32_MIN;
            for (int32_t i = 0; i < p->pool_h; i++) {
                const int32_t sum_y = row * p->pool_stride_h - p->pool_pad_h + i;
                if (sum_y < 0 || sum_y >= p->sums_h) {
                    continue;
                }
                for (int32_t j = 0; j < p->pool_w; j++) {
                    const int32_t sum_x = column * p->pool_stride_w - p->pool_pad_w + j;
                    if (sum_x < 0 || sum_x >= p->sums_w) {
                        continue;
                    }
                    const int32_t sum = sgsc_KIND_window_WIDTH(p, group, weights, at, sum_y * p->stride_h - p->pad_h,
                                                               sum_x * p->stride_w - p->pad_w);
                    best = sum > best ? sum : best;
                }
            }
            *y = sgsc_clamp(p->y_zero + sgsc_rescale(best + p->bias[o], multiplier, shift), p->low, p->high);
        }
    }
}
