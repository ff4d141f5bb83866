"""One self-contained page about a build: ``report.html``, made from the build folder's files alone.

Nothing is measured here: figures are the certificate's, or follow from the recorded samples and its ids.
``build_folder`` reads, ``sections`` say what is shown, ``charts`` and ``templates`` how. The page has no
script, and asks for nothing outside itself.
"""

from __future__ import annotations

from pathlib import Path

from sgsc_edge.artifacts import content_key, read_bytes, sha256_file, sources_hash, write_bytes
from sgsc_edge.certification.certificate import CERTIFICATE_NAME
from sgsc_edge.errors import FileFormatError
from sgsc_edge.report.build_folder import board_certificates, read_build
from sgsc_edge.report.page import TEMPLATES, render

REPORT = "report.html"
_MAX_BYTES = 64 << 20

__all__ = ["REPORT", "read_build", "render", "report_key", "write_page", "write_report"]


def report_key(folder: Path) -> str:
    """Hash of what a report follows from beside the build's own files, which the certificate names."""
    certificates = [folder / CERTIFICATE_NAME, *board_certificates(folder)]
    return content_key(
        {path.name: sha256_file(path) for path in certificates},
        sources_hash(TEMPLATES, ("*.html", "*.css")),
    )


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
