/* Blocks of one dimension, by their indices; an index outside counts as the nearest one inside. */
typedef struct {
    int32_t before, from, to; /* how often, of how many, how many */
    int32_t block;
} sgsc_gather_of;

static void sgsc_gather(const sgsc_gather_of *p, const int8_t *x, const int32_t *indices, int8_t *y)
{
    for (int32_t i = 0; i < p->before; i++, x += p->from * p->block) {
        for (int32_t j = 0; j < p->to; j++) {
            const int32_t at = indices[j] < 0 ? 0 : indices[j] < p->from ? indices[j] : p->from - 1;
            for (int32_t k = 0; k < p->block; k++) {
                *y++ = x[at * p->block + k];
            }
        }
    }
}
