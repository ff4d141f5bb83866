"""Lowering: QDQ ONNX -> device graph, exactly or not at all."""

from sgsc_edge.lowering.lower import Refusal, check, lower, supported_ops
from sgsc_edge.lowering.read_onnx import read_onnx

__all__ = ["Refusal", "check", "lower", "read_onnx", "supported_ops"]
