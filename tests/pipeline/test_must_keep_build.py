"""Whole builds with must_keep samples, by number and by name, in real processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pipeline.conftest import CONFIG, DATA, sgsc_edge

from sgsc_edge.artifacts import MANIFEST_NAME, read_npz, write_manifest, write_npz
from sgsc_edge.certification import certify_folder, read_certificate
from sgsc_edge.preservation.pool import content_hashes, in_pool
from sgsc_edge.preservation.selection import read_selection

Project = Callable[..., Path]

KEEP = """
def keep():
    seen, fresh = make(240, 0), make(4, 2)
    return TensorDataset(torch.cat([seen[0][:20], fresh[0]]), torch.cat([seen[1][:20], fresh[1]]))
"""


def with_must_keep(value: str) -> str:
    return CONFIG.replace("[preservation]", f"[preservation]\nmust_keep = {value}")


def target(folder: Path) -> Path:
    return folder / "build" / "tflite-int8"


def predicate(folder: Path) -> Any:
    return json.loads((target(folder) / "certificate.json").read_text())["predicate"]


def test_a_number_of_guide_samples_gates_and_a_flip_of_one_fails(project: Project) -> None:
    config = with_must_keep("5").replace("max_lowering_flips = 0.1", "max_lowering_flips = 0.001")
    folder = project(config=config)
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build")
    assert ran.code == 0, ran.err + ran.out
    arrays = read_npz(target(folder) / "preservation.npz")
    assert arrays["must_keep_trained_on"].tolist() == [True] * 5
    guide = arrays["guide_ids"].tolist()
    kept = arrays["must_keep_ids"].tolist()
    assert set(kept) < set(guide)
    selection = read_selection(target(folder) / "preservation.json")
    assert [one.hash[:16] for one in selection.must_keep] == kept
    assert predicate(folder)["sets"]["must_keep"]["trained_on"] == 5

    shown = "must_keep: 5 samples (5 trained on), 5 decided rightly by float"
    warning = (
        "warning: the lowering gate is finer than its set can decide: one of 24 certify decisions is 0.0417, "
        "more than max_lowering_flips = 0.001; 1000 would be needed"
    )
    assert {shown, warning} <= set(ran.out.splitlines())
    (stated,) = predicate(folder)["warnings"]
    assert f"warning: {stated['message']}" == warning
    verified = sgsc_edge("verify", target(folder))
    assert verified.code == 0
    assert {shown, warning} <= set(verified.out.splitlines())

    flip_the_first(target(folder), arrays)
    failed = sgsc_edge("verify", target(folder), "--json")
    assert failed.code == 1
    found = failed.document["certificate"]["predicate"]
    gates = [gate for gate in found["gates"] if gate["status"] == "failed"]
    assert {gate["name"] for gate in gates} == {"must_keep"}
    assert {"compressed", "tflm"} <= {gate["subject"] for gate in gates}
    rows = {
        row["name"]: row["sets"]["must_keep"]["negative_flips"] for row in found["runtimes"] if row["sets"]
    }
    assert set(map(tuple, rows.values())) == {(kept[0],)}


def flip_the_first(folder: Path, arrays: dict[str, Any]) -> None:
    """Records as a build would leave them whose compressed model decides the first must_keep sample wrongly.

    The sample gets the input of one with another decision; what the models say of it stays consistent.
    """
    decided = arrays["must_keep_compressed_logits"].argmax(1)
    others = np.flatnonzero(arrays["guide_compressed_logits"].argmax(1) != decided[0])
    for field in ("inputs", "compressed_logits"):
        arrays[f"must_keep_{field}"][0] = arrays[f"guide_{field}"][others[0]]
    write_npz(folder / "preservation.npz", arrays)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    stated = {name: manifest[name] for name in ("tools", "seeds", "inputs", "code")}
    write_manifest(folder, manifest["files"], **stated)
    certify_folder(folder, read_certificate(folder / "certificate.json").context)


def test_named_samples_are_marked_where_training_has_them(project: Project) -> None:
    """Twenty training samples, some of the pool, and four of no data set; learned depths."""
    folder = project(data=DATA + KEEP, config=with_must_keep('"data:keep"'))
    settings = ["--set", "compress.budget=0.5x", "--json"]
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build", *settings)
    assert ran.code in (0, 1), ran.err  # a flip is possible after three epochs, an error is not
    names: dict[str, Any] = {}
    exec(DATA + KEEP, names)  # the project's data, as the user's file makes them
    hashes = content_hashes(names["keep"]())
    expected = [number < 20 and not in_pool(digest, 0.2) for number, digest in enumerate(hashes)]
    assert 10 < sum(expected) < 20
    arrays = read_npz(target(folder) / "preservation.npz")
    assert arrays["must_keep_ids"].tolist() == [digest[:16] for digest in hashes]
    assert arrays["must_keep_trained_on"].tolist() == expected
    row = predicate(folder)["sets"]["must_keep"]
    assert (row["samples"], row["trained_on"], row["gated"]) == (24, sum(expected), True)
    verified = sgsc_edge("verify", target(folder))
    assert f"must_keep: 24 samples ({sum(expected)} trained on)" in verified.out


def test_more_than_the_float_model_decides_rightly_is_refused(project: Project) -> None:
    folder = project(config=with_must_keep("49"))
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build", "--json")
    assert ran.code == 2
    (outcome,) = ran.document["builds"]
    error = outcome["error"]
    assert error["kind"] == "ConfigError"
    assert "asks for 49 samples, but the float model decides" in error["message"]
    line = with_must_keep("49").splitlines().index("must_keep = 49") + 1
    assert error["where"] == f"{folder / 'sgsc.toml'}:{line}: preservation.must_keep"
    assert "Traceback" not in ran.err
