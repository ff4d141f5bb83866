"""Recording of samples: what ``preservation.npz`` holds of them, and what certification measures."""

from __future__ import annotations

from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.compression.compress import logits
from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.export import output_integers
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.lowering.layout import to_device
from sgsc_edge.numerics import dequantize, quantize
from sgsc_edge.pipeline.context import CONTROL, MAX_BYTES, TFLITE, Build
from sgsc_edge.preservation.sets import Samples


def recorded(build: Build, samples: Samples) -> dict[str, NDArray[Any]]:
    """One part of ``preservation.npz``: the integers that every runtime is fed, and what models say."""
    inputs, labels = samples.tensors()
    stored, fed = _fed(build, inputs)
    arrays = {
        "inputs": stored,
        "labels": labels.numpy(),
        "ids": np.array(samples.ids, dtype="U16"),
        "float_logits": float_logits(build, inputs),
        "compressed_logits": output_integers(build.compressed, fed),
    }
    if samples.trained_on is not None:
        arrays["trained_on"] = np.array(samples.trained_on, dtype=np.bool_)
    if build.has_control:
        arrays["control_logits"] = _control_logits(build, inputs)
    return arrays


def _fed(build: Build, inputs: torch.Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """What is stored of ``inputs`` [n, ...], and what of it the compressed model is given, in torch's layout.

    Real values are stored as device integers, and given as these dequantize; tokens are both, as they are.
    """
    grid = build.compressed.input
    if grid is None:
        return inputs.numpy(), inputs.numpy()
    scale, zero_point = float(grid.scale), int(grid.zero_point)
    integers = quantize(inputs.numpy(), scale, zero_point)
    rank = _input_rank(build) if build.target.is_lowered else inputs.ndim
    return to_device(integers, rank), dequantize(integers, scale, zero_point)


def _input_rank(build: Build) -> int:
    """The number of axes of the device model's input: 4 for images, and for sequences of convolutions."""
    graph = read_tflite(read_bytes(build.folder / TFLITE, MAX_BYTES))
    return len(graph[graph.inputs[0]].shape)


def compressed_integers(compressed: CompressedModel, inputs: torch.Tensor) -> NDArray[np.int8]:
    """Outputs int8 [n, K] of a compressed model for the user's inputs, on its input grid."""
    assert compressed.input is not None
    scale, zero_point = float(compressed.input.scale), int(compressed.input.zero_point)
    return output_integers(
        compressed, dequantize(quantize(inputs.numpy(), scale, zero_point), scale, zero_point)
    )


def float_logits(build: Build, inputs: torch.Tensor) -> NDArray[np.float32]:
    """Logits float32 [n, K] of the user's model."""
    model = build.untrained.quantized()
    model.enable(False)
    return logits(model, inputs).numpy()


def _control_logits(build: Build, inputs: torch.Tensor) -> NDArray[np.float32]:
    model = build.untrained.quantized()
    model.module.load_state_dict(safetensors.torch.load(read_bytes(build.folder / CONTROL, MAX_BYTES)))
    model.enable(False)
    return logits(model, inputs).numpy()
