"""The names language model at a fifth and a tenth of its float bytes: what it loses on names it never saw.

Each build is the example's own recipe under a budget, for ``onnx-learned``: bytes are the weights packed at
learned widths, with their widths, constants, biases and scales. The paper stores 60.8 % of its model's bytes.
The test names are measured and choose nothing. Trained models and builds are kept in ``benchmarks/build``,
and only what changed runs again::

    python -m benchmarks.names_learned [--seeds 0 1 2] [--budgets 0.2x 0.1x]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.mnist_budget import known
from benchmarks.record import Row, build, finish, trained
from sgsc_edge.certification import read_certificate
from sgsc_edge.compression.compress import HISTORY

TARGET = "onnx-learned"
RISES = {"0.2x": 0.02, "0.1x": None}
"""Nats a character that the mean of the seeds may lose on the test names, by budget; the last is reported."""


@dataclass(frozen=True)
class Result:
    """One build.

    Parameters
    ----------
    loss, float_loss: nats a character on the test names, of the integers on ONNX Runtime and of float.
    certify, float_certify: the same on the certify names.
    agrees: share of the certify names' next characters that are float's.
    stored: bytes at the learned widths.
    passed: whether the build passed the example's own gates.
    """

    loss: float
    float_loss: float
    certify: float
    float_certify: float
    agrees: float
    stored: int
    passed: bool


def main() -> int:
    """Train, build and read the certificates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", nargs="+", default=list(RISES), choices=RISES)
    options = parser.parse_args()
    projects = {seed: trained("names", seed) for seed in options.seeds}
    found = {
        budget: [built(projects[seed], seed, budget) for seed in options.seeds] for budget in options.budgets
    }
    detail = {budget: [asdict(one) for one in results] for budget, results in found.items()}
    floats = ", ".join(f"{one.float_loss:.3f}" for one in next(iter(found.values())))
    rows = [Row("float: test loss in nats a character, by seed", floats)]
    rows += [row for budget, results in found.items() for row in rows_of(budget, results)]
    return finish("names_learned", rows, {"seeds": options.seeds, **detail})


def built(project: Path, seed: int, budget: str) -> Result:
    """Build within a budget, and read the certificate."""
    settings = (f"compress.seed={seed}", f'compress.budget="{budget}"')
    options = [part for setting in settings for part in ("--set", setting)]
    folder = build(project, project / f"learned-{budget}", *options, target=TARGET)
    predicate = read_certificate(folder / "certificate.json").predicate
    test, reference = predicate.test, known(predicate.references["float"])
    (runtime,) = (row for row in predicate.runtimes if row.name == "onnxruntime")
    last = json.loads((folder / HISTORY).read_text(encoding="utf-8").splitlines()[-1])
    certify = runtime.sets["certify"]
    return Result(
        loss=known(test["onnxruntime"].metrics["loss"]),
        float_loss=known(test["float"].metrics["loss"]),
        certify=known(certify.metrics["loss"]),
        float_certify=known(known(reference["certify"]).metrics["loss"]),
        agrees=certify.agreeing / certify.decided,
        stored=round(last["learned_bytes"]),
        passed=predicate.verdict == "PASSED",
    )


def rows_of(budget: str, results: Sequence[Result]) -> list[Row]:
    """Losses and bytes within one budget."""
    rises = [one.loss - one.float_loss for one in results]
    limit = RISES[budget]
    where = f"at {float(budget.rstrip('x')):.0%} of float's bytes"
    return [
        Row(
            f"{where}: change of the test loss in nats, mean (by seed)",
            f"{statistics.mean(rises):+.3f} ({', '.join(f'{rise:+.3f}' for rise in rises)})",
            "" if limit is None else f"≤ {limit}",
            None if limit is None else statistics.mean(rises) <= limit,
        ),
        Row(
            f"{where}: change of the certify loss in nats, by seed",
            ", ".join(f"{one.certify - one.float_certify:+.3f}" for one in results),
        ),
        Row(
            f"{where}: share of next characters that are float's, by seed",
            ", ".join(f"{one.agrees:.1%}" for one in results),
        ),
        Row(f"{where}: bytes at learned widths", ", ".join(f"{one.stored:,d}" for one in results)),
        Row(
            f"{where}: builds that pass the example's gates",
            f"{sum(one.passed for one in results)} of {len(results)}",
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
