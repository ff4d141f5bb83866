/* Means of the values inside the input, rounded half away from zero. */
static void sgsc_average_pool(const sgsc_pool *p, const int8_t *x, int8_t *y)
{
    for (int32_t row = 0; row < p->out_h; row++) {
        for (int32_t column = 0; column < p->out_w; column++) {
            for (int32_t c = 0; c < p->channels; c++) {
                int32_t sum = 0;
                int32_t count = 0;
                for (int32_t i = 0; i < p->filter_h; i++) {
                    const int32_t at_y = row * p->stride_h - p->pad_h + i;
                    for (int32_t j = 0; j < p->filter_w && at_y >= 0 && at_y < p->in_h; j++) {
                        const int32_t at_x = column * p->stride_w - p->pad_w + j;
                        if (at_x >= 0 && at_x < p->in_w) {
                            sum += x[(at_y * p->in_w + at_x) * p->channels + c];
                            count++;
                        }
                    }
                }
                *y++ = sgsc_clamp((sum < 0 ? sum - count / 2 : sum + count / 2) / count, p->low, p->high);
            }
        }
    }
}
