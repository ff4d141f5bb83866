"""Decisions on a project's fixed test set: the float model's, and those of a build on a runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.numerics import quantize
from sgsc_edge.project import load_project
from sgsc_edge.runtimes import run_runtime

TIMEOUT_S = 3600.0


def load(project: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Inputs float32 [n, C, H, W] and labels int64 [n] of the project's test set."""
    dataset = load_project(project).load_dataset("test")
    samples = [dataset[index] for index in range(len(dataset))]
    inputs = np.stack([np.asarray(sample[0], np.float32) for sample in samples])
    return inputs, np.array([int(sample[1]) for sample in samples])


@torch.no_grad()
def float_errors(project: Path) -> tuple[int, int]:
    """Wrong decisions of the float model, and the number of test samples."""
    inputs, labels = load(project)
    model = load_project(project).load_model().eval()
    batches = torch.split(torch.from_numpy(inputs), 500)
    decisions = torch.cat([model(batch).argmax(1) for batch in batches]).numpy()
    return int((decisions != labels).sum()), len(labels)


def device_errors(project: Path, folder: Path, runtime: str) -> int:
    """Wrong decisions of ``folder``'s model.tflite on the test set, on one runtime."""
    inputs, labels = load(project)
    path = folder / "model.tflite"
    graph = read_tflite(path.read_bytes())
    quantization = graph[graph.inputs[0]].quantization
    if quantization is None:
        raise SystemExit(f"{path}: the input is not quantized")
    nhwc = np.moveaxis(inputs, 1, -1)
    integers = quantize(nhwc, quantization.scale[0], int(quantization.zero_point[0]), -128, 127)
    result = run_runtime(runtime, path, integers.astype(np.int8), timeout_s=TIMEOUT_S, workers=2)
    if result.outputs is None:
        raise SystemExit(f"{runtime} did not run on {path}: {result.reason}")
    return int((result.outputs.argmax(1) != labels).sum())
