static void sgsc_dequantize(int32_t size, float scale, int32_t zero, const int8_t *x, float *y)
{
    for (int32_t i = 0; i < size; i++) {
        y[i] = scale * (float)(x[i] - zero);
    }
}
