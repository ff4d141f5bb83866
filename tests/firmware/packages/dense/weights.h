#include <stdint.h>

extern const int8_t dense_weights[10][16];
extern const int32_t dense_biases[10];
extern const int32_t dense_multipliers[10];
