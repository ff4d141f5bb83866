"""From a user's module to a graph in ONNX's terms: traced, attention in one form, every call named."""
