/* Weights stored at learned widths: each filter is unpacked once, then used at every position. */
static void sgsc_KIND_learned(const sgsc_layer *p, const int8_t *x, int8_t *filter, int8_t *y)
{
    sgsc_bits packed = {p->weights, 0, 0};
    for (int32_t o = 0; o < p->out_c; o++) {
        sgsc_unpack(&packed, p->kernel_h * p->kernel_w * p->group_in, filter);
        sgsc_KIND_channel_int8(p, x, filter, 0, o, y);
    }
}
