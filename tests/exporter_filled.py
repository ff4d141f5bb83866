"""The exporter's tables, made when this is imported: for a server that is forked."""

from __future__ import annotations

import exporter_tables
from torch.onnx._internal.exporter import _registration

from sgsc_edge.export import OPSET

exporter_tables.keep()
_registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
