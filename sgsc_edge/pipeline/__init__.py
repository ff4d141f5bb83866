"""The road from a project to a certified folder: the only place where stages meet."""

from sgsc_edge.pipeline.road import build
from sgsc_edge.pipeline.stages import untrained_graph, untrained_project

__all__ = ["build", "untrained_graph", "untrained_project"]
