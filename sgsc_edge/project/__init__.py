"""Projects: ``sgsc.toml`` validated, and the user's model and data loaded and checked."""

from sgsc_edge.project.budgets import Budget, parse_budget
from sgsc_edge.project.load import FILE_NAME, Option, Part, Project, load_project, make_project
from sgsc_edge.project.schema import Config

__all__ = [
    "FILE_NAME",
    "Budget",
    "Config",
    "Option",
    "Part",
    "Project",
    "load_project",
    "make_project",
    "parse_budget",
]
