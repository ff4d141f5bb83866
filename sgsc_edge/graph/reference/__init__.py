"""The NumPy executor: what a device graph computes, integer for integer, on many samples at once.

``run`` executes whole graphs under a rounding profile (``numerics.PROFILES``): ``tflm`` follows
TFLite Micro's kernels, which the device code follows too, and ``litert_reference`` LiteRT's
``BUILTIN_REF``. Integer ops equal those kernels exactly; float32 ops follow their formulas in NumPy's
order of summation.

Every run-time array has one axis more than its tensor: [n, *tensor.shape], n samples, the tensor's own
batch dimension kept. Constants have n = 1 and broadcast.
"""

from sgsc_edge.graph.reference.executor import run, run_node, run_tensors

__all__ = ["run", "run_node", "run_tensors"]
