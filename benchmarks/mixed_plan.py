"""Mixed widths on each example: never more bytes than 4 bits alone, where these pass, or 8 bits alone.

Each example is built three times for a target with 4-bit weights, by its own recipe and with all of its
channels: mixed widths (the default), 4 bits alone (nothing is widened), and 8 bits. Bytes are weights, biases
and their scales in the files; a build passes where its certificate says so::

    python -m benchmarks.mixed_plan [--examples digits mnist] [--targets tflm-int4 ..] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.digits_budget import stored_bytes
from benchmarks.record import Row, build, finish, trained
from sgsc_edge.certification import read_certificate

TARGETS = ("tflm-int4", "tflite-int4")
FORMS = {
    "mixed": (),
    "4 bits": ("--set", "compress.controller=false"),
    "8 bits": ("--method", "qat8"),
}


@dataclass(frozen=True)
class Built:
    """What one build ships, and whether it passed."""

    stored: int
    passed: bool


def main() -> int:
    """Build and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", nargs="+", choices=("digits", "mnist"), default=["digits", "mnist"])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    found = {
        (example, target, seed): forms_of(trained(example, seed), seed, target)
        for example in options.examples
        for target in options.targets
        for seed in options.seeds
    }
    detail = {
        f"{example}, seed {seed}, {target}": {form: asdict(one) for form, one in forms.items()}
        for (example, target, seed), forms in found.items()
    }
    return finish("mixed_plan", rows(found), detail)


def forms_of(project: Path, seed: int, target: str) -> dict[str, Built]:
    """The three builds of a project."""
    return {form: built(project, seed, target, form) for form in FORMS}


def built(project: Path, seed: int, target: str, form: str) -> Built:
    """Build once and read file and certificate."""
    out = project / f"plan-{form.replace(' ', '-')}"
    folder = build(project, out, "--set", f"compress.seed={seed}", *FORMS[form], target=target)
    verdict = read_certificate(folder / "certificate.json").predicate.verdict
    return Built(stored_bytes(folder), verdict == "PASSED")


def rows(found: dict[tuple[str, str, int], dict[str, Built]]) -> list[Row]:
    """One row an example and target: bytes and verdicts of each seed."""
    rows = []
    for example, target in dict.fromkeys((example, target) for example, target, _ in found):
        seeds = [forms for (name, other, _), forms in found.items() if (name, other) == (example, target)]
        values = [
            " / ".join(f"{one.stored:,d}{'' if one.passed else ' (fails)'}" for one in forms.values())
            for forms in seeds
        ]
        rows.append(
            Row(
                f"{example} for {target}: bytes of {' / '.join(FORMS)}, each seed",
                "; ".join(values),
                "mixed ≤ those that pass",
                all(is_least(forms) for forms in seeds),
            )
        )
    return rows


def is_least(forms: dict[str, Built]) -> bool:
    """Whether mixed widths take no more than 8 bits alone, and than 4 bits alone where these pass."""
    narrow = forms["4 bits"]
    limits = [forms["8 bits"].stored, *([narrow.stored] if narrow.passed else [])]
    return forms["mixed"].stored <= min(limits)


if __name__ == "__main__":
    raise SystemExit(main())
