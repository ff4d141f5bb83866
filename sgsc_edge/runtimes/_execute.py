"""Runs a runtime in worker processes: a crash, a hang or an exception there becomes a row here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sgsc_edge.errors import ConfigError, FileFormatError, OutputError, SgscError
from sgsc_edge.runtimes._registry import has_package, install_hint, installed_version, python_of, specs
from sgsc_edge.runtimes._spec import MODEL_TFLITE, Inputs, RunResult, RuntimeSpec, Status

# The package's folder goes last on the path: another environment's own packages win over ours.
_BOOTSTRAP = "import sys; sys.path.append(sys.argv[1]); from sgsc_edge.runtimes._worker import main; main()"
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
# One thread an interpreter: sums in one order, and the workers already use the cores.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}
# Fewer samples than this are not worth a second process (starting one takes about 0.3 s).
_MIN_SHARD = 32
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True)
class _Shard:
    number: int
    start: int
    stop: int


def run_runtime(
    name: str,
    artifact_path: Path,
    inputs: Inputs,
    *,
    timeout_s: float,
    workers: int = 2,
) -> RunResult:
    """Run the runtime ``name`` over ``inputs``: device integers int8 [n, H, W, C], or tokens int64 [n, T].

    A ``.tflite`` file is verified structurally before any interpreter sees it. ``timeout_s`` is the wall
    time of the whole run. Raises ConfigError for an unknown name and FileFormatError for a missing file;
    everything that goes wrong from there on is a row.
    """
    try:
        spec = specs()[name]
    except KeyError:
        known = ", ".join(specs())
        raise ConfigError(f"unknown runtime '{name}'", remedy=f"use one of: {known}") from None
    try:
        artifact = artifact_path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot be read: {error.strerror}", where=str(artifact_path)) from None
    if spec.artifact == MODEL_TFLITE and (problem := _structural_problem(artifact)):
        return RunResult(Status.FAILED, version=installed_version(spec), reason=problem)
    return execute(spec, artifact, inputs, timeout_s=timeout_s, workers=workers)


def _structural_problem(artifact: bytes) -> str | None:
    from sgsc_edge.graph.read_tflite import read_tflite

    try:
        read_tflite(artifact)
    except SgscError as error:
        return f"refused before running: {error}"
    return None


def execute(
    spec: RuntimeSpec, artifact: bytes, inputs: Inputs, *, timeout_s: float, workers: int = 2
) -> RunResult:
    """Run ``spec`` over ``inputs`` in at most ``workers`` processes (one where it is not slow)."""
    if len(inputs) == 0:
        return RunResult(Status.NOT_RUN, reason="no samples")
    version = installed_version(spec)
    if version is None:
        if spec.stand_in is not None and not has_package(spec):
            result = execute(specs()[spec.stand_in], artifact, inputs, timeout_s=timeout_s, workers=workers)
            return replace(result, stand_in=spec.stand_in)
        return RunResult(Status.NOT_RUN, reason=f"not installed: {install_hint(spec)}")
    try:
        with tempfile.TemporaryDirectory(prefix="sgsc-edge-") as scratch:
            folder = Path(scratch)
            (folder / "job.json").write_text(json.dumps({"entry": spec.entry}), encoding="utf-8")
            (folder / "artifact.bin").write_bytes(artifact)
            np.save(folder / "inputs.npy", np.ascontiguousarray(inputs), allow_pickle=False)
            shards = _shards(len(inputs), workers if spec.slow else 1)
            result = _run_shards(python_of(spec), folder, shards, timeout_s)
    except OSError as error:
        raise OutputError(
            f"a worker process could not be prepared: {error.strerror or error}",
            where=tempfile.gettempdir(),
            remedy="free space there, or point TMPDIR elsewhere",
        ) from error
    return replace(result, version=version)


def _shards(samples: int, workers: int) -> list[_Shard]:
    """Split ``samples`` evenly over at most ``workers`` shards of at least ``_MIN_SHARD`` samples.

    >>> [(shard.start, shard.stop) for shard in _shards(101, 2)]
    [(0, 51), (51, 101)]
    >>> len(_shards(40, 2))
    1
    """
    count = max(1, min(workers, samples // _MIN_SHARD))
    bounds = [-(-samples * i // count) for i in range(count + 1)]
    return [_Shard(i, bounds[i], bounds[i + 1]) for i in range(count)]


def _run_shards(python: str, folder: Path, shards: Sequence[_Shard], timeout_s: float) -> RunResult:
    deadline = time.monotonic() + timeout_s
    with _started(python, folder, shards) as processes:
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return RunResult(Status.TIMEOUT, reason=f"killed after {timeout_s:g} s")
    outcomes = [
        _outcome(folder, shard, process.returncode) for shard, process in zip(shards, processes, strict=True)
    ]
    for outcome in outcomes:
        if outcome.status is not Status.OK:
            return outcome
    parts = [outcome.outputs for outcome in outcomes if outcome.outputs is not None]
    if len({part.shape[1:] for part in parts}) != 1:
        return RunResult(Status.FAILED, reason="workers disagree on the number of outputs")
    return RunResult(Status.OK, outputs=np.concatenate(parts))


@contextmanager
def _started(python: str, folder: Path, shards: Sequence[_Shard]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The workers of ``shards``; none outlives the block, however it is left."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for shard in shards:
            arguments = [str(folder), str(shard.number), str(shard.start), str(shard.stop)]
            with (folder / f"log.{shard.number}").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [python, "-P", "-c", _BOOTSTRAP, _PACKAGE_ROOT, *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env={**os.environ, **_WORKER_ENVIRONMENT},
                        start_new_session=True,  # Ctrl-C reaches us, and we end them
                    )
                )
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _outcome(folder: Path, shard: _Shard, returncode: int) -> RunResult:
    """What one worker left behind."""
    status_file = folder / f"status.{shard.number}.json"
    if returncode < 0:
        return RunResult(
            Status.CRASHED, reason=f"killed by {_signal_name(-returncode)}{_tail(folder, shard)}"
        )
    if not status_file.exists():
        return RunResult(
            Status.CRASHED, reason=f"ended with status {returncode} and no result{_tail(folder, shard)}"
        )
    try:
        status = json.loads(status_file.read_text(encoding="utf-8"))
    except ValueError:  # cut short: the disk is full
        return RunResult(Status.CRASHED, reason=f"its result is incomplete{_tail(folder, shard)}")
    if status["status"] != Status.OK:
        return RunResult(Status.FAILED, reason=status["reason"])
    return RunResult(Status.OK, np.load(folder / f"outputs.{shard.number}.npy", allow_pickle=False))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(folder: Path, shard: _Shard) -> str:
    """The last line that the worker printed, as `` (line)``."""
    text = (folder / f"log.{shard.number}").read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f" ({lines[-1]})" if lines else ""
