"""Channels whose integers are all zero leave the compressed model; no output integer changes.

The rules, for a value ``q`` on a grid with zero point ``z``:

- A channel is *constant* where its layer's integers are zero, or read constant channels only: it holds one
  integer ``c``, which the model and every rounding profile agree on, at every position and for every input.
- A layer drops an input channel that nothing of it multiplies, or that is constant with ``c = z`` (padding is
  ``z`` too); one with another ``c`` folds into the bias, ``b += sum(w) (c - z)``, where no padding is read.
- A channel goes where every layer that reads it drops it. Channels that an op keeps together (both sides of
  an Add, a depthwise channel's input and output, a group, a flattened map) go together or stay together.
- An operand of Add or Mul that is constant as a whole becomes a constant, and the branch behind it goes.

``compressed.safetensors`` holds the whole model; :func:`shrink` follows from it, the same every time.
"""

from __future__ import annotations

from sgsc_edge.compression.shrink.remove import Shrunk, shrink
from sgsc_edge.compression.shrink.report import Kept, LayerChange, ShrinkReport

__all__ = ["Kept", "LayerChange", "ShrinkReport", "Shrunk", "shrink"]
