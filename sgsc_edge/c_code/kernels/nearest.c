/* An image of which each row and column is one of another: their numbers by row and column. */
typedef struct {
    const int32_t *rows, *columns;
    int32_t in_w, channels;
    int32_t out_h, out_w;
} sgsc_nearest_of;

static void sgsc_nearest(const sgsc_nearest_of *p, const int8_t *x, int8_t *y)
{
    for (int32_t row = 0; row < p->out_h; row++) {
        for (int32_t column = 0; column < p->out_w; column++) {
            const int8_t *from = x + (p->rows[row] * p->in_w + p->columns[column]) * p->channels;
            for (int32_t c = 0; c < p->channels; c++) {
                *y++ = from[c];
            }
        }
    }
}
