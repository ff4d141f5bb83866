"""Post-training quantization: a float ONNX model and samples -> a QDQ ONNX model."""

from sgsc_edge.calibration.quantize import observed, plan_of, quantize_network, with_parameters
from sgsc_edge.calibration.ranges import METHODS, Method

__all__ = ["METHODS", "Method", "observed", "plan_of", "quantize_network", "with_parameters"]
