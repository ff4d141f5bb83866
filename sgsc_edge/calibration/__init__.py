"""Post-training quantization: a float ONNX model and samples -> a QDQ ONNX model."""

from sgsc_edge.calibration.quantize import quantize_network

__all__ = ["quantize_network"]
