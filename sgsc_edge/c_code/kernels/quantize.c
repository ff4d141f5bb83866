/* float32 to int8: divided by the scale, rounded half away from zero. Not a number counts as the lowest. */
static void sgsc_quantize(int32_t size, float scale, int32_t zero, const float *x, int8_t *y)
{
    for (int32_t i = 0; i < size; i++) {
        const float steps = x[i] / scale;
        int32_t whole = INT8_MIN - 256;
        if (steps >= 512.0f) {
            whole = 512;
        } else if (steps > -512.0f) {
            whole = (int32_t)steps;
            const float rest = steps - (float)whole;
            whole += (rest >= 0.5f) - (rest <= -0.5f);
        }
        y[i] = sgsc_clamp(zero + whole, INT8_MIN, INT8_MAX);
    }
}
