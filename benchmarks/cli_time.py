"""Wall time of `sgsc-edge --help` and `doctor`, and of `verify` on the digits build, whole processes::

    python -m benchmarks.cli_time [--folder examples/digits/build/tflite-int8]

One run of each comes first and is not counted.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.record import ROOT, Row, command, finish
from benchmarks.timing import summary, wall_time

HELP_LIMIT_S = 0.3
VERIFY_LIMIT_S = 10.0
DOCTOR_LIMIT_S = 2.0


def main() -> int:
    """Time the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "examples/digits/build/tflite-int8")
    folder = parser.parse_args().folder.resolve()
    help_s = [wall_time([command(), "--help"]) for _ in range(21)][1:]
    doctor = [command(), "doctor", ROOT / "examples/digits"]
    doctor_s = [wall_time(doctor, allowed=(0, 2, 3)) for _ in range(11)][1:]
    verify_s = [wall_time([command(), "verify", folder], allowed=(0, 1)) for _ in range(6)][1:]
    return finish(
        "cli_time",
        [
            row("`sgsc-edge --help`", help_s, HELP_LIMIT_S),
            row(
                "`sgsc-edge doctor` with a project, on a system with every compiler and emulator",
                doctor_s,
                DOCTOR_LIMIT_S,
            ),
            row("`sgsc-edge verify` of digits, every required runtime", verify_s, VERIFY_LIMIT_S),
        ],
        {"help_s": help_s, "doctor_s": doctor_s, "verify_s": verify_s},
    )


def row(measure: str, times: list[float], limit: float) -> Row:
    """The median against its limit."""
    return Row(measure, summary(times), f"≤ {limit:g} s", statistics.median(times) <= limit)


if __name__ == "__main__":
    raise SystemExit(main())
