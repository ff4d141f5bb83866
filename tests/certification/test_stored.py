"""``compressed.safetensors`` holds what the ``.onnx`` ships, whole or in part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from build_folders import BUILT, context, write_folder
from onnx import TensorProto, helper, numpy_helper

from sgsc_edge.artifacts import write_manifest
from sgsc_edge.certification.stored import check_stored
from sgsc_edge.certification.verify import certify_folder, verify_folder
from sgsc_edge.errors import FileFormatError
from sgsc_edge.numerics import pack_int4

Layer = dict[str, np.ndarray]

WIDE: Layer = {
    "weight": np.arange(-40, 40, dtype=np.int8).reshape(4, 5, 2, 2),
    "bits": np.full(4, 8, np.uint8),
    "scale": np.array([0.5, 0.25, 0.125, 0.25], np.float32),
    "bias": np.array([1, 2, 3, 4], np.int32),
    "bias_scale": np.array([0.05, 0.025, 0.0125, 0.025], np.float32),
}
_NARROW = (np.arange(80).reshape(4, 5, 2, 2) % 15 - 7).astype(np.int8)
_FOUR = np.array([8, 4, 8, 4], np.uint8)
TWO: Layer = {
    **WIDE,
    "bits": _FOUR,
    "weight": np.where(_FOUR[:, None, None, None] == 4, _NARROW, WIDE["weight"]),
}


def part(layer: Layer, rows: list[int], columns: list[int] | None = None) -> Layer:
    made = {name: np.ascontiguousarray(value[rows]) for name, value in layer.items()}
    if columns is not None:
        made["weight"] = np.ascontiguousarray(made["weight"][:, columns])
    return made


def hollow(layer: Layer) -> Layer:
    """Filters and kernels that nothing needs have become 0, with what they added to the bias."""
    made = {name: value.copy() for name, value in layer.items()}
    made["weight"][1], made["bias"][1] = 0, 0
    made["weight"][:, 3] = 0
    made["bias"][3] = 77
    return made


SHIPPED: dict[str, tuple[Layer, dict[str, Layer]]] = {
    "whole": (WIDE, {"a": WIDE}),
    "fewer filters": (WIDE, {"a": part(WIDE, [0, 2, 3])}),
    "fewer inputs": (WIDE, {"a": part(WIDE, [0, 1, 2, 3], [0, 2, 4])}),
    "fewer of both": (WIDE, {"a": part(WIDE, [1, 2], [1, 2])}),
    "two widths": (TWO, {"a_int4": part(TWO, [1, 3]), "a_int8": part(TWO, [0, 2], [4, 3, 2, 1, 0])}),
    "hollow": (WIDE, {"a": hollow(WIDE)}),
}


def stored_model(folder: Path, layers: dict[str, Layer]) -> Path:
    """``compressed.safetensors`` with one quantizer."""
    tensors = {f"{name}.{key}": np.array(value) for name, one in layers.items() for key, value in one.items()}
    tensors |= {"q.scale": np.array(0.1, np.float32), "q.zero_point": np.array(3, np.int8)}
    path = folder / "compressed.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors))
    return path


def shipped_model(folder: Path, layers: dict[str, Layer], scale: float = 0.1) -> Path:
    """A QDQ model of convolutions side by side, on one quantized input."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["value"]),
    ]
    held = [
        numpy_helper.from_array(np.array(scale, np.float32), "s"),
        numpy_helper.from_array(np.array(3, np.int8), "z"),
    ]
    outputs = []
    for name, one in layers.items():
        for key, scales in (("weight", "scale"), ("bias", "bias_scale")):
            stored = numpy_helper.from_array(one[key], f"{name}.{key}_q")
            if key == "weight" and one["bits"][0] == 4:
                packed = pack_int4(one[key]).tobytes()
                stored = helper.make_tensor(stored.name, TensorProto.INT4, one[key].shape, packed, raw=True)
            held += [stored, numpy_helper.from_array(one[scales], f"{name}.{scales}")]
            inputs = [stored.name, f"{name}.{scales}"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.{key}"], axis=0))
        inputs = ["value", f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.y"], name=name))
        outputs.append(helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, ["n", "c", "h", "w"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "c", "h", "w"])
    graph = helper.make_graph(nodes, "g", [x], outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "model.qdq.onnx"
    onnx.save_model(model, str(path))
    return path


@pytest.mark.parametrize("form", SHIPPED)
def test_what_ships_is_part_of_what_is_stored(tmp_path: Path, form: str) -> None:
    whole, parts = SHIPPED[form]
    check_stored(stored_model(tmp_path, {"gone": TWO, "a": whole}), shipped_model(tmp_path, parts))


@pytest.mark.parametrize("name", ["weight", "bits", "scale", "bias", "bias_scale"])
@pytest.mark.parametrize("form", ["whole", "fewer filters", "fewer inputs", "fewer of both", "two widths"])
def test_every_other_integer_is_noticed(tmp_path: Path, form: str, name: str) -> None:
    """Of a filter that ships in all forms; its bias where it lost no kernel."""
    whole, parts = SHIPPED[form]
    other = {**whole, name: whole[name].copy()}
    if name == "weight":
        other[name][2, 2, 1, 1] ^= 1
    elif name == "bits":
        other[name] = 12 - whole[name]
    elif name == "bias":
        other[name][2] += 1
    else:
        other[name][2] = np.nextafter(whole[name][2], np.float32(9))
    stored, shipped = stored_model(tmp_path, {"a": other}), shipped_model(tmp_path, parts)
    if name == "bias" and parts.get("a", whole)["weight"].shape[1] < whole["weight"].shape[1]:
        check_stored(stored, shipped)
        return
    with pytest.raises(FileFormatError, match="holds no layer with the integers and scales of 'a") as caught:
        check_stored(stored, shipped)
    assert str(stored) in str(caught.value)


@pytest.mark.parametrize("beside", [WIDE, TWO])
def test_kernels_change_places_only_where_a_layer_has_two_widths(tmp_path: Path, beside: Layer) -> None:
    stored = stored_model(tmp_path, {"a": WIDE, "b": beside})
    shipped = shipped_model(tmp_path, {"a": part(WIDE, [0, 1, 2, 3], [1, 0, 2, 3, 4])})
    if beside is TWO:
        check_stored(stored, shipped)
    else:
        with pytest.raises(FileFormatError, match="holds no layer"):
            check_stored(stored, shipped)


def test_another_grid_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"holds no activation of scale 0\.2"):
        check_stored(stored_model(tmp_path, {"a": WIDE}), shipped_model(tmp_path, {"a": WIDE}, scale=0.2))


@pytest.mark.parametrize(
    "edit",
    [
        lambda layer: layer.pop("bits"),
        lambda layer: layer.update(scale=np.array(1, np.float32)),
        lambda layer: layer.update(bias=layer["bias"].astype(np.float32)),
        lambda layer: layer.update(weight=np.array(1, np.int8)),
        lambda layer: layer.update(bits=layer["bits"][:2]),
    ],
)
def test_another_form_of_layer_is_refused(tmp_path: Path, edit: Callable[[Any], object]) -> None:
    layer = dict(WIDE)
    edit(layer)
    with pytest.raises(FileFormatError, match="holds no compressed layer 'a'"):
        check_stored(stored_model(tmp_path, {"a": layer}), shipped_model(tmp_path, {"a": WIDE}))


def test_verify_compares_a_certified_file(tmp_path: Path) -> None:
    """Manifest and certificate say that it belongs there; the model's layers are not in it."""
    folder = write_folder(tmp_path / "tflite-int8")
    stored_model(folder, {"a": WIDE})
    write_manifest(folder, [*BUILT, "compressed.safetensors"], tools={}, seeds={}, inputs={}, code={})
    certify_folder(folder, context(("numpy",)))
    with pytest.raises(FileFormatError, match=r"compressed\.safetensors: holds no layer"):
        verify_folder(folder)
