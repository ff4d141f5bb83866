"""That a new project builds: it is loaded, divided, traced and lowered as a build's first checks do."""

from __future__ import annotations

from dataclasses import dataclass

from sgsc_edge.project import Project
from sgsc_edge.targets import load_target


@dataclass(frozen=True)
class Proof:
    """What came of the checks, as a sentence, and what the user should know of it, a sentence each."""

    text: str
    notes: tuple[str, ...]


def prove(project: Project, target: str) -> Proof:
    """Check a project; raises ``InputError`` as a build does before it trains."""
    from sgsc_edge import pipeline

    graph, sizes = pipeline.untrained_project(project.for_target(target), load_target(target))
    gate = project.config.gate
    finest = min(gate.max_drop, gate.max_lowering_flips)
    notes = []
    if sizes.certify * finest < 1:
        notes.append(
            f"Few samples will judge: {sizes.certify}. One of them is more than [gate] allows to change "
            f"({finest:.1%}), so that none may. More training data, or a data.pool of its own, give more."
        )
    return Proof(f"loads, is traced, and lowers to {len(graph.nodes)} ops for {target}", tuple(notes))
