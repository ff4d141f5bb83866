"""Wall times of whole processes."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def wall_time(
    command: Sequence[str | Path], allowed: tuple[int, ...] = (0,), cwd: Path | None = None
) -> float:
    """Seconds from start to exit of one process; another exit code ends the benchmark, with its output."""
    arguments = [str(part) for part in command]
    started = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=cwd)
    elapsed = time.perf_counter() - started
    if done.returncode not in allowed:
        raise SystemExit(
            f"exit code {done.returncode} from {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        )
    return elapsed


def summary(times: Sequence[float]) -> str:
    """Median and range, in seconds."""
    return f"{statistics.median(times):.2f} s (median of {len(times)}, {min(times):.2f}–{max(times):.2f})"
