/* An image between the values of another, weighted by 1024ths: where its first value lies, and the next ones. */
typedef struct {
    int32_t in_h, in_w, channels;
    int32_t out_h, out_w;
    int32_t start_h, start_w;
    int32_t step_h, step_w;
} sgsc_bilinear_of;

static int32_t sgsc_lower(int32_t at)
{
    return at > 0 ? at / 1024 : 0;
}

static int32_t sgsc_upper(int32_t at, int32_t size)
{
    const int32_t next = (at + 1023) / 1024;
    return next < size ? next : size - 1;
}

static void sgsc_bilinear(const sgsc_bilinear_of *p, const int8_t *x, int8_t *y)
{
    for (int32_t row = 0; row < p->out_h; row++) {
        const int32_t at_y = p->start_h + row * p->step_h;
        const int32_t top = sgsc_lower(at_y);
        const int32_t down = at_y - top * 1024;
        const int8_t *above = x + top * p->in_w * p->channels;
        const int8_t *below = x + sgsc_upper(at_y, p->in_h) * p->in_w * p->channels;
        for (int32_t column = 0; column < p->out_w; column++) {
            const int32_t at_x = p->start_w + column * p->step_w;
            const int32_t left = sgsc_lower(at_x);
            const int32_t across = at_x - left * 1024;
            const int32_t l = left * p->channels;
            const int32_t r = sgsc_upper(at_x, p->in_w) * p->channels;
            for (int32_t c = 0; c < p->channels; c++) {
                const int32_t upper = above[l + c] * (1024 - across) + above[r + c] * across;
                const int32_t lower = below[l + c] * (1024 - across) + below[r + c] * across;
                const int32_t sum = upper * (1024 - down) + lower * down;
                *y++ = (int8_t)((sum + (sum > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20));
            }
        }
    }
}
