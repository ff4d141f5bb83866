"""torch.onnx parses its table of operators for each export, and torch.export lists all operators 54 times.

Here each is done once a process: a third of an export's time.
"""

from __future__ import annotations

import copy
import functools
import sys

EXPORTER = "torch.onnx._internal.exporter._registration"
OPERATORS = "torch._export.utils"


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
    operators = sys.modules[OPERATORS]
    operators._materialize_cpp_cia_ops = functools.cache(operators._materialize_cpp_cia_ops)
