"""What a training loop of the user's own has compressed, certified by a build."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from pipeline.conftest import CONFIG, MODEL, sgsc_edge, write_project
from torch.utils.data import DataLoader

from sgsc_edge import api
from sgsc_edge.errors import InputError
from sgsc_edge.report import read_build
from sgsc_edge.report.sections.sizes import stored_bytes

BUDGET, EPOCHS, TARGET = 140, 12, "c-learned"
SETTINGS = (f"compress.budget={BUDGET} B",)


def compress(folder: Path, out: Path) -> None:
    """An ordinary loop over a project's data."""
    torch.manual_seed(0)
    project = api.own_loop(folder, target=TARGET, settings=SETTINGS)
    loader = DataLoader(project.train, 32, shuffle=True, drop_last=True)
    compressor = project.compressor(EPOCHS * len(loader), loader)
    optimizer = torch.optim.AdamW(compressor.model.parameters(), 1e-2)
    for epoch in range(EPOCHS):
        compressor.model.train()
        for inputs, labels in loader:
            loss = F.cross_entropy(compressor.model(inputs), labels)
            (loss + compressor.penalty(loss)).backward()
            optimizer.step()
            optimizer.zero_grad()
            compressor.step(optimizer)
        compressor.record(epoch + 1)
    compressor.save(out)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the loop saves of the project as it is."""
    folder = write_project(tmp_path_factory.mktemp("own"))
    compress(folder, folder / "own.safetensors")
    return (folder / "own.safetensors").read_bytes()


def build(folder: Path, weights: str, *options: str) -> tuple[int, str]:
    ran = sgsc_edge(
        *("build", folder, "--target", TARGET, "--out", folder / "build"),
        *("--set", f"compress.weights={weights}", *options),
    )
    return ran.code, ran.err


def test_a_build_certifies_what_an_own_loop_has_trained(
    project: Callable[..., Path], compressed: bytes
) -> None:
    folder = project()
    (folder / "own.safetensors").write_bytes(compressed)
    code, err = build(folder, "own.safetensors")
    assert code == 0, err
    built = folder / "build" / TARGET
    own = safetensors.torch.load_file(folder / "own.safetensors")
    shipped = safetensors.torch.load_file(built / "compressed.safetensors")
    assert own.keys() == shipped.keys()
    assert all(torch.equal(tensor, shipped[name]) for name, tensor in own.items())
    plan = json.loads((built / "plan.json").read_text())
    described = api.package(built).description
    assert described["constant_bytes"] <= plan["bytes"] <= BUDGET
    with safetensors.safe_open(folder / "own.safetensors", "pt") as file:
        assert json.loads(file.metadata()["sgsc.plan"])["layers"] == plan["layers"]
    assert sgsc_edge("verify", built).code == 0
    rows = [json.loads(line) for line in (built / "channels.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == sorted({row["epoch"] for row in rows})
    layer = next(iter(rows[-1]["layers"]))
    told = sgsc_edge("explain", built, layer, "--json")
    assert told.code == 0, told.err
    assert told.document["history"][-1]["depths"] == rows[-1]["layers"][layer]

    ran = sgsc_edge(
        "build",
        folder,
        "--target",
        TARGET,
        "--out",
        folder / "build",
        "--set",
        *("compress.weights=own.safetensors",),
    )
    assert "compress: unchanged" in ran.err
    (folder / "own.safetensors").write_bytes((folder / "own.safetensors").read_bytes()[:-8])
    code, err = build(folder, "own.safetensors")
    assert code == 2
    assert "compress.weights" in err
    assert json.loads((built / "certificate.json").read_text())  # the earlier build stays


def test_weights_are_held_to_a_budget_as_the_target_stores_them(
    project: Callable[..., Path], compressed: bytes
) -> None:
    folder = project()
    code, err = build(folder, "own.safetensors")
    assert code == 2
    assert "own.safetensors: does not exist" in err
    (folder / "own.safetensors").write_bytes(compressed)
    code, err = build(folder, "own.safetensors", "--budget", f"{BUDGET}B")
    assert code == 0, err
    planned = json.loads((folder / "build" / TARGET / "plan.json").read_text())["bytes"]
    code, err = build(folder, "own.safetensors", "--budget", f"{planned - 1}B")
    assert code == 2
    assert f"bytes as target '{TARGET}' stores them, more than the budget of {planned - 1} bytes" in err
    counted = re.search(r"--budget: the weights of own.safetensors take (\d+) bytes", err)
    assert counted is not None
    assert planned <= int(counted[1]) <= BUDGET, "as training counts them: each layer's last byte is full"
    assert "preserve" not in err, "nothing was scored or trained"
    assert "export" not in err

    # The channels that live take more where each has 8 bits and scales in the file.
    living = safetensors.torch.load_file(folder / "own.safetensors")
    first, last = (int(living[f"{name}.weight"].flatten(1).any(1).sum()) for name in ("0", "5"))
    wide = first * (9 + 28) + last * (9 * first + 28)
    weights = ("--set", "compress.weights=own.safetensors")
    into = ("--out", folder / "wide", *weights)
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", *into, "--budget", f"{wide - 1}B")
    assert ran.code == 2
    assert f"take {wide} bytes as target 'tflite-int8' stores them" in ran.err
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", *into)
    assert ran.code == 0, ran.err
    assert f"which target 'tflite-int8' does not store: {wide} bytes in 8 bits" in ran.err
    assert stored_bytes(read_build(folder / "wide" / "tflite-int8")) == wide


def test_files_that_are_no_compressed_model_are_refused(project: Callable[..., Path]) -> None:
    other = MODEL.replace("nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)", "nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5)")
    folder = project(model=other.replace("nn.Linear(36, 3)", "nn.Linear(45, 3)"))
    compress(folder, folder / "other.safetensors")
    folder = project()
    safetensors.torch.save_file({"x": torch.zeros(3)}, folder / "plain.safetensors")
    (folder / "damaged.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    for name, reason in (
        ("missing.safetensors", "does not exist"),
        ("plain.safetensors", "Compressor.save"),
        ("damaged.safetensors", "Compressor.save"),
        ("other.safetensors", "Compressor.save"),
    ):
        code, err = build(folder, name)
        assert code == 2, name
        assert reason in err, err
        assert "rehearse" in err.splitlines()[-3], "nothing was scored or trained"
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("compress.weights=own.pt", "no .safetensors file"),
        ("compress.method=own", "belong together"),
        ("compress.bits=[9, 8]", "shallowest, deepest"),
        ("compress.controller=chance", "controller"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    project: Callable[..., Path], setting: str, reason: str
) -> None:
    ran = sgsc_edge("build", project(), "--target", TARGET, "--set", setting)
    assert ran.code == 2
    assert reason in ran.err


def test_an_own_loop_trains_on_what_a_build_trains_on(project: Callable[..., Path]) -> None:
    """No watch or certify sample is in it; mistakes are a build's."""
    folder = project(config=CONFIG.replace("epochs = 3", "epochs = 2"))
    own = api.own_loop(folder)
    assert sgsc_edge("preserve", folder, "--out", folder / "chosen").code == 0
    chosen = json.loads((folder / "chosen/preservation.json").read_text())
    assert len(own.guide) == len(chosen["parts"]["guide"] if "parts" in chosen else own.guide)
    seen = {bytes(inputs.numpy().tobytes()) for inputs, _ in own.train}
    watched = {inputs.numpy().tobytes() for inputs in own.watch[0]}
    assert not seen & watched
    with pytest.raises(InputError, match="unknown"):
        api.own_loop(folder, target="no-such-target")
