"""The process that holds an interpreter: reads its share of the samples, writes outputs and a status.

Started by ``_execute`` with a job folder that holds ``job.json``, ``artifact.bin`` and ``inputs.npy``.
Shard ``i`` writes ``outputs.<i>.npy`` and then ``status.<i>.json``; a missing status means that it died.
Imports NumPy and one runtime file only, so that it also starts in another Python environment.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

_REASON_CHARACTERS = 500
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def run_shard(folder: Path, shard: int, start: int, stop: int) -> None:
    """Run samples ``start:stop`` and write what came of it."""
    status: dict[str, str] = {}
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        module, _, function = job["entry"].partition(":")
        run = getattr(importlib.import_module(module), function)
        inputs = np.load(folder / "inputs.npy", mmap_mode="r", allow_pickle=False)
        outputs = np.asarray(run((folder / "artifact.bin").read_bytes(), inputs[start:stop]))
        if outputs.dtype != np.int8 or outputs.ndim not in (2, 3) or len(outputs) != stop - start:
            raise ValueError(
                f"outputs are {outputs.dtype}{list(outputs.shape)}, expected int8 [{stop - start}, classes]"
            )
        np.save(folder / f"outputs.{shard}.npy", np.ascontiguousarray(outputs), allow_pickle=False)
        status["status"] = "ok"
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        status = {"status": "failed", "reason": reason[:_REASON_CHARACTERS]}
    (folder / f"status.{shard}.json").write_text(json.dumps(status), encoding="utf-8")


def die_with_parent() -> None:
    """Ask the kernel to end this process with the one that started it, even if that was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_memory() -> None:
    """A model that asks for more than half of the machine's memory is refused it, and the machine goes on."""
    if sys.platform == "linux":
        import resource

        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        limit = half if most == resource.RLIM_INFINITY else min(half, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def main() -> None:
    """Entry point: ``folder shard start stop`` are the last four arguments."""
    die_with_parent()
    folder, shard, start, stop = sys.argv[-4:]
    os.chdir(folder)  # files that a model names are looked for there
    _limit_memory()
    run_shard(Path(folder), int(shard), int(start), int(stop))
