#ifndef SGSC_ARITHMETIC_H
#define SGSC_ARITHMETIC_H

#include <stdint.h>

typedef struct {
    int8_t operands[24]; /* int64_t a, b; int32_t shift; padding */
} sgsc_arithmetic_input;

typedef struct {
    int8_t results[72]; /* int64_t: see model.c */
} sgsc_arithmetic_output;

extern const uint8_t sgsc_arithmetic_hash[32];

void sgsc_arithmetic_invoke(const sgsc_arithmetic_input *input, sgsc_arithmetic_output *output);
int sgsc_arithmetic_selftest(sgsc_arithmetic_output *output);

#endif
