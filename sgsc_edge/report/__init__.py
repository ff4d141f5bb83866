"""One self-contained page about a build: ``report.html``, made from the build folder's files alone.

Nothing is measured here: figures are the certificate's, or follow from the recorded samples and its ids.
``build_folder`` reads, ``sections`` say what is shown, ``charts`` and ``templates`` how. The page has no
script, and asks for nothing outside itself.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from sgsc_edge.artifacts import (
    MANIFEST_NAME,
    content_key,
    read_bytes,
    sha256_file,
    sources_hash,
    write_bytes,
)
from sgsc_edge.certification.certificate import CERTIFICATE_NAME
from sgsc_edge.errors import FileFormatError, SgscError
from sgsc_edge.report.build_folder import board_certificates, check_is_build, read_build
from sgsc_edge.report.frontier import FRONTIER
from sgsc_edge.report.page import REPORT, TEMPLATES, render, render_frontier

FRONTIER_PAGE = "frontier.html"
_MAX_BYTES = 64 << 20

log = logging.getLogger("sgsc_edge")

__all__ = [
    "FRONTIER_PAGE",
    "REPORT",
    "check_is_build",
    "costs_only_the_report",
    "read_build",
    "render",
    "render_frontier",
    "report_key",
    "write_page",
    "write_report",
]


def report_key(folder: Path) -> str:
    """Hash of all that a report follows from: the manifest holds the hashes of the files that it shows."""
    followed = [
        folder / MANIFEST_NAME,
        folder / CERTIFICATE_NAME,
        folder / FRONTIER,
        *board_certificates(folder),
    ]
    return content_key(
        {path.name: _digest(path) for path in followed},
        sources_hash(TEMPLATES, ("*.html", "*.css")),
    )


def _digest(path: Path) -> str | None:
    """None for what cannot be read, such as a folder: the page says so of a board's certificate."""
    try:
        return sha256_file(path)
    except FileFormatError:
        return None


@contextlib.contextmanager
def costs_only_the_report(folder: Path, page: str = REPORT) -> Iterator[None]:
    """What fails in the block is a warning, and the folder has no page: an earlier one would be wrong."""
    try:
        yield
    except Exception as error:
        reason = error if isinstance(error, SgscError) else f"{type(error).__name__}: {error}"
        log.warning("report: not made, and nothing else is lost: %s", reason)
        log.debug("report: where it failed", exc_info=True)
        with contextlib.suppress(OSError):
            (folder / page).unlink()


def write_report(folder: Path) -> Path:
    """Write the report of a build folder into it; its lock must be held. Raises as :func:`read_build`."""
    return write_page(folder / REPORT, render(read_build(folder)))


def write_page(path: Path, page: bytes) -> Path:
    """Write a page, unless the file is that page already."""
    try:
        unchanged = read_bytes(path, _MAX_BYTES) == page
    except FileFormatError:
        unchanged = False
    if not unchanged:
        write_bytes(path, page)
    return path
