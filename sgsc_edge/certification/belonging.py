"""Do the files of a build folder belong together? What a pass must withstand beside its gates.

Gates judge decisions. These checks ask for integers: a model with a changed weight may still decide as
before on all certify samples, and is not the model that was certified.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.certification.gates import RECORDED
from sgsc_edge.certification.records import Measurement, Predicate, RuntimeRow
from sgsc_edge.errors import FileFormatError, NotMeasuredError
from sgsc_edge.graph.ir import Graph
from sgsc_edge.graph.read_tflite import MAX_FILE_BYTES, read_tflite
from sgsc_edge.graph.stated import states
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import lower
from sgsc_edge.runtimes import Status, execute, specs

OWN_TOOLS = ("sgsc-edge", "numpy")
"""What the certificate's own figures are computed with."""

EXECUTOR = "numpy"
"""The runtime that is our own integer executor."""

_REMEDY = "restore the files that belong together, or build again"


def check_repeated(recorded: Predicate, fresh: Predicate, path: Path) -> tuple[str, ...]:
    """FileFormatError unless what follows from the files alone was measured again as ``path`` records it.

    That is what is computed from recorded outputs, and the outputs of exact runtimes of the same version.
    Other runtimes may round otherwise on another machine: gates judge them, and differences are listed.

    Returns a line for each exact runtime that ran both times and was not compared, with the reason.
    """
    before = {row.name: row for row in recorded.runtimes}
    pairs: dict[str, tuple[_Sets, _Sets]] = {
        name: (recorded.references.get(name, {}), fresh.references.get(name, {}))
        for name in (*recorded.references, *fresh.references)
    }
    skipped = []
    for row in fresh.runtimes:
        was = before.get(row.name)
        if was is None or was.status != row.status or not _is_exact(row):
            continue
        then, now = _computed_by(was, recorded.tools), _computed_by(row, fresh.tools)
        if then == now:
            pairs[row.name] = (was.sets, row.sets)
        else:
            skipped.append(f"{row.name}: recorded by {then}, now {now}")
    for name, (old, new) in pairs.items():
        for part in (*old, *new):
            if _counted(old.get(part)) != _counted(new.get(part)):
                raise FileFormatError(
                    f"records other results of {name} on {part} than the files here give",
                    where=str(path),
                    remedy=_REMEDY,
                )
    return tuple(skipped)


_Sets = Mapping[str, Measurement | None]


def _is_exact(row: RuntimeRow) -> bool:
    """Whether a row's outputs are recorded, or come of integer arithmetic alone."""
    return row.status == RECORDED or (row.status == "ok" and specs()[row.stand_in or row.name].exact)


def _computed_by(row: RuntimeRow, tools: Mapping[str, str]) -> str:
    """The program that made a row's outputs, and its version.

    The integer executor is our own code: NumPy, whose version its row names, adds and multiplies integers.
    """
    name = row.stand_in or row.name
    if name == EXECUTOR:
        return f"{OWN_TOOLS[0]} {tools.get(OWN_TOOLS[0])}"
    return name if row.version is None else f"{name} {row.version}"


def _counted(measured: Measurement | None) -> dict[str, object] | None:
    """Hash of outputs and counts; metrics are floating point, and may differ in their last digits."""
    return None if measured is None else measured.model_dump(exclude={"metrics"})


def check_one_model(
    onnx: Path, tflite: Path, inputs: NDArray[np.int8], *, made_by: str, here: str, timeout_s: float
) -> None:
    """FileFormatError unless the ``.tflite`` is what the ``.onnx`` lowers to, and states nothing else.

    Lowered without its target it may be written otherwise (a dense layer as a convolution): then both are run
    on ``inputs`` int8 [n, ...]. NotMeasuredError where that does not end in ``timeout_s`` seconds.

    ``made_by``: the version of sgsc-edge that certified them; another one than ``here`` may lower otherwise.
    """
    remedy = _REMEDY
    if made_by != here:
        remedy = (
            f"build again, or verify with sgsc-edge {made_by}, which certified it: {here} may lower otherwise"
        )
    data = read_bytes(tflite, MAX_FILE_BYTES)
    shipped, lowered = read_tflite(data, where=str(tflite)), lower(onnx)
    if states(data, lowered, where=str(tflite)):
        return
    if not states(data, shipped, where=str(tflite)):
        raise FileFormatError(
            "tells interpreters what sgsc-edge does not write", where=str(tflite), remedy=remedy
        )
    runs = [
        execute(specs()[EXECUTOR], each, inputs, timeout_s=timeout_s)
        for each in (data, write_tflite(lowered))
    ]
    reason = "; ".join(run.reason for run in runs if run.reason)
    if any(run.status is Status.TIMEOUT for run in runs):
        raise NotMeasuredError(
            f"was not compared with {tflite.name}: {reason}", where=str(onnx), remedy="allow more time"
        )
    outputs = [run.outputs for run in runs if run.outputs is not None]
    if len(outputs) != len(runs):
        raise FileFormatError(
            f"cannot be compared with {tflite.name}: {reason}", where=str(onnx), remedy=remedy
        )
    if _parameters(shipped) != _parameters(lowered) or not np.array_equal(outputs[0], outputs[1]):
        raise FileFormatError(
            f"is another model than {tflite.name}: scales or outputs differ",
            where=str(onnx),
            remedy=remedy,
        )


def _parameters(graph: Graph) -> set[tuple[float, int]]:
    """Every scale with its zero point."""
    stored = [tensor.quantization for tensor in graph.tensors.values()]
    return {
        (float(scale), int(zero_point))
        for each in stored
        if each is not None
        for scale, zero_point in zip(each.scale, each.zero_point, strict=True)
    }
