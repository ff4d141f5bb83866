"""Bytes of a layer as a ``.tflite`` file stores them: weights, biases, and the scales of both.

TFLite's schema holds a float32 scale and an int64 zero point for each channel of a per-channel tensor, for
the weights and again for the bias (12 bytes a channel, twice), and an int32 bias. What a file needs beside
that (tensors, operators, names) does not depend on the widths and is not counted.

1 kB = 1000 bytes.
"""

from __future__ import annotations

SCALE_BYTES = 12
"""Scale (float32) and zero point (int64) of one channel."""

BIAS_BYTES = 4
CHANNEL_BYTES = 2 * SCALE_BYTES + BIAS_BYTES
"""What a channel costs beside its weights: the scales of weights and bias, and the bias."""
