"""The stages: what each writes, what it depends on, and how it runs.

A stage turns files and typed values into files of ``build/<target>/``. It is skipped where its key (a
hash of everything that it depends on) and the hashes of its outputs are those of its last run, so an
unchanged build does nothing and a killed one goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from numpy.typing import NDArray

from sgsc_edge.artifacts import content_key, write_bytes, write_manifest, write_npz
from sgsc_edge.certification import (
    CertificationContext,
    GatePolicy,
    Policy,
    RuntimePolicy,
    SampleSet,
    certify_folder,
    measure_test,
)
from sgsc_edge.compression.compress import CONTROLLER_LOG, HISTORY
from sgsc_edge.compression.fold import CompressedModel
from sgsc_edge.export import export_onnx
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import lower
from sgsc_edge.pipeline.context import (
    CERTIFICATE,
    COMPRESSED,
    CONTROL,
    CONTROL_HISTORY,
    MANIFEST,
    ONNX,
    PRESERVATION,
    SELECTION,
    TFLITE,
    Build,
)
from sgsc_edge.pipeline.recording import recorded
from sgsc_edge.preservation.selection import write_selection
from sgsc_edge.preservation.sets import choose
from sgsc_edge.runtimes import available

_SCORING_TOOLS = ("torch", "captum", "scikit-learn")
_TOOLS = ("sgsc-edge", *_SCORING_TOOLS, "onnx", "onnxscript", "numpy", "ai-edge-litert", "onnxruntime")


@dataclass(frozen=True)
class Stage:
    """One row of the road: what it writes, what it depends on, and how it runs."""

    name: str
    outputs: tuple[str, ...]
    key: Callable[[Build], str]
    run: Callable[[Build, str], None]
    needed: Callable[[Build], bool] = lambda build: True


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
    control = build.digest(CONTROL) if build.has_control else ""
    files = [build.digest(name) for name in (TFLITE, ONNX, COMPRESSED, "history.jsonl")]
    # The manifest states all of these, also where a change of one leaves the models' bytes as they were.
    stated = [build.project.source_files(), build.project.config.compress.seed, _tools()]
    return content_key(build.samples_key, list(test), control, files, stated)


def _record(build: Build, key: str) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for name, part in build.samples.parts.items():
        for field, values in recorded(build, part).items():
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


# --- certify --------------------------------------------------------------------------------------


def stated_policy(build: Build) -> Policy:
    """The policy that the project and its target ask for."""
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
        build.digest(MANIFEST), stated_policy(build).sha256, build.project.saw_pool, test, installed, inputs
    )


def _certify(build: Build, key: str) -> None:
    policy = stated_policy(build)
    test = {}
    if build.samples.test is not None:
        samples = SampleSet(**recorded(build, build.samples.test))
        test = measure_test(build.folder, samples, policy.runtimes)
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


STAGES = (
    Stage("preserve", (SELECTION,), _preserve_key, _preserve),
    Stage("rehearse", (), _compress_key, _rehearse),
    Stage(
        "control", (CONTROL, CONTROL_HISTORY), _compress_key, _control, needed=lambda build: build.has_control
    ),
    Stage("compress", (COMPRESSED, HISTORY, CONTROLLER_LOG), _compress_key, _compress),
    Stage("export", (ONNX,), _export_key, _export),
    Stage("lower", (TFLITE,), _lower_key, _lower),
    Stage("record", (PRESERVATION, MANIFEST), _record_key, _record),
    Stage("certify", (CERTIFICATE,), _certify_key, _certify),
)
