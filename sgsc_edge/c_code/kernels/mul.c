static int32_t sgsc_mul_of(const sgsc_binary *p, int32_t a, int32_t b)
{
    return sgsc_rescale(a * b, p->multiplier, p->shift);
}
