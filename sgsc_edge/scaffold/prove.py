"""That a new project builds: it is loaded, traced and lowered as a build's first checks do."""

from __future__ import annotations

from sgsc_edge.project import Project
from sgsc_edge.targets import load_target


def prove(project: Project, target: str) -> str:
    """What came of the checks, as a sentence; raises ``InputError`` as a build does before it trains."""
    from sgsc_edge import pipeline

    graph = pipeline.untrained_graph(project.for_target(target), load_target(target))
    return f"loads, is traced, and lowers to {len(graph.nodes)} ops for {target}"
