"""torch.onnx parses its table of operators for each export; here once a process, a fifth of an export."""

from __future__ import annotations

import copy
import sys

EXPORTER = "torch.onnx._internal.exporter._registration"


def keep() -> None:
    """Let the exporter, which is imported, keep its tables."""
    registry = sys.modules[EXPORTER].ONNXRegistry
    make, tables = registry.from_torchlib, {}
    if hasattr(make, "tables"):
        return

    def kept(**options: int) -> object:
        key = tuple(options.items())
        if key not in tables:
            tables[key] = make(**options)
        found = copy.copy(tables[key])
        found.functions = {name: list(row) for name, row in found.functions.items()}  # exports add to them
        return found

    kept.tables = tables  # type: ignore[attr-defined]
    registry.from_torchlib = staticmethod(kept)
