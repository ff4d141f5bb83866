/* Products of matrices: three leading dimensions of the output, and how far each operand goes on in them, from row
   to row or column to column, and from term to term. */
typedef struct {
    int32_t size[3], a_step[3], b_step[3];
    int32_t rows, columns, terms;
    int32_t a_row, a_term, b_column, b_term;
    int32_t a_zero, b_zero, y_zero;
    int32_t multiplier, shift;
} sgsc_matmul_of;

static void sgsc_matmul(const sgsc_matmul_of *p, const int8_t *a, const int8_t *b, int8_t *y)
{
    const int32_t batches = p->size[0] * p->size[1] * p->size[2];
    for (int32_t n = 0; n < batches; n++) {
        const int32_t k = n % p->size[2];
        const int32_t j = n / p->size[2] % p->size[1];
        const int32_t i = n / p->size[2] / p->size[1];
        const int8_t *from_a = a + i * p->a_step[0] + j * p->a_step[1] + k * p->a_step[2];
        const int8_t *from_b = b + i * p->b_step[0] + j * p->b_step[1] + k * p->b_step[2];
        for (int32_t row = 0; row < p->rows; row++) {
            for (int32_t column = 0; column < p->columns; column++) {
                const int8_t *u = from_a + row * p->a_row;
                const int8_t *v = from_b + column * p->b_column;
                int32_t sum = 0;
                for (int32_t t = p->terms; t > 0; t--, u += p->a_term, v += p->b_term) {
                    sum += (*u - p->a_zero) * (*v - p->b_zero);
                }
                *y++ = sgsc_clamp(p->y_zero + sgsc_rescale(sum, p->multiplier, p->shift), INT8_MIN, INT8_MAX);
            }
        }
    }
}
