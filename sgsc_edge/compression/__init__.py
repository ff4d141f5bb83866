"""Compression: quantization-aware training of a traced model, and the integers that it ends with."""
