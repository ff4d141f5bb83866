"""Why a layer is as it is: what became of its channels, and which watch samples break without each.

All from the files of a build; torch is not needed.
"""

from sgsc_edge.explanation.answer import Explanation, Layers
from sgsc_edge.explanation.explain import explain, layers

__all__ = ["Explanation", "Layers", "explain", "layers"]
