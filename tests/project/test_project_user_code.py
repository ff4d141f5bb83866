"""The user's model and data: what is wrong with them is said with the user's line, index or tensor."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from sgsc_edge.errors import ConfigError, DataError, ModelError
from sgsc_edge.project import Part, Project, load_project

TOML = """\
[project]
name = "net"
[model]
factory = "my_model:build"
input = { shape = [1, 4, 4] }
[data]
train = "my_data:train"
test = "my_data:test"
[gate]
max_drop = 0.01
max_lowering_flips = 0.005
"""
MODEL = """\
import torch
from torch import nn
from my_parts import CLASSES

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
"""
DATA = """\
import torch
from torch.utils.data import TensorDataset

def train():
    return TensorDataset(torch.zeros(6, 1, 4, 4), torch.arange(6) % 3)
test = train
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"sgsc.toml": TOML, "my_model.py": MODEL, "my_data.py": DATA, "my_parts.py": "CLASSES = 3\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def model_error(project: Project) -> str:
    with pytest.raises(ModelError) as caught:
        project.load_model()
    return str(caught.value)


def data_error(folder: Path, text: str, part: Part = "train", num_classes: int | None = None) -> str:
    (folder / "my_data.py").write_text(
        "import numpy as np\nimport torch\nfrom torch.utils.data import *\n" + text
    )
    with pytest.raises(DataError) as caught:
        list(load_project(folder).load_dataset(part, num_classes))
    return str(caught.value)


# --- model ----------------------------------------------------------------------------------------


def test_a_good_model_loads_and_leaves_no_trace(folder: Path) -> None:
    path, seen = list(sys.path), torch.initial_seed()
    states = (random.getstate(), torch.random.get_rng_state())
    model = load_project(folder).load_model()
    assert not model.training
    assert load_project(folder).output_size(model) == 3
    assert sys.path == path
    assert torch.initial_seed() == seen
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_a_factory_is_seeded(folder: Path) -> None:
    def weights(*settings: str) -> torch.Tensor:
        return torch.cat(
            [tensor.flatten() for tensor in load_project(folder, settings).load_model().parameters()]
        )

    assert torch.equal(weights(), weights())
    assert not torch.equal(weights(), weights("compress.seed=1"))


def test_projects_with_modules_of_one_name_do_not_mix(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    for name in ["sgsc.toml", "my_model.py", "my_parts.py"]:
        (other / name).write_text((folder / name).read_text().replace("CLASSES = 3", "CLASSES = 5"))
    one, two = load_project(folder), load_project(other)
    sizes = [project.output_size(project.load_model()) for project in (one, two, one)]
    assert sizes == [3, 5, 3]


def test_an_edited_module_is_read_again(folder: Path) -> None:
    project = load_project(folder)
    project.load_model()
    (folder / "my_parts.py").write_text("CLASSES = 4  # edited\n")
    assert project.output_size(project.load_model()) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def build():\n    x = 1\n    raise RuntimeError('no weights')\n",
            "raised RuntimeError: no weights (my_model.py:3, in build)",
        ),
        ("import nothing_like_it\n", "No module named 'nothing_like_it' (my_model.py:1"),
        ("def build(:\n", "raised SyntaxError: invalid syntax (my_model.py:1)"),
        ("raise SystemExit(3)\n", "raised SystemExit: 3 (my_model.py:1"),
        ("def biuld():\n    pass\n", "'my_model' has no function 'build'; did you mean 'biuld'?"),
        ("build = 3\n", "'my_model' has no function 'build'"),
        (
            "def build(x):\n    pass\n",
            "is called with no arguments, and cannot be: missing a required argument: 'x'",
        ),
        ("def build():\n    pass\n", "returned nothing (None), not a torch.nn.Module"),
        ("def build():\n    return {}\n", "returned a dict, not a torch.nn.Module"),
    ],
)
def test_a_factory_that_fails_names_the_users_line(folder: Path, text: str, message: str) -> None:
    (folder / "my_model.py").write_text(text)
    error = model_error(load_project(folder))
    assert message in error
    assert error.startswith("".join([str(folder / "sgsc.toml"), ":4: model.factory: "]))


def test_a_missing_module_gets_the_nearest_name(folder: Path) -> None:
    error = model_error(load_project(folder, ["model.factory=my_modle:build"]))
    assert "there is no module 'my_modle'" in error
    assert "did you mean 'my_model'?" in error


def test_a_module_name_that_is_taken_is_refused(folder: Path) -> None:
    (folder / "random.py").write_text(MODEL)
    assert "the module name 'random' is taken by" in model_error(
        load_project(folder, ["model.factory=random:build"])
    )


FORWARD = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(16, 3)
    def forward(self, x):
        y = self.c(x.flatten(1))
        return {}

def build():
    return Net()
"""


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("(y, y)", "the model returned a tuple, not a tensor"),
        ("{'y': y}", "the model returned a dict, not a tensor"),
        ("y[0]", "the model returned float32 [3] for a batch of 2"),
        ("y[:1]", "the model returned float32 [1, 3] for a batch of 2"),
        ("y[:, :1]", "the model returned float32 [2, 1] for a batch of 2"),
        ("y.double()", "the model returned float64 [2, 3] for a batch of 2"),
        ("y / 0", "the model returned NaN or infinity"),
        (
            "self.d(y)",
            "raised AttributeError: 'Net' object has no attribute 'd' (my_model.py:10, in forward)",
        ),
    ],
)
def test_a_model_whose_output_is_no_logits_is_refused(folder: Path, returned: str, message: str) -> None:
    (folder / "my_model.py").write_text(FORWARD.replace("{}", returned))
    assert message in model_error(load_project(folder))


def test_a_model_for_another_input_shape_is_refused(folder: Path) -> None:
    error = model_error(load_project(folder, ["model.input.shape=[1, 5, 5]"]))
    assert "given two samples of model.input.shape, [2, 1, 5, 5], raised RuntimeError" in error
    assert "set model.input.shape to the shape of one sample" in error


def test_channels_in_the_last_place_are_told(folder: Path) -> None:
    error = data_error(folder, "def train(): return [(torch.zeros(4, 4, 1), 0)]\n")
    assert "order its dimensions as model.input.shape does, channels first" in error


def test_bytes_are_told_to_become_floats(folder: Path) -> None:
    error = data_error(folder, "def train(): return [(torch.zeros(1, 4, 4, dtype=torch.uint8), 0)]\n")
    assert "convert it to float32" in error


def test_a_package_that_is_not_installed_is_told_to_be_installed(folder: Path) -> None:
    (folder / "my_model.py").write_text("import nowhere_to_be_found\n")
    assert "install it where sgsc-edge is installed" in model_error(load_project(folder))


def test_class_names_must_match_the_outputs(folder: Path) -> None:
    error = model_error(load_project(folder, ["data.classes=['a', 'b']"]))
    assert "the model has 3 outputs, data.classes has 2 names" in error


# --- checkpoint -----------------------------------------------------------------------------------


def save(folder: Path, state: object, name: str = "float.safetensors") -> Project:
    if name.endswith(".pt"):
        torch.save(state, folder / name)
    else:
        safetensors.torch.save_file(state, folder / name)
    return load_project(folder, [f"model.checkpoint={name}"])


def state(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    good: dict[str, torch.Tensor | None] = {"1.weight": torch.ones(3, 16), "1.bias": torch.zeros(3)}
    named = {name.replace("_", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in (good | named).items() if tensor is not None}


@pytest.mark.parametrize("name", ["float.safetensors", "float.pt"])
def test_a_checkpoint_loads(folder: Path, name: str) -> None:
    weights = save(folder, state(), name).load_model().state_dict()
    assert torch.equal(weights["1.weight"], torch.ones(3, 16))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"1_weight": None}, "missing: 1.weight"),
        ({"2_weight": torch.ones(1)}, "unexpected: 2.weight"),
        ({"1_weight": torch.ones(4, 16)}, "of another shape: 1.weight [4, 16] instead of [3, 16]"),
        ({"1_weight": torch.full((3, 16), torch.nan)}, "NaN or infinite: 1.weight"),
        ({"1_bias": torch.full((3,), torch.inf)}, "NaN or infinite: 1.bias"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_tensors(
    folder: Path, changed: dict[str, torch.Tensor | None], message: str
) -> None:
    assert message in model_error(save(folder, state(**changed)))


def test_everything_that_does_not_fit_is_listed(folder: Path) -> None:
    error = model_error(save(folder, {f"x{number}": torch.ones(1) for number in range(20)}))
    assert "missing: 1.bias, 1.weight" in error
    assert "and 12 more" in error


def test_a_missing_checkpoint_names_the_setting(folder: Path) -> None:
    error = model_error(load_project(folder, ["model.checkpoint=absent.pt"]))
    assert error.startswith("--set: model.checkpoint: checkpoint 'absent.pt' does not exist")
    (folder / "absent.pth").touch()
    error = model_error(load_project(folder, ["model.checkpoint=absent.pt"]))
    assert "did you mean 'absent.pth'?" in error


@pytest.mark.parametrize(
    ("name", "message"),
    [("float.safetensors", "cannot be read"), ("float.pt", "is damaged, or holds other objects")],
)
def test_a_damaged_checkpoint_is_refused(folder: Path, name: str, message: str) -> None:
    (folder / name).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!")
    assert message in model_error(load_project(folder, [f"model.checkpoint={name}"]))


def test_pickled_code_is_never_run(folder: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(folder / 'harmed')!r}, 'w')",))

    for stored in ({"x": Harmful()}, {**state(), "x": Harmful()}, Harmful()):
        error = model_error(save(folder, stored, "float.pt"))
        assert (
            "checkpoint 'float.pt' cannot be read: it is damaged, or holds other objects than tensors"
            in error
        )
        assert "could run code, and are not loaded" in error
        assert "safetensors" in error
        assert "\x1b" not in error  # torch colours its own advice, which is to run the code
        assert not (folder / "harmed").exists()


def test_a_plain_pickle_is_never_run(folder: Path) -> None:
    """Not even where the file is a pickle and no archive of torch."""
    code = f"open({str(folder / 'harmed')!r}, 'w')"
    (folder / "float.pt").write_bytes(b"cbuiltins\nexec\n(V" + code.encode() + b"\ntR.")
    assert "could run code" in model_error(load_project(folder, ["model.checkpoint=float.pt"]))
    assert not (folder / "harmed").exists()


@pytest.mark.parametrize(
    "header",
    [
        '{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16000000]}}',
        '{"x": {"dtype": "F32", "shape": [4000000000, 4000000000], "data_offsets": [0, 16]}}',
        '{"x": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}',
        '{"x": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}',
        '{"x": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}',
        '{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
        '"y": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
        "[" * 5000,
    ],
)
@pytest.mark.parametrize("stated", [None, 0, 2**40, 2**63])
def test_a_safetensors_header_that_lies_is_refused(folder: Path, header: str, stated: int | None) -> None:
    text = header.encode()
    length = len(text) if stated is None else stated
    (folder / "float.safetensors").write_bytes(length.to_bytes(8, "little") + text + bytes(16))
    error = model_error(load_project(folder, ["model.checkpoint=float.safetensors"]))
    assert "checkpoint 'float.safetensors' cannot be read" in error


def test_a_checkpoint_with_more_than_weights_is_refused(folder: Path) -> None:
    assert "is no state dict of named tensors; it holds: epoch, model" in model_error(
        save(folder, {"model": state(), "epoch": 3}, "float.pt")
    )


def test_half_precision_weights_are_refused(folder: Path) -> None:
    (folder / "my_model.py").write_text(MODEL.replace("CLASSES))", "CLASSES)).half()"))
    assert "not float32: 1.bias, 1.weight" in model_error(load_project(folder))


# --- data -----------------------------------------------------------------------------------------


def test_good_data_is_read_as_float_tensors_and_int_labels(folder: Path) -> None:
    (folder / "my_data.py").write_text(
        "import numpy as np\n"
        "def train():\n"
        "    return [(np.full((1, 4, 4), i, np.float32), np.int64(i)) for i in range(3)]\n"
    )
    dataset = load_project(folder).load_dataset("train", num_classes=3)
    assert len(dataset) == 3
    samples = list(dataset)
    assert [label for _, label in samples] == [0, 1, 2]
    assert all(type(label) is int for _, label in samples)
    assert torch.equal(samples[2][0], torch.full((1, 4, 4), 2.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def train(): return TensorDataset(torch.zeros(0, 1, 4, 4), torch.zeros(0))",
            "the data set is empty",
        ),
        ("def train(): return 3", "returned an int"),
        ("def train(): return (x for x in [])", "not a data set with a length and items"),
        ("def train(): raise OSError('no files')", "raised OSError: no files (my_data.py:4, in train)"),
        ("def train(): return [torch.zeros(1, 4, 4)]", "sample 0 is a Tensor"),
        ("def train(): return [('image', 0)]", "sample 0 has an input that is a str"),
        (
            "def train(): return [(torch.zeros(4, 4), 0)]",
            "sample 0 is float32 [4, 4]; model.input says float32 [1, 4, 4]",
        ),
        ("def train(): return [(torch.zeros(1, 4, 4).byte(), 0)]", "sample 0 is uint8 [1, 4, 4]"),
        ("def train(): return [(np.zeros((1, 4, 4)), 0)]", "sample 0 is float64 [1, 4, 4]"),
        ("def train(): return [(torch.full((1, 4, 4), torch.nan), 0)]", "sample 0 holds NaN or infinity"),
        ("def train(): return [(torch.zeros(1, 4, 4), i) for i in (0, 1, -1)]", "sample 2 has the label -1"),
        ("def train(): return [(torch.zeros(1, 4, 4), i) for i in (0, 3)]", "sample 1 has the label 3"),
        ("def train(): return [(torch.zeros(1, 4, 4), 1.0)]", "sample 0 has the label 1.0"),
        ("def train(): return [(torch.zeros(1, 4, 4), True)]", "sample 0 has the label True"),
        (
            "def train(): return [(torch.zeros(1, 4, 4), torch.tensor([1]))]",
            "sample 0 has the label tensor([1])",
        ),
        ("def train(): return [(torch.zeros(1, 4, 4), 1)] * 50", "all 50 training samples have the label 1"),
    ],
)
def test_wrong_data_is_refused_with_its_index(folder: Path, text: str, message: str) -> None:
    error = data_error(folder, text + "\n", num_classes=3)
    assert message in error
    assert "data.train: " in error


def test_a_bad_sample_that_no_probe_meets_is_found_when_it_is_read(folder: Path) -> None:
    text = "def train(): return [(torch.zeros(1, 4, 4), 99 if i == 777 else i % 3) for i in range(1000)]\n"
    assert "sample 777 has the label 99; " not in text
    assert "sample 777 has the label 99" in data_error(folder, text, num_classes=3)


def test_a_sample_that_raises_names_index_and_line(folder: Path) -> None:
    text = (
        "class D(Dataset):\n"
        "    def __len__(self): return 5\n"
        "    def __getitem__(self, i):\n"
        "        return 1 / (i - 4)\n"
    )
    error = data_error(folder, text + "def train(): return D()\n")
    assert "sample 0 is a float" in error
    error = data_error(
        folder, text.replace("return 1", "assert i, 'gone'\n        return 1") + "def train(): return D()\n"
    )
    assert "sample 0 raised AssertionError: gone (my_data.py:7, in __getitem__)" in error


def test_one_class_is_enough_outside_training(folder: Path) -> None:
    (folder / "my_data.py").write_text("import torch\ndef test(): return [(torch.zeros(1, 4, 4), 1)] * 5\n")
    assert len(load_project(folder).load_dataset("test")) == 5


def test_class_names_bound_the_labels(folder: Path) -> None:
    with pytest.raises(DataError, match=r"sample 2 has the label 2"):
        load_project(folder, ["data.classes=['a', 'b']"]).load_dataset("train")


def test_a_data_set_that_nobody_named_is_no_data_set(folder: Path) -> None:
    project = load_project(folder)
    assert project.has_dataset("test")
    assert not project.has_dataset("pool")
    with pytest.raises(ConfigError, match="no data set 'must_keep' is configured"):
        project.load_dataset("must_keep")


def test_augmentation_is_seeded_but_samples_are_not_frozen(folder: Path) -> None:
    (folder / "my_data.py").write_text(
        "import numpy as np, torch\n"
        "def train():\n"
        "    x = torch.from_numpy(np.random.rand(4, 1, 4, 4).astype('f'))\n"
        "    return [(t, i) for i, t in enumerate(x)]\n"
    )
    first, second = (load_project(folder).load_dataset("train")[0][0] for _ in range(2))
    assert torch.equal(first, second)
    assert np.ptp(first.numpy()) > 0


def test_configuration_loads_without_torch(folder: Path) -> None:
    code = (
        "import sys\n"
        "from sgsc_edge.project import load_project\n"
        "load_project(sys.argv[1])\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# --- augmentation ---------------------------------------------------------------------------------


def augmenting(folder: Path, body: str) -> Project:
    (folder / "my_data.py").write_text(DATA + f"\n\ndef augment(x):\n    return {body}\n")
    return load_project(folder, ["data.augment=my_data:augment"])


def test_an_augmentation_is_seeded_and_leaves_its_input_alone(folder: Path) -> None:
    augment = augmenting(folder, "x.add_(torch.rand(x.shape))").augment()
    assert augment is not None
    batch = torch.zeros(2, 1, 4, 4)
    first, again, other = augment(batch, 1), augment(batch, 1), augment(batch, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not batch.any()
    assert load_project(folder).augment() is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x[:1]", r"'my_data:augment' made torch.float32 \[1, 1, 4, 4\] of a batch"),
        ("x.double()", "made torch.float64"),
        ("None", r"made nothing \(None\) of a batch"),
        ("x / 0", "made NaN or infinity"),
        ("x.nothing", r"AttributeError.*my_data.py:\d+, in augment"),
    ],
)
def test_an_augmentation_that_breaks_batches_is_refused(folder: Path, body: str, message: str) -> None:
    augment = augmenting(folder, body).augment()
    assert augment is not None
    with pytest.raises(DataError, match=message):
        augment(torch.zeros(2, 1, 4, 4), 0)
