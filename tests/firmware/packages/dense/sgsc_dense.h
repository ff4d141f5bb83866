#ifndef SGSC_DENSE_H
#define SGSC_DENSE_H

#include <stdint.h>

typedef struct {
    int8_t x[16];
} sgsc_dense_input;

typedef struct {
    int8_t y[10];
} sgsc_dense_output;

extern const uint8_t sgsc_dense_hash[32];

void sgsc_dense_invoke(const sgsc_dense_input *input, sgsc_dense_output *output);
int sgsc_dense_selftest(sgsc_dense_output *output);

#endif
