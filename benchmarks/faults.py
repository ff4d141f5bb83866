"""Faults put into a build folder, all hashes made to fit: which command notices, with which exit code?

Digits, built for ``tflite-int8``, and a second build of them by calibration alone. Each fault changes what a
file says; then the hashes in manifest and certificate are computed anew (``benchmarks.hostile.reseal``), as
whoever puts the fault there on purpose would::

    python -m benchmarks.faults [--seed 0]

The last fault forges everything, what the certificate says was measured, too: no hash and no gate can tell
such a folder from an honest one. Only thresholds of one's own are left (``verify --policy``), or a signature.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.hostile import CERTIFICATE, built, reseal
from benchmarks.record import WORK, Row, finish
from sgsc_edge.artifacts import read_json, read_npz, write_json, write_npz
from sgsc_edge.certification.records import CertificationContext
from sgsc_edge.certification.verify import certify_folder
from sgsc_edge.graph import flatbuffer

MODEL, ONNX, SAMPLES = "model.tflite", "model.qdq.onnx", "preservation.npz"
POLICY = '[gate]\nmetric = "accuracy"\nmax_drop = 0.02\nmax_lowering_flips = 0.01\nreference = "float"\n'
"""What the project asks for, kept apart from the build."""

Fault = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Tried:
    """One command on one faulty folder: its exit code, and the first line that it said."""

    fault: str
    command: str
    code: int
    said: str


def main() -> int:
    """Put each fault into a copy, and run the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    base = built(parser.parse_args().seed)
    tried = [one for name in FAULTS for one in try_fault(name, base.folder, base.donor, WORK / "faults")]
    return finish("faults", rows(tried), {"tried": [vars(one) for one in tried]})


def try_fault(name: str, build: Path, other: Path, scratch: Path) -> list[Tried]:
    """Put the fault into a copy of ``build`` (``other``: another one), fit the hashes, run the commands."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    folder = scratch / build.name
    shutil.copytree(build, folder, ignore=shutil.ignore_patterns("package", ".*"))
    policy = scratch / "policy.toml"
    policy.write_text(POLICY)
    FAULTS[name](folder, other)
    reseal(folder)
    verify = ["verify", folder]
    commands = {"verify": verify, "verify --policy": [*verify, "--policy", policy]}
    return [Tried(name, command, *_run(arguments)) for command, arguments in commands.items()]


def _run(arguments: Sequence[object]) -> tuple[int, str]:
    command = [sys.executable, "-m", "sgsc_edge.cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    if error := document.get("error"):
        return done.returncode, f"{Path(error['where'] or '').name}: {error['message']}"
    predicate = document["certificate"]["predicate"]
    failed = {gate["name"]: None for gate in predicate["gates"] if gate["status"] != "passed"}
    return done.returncode, ", ".join([predicate["verdict"], *failed])


# --- the faults -----------------------------------------------------------------------------------


def _weights(change: Callable[[np.ndarray], object], tensor: int = -2) -> Fault:
    """Change the 8-bit weights of a layer of the ``.tflite``, counted from the first; -2 is the last's."""

    def put(folder: Path, other: Path) -> None:
        def edit(model: Any) -> None:
            stored = model["subgraphs"][0]["tensors"]
            layers = [
                one
                for one in stored
                if one["type"] == 9 and model["buffers"][one["buffer"]]["data"] is not None
            ]
            chosen = layers[tensor % len(layers)]
            buffer = model["buffers"][chosen["buffer"]]
            values = buffer["data"].view(np.int8).reshape(chosen["shape"]).copy()
            change(values)
            buffer["data"] = values.reshape(-1).view(np.uint8)

        _edit_tflite(folder, edit)

    return put


def _edit_tflite(folder: Path, edit: Callable[[Any], object]) -> None:
    model = flatbuffer.decode((folder / MODEL).read_bytes(), where=MODEL)
    edit(model)
    (folder / MODEL).write_bytes(flatbuffer.encode(model))


def _flip_high(values: np.ndarray) -> None:
    values.reshape(-1)[values.size // 2] ^= 0x40


def _flip_low(values: np.ndarray) -> None:
    values.reshape(-1)[values.size // 2] ^= 0x01


def _swap(values: np.ndarray) -> None:
    values[[0, 1]] = values[[1, 0]]


def _zero_point(folder: Path, other: Path) -> None:
    """Of the input, which nothing else shares."""

    def edit(model: Any) -> None:
        (subgraph,) = model["subgraphs"]
        quantization = subgraph["tensors"][int(subgraph["inputs"][0])]["quantization"]
        quantization["zero_point"] = quantization["zero_point"] + 8

    _edit_tflite(folder, edit)


def _flip_onnx(folder: Path, other: Path) -> None:
    model = onnx.load_model(str(folder / ONNX))
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    values = numpy_helper.to_array(tensor).copy()
    _flip_high(values)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save_model(model, str(folder / ONNX))


def _labels(count: int | None) -> Fault:
    def put(folder: Path, other: Path) -> None:
        arrays = read_npz(folder / SAMPLES)
        labels = arrays["certify_labels"]
        labels[:count] = (labels[:count] + 1) % arrays["certify_float_logits"].shape[1]
        write_npz(folder / SAMPLES, arrays)

    return put


def _from_other(*names: str) -> Fault:
    def put(folder: Path, other: Path) -> None:
        for name in names:
            shutil.copyfile(other / name, folder / name)

    return put


def _swapped_parts(folder: Path, other: Path) -> None:
    arrays = read_npz(folder / SAMPLES)
    for name in [name for name in arrays if name.startswith("certify_")]:
        twin = name.replace("certify_", "watch_")
        arrays[name], arrays[twin] = arrays[twin], arrays[name]
    write_npz(folder / SAMPLES, arrays)


def _edit_certificate(edit: Callable[[Any], object]) -> Fault:
    def put(folder: Path, other: Path) -> None:
        document: Any = read_json(folder / CERTIFICATE)
        edit(document["predicate"])
        write_json(folder / CERTIFICATE, document)

    return put


def _threshold(predicate: Any) -> None:
    predicate["policy"]["gate"].update(max_drop=1.0, max_lowering_flips=1.0)


def _threshold_and_gates(predicate: Any) -> None:
    _threshold(predicate)
    for gate in predicate["gates"]:
        gate["threshold"] = 1.0
        gate["margin"] = 1.0 - gate["measured"]


def _broken_with_thresholds(folder: Path, other: Path) -> None:
    """A model that decides otherwise, behind thresholds that let everything pass."""
    _weights(_break)(folder, other)
    _edit_certificate(_threshold_and_gates)(folder, other)


def _break(values: np.ndarray) -> None:
    values[:] = values[::-1].copy()


def _forged(folder: Path, other: Path) -> None:
    """Recorded outputs that no runtime gives, thresholds that allow it, and a certificate that says so."""
    arrays = read_npz(folder / SAMPLES)
    outputs = arrays["certify_compressed_logits"]
    outputs[::5] = np.roll(outputs[::5], 1, axis=1)
    write_npz(folder / SAMPLES, arrays)
    reseal(folder)
    document: Any = read_json(folder / CERTIFICATE)
    predicate = document["predicate"]
    _threshold(predicate)
    fields = ("target", "policy", "reference_saw_certify", "inputs", "test")
    context = CertificationContext.model_validate_json(json.dumps({key: predicate[key] for key in fields}))
    certify_folder(folder, context)


FAULTS: dict[str, Fault] = {
    "none": lambda folder, other: None,
    "a weight's highest value bit flipped (.tflite)": _weights(_flip_high),
    "a weight's lowest bit flipped (.tflite)": _weights(_flip_low, 1),
    "a weight's highest value bit flipped (.onnx)": _flip_onnx,
    "the input's zero point off by 8": _zero_point,
    "two output channels of a layer swapped": _weights(_swap, 1),
    "one label changed": _labels(1),
    "all labels changed": _labels(None),
    "model.tflite of another build": _from_other(MODEL),
    "both models of another build": _from_other(MODEL, ONNX),
    "compressed.safetensors of another build": _from_other("compressed.safetensors"),
    "preservation.npz of another build": _from_other(SAMPLES),
    "certify and watch samples exchanged": _swapped_parts,
    "certificate of another build": _from_other(CERTIFICATE),
    "thresholds edited": _edit_certificate(_threshold),
    "thresholds and gates edited": _edit_certificate(_threshold_and_gates),
    "thresholds and gates edited, model broken": _broken_with_thresholds,
    "outputs and thresholds edited, certificate issued anew": _forged,
}
CAUGHT: dict[tuple[str, str], bool] = {
    ("none", "verify"): False,
    ("none", "verify --policy"): False,
    # The files are those of the build, and pass by any thresholds; its own are not asked.
    ("thresholds and gates edited", "verify"): False,
    ("thresholds and gates edited", "verify --policy"): False,
    ("outputs and thresholds edited, certificate issued anew", "verify"): False,
}
"""What cannot be noticed, and what is no harm; all else must be."""


def rows(tried: Sequence[Tried]) -> list[Row]:
    """Fault, command and exit code, and what was said."""
    return [
        Row(
            f"{one.fault}: `{one.command}`",
            f"exit code {one.code}: {one.said}",
            "1, 2 or 3" if CAUGHT.get((one.fault, one.command), True) else "0",
            one.code in ((1, 2, 3) if CAUGHT.get((one.fault, one.command), True) else (0,)),
        )
        for one in tried
    ]


if __name__ == "__main__":
    raise SystemExit(main())
