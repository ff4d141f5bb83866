"""Bytes of a layer as a ``.tflite`` file stores them: weights, biases, and the scales of both.

TFLite's schema holds a float32 scale and an int64 zero point for each channel of a per-channel tensor, for
the weights and again for the bias (12 bytes a channel, twice), and an int32 bias. What a file needs beside
that (tensors, operators, names) does not depend on the widths and is not counted.

1 kB = 1000 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

SCALE_BYTES = 12
"""Scale (float32) and zero point (int64) of one channel."""

BIAS_BYTES = 4
CHANNEL_BYTES = 2 * SCALE_BYTES + BIAS_BYTES
"""What a channel costs beside its weights: the scales of weights and bias, and the bias."""


@dataclass(frozen=True)
class LayerSize:
    """The sizes of a layer that its bytes depend on.

    Parameters
    ----------
    inputs, outputs: channels (features) that are stored.
    kernel: weights for one input and one output channel.
    bits: stored width of a weight; 4-bit weights are packed two a byte.
    depthwise: each output channel reads one input channel.
    """

    inputs: int
    outputs: int
    kernel: int = 1
    bits: int = 8
    depthwise: bool = False

    @property
    def weights(self) -> int:
        """Number of stored weights."""
        return self.outputs * self.kernel * (1 if self.depthwise else self.inputs)

    @property
    def nbytes(self) -> int:
        """Stored bytes of weights, biases and scales.

        >>> LayerSize(inputs=16, outputs=32, kernel=9).nbytes
        5504
        >>> LayerSize(inputs=16, outputs=32, kernel=9, bits=4).nbytes
        3200
        """
        return (self.weights * self.bits + 7) // 8 + self.outputs * CHANNEL_BYTES
