"""The page: every section's view, put into the template."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from sgsc_edge.certification.samples import CERTIFY, GATED_PARTS
from sgsc_edge.inspection.text import printable
from sgsc_edge.report.build_folder import BuildFolder
from sgsc_edge.report.decided import decided
from sgsc_edge.report.sections.classes import classes_view
from sgsc_edge.report.sections.flips import flips_view
from sgsc_edge.report.sections.layers import layers_view
from sgsc_edge.report.sections.preservation import preservation_view
from sgsc_edge.report.sections.provenance import provenance_view
from sgsc_edge.report.sections.runtimes import runtimes_view
from sgsc_edge.report.sections.sizes import sizes_view
from sgsc_edge.report.sections.training import training_view
from sgsc_edge.report.sections.verdict import verdict_view
from sgsc_edge.report.text import clean

TEMPLATES = Path(__file__).parent / "templates"
_ESCAPED = 10
"""Characters that one control character takes when it is spelled out."""


def render(build: BuildFolder) -> bytes:
    """The page of a build, UTF-8; the same build gives the same bytes."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["clean"] = clean
    by_part = {part: decided(build, part) for part in GATED_PARTS if part in build.sets}
    sizes = sizes_view(build)
    page = environment.get_template("report.html").render(
        project=clean(build.stated.project or (build.graph.name if build.graph else None) or "model"),
        version=build.stated.version,
        unit=build.unit,
        target=clean(build.certificate.predicate.target),
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        verdict=verdict_view(build, sizes),
        sizes=sizes,
        layers=layers_view(build),
        training=training_view(build),
        runtimes=runtimes_view(build),
        classes=classes_view(build, by_part[CERTIFY]),
        flips=flips_view(build, by_part),
        preservation=preservation_view(build),
        provenance=provenance_view(build),
    )
    return page.encode("utf-8")


def _printable(value: object) -> object:
    """Text from anywhere loses its control characters; what is markup already stays."""
    return (
        printable(value, _ESCAPED * len(value)) if type(value) is str and not value.isprintable() else value
    )
