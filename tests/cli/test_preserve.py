"""``sgsc-edge preserve`` as a command."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
import warm
from PIL import Image

from sgsc_edge.preservation.selection import read_selection

PROJECT = """
project.name = "net"
model = { factory = "small_model:build", input = { shape = [1, 4, 4] } }
data = { train = "small_data:train", classes = ["dark", "bright"] }
gate = { max_drop = 0.01, max_lowering_flips = 0.005 }
preservation.fraction = 0.5
"""
MODEL = """
from torch import nn
def build():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
"""
DATA = """
import torch
from torch.utils.data import TensorDataset
def train():
    print("printed by user code")
    labels = torch.arange(100) % 2
    noise = torch.rand(100, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(noise + labels[:, None, None, None], labels)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {"sgsc.toml": PROJECT, "small_model.py": MODEL, "small_data.py": DATA}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def preserve(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return warm.run(["preserve", *map(str, args)])


def test_preserve_writes_both_files_and_shows_the_set(project: Path) -> None:
    out = project / "shown"
    done = preserve(project, "--out", out)
    assert done.returncode == 0, done.stderr
    selection = read_selection(out / "preservation.json")
    assert len(selection.samples) == 50
    picture = Image.open(io.BytesIO((out / "preservation.png").read_bytes()))
    assert picture.format == "PNG"
    lines = done.stdout.splitlines()
    for part, total in (("guide", len(selection.part("guide"))), ("certify", len(selection.part("certify")))):
        row = next(line.split() for line in lines if line.startswith(part) and " all " in line)
        assert row[2:5] == [str(total), "100.0%", "2"]
    assert "Grad-CAM at 0" in done.stdout
    hardest = min(selection.part("watch"), key=lambda one: one.scores.margin)
    assert hardest.hash[:16] in done.stdout
    assert lines[-2:] == [str(out / "preservation.json"), str(out / "preservation.png")]


def test_json_is_one_document(project: Path) -> None:
    done = preserve(project, "--out", project / "shown", "--json", "--set", "preservation.method=random")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["method"] == "random"
    assert [group["criterion"] for group in document["groups"]] == ["random"] * 3
    assert document["files"] == [str(project / "shown" / f"preservation.{kind}") for kind in ("json", "png")]
    assert "printed by user code" in done.stderr


def test_must_keep_samples_are_shown_with_margin_and_reason(project: Path) -> None:
    out = project / "shown"
    done = preserve(project, "--out", out, "--set", "preservation.must_keep=3")
    assert done.returncode == 0, done.stderr
    kept = read_selection(out / "preservation.json").must_keep
    lines = done.stdout.splitlines()
    head = "must_keep: 3 samples (3 trained on), 3 decided rightly by float; the 3 with the lowest margins:"
    after = lines[lines.index(head) + 2 :]
    assert after[0].split()[:3] == ["must_keep", "sample", "label"]
    for one, line in zip(kept, after[1:4], strict=True):
        shown = [one.hash[:16], str(one.label), str(one.label), f"{one.margin:.3f}"]
        assert line.split() == [*shown, "guide", "yes", "lowest", "margin"]
    as_json = json.loads(
        preserve(project, "--out", out, "--set", "preservation.must_keep=3", "--json").stdout
    )
    found = as_json["must_keep"]
    assert (found["count"], found["trained_on"], found["right"]) == (3, 3, 3)
    assert [one["hash"] for one in found["samples"]] == [one.hash for one in kept]
    assert [one["reason"] for one in found["samples"]] == ["lowest_margin"] * 3
    assert "must_keep:" not in preserve(project, "--out", out).stdout


def test_samples_that_are_no_images_have_no_picture(project: Path) -> None:
    (project / "small_model.py").write_text(
        MODEL.replace("nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)", "nn.Linear(16, 2)")
    )
    flat = DATA.replace("noise + labels[:, None, None, None]", "noise.flatten(1) + labels[:, None]")
    (project / "small_data.py").write_text(flat)
    done = preserve(project, "--out", project / "shown", "--set", "model.input.shape=[16]")
    assert done.returncode == 0, done.stderr
    assert "gradient times activation at 0" in done.stdout
    assert [path.name for path in (project / "shown").iterdir()] == ["preservation.json"]


def test_errors_name_the_setting(project: Path) -> None:
    done = preserve(project, "--set", "preservation.layer=3")
    assert done.returncode == 2
    assert "'3' is no convolution but Linear" in done.stderr
    assert "Traceback" not in done.stderr
