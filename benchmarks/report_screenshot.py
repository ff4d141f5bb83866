"""Takes the picture of a report that the documentation shows: the top of the digits example's.

    python -m benchmarks.report_screenshot [FOLDER]

Without a folder, the example is built as ``make demo`` builds it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.browser import chromium
from benchmarks.record import ROOT, build, trained
from sgsc_edge import api

PICTURE = ROOT / "docs" / "images" / "report.png"
WIDTH, HEIGHT = 1200, 1080


def main() -> int:
    """Write ``docs/images/report.png``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    folder: Path | None = parser.parse_args().folder
    if folder is None:
        project = trained("digits", 0)
        folder = build(project, project / "picture")
    page = api.report(folder).path
    PICTURE.parent.mkdir(exist_ok=True)
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.screenshot(path=PICTURE)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
