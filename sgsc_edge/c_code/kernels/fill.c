static void sgsc_fill(int32_t size, int8_t value, int8_t *y)
{
    for (int32_t i = 0; i < size; i++) {
        y[i] = value;
    }
}
