"""What 4-bit weights buy on MNIST: accuracy at equal bytes, bytes at equal accuracy, and whole files.

The float models are those of ``mnist_budget``; the recipe is the default of every project, with the
distortions of float training; builds differ in target and budget. Accuracy is of the 10,000 test samples on
TFLM; bytes are weights, biases and their scales in the ``.tflite``.

int8 needs more bytes for 99.0 % than a budget in which it misses them; with 0.7 of that budget, int4 has less
than 0.7 of what int8 needs. Finished builds are kept in ``benchmarks/build``, and only what changed runs
again::

    python -m benchmarks.mnist_narrow [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.digits_budget import stored_bytes
from benchmarks.mnist_budget import known, recipe
from benchmarks.record import Row, build, finish, trained
from sgsc_edge.certification import read_certificate
from sgsc_edge.inspection import inspect_model

WIDE, NARROW = "tflite-int8", "tflm-int4"
EQUAL_BYTES = (4_000, 8_000)
"""Budgets at which both targets are built."""

GOAL = 0.99
SHARE_OF_BYTES = 0.7
TOO_LITTLE = 4_000
"""A budget in which int8 misses the goal."""

LADDER = {WIDE: EQUAL_BYTES, NARROW: (round(SHARE_OF_BYTES * TOO_LITTLE), *EQUAL_BYTES)}
FILE_BUDGET, FILE_LIMIT = 4_000, 6_000
SMALL_FILE = ("export.names=none", "export.quantization=needed", "export.metadata=none")
WHOLE_SHARE, WHOLE_DROP = 0.55, 0.3
"""Of the plain int8 file with nothing removed, and points below float."""


@dataclass(frozen=True)
class Built:
    """One build: accuracy on TFLM, float's, bytes stored, bytes of the file, and those by use."""

    accuracy: float
    float_accuracy: float
    stored: int
    file: int
    shares: dict[str, int]


def main() -> int:
    """Build and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    projects = {seed: trained("mnist", seed) for seed in seeds}

    def each(name: str, target: str, *settings: str) -> list[Built]:
        return [built(projects[seed], seed, name, target, settings) for seed in seeds]

    def within(budget: int, target: str, *settings: str) -> list[Built]:
        return each(f"{target}-{budget}", target, f"compress.budget={budget} B", *settings)

    ladder = {
        target: {budget: within(budget, target) for budget in budgets} for target, budgets in LADDER.items()
    }
    small = within(FILE_BUDGET, NARROW, *SMALL_FILE)  # the same network: only its file is written anew
    plain = each("plain", WIDE, "compress.method=ptq")
    whole = each("whole", NARROW, "compress.method=mixed", "compress.controller=false")
    found = [*ladder_rows(ladder), *file_rows(small), *whole_rows(whole, plain)]
    detail = {
        "seeds": seeds,
        "ladder": {
            target: {str(budget): [asdict(one) for one in builds] for budget, builds in steps.items()}
            for target, steps in ladder.items()
        },
        **{
            name: [asdict(one) for one in builds]
            for name, builds in (("small", small), ("plain", plain), ("whole", whole))
        },
    }
    return finish("mnist_narrow", found, detail)


def built(project: Path, seed: int, name: str, target: str, settings: Sequence[str]) -> Built:
    """Build once and read certificate and file."""
    chosen = (*recipe(), "data.augment=data:augment", f"compress.seed={seed}", *settings)
    options = [part for setting in chosen for part in ("--set", setting)]
    folder = build(project, project / name, *options, target=target)
    test = read_certificate(folder / "certificate.json").predicate.test
    totals = inspect_model(folder / "model.tflite").totals
    return Built(
        accuracy=known(test["tflm"].metrics["accuracy"]),
        float_accuracy=known(test["float"].metrics["accuracy"]),
        stored=stored_bytes(folder),
        file=totals.file_bytes,
        shares={key: value for key, value in asdict(totals).items() if key != "file_bytes"},
    )


def ladder_rows(ladder: dict[str, dict[int, list[Built]]]) -> list[Row]:
    """Mean accuracy at each budget; errors at equal bytes; what int4 reaches with 0.7 of int8's bytes."""
    mean = {
        target: {budget: statistics.mean(one.accuracy for one in builds) for budget, builds in steps.items()}
        for target, steps in ladder.items()
    }
    found = [
        Row(
            f"MNIST, {target} at {budget:,d} bytes: test accuracy on TFLM, mean of the seeds (each)",
            f"{accuracy:.2%} ({', '.join(f'{one.accuracy:.2%}' for one in ladder[target][budget])})",
        )
        for target, steps in mean.items()
        for budget, accuracy in steps.items()
    ]
    for budget in EQUAL_BYTES:
        wide, narrow = mean[WIDE][budget], mean[NARROW][budget]
        found.append(
            Row(
                f"at {budget:,d} bytes: test error, {WIDE} → {NARROW}, mean of the seeds",
                f"{1 - wide:.2%} → {1 - narrow:.2%}",
                "no more",
                narrow >= wide,
            )
        )
    share = round(SHARE_OF_BYTES * TOO_LITTLE)
    wide, narrow = mean[WIDE][TOO_LITTLE], mean[NARROW][share]
    found.append(
        Row(
            f"{GOAL:.1%} in the mean: {WIDE} at {TOO_LITTLE:,d} bytes, {NARROW} at {share:,d}",
            f"{wide:.2%}, {narrow:.2%}",
            f"< {GOAL:.1%}, ≥ {GOAL:.1%}",
            wide < GOAL <= narrow,
        )
    )
    return found


def file_rows(small: Sequence[Built]) -> list[Row]:
    """A whole file: its accuracy, its bytes, and what they are there for."""
    means = {key: statistics.mean(one.shares[key] for one in small) for key in small[0].shares}
    shares = ", ".join(
        f"{key.removesuffix('_bytes').replace('_', ' ')} {mean:,.0f}" for key, mean in means.items()
    )
    return [
        Row(
            f"{NARROW}, whole .tflite: test accuracy on TFLM of each seed",
            ", ".join(f"{one.accuracy:.2%}" for one in small),
            f"≥ {GOAL:.1%}",
            all(one.accuracy >= GOAL for one in small),
        ),
        Row(
            f"{NARROW}, whole .tflite: bytes of each seed",
            ", ".join(f"{one.file:,d}" for one in small),
            f"≤ {FILE_LIMIT:,d}",
            all(one.file <= FILE_LIMIT for one in small),
        ),
        Row("its bytes by use, mean of the seeds", shares),
    ]


def whole_rows(whole: Sequence[Built], plain: Sequence[Built]) -> list[Row]:
    """Nothing removed, all weights in 4 bits, beside plain int8."""
    shares = [one.file / other.file for one, other in zip(whole, plain, strict=True)]
    drops = [100 * (one.float_accuracy - one.accuracy) for one in whole]
    return [
        Row(
            "nothing removed, all weights int4: file over the plain int8 file",
            ", ".join(f"{share:.3f}" for share in shares),
            f"≤ {WHOLE_SHARE}",
            all(share <= WHOLE_SHARE for share in shares),
        ),
        Row(
            "nothing removed, all weights int4: points below float on TFLM",
            ", ".join(f"{drop:+.2f}" for drop in drops),
            f"≤ {WHOLE_DROP}",
            all(drop <= WHOLE_DROP for drop in drops),
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
