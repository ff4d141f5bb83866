"""A step as calls in C: the kernels it takes, its constants, its parameters.

Every function here takes a step with its operands and says what its kernel wants to know. The arithmetic that
these parameters stand for is that of ``graph.reference``, under the profile of TFLite Micro.
"""

from sgsc_edge.c_code.calls.common import Call, float_literal
from sgsc_edge.c_code.calls.dispatch import calls

__all__ = ["Call", "calls", "float_literal"]
