"""Digits: how many more test errors does the int8 model make than the float model it came from?

For each seed the example is trained and built anew, and both models decide the fixed 355 test samples::

    python -m benchmarks.digits_seeds [--seeds 5]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys

from benchmarks.record import ROOT, WORK, Row, build, finish, run
from benchmarks.test_set import device_errors, float_errors

LIMIT = 2.0


def main() -> int:
    """Train and build for every seed, then compare error counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    measured = [measure(seed) for seed in range(parser.parse_args().seeds)]
    return finish("digits_seeds", rows(measured), {"seeds": measured})


def measure(seed: int) -> dict[str, int]:
    """Test errors of one seed's float model and of its build on TFLM."""
    project = WORK / f"digits-seed-{seed}"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(
        ROOT / "examples/digits", project, ignore=shutil.ignore_patterns("build", "float.*", "__*")
    )
    run(sys.executable, project / "train.py", "--seed", str(seed))
    folder = build(project, project / "build", "--set", f"compress.seed={seed}")
    errors, samples = float_errors(project)
    device = device_errors(project, folder, "tflm")
    return {"seed": seed, "samples": samples, "float": errors, "int8": device}


def rows(measured: list[dict[str, int]]) -> list[Row]:
    """The mean difference against its limit, and each seed's two counts."""
    difference = statistics.mean(one["int8"] - one["float"] for one in measured)
    counts = ", ".join(f"{one['float']} → {one['int8']}" for one in measured)
    samples = measured[0]["samples"]
    return [
        Row(
            f"digits: int8 errors more than float, mean of {len(measured)} seeds ({samples} test samples)",
            f"{difference:+.1f}",
            f"≤ {LIMIT:g}",
            difference <= LIMIT,
        ),
        Row("digits: errors of each seed, float → int8 on TFLM", counts),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
