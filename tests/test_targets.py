"""Target files: every shipped one is valid, and a wrong one says everything that is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sgsc_edge import runtimes
from sgsc_edge.errors import ConfigError
from sgsc_edge.graph.tflite_ops import OP_ROWS
from sgsc_edge.targets import available_targets, load_target, target_folder, target_names

SHIPPED = target_names()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_target_is_valid_and_names_what_exists(name: str) -> None:
    target = load_target(name)
    known = {*runtimes.specs(), "compressed"}
    assert known >= {*target.runtimes.required, *target.runtimes.optional}
    # No kernel of these is anything but what the executor computes.
    assert not {row.runtime for row in target.tolerances} & {"tflm", "litert-reference", "numpy"}
    assert target.tolerance("litert", "Conv2D") == (1 if target.is_lowered else 0)
    assert target.tolerance("litert", "Softmax") == 0
    assert target.tolerance("tflm", "Conv2D") == 0


@pytest.mark.parametrize("name", [name for name in SHIPPED if load_target(name).is_lowered])
def test_every_shipped_target_executes_every_device_op(name: str) -> None:
    """In the newest version that is written for its weights; int4 weights have numbers of their own."""
    target = load_target(name)
    newest = {row.op.__name__: max(row.runtimes) for row in OP_ROWS} | {"Reshape": 1}
    wide = {"Conv2D": 6, "DepthwiseConv2D": 3, "FullyConnected": 5}
    assert target.versions == newest | ({} if any(row.bits == 4 for row in target.weights) else wide)


def test_4_bit_filters_are_unpacked_into_the_arena_of_tflite_micro() -> None:
    narrow, phones = load_target("tflm-int4"), load_target("tflite-int4")
    for op in ("Conv2D", "DepthwiseConv2D", "FullyConnected"):
        assert narrow.unpacks(op, 4)
        assert not narrow.unpacks(op, 8)
        assert not phones.unpacks(op, 4)
    assert narrow.unpacks_any
    assert not phones.unpacks_any


def test_the_int8_target_is_what_the_specification_says() -> None:
    target = load_target("tflite-int8")
    assert target.activations.dtype == "int8"
    assert [(row.bits, row.axis) for row in target.weights_of("DepthwiseConv2D")] == [(8, 3)]
    assert target.allows("Conv2D", 8, "per-channel")
    assert not target.allows("Conv2D", 4, "per-channel")
    assert not target.allows("FullyConnected", 8, "per-tensor")
    assert target.weights_of("Add") == ()
    assert "tflm" in target.runtimes.required


def test_available_targets_are_the_shipped_files() -> None:
    assert [target.name for target in available_targets()] == SHIPPED
    assert sorted(path.stem for path in target_folder().glob("*.toml")) == SHIPPED


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown target 'tflite-int9'; did you mean 'tflite-int8'"):
        load_target("tflite-int9")


def _edited(folder: Path, *edits: tuple[str, str]) -> Path:
    text = (target_folder() / "tflite-int8.toml").read_text().replace('"tflite-int8"', '"mine"')
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_target_of_the_users_own_is_read_by_its_path(tmp_path: Path) -> None:
    path = _edited(tmp_path, ("[runtimes]", '[limits]\nflash = "256 kB"\narena = 65536\n[runtimes]'))
    target = load_target(path)
    assert (target.name, target.limits.flash, target.limits.arena) == ("mine", 256_000, 65536)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("format = ", "fromat = "), "fromat: unknown key; did you mean 'format'?"),
        (("bits = 8", "bits = 3"), "weights[0].bits: must be 4 or 8, not 3"),
        (("axis = 3", ""), "weights[1]: axis is given exactly where granularity is 'per-channel'"),
        (("bits = 8", "bits = 16"), "weights[0].bits: must be 4 or 8, not 16"),
        (("axis = 0", "axis = 2"), "weights[0]: Conv2D has its channels along axis 0"),
        (("axis = 3", "axis = 0"), "weights[1]: DepthwiseConv2D has its channels along axis 3"),
        (("bits = 8", "bits = 4"), "Conv2D has no row for 8 bits per channel"),
        (('op = "FullyConnected"', 'op = "Conv2D"'), "weights of Conv2D with 8 bits per-channel come twice"),
        (('optional = ["compressed"', 'optional = ["tflm"'), "runtimes: named twice: tflm"),
        (("required = [", "required = []\nother = ["), "runtimes.required: must not be empty"),
        (('"int8"', '"int7"'), "activations.dtype: must be 'int8', 'int16' or 'float32', not 'int7'"),
        (
            ("symmetric = false", 'symmetric = "no"'),
            "activations.symmetric: must be true or false, not 'no'",
        ),
        (("[runtimes]", "[limits]\nflash = '9 kb'\n[runtimes]"), "limits.flash: '9 kb' is not a size"),
        (("alignment = 16", "alignment = 8"), "alignment: must be 16, 32 or 64, not 8"),
        (
            ("MaxPool2D = 2", "MaxPool = 2"),
            "versions.MaxPool: 'MaxPool' is no device op; did you mean 'MaxPool2D'?",
        ),
        (("MaxPool2D = 2", "MaxPool2D = 0"), "versions.MaxPool2D: must be greater than or equal to 1, not 0"),
        (
            ("FullyConnected = 5\n", ""),
            "FullyConnected has weights and no version: give it one in [versions]",
        ),
        (
            ('op = "Conv2D"', 'op = "Conv3D"'),
            "weights[0].op: 'Conv3D' is no device op; did you mean 'Conv2D'?",
        ),
        (
            ('op = "Conv2D"', 'op = "Add"'),
            "weights[0].op: Add has no weights; Conv2D, DepthwiseConv2D, FullyConnected do",
        ),
        (("steps = 1", "steps = 0"), "tolerances[0].steps: must be greater than or equal to 1, not 0"),
        (("reason = ", "raeson = "), "tolerances[0].reason: is required"),
        (
            ('"Mul", "Mean"', '"Mul", "Means"'),
            "tolerances[0].ops[5]: 'Means' is no device op; did you mean 'Mean'?",
        ),
        (
            ('runtime = "litert"', 'runtime = "litret"'),
            "name 'litret', which is no runtime of the target; did you",
        ),
        (('["MaxPool2D"]', '["Conv2D"]'), "tolerances of litert for Conv2D come twice"),
        (('ops = ["MaxPool2D"]', "ops = []"), "a tolerance of format 'tflite' names its ops"),
        (('format = "tflite"', 'format = "onnx"'), "[versions] is about a .tflite"),
    ],
)
def test_a_wrong_target_file_is_refused(tmp_path: Path, edit: tuple[str, str], message: str) -> None:
    path = _edited(tmp_path, edit)
    with pytest.raises(ConfigError) as caught:
        load_target(path)
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_the_documented_example_is_a_target(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "targets.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "m7-board.toml"
    path.write_text(example)
    target = load_target(path)
    assert (target.alignment, target.limits.flash, target.limits.arena) == (32, 256_000, 60_000)
    assert target.tolerances == ()


def test_the_file_is_named_as_its_target(tmp_path: Path) -> None:
    path = _edited(tmp_path).rename(tmp_path / "other.toml")
    with pytest.raises(ConfigError, match=r"name the file mine\.toml"):
        load_target(path)


def test_targets_load_without_torch() -> None:
    code = (
        "import sys; from sgsc_edge.targets import available_targets as a; a(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_packed_weights_are_read_from_8_bits(tmp_path: Path) -> None:
    text = (target_folder() / "tflm-int4.toml").read_text().replace("tflm-int4", "mine")
    (tmp_path / "mine.toml").write_text(f'{text}\n[code]\nweights = "learned"\n')
    with pytest.raises(ConfigError, match="Conv2D has a row for 4 bits, and"):
        load_target(tmp_path / "mine.toml")
    assert load_target("c-learned").narrow
    assert not load_target("tflite-int8").packs
