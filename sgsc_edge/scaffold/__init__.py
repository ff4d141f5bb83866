"""New projects: the starter, an example, or a ``sgsc.toml`` for a network of the user's own."""

from sgsc_edge.scaffold.example import STARTER, new_example, new_starter
from sgsc_edge.scaffold.own import new_config
from sgsc_edge.scaffold.write import Scaffolded

__all__ = ["STARTER", "Scaffolded", "new_config", "new_example", "new_starter"]
