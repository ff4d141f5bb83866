"""The pages: every section's view, put into the templates."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from sgsc_edge.certification.samples import CERTIFY, GATED_PARTS
from sgsc_edge.inspection.text import printable
from sgsc_edge.report.build_folder import BuildFolder
from sgsc_edge.report.decided import decided
from sgsc_edge.report.frontier import Frontier, frontier_of
from sgsc_edge.report.search import SEARCH, read_search
from sgsc_edge.report.sections.classes import classes_view
from sgsc_edge.report.sections.flips import flips_view
from sgsc_edge.report.sections.frontier import frontier_view, search_view
from sgsc_edge.report.sections.layers import layers_view
from sgsc_edge.report.sections.preservation import preservation_view
from sgsc_edge.report.sections.provenance import provenance_view
from sgsc_edge.report.sections.runtimes import runtimes_view
from sgsc_edge.report.sections.sizes import sizes_view
from sgsc_edge.report.sections.training import training_view
from sgsc_edge.report.sections.verdict import verdict_view
from sgsc_edge.report.text import clean

REPORT = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
_ESCAPED = 10
"""Characters that one control character takes when it is spelled out."""


def render(build: BuildFolder) -> bytes:
    """The page of a build, UTF-8; the same build gives the same bytes."""
    by_part = {part: decided(build, part) for part in GATED_PARTS if part in build.sets}
    sizes = sizes_view(build)
    frontier = frontier_of(build.path)
    search = read_search(build.path / SEARCH) if SEARCH in build.manifest.files else None
    return _filled(
        "report.html",
        project=clean(build.stated.project or (build.graph.name if build.graph else None) or "model"),
        version=build.stated.version,
        unit=build.unit,
        converted=build.is_converted,
        target=clean(build.certificate.predicate.target),
        verdict=verdict_view(build, sizes),
        sizes=sizes,
        frontier=None if frontier is None else frontier_view(*frontier),
        search=None if search is None else search_view(search),
        layers=layers_view(build),
        training=training_view(build),
        runtimes=runtimes_view(build),
        classes=classes_view(build, by_part[CERTIFY]),
        flips=flips_view(build, by_part),
        preservation=preservation_view(build),
        provenance=provenance_view(build),
    )


def render_frontier(frontier: Frontier) -> bytes:
    """The page of a frontier, UTF-8, with links to the reports of its points."""
    return _filled(
        "frontier.html",
        project=clean(frontier.project),
        target=clean(frontier.target),
        frontier=frontier_view(frontier),
        report=REPORT,
    )


def _filled(template: str, **shown: object) -> bytes:
    """A page of a template, UTF-8."""
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
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, **shown).encode("utf-8")


def _printable(value: object) -> object:
    """Text from anywhere loses its control characters; what is markup already stays."""
    return (
        printable(value, _ESCAPED * len(value)) if type(value) is str and not value.isprintable() else value
    )
