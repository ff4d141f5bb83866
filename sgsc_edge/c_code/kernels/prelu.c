/* Values of a below zero times b, on their own multiplier; the others keep to that of a. */
static int32_t sgsc_prelu_of(const sgsc_binary *p, int32_t a, int32_t b)
{
    return a < 0 ? sgsc_rescale(a * b, p->multiplier, p->shift) : sgsc_rescale(a, p->a_multiplier, p->a_shift);
}
