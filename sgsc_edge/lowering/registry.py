"""The table of ONNX ops that can be lowered, made of the rows in ``ops/``.

To add an op, add a row to a file there, or a file: every module of the package is read.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from sgsc_edge.errors import InternalError
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.network import Layer


@dataclass(frozen=True)
class Row:
    """One ONNX op.

    Parameters
    ----------
    op: ONNX operator type.
    device: the device ops it becomes.
    quantization: what the quantizers around it must be.
    limits: attributes or inputs that are refused.
    lower: emits the device ops of one layer; raises UnsupportedError.
    """

    op: str
    device: tuple[str, ...]
    quantization: str
    limits: str
    lower: Callable[[Emitter, Layer], None]


@cache
def table() -> Mapping[str, Row]:
    """All rows by op type, in alphabetical order.

    Raises
    ------
    InternalError: two rows for one op.
    """
    package = importlib.import_module("sgsc_edge.lowering.ops")
    rows: dict[str, Row] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for row in getattr(importlib.import_module(module.name), "ROWS", ()):
            add_row(rows, row)
    return MappingProxyType(dict(sorted(rows.items())))


def add_row(rows: dict[str, Row], row: Row) -> None:
    """Add a row; a second one for an op is an error."""
    if row.op in rows:
        raise InternalError(f"two rows lower ONNX op '{row.op}'", where="sgsc_edge/lowering/ops")
    rows[row.op] = row
