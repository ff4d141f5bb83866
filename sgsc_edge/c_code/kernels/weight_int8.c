static int32_t sgsc_weight_int8(const int8_t *weights, int32_t at)
{
    return weights[at];
}
