"""New projects: the starter builds as it is, one's own network is understood, nothing is half-written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from sgsc_edge.api import build, init
from sgsc_edge.config_text import parse_toml
from sgsc_edge.errors import InputError
from sgsc_edge.project import load_project, make_project
from sgsc_edge.project.guess import Answers, Found, find
from sgsc_edge.scaffold.example import project_name
from sgsc_edge.scaffold.own import config_text
from sgsc_edge.shipped import example_names
from sgsc_edge.targets import target_folder

MODEL = """\
from torch import nn
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Conv2d(1, width, 3)
    def forward(self, x):
        return self.layer(x).relu()
class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.block, self.out = Block(width), nn.Linear(16 * width, 3)
    def forward(self, x):
        return self.out(self.block(x).flatten(1))
def scaled(width, *, bias): return Net(width)
ready = Net()
"""
DATA = """\
import torch
from torch.utils.data import TensorDataset
class Named(TensorDataset):
    classes = ["ab", "c\\"d", "é"]
def _part(count, seed):
    chance = torch.Generator().manual_seed(seed)
    return Named(torch.rand(count, 1, 6, 6, generator=chance), torch.arange(count) % 3)
def train(): return _part(120, 0)
def test(): return _part(30, 1)
def validation(): return _part(30, 2)
def sized(count): return _part(count, 3)
"""


MIXED = """\
class Mixed(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return (x.repeat(2, 1, 1) if index else x), y
def train(): return Mixed(*_part(120, 0).tensors)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "data.py").write_text(DATA)
    return tmp_path


def weights(width: int = 4) -> dict[str, torch.Tensor]:
    """A state dict of ``Net``."""
    layers = {"block.layer": nn.Conv2d(1, width, 3), "out": nn.Linear(16 * width, 3)}
    named = {name: layer.state_dict() for name, layer in layers.items()}
    return {f"{name}.{key}": value for name, state in named.items() for key, value in state.items()}


# --- the starter and examples ---------------------------------------------------------------------


def test_the_starter_builds_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "my net"
    made = init(folder)
    names = {".gitignore", "data.py", "float.safetensors", "model.py", "sgsc.toml", "train.py"}
    assert {path.name for path in folder.iterdir()} == {path.name for path in made.files} == names
    assert made.files[-1].name == "sgsc.toml"
    assert made.next == (f"sgsc-edge build '{folder}' --target tflite-int8",)
    assert load_project(folder).config.project.name == "my-net"
    (certificate,) = build(
        folder, targets=[one_runtime(tmp_path)], out=tmp_path / "build", settings=["compress.epochs=1"]
    ).values()
    assert certificate.exit_code == 0, certificate.gate_lines()
    assert not certificate.warning_lines()


def one_runtime(folder: Path) -> Path:
    """The shipped target with one runtime, which saves the time of the others."""
    text = (target_folder() / "tflite-int8.toml").read_text().partition("[runtimes]")[0]
    text = text.replace('name = "tflite-int8"', 'name = "quick"')
    path = folder / "quick.toml"
    path.write_text(f'{text}[runtimes]\nrequired = ["litert"]\n')
    return path


def test_files_that_are_there_stay(own: Path) -> None:
    before = {path: path.read_bytes() for path in own.iterdir()}
    with pytest.raises(InputError, match=r"has data.py, model.py already") as caught:
        init(own)
    assert "--from FILE.py:NAME" in str(caught.value.remedy)
    (own / "sgsc.toml").write_text("mine")
    with pytest.raises(InputError, match=r"has sgsc.toml already"):
        init(source=str(own / "model.py:Net"))
    assert {path: path.read_bytes() for path in own.iterdir()} == before | {own / "sgsc.toml": b"mine"}
    init(own, example="digits", force=True)
    assert load_project(own).config.project.name == "digits-cnn"


def test_what_is_ignored_already_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.log\n")
    init(tmp_path, example="digits")
    assert (tmp_path / ".gitignore").read_text() == "*.log\n"


def test_a_starter_that_cannot_be_trained_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken" / "safetensors"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('a broken package')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(broken.parent), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(InputError, match="a broken package") as caught:
        init(tmp_path / "demo")
    assert "sgsc-edge doctor" in str(caught.value.remedy)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("name", example_names())
def test_every_example_is_a_project(tmp_path: Path, name: str) -> None:
    made = init(tmp_path / "copy", example=name)
    assert made.next[0] == f"python {tmp_path / 'copy' / 'train.py'}"
    config = load_project(tmp_path / "copy").config
    assert config.model.saw_pool is False
    assert f"--target {'onnx-int8' if config.model.is_text else 'tflite-int8'}" in made.next[1]


def test_a_folder_of_no_use_is_found_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("sgsc_edge.scaffold.example._train", lambda folder: pytest.fail("trained"))
    for folder in (tmp_path / "file" / "demo", tmp_path / "new" / ("n" * 300), tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match="cannot write") as caught:
            init(folder)
        assert caught.value.where == str(folder)
        assert "--out" not in str(caught.value.remedy)
    with pytest.raises(InputError, match="is empty"):
        init("")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_project_within_pyproject_is_not_put_out_of_use_unasked(own: Path) -> None:
    (own / "pyproject.toml").write_text("[tool.sgsc-edge.project]\nname = 'mine'\n")
    for options in ({"source": str(own / "model.py")}, {"example": "digits", "folder": own / "."}):
        with pytest.raises(InputError, match=r"by \[tool.sgsc-edge\] of pyproject.toml|already"):
            init(**options)  # type: ignore[arg-type]
        assert not (own / "sgsc.toml").exists()
    made = init(source=str(own / "model.py"), force=True)
    assert "sgsc.toml is read from now on; [tool.sgsc-edge] of pyproject.toml is not." in made.notes


def test_an_empty_folder_name_is_not_the_current_folder(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "sgsc_edge.cli.main", "init", "", "--example", "digits"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "FOLDER: is empty" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_example_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'digits'"):
        init(tmp_path / "demo", example="digts")


# --- a network of one's own -----------------------------------------------------------------------


def test_what_can_be_found_out_is_filled_in(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(weights(), own / "net.safetensors")
    torch.save(weights(width=5), own / "wide.pt")  # of another network
    monkeypatch.chdir(own)
    made = init(source="model.py")
    assert made.files == (Path("sgsc.toml"),)
    assert made.next == ("sgsc-edge build . --target tflite-int8",)
    config = load_project(own).config
    assert (config.model.factory, config.model.checkpoint) == ("model:Net", "net.safetensors")
    assert (config.data.train, config.data.test) == ("data:train", "data:test")
    assert (config.model.input.shape, config.data.classes) == ((1, 6, 6), ("ab", 'c"d', "é"))
    findings = dict(made.findings)
    assert findings["network"] == "model:Net, 235 parameters, 3 classes"
    assert findings["checked"] == "loads, is traced, and lowers to 3 ops for tflite-int8"


def test_layers_may_run_in_another_order_than_they_are_defined(own: Path) -> None:
    (own / "model.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.last, self.first = nn.Linear(5, 3), nn.Linear(36, 5)\n"
        "    def forward(self, x):\n"
        "        return self.last(self.first(x.flatten(1)).relu())\n"
    )
    found = find(Answers(str(own / "model.py")), None)
    assert (found.factory, found.shape) == ("model:Net", (1, 6, 6))


def test_answers_are_taken(own: Path) -> None:
    (own / "nets").mkdir()
    (own / "model.py").rename(own / "nets" / "mine.py")
    save_file(weights(), own / "a.safetensors")
    save_file(weights(), own / "b.safetensors")
    init(
        own,
        source="nets.mine:Net",
        data="data.py:train,validation",
        shape=(1, 6, 6),
        checkpoint="b.safetensors",
    )
    config = load_project(own).config
    assert (config.model.factory, config.model.checkpoint) == ("nets.mine:Net", "b.safetensors")
    assert config.data.test == "data:validation"


@pytest.mark.parametrize(
    "function",
    [
        "def build(): return Net(4)",
        "def build(): return Net(4).eval()",
        "def build(scale=1):\n    net = Net(scale)\n    return net.eval() if scale else nn.Sequential(net)",
        "def build() -> nn.Module:\n    net = Net(4)\n    return net",
    ],
)
def test_a_function_that_makes_the_network_is_found(own: Path, function: str) -> None:
    text = MODEL.replace("width=4", "width").replace("ready = Net()\n", "")
    (own / "model.py").write_text(f"{text}{function}\ndef train(): raise SystemExit('not run')\n")
    if "scale" in function:  # not seen: an expression of two, and a name
        with pytest.raises(InputError, match="several networks: Block, Net"):
            init(own, source="model.py")
        return
    assert find(Answers(str(own / "model.py")), None).factory == "model:build"
    (own / "model.py").write_text(f"{MODEL}{function}\n")
    with pytest.raises(InputError, match="has several networks: Net, build"):
        init(own, source="model.py")


def test_few_samples_are_divided_as_a_build_does(own: Path) -> None:
    (own / "data.py").write_text(DATA.replace("_part(120, 0)", "_part(5, 3)"))
    with pytest.raises(InputError, match=r"the pool has [01] different samples") as caught:
        init(own, source="model.py")
    assert (caught.value.where, caught.value.remedy) == ("--data", "bring more training data")
    assert not (own / "sgsc.toml").exists()
    (own / "data.py").write_text(DATA)
    (note,) = (note for note in init(own, source="model.py").notes if note.startswith("Few samples"))
    assert "will judge: 11. One of them is more than [gate] allows to change (1.0%)" in note


def test_names_that_no_file_can_hold_are_left_out(own: Path) -> None:
    (own / "data.py").write_text(DATA.replace('"ab"', '"\\ud800"'))
    odd = own / os.fsdecode(b"n\xff.safetensors")
    save_file(weights(), own / "net.safetensors")
    odd.write_bytes((own / "net.safetensors").read_bytes())
    with pytest.raises(InputError, match="is not UTF-8"):
        init(own, source="model.py", checkpoint=odd.name)
    init(own, source="model.py")
    config = load_project(own).config
    assert (config.model.checkpoint, config.data.classes) == ("net.safetensors", None)


def test_without_a_checkpoint_that_is_said(own: Path) -> None:
    save_file(weights(), own / "net.safetensors")
    made = init(own, source="model:Net", data="data:train", checkpoint="none")
    config = load_project(own).config
    assert (config.model.checkpoint, config.data.test) == (None, None)
    assert made.notes[0].startswith("No checkpoint: model:Net is compressed as it comes.")


@pytest.mark.parametrize(
    ("answers", "where", "message", "remedy"),
    [
        ({"source": "modl.py:Net"}, "--from", "no file modl.py; did you mean 'model.py'?", "FILE.py:NAME"),
        ({"source": "model.py:Nett"}, "--from", "has no 'Nett'; did you mean 'Net'?", "model.py:Net"),
        ({"source": "model.py:scaled"}, "--from", "needs width, bias", "return scaled(width=..., bias=...)"),
        ({"source": "model.py:ready"}, "--from", "is a network, not what makes one", "return ready"),
        ({"source": "data.py"}, "--from", "has no class of a network", "--from data.py:NAME"),
        ({"data": "data.py:trian"}, "--data", "no function 'trian'; did you mean 'train'?", "data.py:TRAIN"),
        ({"data": "data.py:sized"}, "--data", "'sized' needs count", "a function that needs nothing"),
        ({"data": "data.py:train,test,validation"}, "--data", "names 3 data sets", "training, test"),
        ({"data": "dta.py:train"}, "--data", "no file dta.py; did you mean 'data.py'?", "FILE.py:NAME"),
        ({"shape": (3, 6, 6)}, "--input", "its samples are [1, 6, 6]", "leave --input out"),
        ({"checkpoint": "absent.pt"}, "--checkpoint", "no file absent.pt", "correct the path"),
        ({"checkpoint": "model.py"}, "--checkpoint", "is damaged, or holds", "save it again"),
    ],
)
def test_what_is_wrong_names_the_option_that_answers(
    own: Path, answers: dict[str, object], where: str, message: str, remedy: str
) -> None:
    with pytest.raises(InputError) as caught:
        init(own, **({"source": "model.py:Net"} | answers))  # type: ignore[arg-type]
    error = caught.value
    assert error.exit_code == 2
    assert error.where == where
    assert message in error.message
    assert remedy in str(error.remedy)
    assert not (own / "sgsc.toml").exists()


@pytest.mark.parametrize(
    ("files", "message", "remedy"),
    [
        (
            {"model.py": f"{MODEL}class Other(Net): pass\n"},
            "has several networks: Net, Other",
            "model.py:Net",
        ),
        ({"model.py": "import absent"}, "No module named 'absent'", "or correct the import"),
        ({"model.py": MODEL.replace("1, width", "2, width")}, "takes [2, height, width]", "channels first"),
        ({"model.py": MODEL.replace("x).relu()", "x).cumsum(1)")}, "cumsum", ""),
        ({"data.py": DATA.replace(", 6, 6,", ", 6, 5,")}, "", "return samples that the model takes"),
        ({"data.py": f"{DATA}{MIXED}"}, "[2, 6, 6]; the first one is float32 [1, 6, 6]", "correct the data"),
        ({"data.py": "def test(): pass"}, "no function 'train'; it has test", "data.py:TRAIN,TEST"),
        ({"data.py": "def load(): pass"}, "no function 'train'; it has load", "data.py:TRAIN,TEST"),
        ({"data.py": "def train(): return None"}, "not a data set with a length", "map-style"),
        ({"data.py": "def train(): return [(1, 2)]"}, "input that is an int", "float32 tensors"),
        ({"data.py": None}, "there is no data.py", "(input: float32 [1, height, width], label: int)"),
        ({"net.pt": "no checkpoint"}, "checkpoint 'net.pt' cannot be read", "--checkpoint none"),
    ],
)
def test_a_project_that_would_not_build_is_not_written(
    own: Path, files: dict[str, str | None], message: str, remedy: str
) -> None:
    for name, text in files.items():
        (own / name).write_text(text) if text is not None else (own / name).unlink()
    with pytest.raises(InputError) as caught:
        init(own, source="model.py")
    assert message in caught.value.message
    assert remedy in str(caught.value.remedy)
    # what is not written cannot be corrected: the error is about options and the user's files
    assert not re.search(
        r"sgsc\.toml|model\.(input|factory)|data\.(train|test|pool)|preservation\.", str(caught.value)
    )
    assert not (own / "sgsc.toml").exists()


def test_two_checkpoints_that_fit_are_a_question(own: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(weights(), own / name)
    with pytest.raises(
        InputError, match=r"several checkpoints fit 'model:Net': a\.safetensors, b\.safetensors"
    ):
        init(own, source="model.py:Net")


def test_options_about_ones_own_network_need_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a network of your own") as caught:
        init(tmp_path / "demo", data="data.py:train")
    assert caught.value.where == "--data"
    with pytest.raises(InputError, match="exclude each other"):
        init(tmp_path / "demo", example="digits", source="model.py:Net")


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@settings(max_examples=40)
@given(
    names=st.none() | st.lists(TEXT, min_size=2, max_size=4, unique=True).map(tuple),
    samples=st.integers(1, 10**9),
    folder=TEXT.filter(lambda name: "/" not in name and "\0" not in name and name not in (".", "..")),
    checkpoint=st.none() | TEXT.map(lambda name: f"{name}.pt"),
)
@example(names=None, samples=1, folder="9" * 80, checkpoint=None)
def test_whatever_is_found_makes_a_valid_project(
    names: tuple[str, ...] | None, samples: int, folder: str, checkpoint: str | None
) -> None:
    found = Found(Path("/") / folder, "a.b:C", "d:e", None, (3, 5), 7, checkpoint, samples, names)
    project = make_project(parse_toml(config_text(found, names), "sgsc.toml"), found.root)
    config = project.config
    assert (config.data.classes, config.model.checkpoint) == (names, checkpoint)
    assert config.project.name == project_name(found.root)
    assert config.model.input.shape == (3, 5)
    assert 0.1 <= config.preservation.fraction <= 0.4
    assert 2 <= config.compress.epochs <= 20
