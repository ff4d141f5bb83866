"""What a ``.tflite`` tells interpreters: everything but names, metadata and where its parts lie.

``read_tflite`` brings files to one form, so two files of one graph may still be run otherwise: a delegate
that does not know the axis of a bias leaves the layer to other kernels. Files that state the same are run
the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sgsc_edge.graph.flatbuffer import Record
from sgsc_edge.graph.ir import Graph
from sgsc_edge.graph.read_tflite import decode_model
from sgsc_edge.graph.write_tflite import Form, write_tflite

_NOT_RUN = frozenset({"name", "description", "metadata", "buffers", "operator_codes"})
# Names, metadata and sharing change nothing that is stated; parameters that are left out do.
_FORMS = (Form(names="none", metadata="none"), Form(names="none", metadata="none", quantization="needed"))


def stated(data: bytes, *, where: str) -> dict[str, Any]:
    """Tensors with contents, operators with codes, and all else of a file that ``read_tflite`` reads."""
    model = decode_model(data, where=where)
    plain: dict[str, Any] = _plain(model)
    (record,), (subgraph,) = model["subgraphs"], plain["subgraphs"]
    for tensor, was in zip(subgraph["tensors"], record["tensors"], strict=True):
        content = model["buffers"][was["buffer"]]["data"]
        tensor["buffer"] = b"" if content is None else content.tobytes()
    for operator, was in zip(subgraph["operators"], record["operators"], strict=True):
        operator["opcode_index"] = model["operator_codes"][was["opcode_index"]]
    return plain


def states(data: bytes, graph: Graph, *, where: str) -> bool:
    """Whether the file states what ``write_tflite`` would of ``graph``, in any form, and nothing else."""
    said = stated(data, where=where)
    return any(stated(write_tflite(graph, form), where=where) == said for form in _FORMS)


def _plain(value: Any) -> Any:
    """Records without what is not run; vectors as their type and values."""
    if isinstance(value, dict):
        record: Record = value
        return {key: _plain(item) for key, item in record.items() if key not in _NOT_RUN}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return (value.dtype.str, value.tolist()) if isinstance(value, np.ndarray) else value
