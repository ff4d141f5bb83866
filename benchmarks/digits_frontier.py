"""Several sizes of the digits example from one compression: cost and errors beside separate builds.

For each seed the example is trained anew and built once for all budgets, then once for each of them in a
folder of its own, so that nothing is shared; and once with a floor in place of a budget. Processor seconds
are those of the whole commands, one after the other on the same machine::

    python -m benchmarks.digits_frontier [--seeds 2]
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.digits_budget import stored_bytes
from benchmarks.record import Row, build, finish, trained
from benchmarks.test_set import device_errors, float_errors
from sgsc_edge import api

BUDGETS = ("8kB", "4kB", "2.5kB")
FLOOR = 0.98
COST = 0.75
"""Of three separate builds, at most."""


def main() -> int:
    """Build every seed in each way, then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    measured = [measure(seed) for seed in range(parser.parse_args().seeds)]
    return finish("digits_frontier", rows(measured), {"seeds": measured})


def measure(seed: int) -> dict[str, Any]:
    """Seconds and test errors of one seed's frontier, of its separate builds, and of its search."""
    project = trained("digits", seed)
    out = project / "frontier"
    shutil.rmtree(out, ignore_errors=True)
    options = ("--set", f"compress.seed={seed}")

    def made(name: str, *goal: str) -> tuple[float, Path]:
        folders: list[Path] = []
        seconds = _processor_seconds(lambda: folders.append(build(project, out / name, *options, *goal)))
        return seconds, folders[0]

    whole, points = made("all", "--budget", ",".join(BUDGETS))
    separate = {budget: made(budget, "--budget", budget) for budget in BUDGETS}
    searching, found = made("floor", "--floor", str(FLOOR))
    search = api.search(found)
    assert search is not None
    return {
        "seed": seed,
        "float": float_errors(project)[0],
        "samples": float_errors(project)[1],
        "seconds": whole,
        "separate_seconds": sum(seconds for seconds, _ in separate.values()),
        "search_seconds": searching,
        "points": [device_errors(project, points / budget, "tflm") for budget in BUDGETS],
        "separate": [device_errors(project, folder, "tflm") for _, folder in separate.values()],
        "found_bytes": stored_bytes(found),
        "found_watch": search.chosen.watch,
        "found_errors": device_errors(project, found, "tflm"),
        "tries": len(search.trials),
    }


def _processor_seconds(work: Callable[[], object]) -> float:
    """Seconds of all processes that ``work`` has started and waited for."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    work()
    return spent() - before


def rows(measured: list[dict[str, Any]]) -> list[Row]:
    """The cost against its limit, errors of each seed, and what the floor led to."""
    ratios = [one["seconds"] / one["separate_seconds"] for one in measured]
    samples = measured[0]["samples"]
    names = ", ".join(BUDGETS)

    def counts(key: str) -> str:
        return "; ".join(", ".join(map(str, one[key])) for one in measured)

    found = "; ".join(
        f"{one['found_bytes']:,} bytes, watch {100 * one['found_watch']:.1f} %, {one['found_errors']} errors"
        for one in measured
    )
    cost = "; ".join(
        f"{one['tries']} tries, {one['search_seconds'] / one['separate_seconds'] * len(BUDGETS):.1f} builds"
        for one in measured
    )
    return [
        Row(
            f"digits: processor seconds of one build at {names}, over those of {len(BUDGETS)} builds "
            f"({len(measured)} seeds)",
            f"{statistics.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"≤ {COST:g}",
            max(ratios) <= COST,
        ),
        Row(
            f"digits: errors of {samples} test samples on TFLM at {names}, of one build, by seed",
            counts("points"),
        ),
        Row("digits: the same of separate builds", counts("separate")),
        Row(f"digits: smallest model with a watch accuracy of {100 * FLOOR:g} %, by seed", found),
        Row("digits: tries of that search, and its cost in builds of one budget", cost),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
