/* Two operands, broadcast: dimensions of the output, and how far each operand goes on in them. */
typedef struct {
    int32_t size[4], a_step[4], b_step[4];
    int32_t a_zero, b_zero, y_zero;
    int32_t a_multiplier, a_shift, b_multiplier, b_shift;
    int32_t multiplier, shift;
    int32_t low, high;
} sgsc_binary;
