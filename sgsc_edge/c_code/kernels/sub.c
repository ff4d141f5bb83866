/* Both operands at twice the larger scale, with 20 more bits; their difference rescaled. */
static int32_t sgsc_sub_of(const sgsc_binary *p, int32_t a, int32_t b)
{
    const int32_t first = sgsc_rescale(a * (1 << 20), p->a_multiplier, p->a_shift);
    const int32_t second = sgsc_rescale(b * (1 << 20), p->b_multiplier, p->b_shift);
    return sgsc_rescale(first - second, p->multiplier, p->shift);
}
