/* A block of up to five dimensions from one place to another. */
typedef struct {
    int32_t size[5], x_step[5], y_step[5];
} sgsc_block;

static void sgsc_move(const sgsc_block *p, const int8_t *x, int8_t *y)
{
    for (int32_t a = 0; a < p->size[0]; a++) {
        for (int32_t b = 0; b < p->size[1]; b++) {
            for (int32_t c = 0; c < p->size[2]; c++) {
                for (int32_t d = 0; d < p->size[3]; d++) {
                    const int8_t *from = x + a * p->x_step[0] + b * p->x_step[1] + c * p->x_step[2] + d * p->x_step[3];
                    int8_t *to = y + a * p->y_step[0] + b * p->y_step[1] + c * p->y_step[2] + d * p->y_step[3];
                    for (int32_t n = p->size[4]; n > 0; n--, from += p->x_step[4], to += p->y_step[4]) {
                        *to = *from;
                    }
                }
            }
        }
    }
}
