"""How long a whole build of the paper's CNN takes: default recipe, learned widths, 8 kB.

A fresh build of all stages, from the trained float model to the certificate and the report, on a machine that
does nothing else::

    python -m benchmarks.mnist_build_time
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.learned_widths import LEARNED
from benchmarks.mnist_budget import recipe
from benchmarks.record import Row, build, finish, trained

BUDGET = 8_000
LONGEST = 15.0
"""Minutes, on two cores."""


def main() -> int:
    """Build once and write the time."""
    project = trained("mnist", 0)
    load = os.getloadavg()[0]
    settings = (f"compress.budget={BUDGET} B", *recipe())
    options = [part for setting in settings for part in ("--set", setting)]
    with tempfile.TemporaryDirectory() as out:
        started = time.monotonic()
        build(project, Path(out), *options, target=LEARNED)
        minutes = (time.monotonic() - started) / 60
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = (used.ru_utime + used.ru_stime) / 60
    return finish("mnist_build_time", rows_of(minutes, processor, used.ru_maxrss / 1024, load))


def rows_of(minutes: float, processor: float, megabytes: float, load: float) -> list[Row]:
    """``processor``: minutes that all processes took together; ``megabytes``: of the largest."""
    where = f"build within {BUDGET:,d} bytes"
    return [
        Row(f"{where}: minutes", f"{minutes:.1f}", f"≤ {LONGEST:.0f}", minutes <= LONGEST),
        Row(f"{where}: minutes of processor time", f"{processor:.1f}"),
        Row(f"{where}: largest process", f"{megabytes:,.0f} MB"),
        Row("load of the machine before (processes that want a core)", f"{load:.1f}"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
