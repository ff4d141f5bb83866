"""Lowering: QDQ ONNX -> device graph, exactly or not at all."""

from sgsc_edge.lowering.device import check_arena, check_flash
from sgsc_edge.lowering.lower import Refusal, check, lower, require, supported_ops
from sgsc_edge.lowering.read_onnx import read_onnx

__all__ = ["Refusal", "check", "check_arena", "check_flash", "lower", "read_onnx", "require", "supported_ops"]
