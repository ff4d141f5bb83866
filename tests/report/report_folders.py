"""Build folders of every kind for the report, around the tiny model: seconds without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
from certification.build_folders import BUILT, context, recorded_arrays, write_folder

from sgsc_edge.artifacts import write_json, write_manifest
from sgsc_edge.certification import RuntimeRun, certify
from sgsc_edge.certification.boards import BOARD_PREDICATE_TYPE, board_digest
from sgsc_edge.certification.metrics import OutputGrid
from sgsc_edge.certification.samples import SampleSet, read_samples
from sgsc_edge.certification.verify import certify_folder
from sgsc_edge.preservation.selection import (
    MustKept,
    SampleScores,
    Selected,
    Selection,
    SideCounts,
    write_selection,
)
from sgsc_edge.report import read_build
from sgsc_edge.report.build_folder import BuildFolder, Stated

HOSTILE = """<script>alert('x')</script>"&\u202e"""
"""A name as a stranger may choose it: markup, quotes, a control character."""

EXTRA = (
    "history.jsonl",
    "control.jsonl",
    "controller.jsonl",
    "plan.json",
    "compressed.safetensors",
    "preservation.json",
)


def whole_folder(folder: Path, name: str = "plain", **gate: object) -> Path:
    """A certified build folder with every file that a report reads; ``name`` wherever users choose one."""
    write_folder(folder)
    model = onnx.load_model(str(folder / "model.qdq.onnx"))
    stated = {
        "project": name,
        "classes": [f"{name} {number}" for number in range(3)],
        "input": {"shape": [2, 4, 4]},
    }
    for key, value in stated.items():
        model.metadata_props.add(key=f"sgsc.{key}", value=json.dumps(value))
    (folder / "model.qdq.onnx").write_bytes(model.SerializeToString())
    rows = [
        {"epoch": epoch, "loss": 1 / epoch, "watch_loss": 0.5, "watch_accuracy": 0.9, "controller_actions": 1}
        for epoch in (1, 2, 3)
    ]
    restored = {"layer": name, "channel": 1, "before": 2.0, "after": 3.0, "sensitivity": 0.1}
    action = {"step": 40, "metric": 0.8, "fall": 0.1, "restored": [restored]}
    for file, lines in (("history.jsonl", rows), ("control.jsonl", rows), ("controller.jsonl", [action])):
        (folder / file).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    figures: dict[str, Any] = {"depths": [2.0, 4.5, 8.0], "bytes": 10, "bytes_in_8_bits": 12}
    layers = [{"name": one, "reason": f"because of {name}", **figures} for one in ("conv.w", "dense.w")]
    write_json(folder / "plan.json", {"float_bytes": 4000, "layers": layers})
    weight = {"conv.weight": np.zeros((6, 2, 3, 3), np.int8), "dense.weight": np.zeros((3, 16), np.int8)}
    (folder / "compressed.safetensors").write_bytes(safetensors.numpy.save(weight))
    write_selection(folder / "preservation.json", selection(name))
    write_manifest(
        folder, (*BUILT, *EXTRA), tools={name: "1"}, seeds={name: 3}, inputs={name: "0" * 64}, code={}
    )
    certified = certify_folder(folder, context(("numpy",), ("tensorflow",), **gate))
    write_board(folder, name, certified.predicate.digest)
    return folder


def selection(name: str) -> Selection:
    """Three samples, one must_keep; the criterion and the layers have the given name."""
    scores = SampleScores(saliency=1.0, uncertainty=0.5, margin=0.5, entropy=0.5, cluster=0)
    chosen = tuple(
        Selected(
            hash=str(number) * 64,
            part=part,
            label=0,
            prediction=number,
            criterion=name,
            reasons=(name,),
            ranks={name: 1},
            scores=scores,
        )
        for number, part in enumerate(("guide", "watch", "certify"))
    )
    kept = MustKept(
        hash="4" * 64, label=1, prediction=1, margin=0.1, reason="named", part=None, trained_on=False
    )
    counts = SideCounts(samples=9, different=9, labels={"0": 5, "1": 4})
    return Selection(
        method="critical",
        shares={name: 0.5, "saliency": 0.25, "diversity": 0.25},
        seed=0,
        grad_cam=name,
        features=name,
        rest=counts,
        pool=counts,
        samples=chosen,
        must_keep=(kept,),
    )


def write_board(folder: Path, name: str, build_digest: str, verdict: str = "PASSED") -> Path:
    """A board's certificate, about the build of a digest."""
    sizes = ("flash", "code", "weights", "constants", "board", "ram", "arena", "stack")
    predicate: dict[str, Any] = {
        "board": name,
        "chip": {"cpu": "cortex-m4"},
        "verdict": verdict,
        "build_certificate_digest": build_digest,
        "samples": 56,
        "expected_from": "tflm",
        "differing": [],
        "selftest": 0,
        "selftest_samples": 8,
        "instructions_per_inference": 1234567,
        "stack": {"inference": 100, "total": 200},
        "sizes": dict.fromkeys(sizes, 1000),
        "limits": {"flash": 4000, "ram": 8000},
        "toolchain": "gcc 12",
    }
    document: dict[str, Any] = {"predicateType": BOARD_PREDICATE_TYPE, "predicate": predicate}
    predicate["digest"] = board_digest(document)
    path = folder / f"certificate.{''.join(filter(str.isalnum, name))}.json"
    write_json(path, document)
    return path


def other_samples(
    folder: Path,
    shape: Sequence[int],
    *,
    classes: int = 3,
    stated: Sequence[int] | None = None,
    edit: Callable[[dict[str, np.ndarray]], object] = lambda arrays: None,
    runs: Callable[[dict[str, SampleSet]], dict[str, RuntimeRun]] | None = None,
    **gate: object,
) -> BuildFolder:
    """The build of ``folder`` as if its samples were int8 [n, *shape] of so many classes.

    ``edit`` changes the recorded arrays; ``runs`` makes the runtimes' outputs of the sets: the compressed
    model's own, where it is not given. ``stated`` is the input's shape in the project.
    """
    arrays = recorded_arrays()
    chance = np.random.default_rng(0)
    for name in list(arrays):
        size = len(arrays[name])
        if name.endswith("_inputs"):
            arrays[name] = chance.integers(-128, 128, (size, *shape)).astype(np.int8)
        elif name.endswith("_labels"):
            arrays[name] = (np.arange(size) % classes).astype(np.int64)
    for part in ("guide", "watch", "certify", "must_keep"):
        decided = arrays[f"{part}_labels"]
        arrays[f"{part}_float_logits"] = np.eye(classes, dtype=np.float32)[decided]
        arrays[f"{part}_compressed_logits"] = 100 * np.eye(classes, dtype=np.int8)[decided]
    edit(arrays)
    sets = read_samples(arrays, where="preservation.npz")
    outputs = {part: one.compressed_logits for part, one in sets.items()}
    ran = runs(sets) if runs else {"numpy": RuntimeRun("ok", "2", outputs=outputs)}
    certificate = certify(
        context(tuple(ran), (), **gate),
        sets,
        ran,
        OutputGrid(0.1, 0),
        subjects={"model.tflite": "1" * 64},
        tools={},
    )
    build = read_build(folder)
    given = build.stated.input
    if given is not None and stated is not None:
        given = given.model_copy(update={"shape": tuple(stated)})
    names = Stated("many", None, tuple(f"class {number}" for number in range(classes)), given)
    return replace(build, sets=sets, certificate=certificate, stated=names)


def decide(arrays: dict[str, np.ndarray], rows: int, by: int = 1) -> None:
    """Have the compressed model decide the first certify samples for another class than float."""
    logits = arrays["certify_compressed_logits"]
    logits[:rows] = np.roll(logits[:rows], by, axis=1)
