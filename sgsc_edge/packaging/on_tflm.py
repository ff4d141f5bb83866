"""What TFLite Micro itself says of a model: the arena that it takes, and the outputs of its samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import InternalError, ModelError
from sgsc_edge.packaging.source import Arrays, Source
from sgsc_edge.runtimes import RunResult, RuntimeSpec, Status, execute, specs
from sgsc_edge.runtimes.tflm import arena_bytes, only_import, run_bytes

ORACLE: Literal["tflm"] = "tflm"
STAND_IN: Literal["numpy"] = "numpy"
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class OnTflm:
    """``arena``: bytes of the smallest one on this machine; None where TFLite Micro is not: ``reason``."""

    version: str | None
    arena: int | None
    reason: str

    @property
    def expected_from(self) -> Literal["tflm", "numpy"]:
        """Who computed the outputs of the samples, or stands in."""
        return STAND_IN if self.arena is None else ORACLE


def measure(source: Source) -> OnTflm:
    """Run a model on TFLite Micro, in a process of its own.

    Where that process cannot even import it, nothing is measured: that says nothing about the model.

    Raises
    ------
    ModelError: TFLite Micro does not take the model.
    InternalError: it computes other outputs of the samples than the integer executor.
    """
    oracle = replace(specs()[ORACLE], stand_in=None)
    sized = execute(
        replace(oracle, run=arena_bytes), source.data, np.zeros((1, 1), np.int8), timeout_s=_TIMEOUT_S
    )
    if sized.status is Status.NOT_RUN:
        return OnTflm(None, None, sized.reason)
    if sized.outputs is None and (broken := _import_problem(oracle)):
        return OnTflm(None, None, broken)
    arena = int(_outputs(sized, source).view("<i8")[0, 0])
    if source.samples:
        ran = execute(replace(oracle, run=run_bytes), source.data, _rows(source.inputs), timeout_s=_TIMEOUT_S)
        expected = _rows({name: source.outputs[name] for name in source.graph.outputs})
        if not np.array_equal(_outputs(ran, source), expected):
            raise InternalError(
                f"TFLite Micro {ran.version} and the integer executor differ", where=source.name
            )
    return OnTflm(sized.version, arena, "")


def _import_problem(oracle: RuntimeSpec) -> str | None:
    """Why TFLite Micro cannot be imported by the process that runs it; None where it can."""
    tried = execute(replace(oracle, run=only_import), b"", np.zeros((1, 1), np.int8), timeout_s=_TIMEOUT_S)
    if tried.status is Status.OK:
        return None
    return f"tflite-micro {tried.version} is installed and cannot be imported: {tried.reason}"


def _outputs(result: RunResult, source: Source) -> NDArray[np.int8]:
    if result.outputs is None:
        raise ModelError(
            f"TFLite Micro {result.version} does not run it: {result.reason or result.status}",
            where=source.name,
            remedy="package it as c-code, or convert it with ops that TFLite Micro has",
        )
    return result.outputs


def _rows(values: Arrays) -> NDArray[np.int8]:
    """The values of each sample one behind the other, as they lie in memory: int8 [n, bytes]."""
    flat = [np.ascontiguousarray(array).reshape(len(array), -1) for array in values.values()]
    return np.concatenate([array.view(np.int8) for array in flat], axis=1)
