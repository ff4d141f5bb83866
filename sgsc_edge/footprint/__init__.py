"""What a model takes of a chip: flash, RAM, instructions; before it is flashed or trained."""

from sgsc_edge.footprint.linking import compiler_for, flash_bytes, write_code
from sgsc_edge.footprint.measure import Footprint, follows_from, footprint
from sgsc_edge.footprint.verdict import Excess, excesses, require_fit, verdict

__all__ = [
    "Excess",
    "Footprint",
    "compiler_for",
    "excesses",
    "flash_bytes",
    "follows_from",
    "footprint",
    "require_fit",
    "verdict",
    "write_code",
]
