/* x * multiplier * 2^(shift - 31) in TFLite's two roundings: of the doubled high product (ties up), then of the
   right shift (ties away from zero). */
static int32_t sgsc_rescale(int32_t x, int32_t multiplier, int32_t shift)
{
    if (shift > 0) {
        x = (int32_t)((uint32_t)x << shift);
        shift = 0;
    }
    const int32_t high = (int32_t)(((int64_t)x * multiplier + (INT64_C(1) << 30)) >> 31);
    const int32_t mask = (int32_t)((UINT32_C(1) << -shift) - 1);
    const int32_t threshold = (mask >> 1) + (high < 0);
    return (high >> -shift) + ((high & mask) > threshold);
}
