"""Wall time of `sgsc-edge preserve` on MNIST's 60,000 training samples, the whole process::

    python -m benchmarks.preserve_time [--project examples/mnist] [--runs 2]

The float checkpoint must be there (`make mnist`). Every run writes the same bytes, or the benchmark ends.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.record import ROOT, WORK, Row, command, finish
from benchmarks.timing import summary, wall_time
from sgsc_edge.artifacts import sha256_file
from sgsc_edge.preservation.selection import Selection, read_selection

LIMIT_S = 90.0


def main() -> int:
    """Time the command and describe what it chose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=ROOT / "examples/mnist")
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    out = WORK / "preserve"
    times, digests = [], set()
    for _ in range(options.runs):
        times.append(wall_time([command(), "preserve", options.project.resolve(), "--out", out]))
        digests.add(sha256_file(out / "preservation.json"))
    if len(digests) != 1:
        raise SystemExit("preservation.json differs from run to run")
    return finish("preserve_time", rows(times, read_selection(out / "preservation.json")), {"seconds": times})


def rows(times: list[float], selection: Selection) -> list[Row]:
    """The time against its limit, and each part's samples and float errors."""
    scored = selection.rest.samples + selection.pool.samples
    measured = [
        Row(
            f"`sgsc-edge preserve` of {scored:,} samples",
            summary(times),
            f"≤ {LIMIT_S:g} s",
            statistics.median(times) <= LIMIT_S,
        )
    ]
    for part in ("guide", "watch", "certify"):
        samples = selection.part(part)
        wrong = sum(one.label != one.prediction for one in samples)
        classes = len({one.label for one in samples})
        value = f"{len(samples):,} samples of {classes} classes, {wrong} wrong in float"
        measured.append(Row(f"the {part} part", value))
    return measured


if __name__ == "__main__":
    raise SystemExit(main())
