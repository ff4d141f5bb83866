#ifndef SGSC_TRAPS_H
#define SGSC_TRAPS_H

#include <stdint.h>

typedef struct {
    int8_t what[8];
} sgsc_traps_input;

typedef struct {
    int8_t y[4];
} sgsc_traps_output;

extern const uint8_t sgsc_traps_hash[32];

void sgsc_traps_invoke(const sgsc_traps_input *input, sgsc_traps_output *output);
int sgsc_traps_selftest(sgsc_traps_output *output);

#endif
