"""How long a report takes to open in Chromium, until its load event, and how large it is.

    python -m benchmarks.report_time [FOLDER ...]

Without folders: the digits example under a budget, whose report has changed samples, charts and actions. Each
opening is a fresh browser process with an empty profile; the time starts with the navigation.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.browser import chromium
from benchmarks.record import Row, build, finish, trained
from sgsc_edge import api

OPENINGS = 7
LIMIT_S = 1.0
LIMIT_BYTES = 3_000_000
BUDGET = "0.08x"
OPTIONS = ("--set", f"compress.budget={BUDGET}")


def main() -> int:
    """Measure the reports of some build folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    folders: list[Path] = parser.parse_args().folders
    builds = {str(folder): folder for folder in folders}
    if not builds:
        project = trained("digits", 0)
        builds = {f"digits at {BUDGET}": build(project, project / "report", *OPTIONS)}
    rows = []
    detail = {}
    for name, folder in builds.items():
        made = api.report(folder)
        seconds = [open_once(made.path) for _ in range(OPENINGS)]
        worst = max(seconds)
        rows += [
            Row(
                f"{name}: longest of {OPENINGS} openings",
                f"{worst:.3f} s (median {statistics.median(seconds):.3f} s)",
                f"≤ {LIMIT_S:g} s",
                worst <= LIMIT_S,
            ),
            Row(
                f"{name}: bytes of the page",
                f"{made.nbytes:,}",
                f"≤ {LIMIT_BYTES:,}",
                made.nbytes <= LIMIT_BYTES,
            ),
        ]
        detail[name] = {"seconds": seconds, "bytes": made.nbytes}
    return finish("report_time", rows, detail)


def open_once(page: Path) -> float:
    """Seconds from the navigation to the end of the load event, in a new browser."""
    with chromium() as browser:
        tab = browser.new_page()
        tab.goto(page.resolve().as_uri(), wait_until="load")
        entry = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        tab.wait_for_function(f"{entry} > 0")
        return float(tab.evaluate(entry)) / 1000


if __name__ == "__main__":
    sys.exit(main())
