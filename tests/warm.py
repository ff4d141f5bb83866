"""The command in a process of its own that has imported torch already: seconds less for each build.

A server that only imports is forked for each command. What a process started from nothing does is tested in
``tests/cli`` and ``tests/documentation``.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# The server imports and computes nothing: a fork does not take threads along.
IMPORTED = (
    "torch",
    "torch.onnx",
    "torch._dynamo",
    "onnxscript",
    "captum.attr",
    "sklearn.cluster",
    "scipy.stats",
)
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [*IMPORTED, "sgsc_edge.api", "sgsc_edge.pipeline.stages", "sgsc_edge.cli.main", "exporter_filled"]
)


def run(
    arguments: Sequence[str], cwd: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """``sgsc-edge`` with ``arguments``; TimeoutError, and no process left, after ``timeout`` seconds."""
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        out.touch()
        err.touch()
        process = _SERVER.Process(
            target=_command,
            args=(list(arguments), str(cwd or Path.cwd()), dict(os.environ), str(out), str(err)),
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{arguments} took more than {timeout} s: {err.read_text()}")
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def _command(arguments: list[str], cwd: str, environment: Mapping[str, str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    from sgsc_edge.cli.main import main

    sys.exit(main(arguments))
