"""How small the paper's CNN gets at learned widths: accuracy on MNIST's test set from 20 kB down to 1 kB.

Each build is the default recipe under a budget, for the target whose C code packs every channel at a width
of its own: bytes are all constants of that code (weights, widths, biases, scales). The paper reports 99.5 %
at 214,730 bytes. The test set is measured and chooses nothing. Trained models and builds are kept in
``benchmarks/build``, and only what changed runs again; how long a build takes is in ``mnist_build_time``::

    python -m benchmarks.mnist_learned [--seeds 0 1 2] [--budgets 20000 8000 3000 1000]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.learned_widths import LEARNED, packed
from benchmarks.mnist_budget import known, recipe
from benchmarks.record import Row, build, finish, trained
from sgsc_edge.certification import read_certificate
from sgsc_edge.packaging import package_c_code, read_source

LIMITS = {20_000: 0.995, 8_000: 0.994, 3_000: 0.99, 1_000: None}
"""Test accuracy that the mean of the seeds has to reach, by budget in bytes; the last one is reported."""

FLOAT = 0.993


@dataclass(frozen=True)
class Result:
    """One build.

    Parameters
    ----------
    errors: wrong decisions of the test set's 10,000 by the compressed integers.
    float_errors: by the float model.
    code: bytes of the C code's constants.
    in_8_bits: the same channels with every weight in a byte.
    bits: of a weight, mean.
    """

    errors: int
    float_errors: int
    samples: int
    code: int
    in_8_bits: int
    bits: float


def main() -> int:
    """Train, build and read the certificates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", type=int, nargs="+", default=list(LIMITS), choices=LIMITS)
    options = parser.parse_args()
    projects = {seed: trained("mnist", seed) for seed in options.seeds}
    found = {
        budget: [built(projects[seed], seed, budget) for seed in options.seeds] for budget in options.budgets
    }
    detail = {str(budget): [asdict(one) for one in results] for budget, results in found.items()}
    floats = [one.float_errors / one.samples for one in next(iter(found.values()))]
    worst = 1 - max(floats)
    shown = ", ".join(f"{1 - share:.2%}" for share in floats)
    rows = [Row("float test accuracy, by seed", shown, f"≥ {FLOAT:.1%}", worst >= FLOAT)]
    rows += [row for budget, results in found.items() for row in rows_of(budget, results)]
    return finish("mnist_learned", rows, {"seeds": options.seeds, **detail})


def built(project: Path, seed: int, budget: int) -> Result:
    """Build within a budget, and read the certificate."""
    settings = (f"compress.seed={seed}", f"compress.budget={budget} B", *recipe())
    options = [part for setting in settings for part in ("--set", setting)]
    folder = build(project, project / f"learned-{budget}", *options, target=LEARNED)
    predicate = read_certificate(folder / "certificate.json").predicate
    test = predicate.test
    source = read_source(folder)
    sizes = []
    for learned in (True, False):
        with tempfile.TemporaryDirectory() as scratch:
            made = package_c_code(source, Path(scratch), learned=learned)
            sizes.append(int(made.description["constant_bytes"]))
    bits, weights, _ = packed(source.graph)

    def errors(name: str) -> int:
        return round(test[name].samples * (1 - known(test[name].metrics["accuracy"])))

    return Result(
        errors=errors("tflm"),
        float_errors=errors("float"),
        samples=test["tflm"].samples,
        code=sizes[0],
        in_8_bits=sizes[1],
        bits=bits / weights,
    )


def rows_of(budget: int, results: Sequence[Result]) -> list[Row]:
    """Accuracy and bytes within one budget."""
    accuracies = [1 - one.errors / one.samples for one in results]
    mean, limit = statistics.mean(accuracies), LIMITS[budget]
    by_seed = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
    sizes = ", ".join(f"{one.code:,d} ({one.in_8_bits:,d})" for one in results)
    where = f"at {budget:,d} bytes"
    return [
        Row(
            f"{where}: test accuracy of the integers, mean (by seed)",
            f"{mean:.2%} ({by_seed})",
            "" if limit is None else f"≥ {limit:.1%}",
            None if limit is None else mean >= limit,
        ),
        Row(
            f"{where}: bytes of the C code's constants (with every weight in a byte)",
            sizes,
            f"≤ {budget:,d}",
            all(one.code <= budget for one in results),
        ),
        Row(f"{where}: bits of a weight, mean", ", ".join(f"{one.bits:.2f}" for one in results)),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
