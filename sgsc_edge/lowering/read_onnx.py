"""Read an ONNX file that may be hostile: size limits first, then the checker, then the data.

Limits keep a crafted file from exhausting memory; they lie far above any network for a device.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import checker, external_data_helper

from sgsc_edge.artifacts import is_inside
from sgsc_edge.errors import FileFormatError, UnsupportedError

MAX_FILE_BYTES = 1 << 30
MAX_NODES = 100_000
MAX_READS = 4
"""How often a data file may be read over: initializers may share bytes (tied weights), thousands do not."""
MIN_OPSET = 13
IR_VERSIONS = range(4, onnx.IR_VERSION + 1)

_BESIDE = "keep the data file beside the model, or export with external_data=False"
_EXPORT_AGAIN = "export the model to ONNX again; `python -m onnx.checker FILE` shows the finding"


def read_onnx(path: Path) -> onnx.ModelProto:
    """Load an ONNX model with its external data and check it.

    Raises
    ------
    FileFormatError: the file is missing, too large, malformed, or fails the ONNX checker.
    UnsupportedError: an opset or IR version outside those supported.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError("is no regular file", where=str(path), remedy="check the path")
        size = status.st_size
        if size > MAX_FILE_BYTES:
            raise FileFormatError(
                f"{size} bytes; at most {MAX_FILE_BYTES} are read",
                where=str(path),
                remedy="this is no network for a device; quantize or shrink it first",
            )
        model = onnx.load_model(str(path), load_external_data=False)
    except OSError as error:
        raise FileFormatError(
            f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the path"
        ) from error
    except (DecodeError, ValueError, MemoryError) as error:
        raise FileFormatError("this is not an ONNX file", where=str(path), remedy=_EXPORT_AGAIN) from error
    _load_external_data(model, path)
    check_model(model, where=str(path))
    return model


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Load initializers stored beside the model; no file outside its folder is opened, links followed."""
    uses = external_data_helper.uses_external_data
    for tensor in filter(uses, _inner_tensors(model)):  # they would be looked for in the current folder
        raise FileFormatError(
            f"external data of '{tensor.name}', which is no initializer of the main graph",
            where=str(path),
            remedy="export with external_data=False",
        )
    external = list(filter(uses, model.graph.initializer))
    if not external:
        return
    try:
        total = path.stat().st_size  # protobuf writes no message of 2 GiB or more
        sizes: dict[str, int] = {}
        read: Counter[str] = Counter()
        for tensor in external:
            info = external_data_helper.ExternalDataInfo(tensor)
            place = info.location
            if place not in sizes:
                sizes[place] = _file_bytes(place, path)
            length = int(info.length or max(0, sizes[place] - (info.offset or 0)))
            if length < 0:
                raise ValueError(f"{length} bytes of '{place}'")
            total += length
            read[place] += length
            if read[place] > MAX_READS * sizes[place]:
                raise FileFormatError(
                    f"external data '{place}' is read more than {MAX_READS} times over",
                    where=str(path),
                    remedy="export with external_data=False",
                )
            if total > MAX_FILE_BYTES:
                raise FileFormatError(
                    f"with its external data it has more than the {MAX_FILE_BYTES} bytes that are read",
                    where=str(path),
                    remedy="this is no network for a device; quantize or shrink it first",
                )
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, MemoryError, checker.ValidationError) as error:
        raise FileFormatError(
            f"external data cannot be read: {error or 'not enough memory'}",
            where=str(path),
            remedy=_BESIDE,
        ) from error


def _file_bytes(location: str, path: Path) -> int:
    """Size of a file beside the model that holds external data.

    OSError where it is not there, FileFormatError where it leaves the folder, or has no size: reading a pipe
    may wait for ever.
    """
    folder = path.parent.resolve()
    file = (folder / location).resolve() if is_inside(location) else folder.parent
    if not file.is_relative_to(folder):
        raise FileFormatError(
            f"external data '{location}' leaves the model's folder", where=str(path), remedy=_BESIDE
        )
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise FileFormatError(
            f"external data '{location}' is no regular file", where=str(path), remedy=_BESIDE
        )
    return status.st_size


def _inner_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor but the main graph's initializers: attributes, subgraphs, functions, sparse ones."""
    sparse = list(model.graph.sparse_initializer)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while nodes:
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            sparse += (attribute.sparse_tensor, *attribute.sparse_tensors)
            for graph in (attribute.g, *attribute.graphs):
                nodes += graph.node
                yield from graph.initializer
                sparse += graph.sparse_initializer
    for one in sparse:
        yield from (one.values, one.indices)


def check_model(model: onnx.ModelProto, *, where: str = "ONNX model") -> None:
    """Check versions, sizes and the ONNX rules of a model in memory.

    Raises
    ------
    FileFormatError, UnsupportedError: as :func:`read_onnx`.
    """
    if model.ir_version not in IR_VERSIONS:
        raise FileFormatError(
            f"ONNX IR version {model.ir_version}; "
            f"{IR_VERSIONS.start} to {IR_VERSIONS.stop - 1} are supported",
            where=where,
            remedy=_EXPORT_AGAIN,
        )
    if len(model.graph.node) > MAX_NODES:
        raise FileFormatError(
            f"{len(model.graph.node)} nodes; at most {MAX_NODES} are read", where=where, remedy=_EXPORT_AGAIN
        )
    opset = opset_of(model)
    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise UnsupportedError(
            node=model.graph.name or "graph",
            op=f"opset {opset}",
            reason=f"opsets {MIN_OPSET} to {newest} are supported",
            remedy="export with a newer opset, e.g. opset_version=21, or convert with onnx.version_converter",
        )
    try:
        checker.check_model(model)
    except (checker.ValidationError, ValueError, EncodeError, MemoryError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileFormatError(
            f"not a valid ONNX model: {first}", where=where, remedy=_EXPORT_AGAIN
        ) from error
    _check_values(model, where)


def _check_values(model: onnx.ModelProto, where: str) -> None:
    """Refuse what the ONNX checker lets pass: text that is not UTF-8 and element types that do not exist."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    texts = [
        *(text for node in graph.node for text in (node.op_type, node.domain, *node.input, *node.output)),
        *(named.name for named in (*graph.initializer, *values)),
        *(dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim),
        *(text for entry in model.metadata_props for text in (entry.key, entry.value)),
        *(entry.domain for entry in model.opset_import),
    ]
    # Protobuf hands such text over as bytes.
    if not all(isinstance(text, str) for text in texts):
        raise FileFormatError("a name is not UTF-8 text", where=where, remedy=_EXPORT_AGAIN)
    known = set(onnx.TensorProto.DataType.values())
    types = {tensor.data_type for tensor in graph.initializer}
    types.update(value.type.tensor_type.elem_type for value in values)
    if types - known:
        raise FileFormatError(
            f"element type {min(types - known)} does not exist", where=where, remedy=_EXPORT_AGAIN
        )


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator domain; 0 where the model names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
