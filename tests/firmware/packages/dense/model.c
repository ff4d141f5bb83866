/* A dense layer 16 -> 10 that takes its time: y = clamp(round((W x + b) * multiplier / 2^41)), half up. */
#include "sgsc_dense.h"

#include <string.h>

#include "weights.h"

const uint8_t sgsc_dense_hash[32] = {0x12, 0x34, 0x56, 0x78};

static int8_t arena[64];
static int32_t calls = 3; /* an initial value, so that .data is copied */

void sgsc_dense_invoke(const sgsc_dense_input *input, sgsc_dense_output *output)
{
    memcpy(arena, input->x, sizeof input->x);
    for (int channel = 0; channel < 10; channel++) {
        int64_t sum = dense_biases[channel];
        for (int i = 0; i < 16; i++) {
            sum += dense_weights[channel][i] * arena[i];
        }
        sum = (sum * dense_multipliers[channel] + ((int64_t)1 << 40)) >> 41;
        output->y[channel] = (int8_t)(sum < -128 ? -128 : sum > 127 ? 127 : sum);
    }
    calls++;
}

int sgsc_dense_selftest(sgsc_dense_output *output)
{
    (void)output;
    return calls < 3; /* fails where the initial value was not copied */
}
