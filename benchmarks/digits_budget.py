"""Digits at 30 % of the plain int8 bytes: is the budget met, and how many more errors than float?

For each seed the example is trained and built anew under a budget, with its own recipe otherwise. Bytes are
weights, biases and their scales in the files that ship, of the plain int8 model and of the small one::

    python -m benchmarks.digits_budget [--seeds 5]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

from benchmarks.record import ROOT, WORK, Row, build, finish, run
from benchmarks.test_set import device_errors, float_errors
from sgsc_edge.inspection import inspect_model

SHARE = 0.3
LIMIT = 3.0


def main() -> int:
    """Build every seed plainly (calibration only) and under the budget, then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    measured = [measure(seed) for seed in range(parser.parse_args().seeds)]
    return finish("digits_budget", rows(measured), {"seeds": measured})


def measure(seed: int) -> dict[str, int]:
    """Bytes and test errors of one seed's plain and small models, and the float model's errors."""
    project = WORK / f"digits-budget-{seed}"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(
        ROOT / "examples/digits", project, ignore=shutil.ignore_patterns("build", "float.*", "__*")
    )
    run(sys.executable, project / "train.py", "--seed", str(seed))
    plain = build(project, project / "plain", "--method", "ptq")
    budget = int(SHARE * stored_bytes(plain))
    folder = build(
        project,
        project / "build",
        *("--set", f"compress.seed={seed}", "--set", f"compress.budget={budget} B"),
    )
    errors, samples = float_errors(project)
    return {
        "seed": seed,
        "samples": samples,
        "float": errors,
        "small": device_errors(project, folder, "tflm"),
        "plain_bytes": stored_bytes(plain),
        "budget": budget,
        "bytes": stored_bytes(folder),
    }


def stored_bytes(folder: Path) -> int:
    """Weights, biases and their scales in a build's ``.tflite``."""
    tensors = inspect_model(folder / "model.tflite").tensors
    return sum(t.payload_bytes + t.parameter_bytes for t in tensors if t.share in ("weights", "bias"))


def rows(measured: list[dict[str, int]]) -> list[Row]:
    """The mean difference against its limit, each seed's counts, and how well the budget is met."""
    difference = statistics.mean(one["small"] - one["float"] for one in measured)
    used = [one["bytes"] / one["budget"] for one in measured]
    counts = ", ".join(f"{one['float']} → {one['small']}" for one in measured)
    samples = measured[0]["samples"]
    return [
        Row(
            f"digits at {SHARE:.0%} of plain int8: errors more than float, mean of {len(measured)} seeds "
            f"({samples} test samples)",
            f"{difference:+.1f}",
            f"≤ {LIMIT:g}",
            difference <= LIMIT,
        ),
        Row("digits: errors of each seed, float → small on TFLM", counts),
        Row(
            f"digits: share of the budget ({measured[0]['budget']} bytes) that is used",
            f"{min(used):.3f} to {max(used):.3f}",
            "0.98 to 1",
            all(0.98 <= share <= 1 for share in used),
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
