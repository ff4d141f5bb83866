"""The road from a project to a certified folder: the only place where stages meet."""

from sgsc_edge.pipeline.own_loop import OwnLoop, own_loop
from sgsc_edge.pipeline.road import build
from sgsc_edge.pipeline.stages import untrained_graph, untrained_project

__all__ = ["OwnLoop", "build", "own_loop", "untrained_graph", "untrained_project"]
