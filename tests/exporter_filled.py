"""The exporter after its first export, for a server that is forked: that one takes twice the time of others.

What is exported here computes nothing, and no thread is left behind, which a fork would not take along.
"""

from __future__ import annotations

import gc
import warnings

import exporter_tables
import torch
import tqdm
from torch import nn
from torch.onnx._internal.exporter import _registration  # noqa: F401 (exporter_tables finds it)

from sgsc_edge.compression.folding.fold import FixedQuantizer
from sgsc_edge.export import OPSET

exporter_tables.keep()
tqdm.tqdm.monitor_interval = 0  # torch.export's progress bar would start a thread

grid = FixedQuantizer(torch.tensor(1.0), torch.tensor(0))
grid.emit_onnx = True
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.onnx.export(
        nn.Sequential(grid, nn.Linear(4, 3), nn.ReLU()).eval(),
        (torch.zeros(2, 4),),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )

gc.freeze()  # forks look for garbage in what is their own
