"""Conversion: an ONNX model, from wherever it is -> a certified device model, without training."""

from sgsc_edge.conversion.convert import Conversion, convert, policy_of

__all__ = ["Conversion", "convert", "policy_of"]
