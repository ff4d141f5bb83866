/* Everything that a core without the instructions calls a function for. */
#include "sgsc_arithmetic.h"

#include <string.h>

const uint8_t sgsc_arithmetic_hash[32] = {0};

void sgsc_arithmetic_invoke(const sgsc_arithmetic_input *input, sgsc_arithmetic_output *output)
{
    int64_t a, b, results[9];
    int32_t shift;

    memcpy(&a, input->operands, sizeof a);
    memcpy(&b, input->operands + 8, sizeof b);
    memcpy(&shift, input->operands + 16, sizeof shift);
    int32_t divisor = (int32_t)b == 0 ? 1 : (int32_t)b;
    int64_t wide_divisor = b == 0 ? 1 : b;
    results[0] = (int64_t)((uint64_t)a * (uint64_t)b);
    results[1] = (int64_t)((uint64_t)a << shift);
    results[2] = (int64_t)((uint64_t)a >> shift);
    results[3] = a >> shift;
    results[4] = (int64_t)((uint64_t)a / (uint64_t)wide_divisor);
    results[5] = (int64_t)((uint64_t)a % (uint64_t)wide_divisor);
    results[6] = a / (wide_divisor == -1 ? 1 : wide_divisor);
    results[7] = a % (wide_divisor == -1 ? 1 : wide_divisor);
    results[8] = (int64_t)((uint32_t)a / (uint32_t)divisor) + ((int64_t)((int32_t)a >> 1) / divisor) * 4294967296;
    memcpy(output->results, results, sizeof results);
}

int sgsc_arithmetic_selftest(sgsc_arithmetic_output *output)
{
    (void)output;
    return __builtin_clz(1) != 31;
}
