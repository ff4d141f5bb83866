"""What a runtime is, and what a run of one yields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import InternalError

MODEL_TFLITE = "model.tflite"
MODEL_ONNX = "model.qdq.onnx"

Inputs = NDArray[Any]
"""Samples as fed: device integers int8 [n, ...], or tokens int64 [n, T]."""

RunFunction = Callable[[bytes, Any], NDArray[np.int8]]
"""``(artifact, inputs) -> outputs int8 [n, K]``, of tokens [n, T, K]; runs inside a worker process."""


class Status(StrEnum):
    """How a run ended; only ``ok`` has outputs."""

    OK = "ok"
    NOT_RUN = "not_run"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    FAILED = "failed"


@dataclass(frozen=True)
class RuntimeSpec:
    """One runtime.

    Parameters
    ----------
    name: as targets and policies write it.
    summary: one line for the ``runtimes`` command.
    artifact: the file of a build folder that it reads.
    distributions: package names, any one of which provides it; the first one installed gives the version.
    run: module-level function, called in a worker process.
    exact: integer arithmetic alone, so that one version gives the same outputs on every machine.
    slow: interpreters that take milliseconds a sample: several workers share the samples.
    own_python: what keeps its package out of our environment (empty: nothing); it then needs another Python.
    platforms: ``(sys.platform, platform.machine())`` pairs that have wheels; empty means everywhere.
    stand_in: the runtime that takes its place, labelled as such, where no wheel exists.
    """

    name: str
    summary: str
    artifact: str
    distributions: tuple[str, ...]
    run: RunFunction
    exact: bool = False
    slow: bool = False
    own_python: str = ""
    platforms: tuple[tuple[str, str], ...] = ()
    stand_in: str | None = None

    def __post_init__(self) -> None:
        if self.artifact not in (MODEL_TFLITE, MODEL_ONNX):
            raise InternalError(f"runtime '{self.name}' reads {self.artifact}, which no build writes")
        if not self.distributions:
            raise InternalError(f"runtime '{self.name}' names no package")

    @property
    def entry(self) -> str:
        """``module:function`` of :attr:`run`, as the worker imports it."""
        return f"{self.run.__module__}:{self.run.__qualname__}"

    @property
    def python_variable(self) -> str:
        """Environment variable that names another Python for this runtime."""
        return "SGSC_EDGE_PYTHON_" + self.name.upper().replace("-", "_")


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a runtime did: ``outputs`` int8 [n, K], of tokens [n, T, K], if and only if ``status`` is ``ok``.

    ``version`` is the package's, None when it is not installed. ``reason`` says why there are no outputs.
    ``stand_in`` names the runtime that ran instead, where this one has no wheel.
    """

    status: Status
    outputs: NDArray[np.int8] | None = None
    version: str | None = None
    reason: str = ""
    stand_in: str | None = None

    def __post_init__(self) -> None:
        if (self.status is Status.OK) != (self.outputs is not None):
            raise InternalError("a run has outputs if and only if it is ok")
