"""The road from a project to a certified folder: the only place where stages meet."""

from sgsc_edge.pipeline.road import build

__all__ = ["build"]
