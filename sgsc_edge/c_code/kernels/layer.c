/* A layer with weights: a convolution, its rescaling, and a maximum over windows of its outputs.

   Weights are [out_c][kernel_h][kernel_w][group_in]: a byte each, two in a byte, or a stream of bits. The sums run over
   inputs as they are: what the input's zero point adds to them is in the bias, and padding counts as x_zero. A dense
   layer is a convolution of in_h pixels. */
typedef struct {
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier; /* one, or one a channel */
    const int8_t *shift;
    int32_t scales;            /* 1 where there is a multiplier for each channel, else 0 */
    int32_t in_h, in_w, in_c;
    int32_t sums_h, sums_w;    /* of the convolution */
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_h, pad_w;
    int32_t group_in, group_out; /* input and output channels of a group */
    int32_t pool_h, pool_w;
    int32_t pool_stride_h, pool_stride_w;
    int32_t pool_pad_h, pool_pad_w;
    int32_t x_zero, y_zero;
    int32_t low, high;
} sgsc_layer;
