static void sgsc_limit(int32_t size, int32_t low, int32_t high, const int8_t *x, int8_t *y)
{
    for (int32_t i = 0; i < size; i++) {
        y[i] = sgsc_clamp(x[i], low, high);
    }
}
