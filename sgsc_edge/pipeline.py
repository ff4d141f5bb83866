"""The road from a project to a certified folder: the only place where stages meet.

A stage turns files and typed values into files of ``build/<target>/``. It is skipped where its key (a
hash of everything that it depends on) and the hashes of its outputs are those of its last run, so an
unchanged build does nothing and a killed one goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from sgsc_edge.artifacts import (
    FolderLock,
    Stamps,
    content_key,
    output_errors,
    read_bytes,
    sha256_file,
    write_bytes,
    write_manifest,
    write_npz,
)
from sgsc_edge.certification import (
    Certificate,
    CertificationContext,
    GatePolicy,
    Policy,
    RuntimePolicy,
    SampleSet,
    certify_folder,
    check_runtime_names,
    measure_test,
    read_certificate,
)
from sgsc_edge.compression.compress import CONTROLLER_LOG, HISTORY, Compression, Guard, logits
from sgsc_edge.compression.fold import CompressedModel, load_tensors
from sgsc_edge.compression.learned import Goal
from sgsc_edge.compression.loop import Recipe
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.export import export_onnx, output_integers
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import lower
from sgsc_edge.numerics import dequantize, quantize
from sgsc_edge.preservation.selection import read_selection, write_selection
from sgsc_edge.preservation.sets import Data, PreservationSet, Samples, choose, divide, load_data
from sgsc_edge.project import Project
from sgsc_edge.runtimes import available
from sgsc_edge.targets import Target

log = logging.getLogger("sgsc_edge")

COMPRESSED = "compressed.safetensors"
CONTROL = ".control.safetensors"
CONTROL_HISTORY = "control.jsonl"

ONNX = "model.qdq.onnx"
TFLITE = "model.tflite"
SELECTION = "preservation.json"
PRESERVATION = "preservation.npz"
MANIFEST = "manifest.json"
CERTIFICATE = "certificate.json"
_MAX_BYTES = 1 << 31
_SCORING_TOOLS = ("torch", "captum", "scikit-learn")
_TOOLS = ("sgsc-edge", *_SCORING_TOOLS, "onnx", "onnxscript", "numpy", "ai-edge-litert", "onnxruntime")


@dataclass(frozen=True, eq=False)
class Build:
    """One run of the road: a project, a target, and the folder that the files go to."""

    project: Project
    target: Target
    folder: Path

    @cached_property
    def model(self) -> nn.Module:
        """The user's float model."""
        return self.project.load_model()

    @cached_property
    def data(self) -> Data:
        """The user's data sets, the pool set apart."""
        return load_data(self.project, self.project.output_size(self.model))

    @cached_property
    def samples(self) -> PreservationSet:
        """Who is trained on, looked at, judged, as ``preservation.json`` has it."""
        return divide(self.data, read_selection(self.folder / SELECTION))

    @cached_property
    def samples_key(self) -> str:
        """Hash of all samples and of the part each one has."""
        parts = {name: part.key() for name, part in self.samples.parts.items()}
        return content_key(self.samples.train.key(), parts)

    @cached_property
    def compression(self) -> Compression:
        """What compression starts from."""
        settings = self.project.config.compress
        return Compression(
            model=self.model,
            sample=self.samples.train.dataset[0][0],
            train=self.samples.train.dataset,
            watch=self.samples.parts["watch"].tensors(),
            recipe=Recipe(settings.epochs, settings.batch_size, settings.learning_rate, settings.seed),
            method=settings.chosen_method,
            guide=self.samples.guide,
            goal=_goal(self),
            guard=_guard(self),
            keep_softmax=self.project.config.model.final_softmax == "keep",
            input_grid=_input_grid(self.project),
        )

    @cached_property
    def compressed(self) -> CompressedModel:
        """The compressed model that ``compressed.safetensors`` holds, without its dead channels."""
        compressed = self.compression.restore()
        data = read_bytes(self.folder / COMPRESSED, _MAX_BYTES)
        load_tensors(compressed, safetensors.torch.load(data))
        shrunk = shrink(compressed, self.compression.sample)
        for layer in shrunk.report.layers:
            if layer.removed or layer.kept:
                log.info("shrink: %s", layer)
        return shrunk.model

    def digest(self, name: str) -> str:
        """SHA-256 of a file of the folder."""
        return sha256_file(self.folder / name)


@dataclass(frozen=True)
class Stage:
    """One row of the road: what it writes, what it depends on, and how it runs."""

    name: str
    outputs: tuple[str, ...]
    key: Callable[[Build], str]
    run: Callable[[Build, str], None]
    needed: Callable[[Build], bool] = lambda build: True


def build(project: Project, target: Target, folder: Path) -> Certificate:
    """Build a project (with the target's overrides in force) into ``folder`` and certify it there.

    Raises
    ------
    InputError: the project, its model or its data are wrong, an op cannot be lowered, or the folder
        cannot be written or is in use.

    A gate that fails, or is not measured, raises nothing: see ``Certificate.exit_code``.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        this = Build(project, target, folder)
        stamps = Stamps(folder)
        check_runtime_names(_policy(this).runtimes)
        for stage in STAGES:
            if not stage.needed(this):
                continue
            key = content_key(stage.name, version("sgsc-edge"), stage.key(this))
            if stamps.is_current(stage.name, key):
                log.info("%s: unchanged", stage.name)
                continue
            log.info("%s ...", stage.name)
            stage.run(this, key)
            stamps.record(stage.name, key, [folder / name for name in stage.outputs])
        return read_certificate(folder / CERTIFICATE)


# --- choose the preservation set ------------------------------------------------------------------


def _preserve_key(build: Build) -> str:
    return content_key(
        build.project.source_hash(),
        build.project.config_hash("model", "data", "preservation"),
        build.project.config.compress.seed,
        [build.data.rest.key(), build.data.pool.key()],
        {name: version(name) for name in _SCORING_TOOLS},
        torch.get_num_threads(),
    )


def _preserve(build: Build, key: str) -> None:
    write_selection(build.folder / SELECTION, choose(build.project, build.model, build.data))


# --- compress -------------------------------------------------------------------------------------


def _compress_key(build: Build) -> str:
    learns = build.project.config.compress.chosen_method == "sgsc"
    return content_key(
        build.project.source_hash(),
        build.project.config_hash("model", "compress", *(["gate"] if learns else [])),
        build.samples_key,
        {"torch": torch.__version__, "threads": torch.get_num_threads()},
    )


def _rehearse(build: Build, key: str) -> None:
    """What cannot ship is refused before training."""

    def ships(compressed: CompressedModel) -> None:
        lower(_onnx(build, compressed), build.target)

    build.compression.rehearse(ships)


def _compress(build: Build, key: str) -> None:
    compressed = build.compression.run(build.folder, key)
    write_bytes(build.folder / COMPRESSED, safetensors.torch.save(compressed.tensors()))


def _control(build: Build, key: str) -> None:
    control = build.compression.run_control(build.folder, key)
    parameters = {name: tensor.contiguous() for name, tensor in control.module.state_dict().items()}
    write_bytes(build.folder / CONTROL, safetensors.torch.save(parameters))


# --- export and lower -----------------------------------------------------------------------------


def _onnx(build: Build, compressed: CompressedModel) -> onnx.ModelProto:
    config = build.project.config
    metadata: dict[str, Any] = {
        "project": config.project.name,
        "input": config.model.input.model_dump(mode="json", exclude_none=True),
    }
    if config.data.classes:
        metadata["classes"] = list(config.data.classes)
    return export_onnx(compressed, build.compression.sample, name=config.project.name, metadata=metadata)


def _export_key(build: Build) -> str:
    settings = build.project.config_hash("project", "model", "data")
    return content_key(build.digest(COMPRESSED), build.project.source_hash(), settings)


def _export(build: Build, key: str) -> None:
    write_bytes(build.folder / ONNX, _onnx(build, build.compressed).SerializeToString(deterministic=True))


def _lower_key(build: Build) -> str:
    return content_key(build.digest(ONNX), build.target.model_dump(mode="json"))


def _lower(build: Build, key: str) -> None:
    graph = lower(build.folder / ONNX, build.target)
    write_bytes(build.folder / TFLITE, write_tflite(graph))


# --- record the samples ---------------------------------------------------------------------------


def _record_key(build: Build) -> str:
    test = build.samples.test.hashes if build.samples.test else ()
    control = build.digest(CONTROL) if _has_control(build) else ""
    files = [build.digest(name) for name in (TFLITE, ONNX, COMPRESSED, "history.jsonl")]
    # The manifest states all of these, also where a change of one leaves the models' bytes as they were.
    stated = [build.project.source_files(), build.project.config.compress.seed, _tools()]
    return content_key(build.samples_key, list(test), control, files, stated)


def _record(build: Build, key: str) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for name, part in build.samples.parts.items():
        for field, values in _recorded(build, part).items():
            arrays[f"{name}_{field}"] = values
    test = build.samples.test.ids if build.samples.test else ()
    arrays["measured_ids"] = np.array(test, dtype="U16")
    write_npz(build.folder / PRESERVATION, arrays)
    made = {name for stage in STAGES if stage.needed(build) for name in stage.outputs}
    write_manifest(
        build.folder,
        {name for name in made - {MANIFEST, CERTIFICATE} if not name.startswith(".")},
        tools=_tools(),
        seeds={"compress": build.project.config.compress.seed},
        inputs=build.project.source_files(),
    )


def _tools() -> dict[str, str]:
    return {name: version(name) for name in _TOOLS}


def _recorded(build: Build, samples: Samples) -> dict[str, NDArray[Any]]:
    """One part of ``preservation.npz``: the integers that every runtime is fed, and what models say."""
    inputs, labels = samples.tensors()
    grid = build.compressed.input
    scale, zero_point = float(grid.scale), int(grid.zero_point)
    integers = quantize(inputs.numpy(), scale, zero_point)
    fed = dequantize(integers, scale, zero_point)
    arrays = {
        "inputs": np.ascontiguousarray(np.moveaxis(integers, 1, -1)) if integers.ndim == 4 else integers,
        "labels": labels.numpy(),
        "ids": np.array(samples.ids, dtype="U16"),
        "float_logits": _float_logits(build, inputs),
        "compressed_logits": output_integers(build.compressed, fed),
    }
    if _has_control(build):
        arrays["control_logits"] = _control_logits(build, inputs)
    return arrays


def _float_logits(build: Build, inputs: torch.Tensor) -> NDArray[np.float32]:
    model = build.compression.quantized()
    model.enable(False)
    return logits(model, inputs).numpy()


def _control_logits(build: Build, inputs: torch.Tensor) -> NDArray[np.float32]:
    model = build.compression.quantized()
    model.module.load_state_dict(safetensors.torch.load(read_bytes(build.folder / CONTROL, _MAX_BYTES)))
    model.enable(False)
    return logits(model, inputs).numpy()


# --- certify --------------------------------------------------------------------------------------


def _policy(build: Build) -> Policy:
    gate, runtimes = build.project.config.gate, build.target.runtimes
    return Policy(
        gate=GatePolicy(
            metric=gate.metric,
            max_drop=gate.max_drop,
            max_lowering_flips=gate.max_lowering_flips,
            reference=build.project.gate_reference,
        ),
        runtimes=RuntimePolicy(required=runtimes.required, optional=runtimes.optional),
    )


def _certify_key(build: Build) -> str:
    test = build.samples.test.key() if build.samples.test else ""
    installed = {row.name: row.version for row in available()}
    inputs = dict(_input_hashes(build))
    return content_key(
        build.digest(MANIFEST), _policy(build).sha256, build.project.saw_pool, test, installed, inputs
    )


def _certify(build: Build, key: str) -> None:
    policy = _policy(build)
    test = {}
    if build.samples.test is not None:
        recorded = SampleSet(**_recorded(build, build.samples.test))
        test = measure_test(build.folder, recorded, policy.runtimes)
    context = CertificationContext(
        target=build.target.name,
        policy=policy,
        reference_saw_certify=build.project.saw_pool,
        inputs=_input_hashes(build),
        test=test,
    )
    certify_folder(build.folder, context)


def _input_hashes(build: Build) -> Mapping[str, str]:
    return {
        "settings": build.project.config_hash(),
        "sources": build.project.source_hash(),
        "samples": build.samples_key,
    }


def _goal(build: Build) -> Goal:
    """What ``[compress]`` asks for; a ratio is of the float parameters' bytes."""
    settings = build.project.config.compress
    float_bytes = 4 * sum(parameter.numel() for parameter in build.model.parameters())
    return Goal(
        budget=None if settings.budget is None else settings.budget.limit(float_bytes),
        alpha=settings.alpha or 0.0,
        gamma=settings.gamma or 0.0,
        guide_weight=1.0 if settings.lambda_ is None else settings.lambda_,
    )


def _guard(build: Build) -> Guard:
    """The controller's baseline: the float model, or the control where float training saw the watch set."""
    gate = build.project.config.gate
    metric: Literal["accuracy", "loss"] = "loss" if gate.metric == "loss" else "accuracy"
    history = build.folder / CONTROL_HISTORY
    baseline = None
    if _has_control(build) and history.exists():
        last = json.loads(history.read_text().splitlines()[-1])
        baseline = last["watch_accuracy"] if metric == "accuracy" else -last["watch_loss"]
    return Guard(metric, gate.max_drop, baseline)


def _has_control(build: Build) -> bool:
    return build.project.gate_reference == "control"


def _input_grid(project: Project) -> tuple[float, int] | None:
    """The input's (scale, zero point) where the project states the raw value range.

    With 256 raw levels, whole-number steps of the raw values are then steps of the integers: a device
    needs no floating point in front of the model where the zero point comes out exact.
    """
    stated = project.config.model.input
    if stated.range is None:
        return None
    means, deviations = np.atleast_1d(stated.mean or 0.0), np.atleast_1d(stated.std or 1.0)
    low = min(0.0, float(((stated.range[0] - means) / deviations).min()))
    high = max(0.0, float(((stated.range[1] - means) / deviations).max()))
    scale = float(np.float32((high - low) / 255))
    return scale, int(np.clip(round(-128 - low / scale), -128, 127))


STAGES = (
    Stage("preserve", (SELECTION,), _preserve_key, _preserve),
    Stage("rehearse", (), _compress_key, _rehearse),
    Stage("control", (CONTROL, CONTROL_HISTORY), _compress_key, _control, needed=_has_control),
    Stage("compress", (COMPRESSED, HISTORY, CONTROLLER_LOG), _compress_key, _compress),
    Stage("export", (ONNX,), _export_key, _export),
    Stage("lower", (TFLITE,), _lower_key, _lower),
    Stage("record", (PRESERVATION, MANIFEST), _record_key, _record),
    Stage("certify", (CERTIFICATE,), _certify_key, _certify),
)
