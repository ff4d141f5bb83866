"""Recording of samples: what ``preservation.npz`` holds of them, and what is measured on them before that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.certification.metrics import Metric
from sgsc_edge.compression.compress import logits
from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.export import output_integers
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.lowering.layout import to_device
from sgsc_edge.numerics import dequantize, quantize
from sgsc_edge.pipeline.context import CONTROL, MAX_BYTES, TFLITE, Build
from sgsc_edge.preservation.sets import Samples
from sgsc_edge.project.schema import IGNORED


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
    """Outputs int8 [n, K] of a compressed model for the user's inputs, on its input grid.

    Of tokens [n, T], which have none, [n, T, K].
    """
    if compressed.input is None:
        return output_integers(compressed, inputs.numpy())
    scale, zero_point = float(compressed.input.scale), int(compressed.input.zero_point)
    return output_integers(
        compressed, dequantize(quantize(inputs.numpy(), scale, zero_point), scale, zero_point)
    )


@dataclass(frozen=True)
class Judge:
    """Measures a metric of outputs on samples, as certification does; of sequences on their labelled tokens.

    Parameters
    ----------
    probabilities: whether outputs are probabilities (behind a Softmax) rather than logits.
    """

    metric: Metric
    probabilities: bool

    def value(self, outputs: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
        """The metric of outputs [n, K] with labels [n], or [n, T, K] with [n, T]; None: not measured."""
        labelled = labels != IGNORED
        return self.metric.measure(outputs[labelled], labels[labelled], self.probabilities)

    def with_error(
        self, outputs: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> tuple[float, float] | None:
        """:meth:`value` and its standard error.

        The metric is a mean over decisions, and those of one sequence are not independent of each other: the
        error is that of a ratio of sums over samples.
        """
        value = self.value(outputs, labels)
        singles = [self.value(outputs[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
        if value is None or None in singles:
            return None
        counts = (labels != IGNORED).reshape(len(labels), -1).sum(1)
        apart = counts * (np.array(singles, np.float64) - value)
        return value, float(np.sqrt(np.square(apart).sum()) / counts.sum())


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
