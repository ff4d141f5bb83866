"""Build folders as a build leaves them, around the tiny model, small enough to verify in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from runtimes import tiny_model

from sgsc_edge.artifacts import write_manifest, write_npz
from sgsc_edge.certification.policy import GatePolicy, Policy, RuntimePolicy
from sgsc_edge.certification.records import CertificationContext
from sgsc_edge.graph import reference
from sgsc_edge.graph.read_tflite import read_tflite

Arrays = dict[str, np.ndarray]

SIZES = {"guide": 16, "watch": 12, "certify": 50, "must_keep": 6}
WRONG = (3, 8, 21)  # certify samples that the compressed model decides wrongly
FLOAT_WRONG = (8, 30)  # and those that the float model does
TRAINED_ON = (True, True, True, True, False, False)  # of must_keep


def recorded_arrays() -> Arrays:
    """``preservation.npz`` of a build: the compressed model decides as the device graph does."""
    graph = read_tflite(tiny_model.tflite_bytes())
    arrays: Arrays = {
        "measured_ids": np.array(["test0", "test1"]),
        "must_keep_trained_on": np.array(TRAINED_ON),
    }
    for number, (part, size) in enumerate(SIZES.items()):
        inputs = tiny_model.samples(size, seed=number + 1)
        compressed = reference.run(graph, inputs)
        labels = compressed.argmax(1).astype(np.int64)
        float_decisions = labels.copy()
        if part == "certify":
            labels[list(WRONG)] = (labels[list(WRONG)] + 1) % 3
            float_decisions = labels.copy()
            float_decisions[list(FLOAT_WRONG)] = (labels[list(FLOAT_WRONG)] + 1) % 3
        arrays |= {
            f"{part}_inputs": inputs,
            f"{part}_labels": labels,
            f"{part}_ids": np.array([f"{part}{i:04d}" for i in range(size)], "<U16"),
            f"{part}_float_logits": np.eye(3, dtype=np.float32)[float_decisions],
            f"{part}_compressed_logits": compressed,
        }
    return arrays


def without_certify_samples(arrays: Arrays) -> None:
    for name in arrays:
        if name.startswith("certify_"):
            arrays[name] = arrays[name][:0]


def context(
    required: tuple[str, ...] = ("numpy",), optional: tuple[str, ...] = (), **gate: object
) -> CertificationContext:
    thresholds = {
        "metric": "accuracy",
        "max_drop": 0.05,
        "reference": "float",
        "max_lowering_flips": 0.0,
        **gate,
    }
    policy = Policy(
        gate=GatePolicy.model_validate(thresholds),
        runtimes=RuntimePolicy(required=required, optional=optional),
    )
    return CertificationContext(
        target="tflite-int8", policy=policy, reference_saw_certify=False, inputs={"data:train": "0" * 64}
    )


BUILT = ("model.tflite", "model.qdq.onnx", "preservation.npz")


def write_folder(folder: Path, edit: Callable[[Arrays], object] = lambda arrays: None) -> Path:
    """A finished, uncertified build folder; ``edit`` changes the recorded arrays first."""
    arrays = recorded_arrays()
    edit(arrays)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(tiny_model.tflite_bytes())
    (folder / "model.qdq.onnx").write_bytes(tiny_model.onnx_bytes())
    write_npz(folder / "preservation.npz", arrays)
    write_manifest(folder, BUILT, tools={"sgsc-edge": "0"}, seeds={"seed": 0}, inputs={}, code={})
    return folder
