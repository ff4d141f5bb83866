static void sgsc_KIND_WIDTH(const sgsc_layer *p, const int8_t *x, int8_t *y)
{
    const int32_t filter = p->kernel_h * p->kernel_w * p->group_in;
    for (int32_t o = 0; o < p->out_c; o++) {
        sgsc_KIND_channel_WIDTH(p, x, p->weights, o * filter, o, y);
    }
}
