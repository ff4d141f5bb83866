"""Target files: every shipped one is valid, and a wrong one says everything that is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sgsc_edge import runtimes
from sgsc_edge.errors import ConfigError
from sgsc_edge.graph import ir
from sgsc_edge.targets import available_targets, load_target, target_folder, target_names

SHIPPED = target_names()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_target_is_valid_and_names_what_exists(name: str) -> None:
    target = load_target(name)
    known = {*runtimes.specs(), "torch"}
    assert known >= {*target.runtimes.required, *target.runtimes.optional}
    for row in target.weights:
        assert issubclass(getattr(ir, row.op), ir.Op)


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
        (("bits = 8", "bits = 3"), "weights[0].bits: must be 4, 8, 16 or 32, not 3"),
        (("axis = 3", ""), "weights[1]: axis is given exactly where granularity is 'per-channel'"),
        (("DepthwiseConv2D", "Conv2D"), "weights of Conv2D with 8 bits per-channel come twice"),
        (('optional = ["torch"', 'optional = ["tflm"'), "runtimes: named twice: tflm"),
        (("required = [", "required = []\nother = ["), "runtimes.required: must not be empty"),
        (('"int8"', '"int7"'), "activations.dtype: must be 'int8', 'int16' or 'float32', not 'int7'"),
        (
            ("symmetric = false", 'symmetric = "no"'),
            "activations.symmetric: must be true or false, not 'no'",
        ),
        (("[runtimes]", "[limits]\nflash = '9 kb'\n[runtimes]"), "limits.flash: '9 kb' is not a size"),
        (("[runtimes]", "[tolerances.lsb]\nvalue = 1\n[runtimes]"), "tolerances.lsb.reason: is required"),
    ],
)
def test_a_wrong_target_file_is_refused(tmp_path: Path, edit: tuple[str, str], message: str) -> None:
    path = _edited(tmp_path, edit)
    with pytest.raises(ConfigError) as caught:
        load_target(path)
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)


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
