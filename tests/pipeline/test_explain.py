"""What `explain` says of a layer, against the files and against another engine."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import numpy_helper
from pipeline.conftest import CONFIG, DATA, sgsc_edge, write_project
from pipeline.trained import NOISY, TRAINED

from sgsc_edge.artifacts import check_manifest, read_npz, write_manifest
from sgsc_edge.certification.samples import read_samples
from sgsc_edge.errors import FileFormatError
from sgsc_edge.explanation.answer import Channel, Explanation
from sgsc_edge.explanation.shipped_layer import StoredLayer, _list_of, numbers_of, stored_layer
from sgsc_edge.explanation.without import progress
from sgsc_edge.graph import ir, reference
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.report import read_build

LAYERS = {"0": 4, "5": 3}
"""Output channels of the network."""


@pytest.fixture(scope="module")
def pressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that lost channels, on samples that are not told apart easily."""
    config = CONFIG.replace("epochs = 3", 'epochs = 12\nbudget = "220 B"')
    data = DATA.replace("* 0.3", "* 0.8").replace("+= 0.7", "+= 0.2")
    folder = write_project(tmp_path_factory.mktemp("pressed"), config=config, data=data)
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build")
    assert ran.code == 0, ran.err
    return folder / "build" / "tflite-int8"


def explained(folder: Path, layer: str) -> Any:
    ran = sgsc_edge("explain", folder, layer, "--json")
    assert ran.code == 0, ran.err
    return ran.document


def weights(graph: ir.Graph) -> list[tuple[str, str]]:
    """Names of the weights and the bias of each layer, in order of execution."""
    kinds = (ir.Conv2D, ir.DepthwiseConv2D, ir.FullyConnected)
    return [(node.inputs[1], node.inputs[2]) for node in graph.nodes if isinstance(node.op, kinds)]


def without(graph: ir.Graph, layer: int, channel: int) -> ir.Graph:
    """The device graph with one channel's integers 0: output channels come first."""
    tensors = dict(graph.tensors)
    for name in weights(graph)[layer]:
        data = np.array(tensors[name].data)
        data[channel] = 0
        tensors[name] = replace(tensors[name], data=data)
    return replace(graph, tensors=tensors)


def test_channels_that_are_gone_left_in_the_epoch_that_is_told(pressed: Path) -> None:
    rows = [json.loads(line) for line in (pressed / "channels.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in rows]
    assert epochs == sorted(set(epochs))
    removed = 0
    for layer, channels in LAYERS.items():
        found = explained(pressed, layer)
        assert found["channels_before"] == channels == len(rows[-1]["layers"][layer])
        assert found["gone"] == [number for number, bits in enumerate(rows[-1]["layers"][layer]) if not bits]
        assert sorted([*found["gone"], *(one["number"] for one in found["channels"])]) == list(
            range(channels)
        )
        assert [row["depths"] for row in found["history"]][-1] == rows[-1]["layers"][layer]
        text = sgsc_edge("explain", pressed, layer).out
        for number in found["gone"]:
            first = next(row["epoch"] for row in rows if not row["layers"][layer][number])
            assert f"gone in epoch {first}: " in text
        removed += len(found["gone"])
    assert removed


def test_samples_that_break_are_those_of_the_device_model(pressed: Path) -> None:
    """The integer executor, on the .tflite, with the same channel's integers set to 0."""
    graph = read_tflite((pressed / "model.tflite").read_bytes())
    watch = read_samples(read_npz(pressed / "preservation.npz"), where="")["watch"]
    right = reference.run(graph, watch.inputs).reshape(len(watch), -1).argmax(1) == watch.labels
    broken = 0
    for index, layer in enumerate(LAYERS):
        found = explained(pressed, layer)
        assert found["watch"] == {"decisions": len(watch), "right": int(right.sum())}
        by_number = {one["number"]: one for one in found["channels"]}
        for channel, number in enumerate(sorted(by_number)):
            outputs = reference.run(without(graph, index, channel), watch.inputs).reshape(len(watch), -1)
            wrong = right & (outputs.argmax(1) != watch.labels)
            assert by_number[number]["broken"] == watch.ids[wrong].tolist()
            assert sum(by_number[number]["classes"].values()) == wrong.sum()
            broken += int(wrong.sum())
        needed = [len(one["broken"]) for one in found["channels"]]
        assert needed == sorted(needed, reverse=True)
    assert broken


def test_a_build_that_records_no_channels_is_explained_without_epochs(built: Path) -> None:
    """Of 8 bits on request, or from before they were recorded."""
    folder = built / "build" / "tflite-int8"
    rehashed(folder, "channels.jsonl", None)
    found = explained(folder, "0")
    assert (found["history"], found["gone"], len(found["channels"])) == ([], [], LAYERS["0"])
    assert "0 of" not in sgsc_edge("explain", folder, "0").out


def test_without_a_layer_they_are_listed_with_their_channels(pressed: Path) -> None:
    ran = sgsc_edge("explain", pressed, "--json")
    assert ran.code == 0, ran.err
    for row in ran.document["layers"]:
        found = explained(pressed, row["layer"])
        assert (row["channels"], row["channels_before"]) == (len(found["channels"]), LAYERS[row["layer"]])
    assert [row["layer"] for row in ran.document["layers"]] == list(LAYERS)
    text = sgsc_edge("explain", pressed).out.splitlines()
    assert text[0].split() == ["layer", "channels", "of"]
    assert [line.split()[0] for line in text[1:3]] == list(LAYERS)


def test_what_is_cut_is_told_to_be_in_the_json() -> None:
    def lines(*broken: str) -> str:
        channels = (Channel(0, 8, broken, {"a": len(broken)} if broken else {}),)
        return Explanation("0", 1, channels, (), (), None, (), 9, 8, "sample").to_text()

    assert "--json lists all of them" in lines("a", "b", "c", "d")
    assert "--json" not in lines("a", "b", "c")
    assert "hash of their content, as in preservation.json" in lines("a", "b", "c")
    assert "hash" not in lines()


def test_progress_says_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sgsc_edge.explanation.without._TELL_EVERY_S", 5.0)
    clock = iter([0.0, 0.0, 4.0, 8.0, 12.0])
    monkeypatch.setattr("sgsc_edge.explanation.without.time.monotonic", lambda: next(clock))
    caplog.set_level("INFO", "sgsc_edge")
    monkeypatch.setattr(logging.getLogger("sgsc_edge"), "propagate", True)
    assert list(progress("dense", "dense", 4)) == [0, 1, 2, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "explain dense: 2 of 4 channels done, about 8 s left"
    ]


def test_what_a_larger_budget_s_model_had_lost_is_not_told_of_an_epoch() -> None:
    history = ((0, (8.0, 0.0, 7.5)), (2, (8.0, 0.0, 0.0)))
    kept = (Channel(0, 8, (), {}),)
    lines = Explanation("3", 3, kept, (1, 2), history, None, (), 24, 20, "sample").to_text().splitlines()
    assert lines[1:3] == [
        "gone before, in the model of a larger budget that training went on from: 1",
        "gone in epoch 2: 2 (had 7.5 bits)",
    ]


def test_a_layer_that_left_whole_has_no_table() -> None:
    history = ((1, (8.0, 7.5)), (3, (0.0, 7.5)), (4, (2.0, 0.0)), (6, (0.0, 0.0)))
    lines = Explanation("3", 2, (), (0, 1), history, None, (), 24, 20, "sample").to_text().splitlines()
    assert lines == [
        "layer 3: 0 of 2 channels ship",
        "gone in epoch 4: 1 (had 7.5 bits)",
        "gone in epoch 6: 0 (had 2.0 bits)",
        "the layer left whole: what it computed is a constant in the layers behind it",
    ]


def test_layers_that_are_not_there_and_folders_that_are_no_builds(built: Path, tmp_path: Path) -> None:
    folder = built / "build" / "tflite-int8"
    ran = sgsc_edge("explain", folder, "00")
    assert ran.code == 2
    assert "the build has no layer '00'; did you mean '0'?" in ran.err
    assert "give one of 0, 5" in ran.err
    many = [f"blocks.{number}" for number in range(27)]
    assert _list_of(many, folder) == f"see the build's 27 layers: sgsc-edge explain {folder}"
    assert sgsc_edge("explain", tmp_path, "0").code == 2
    history = folder / "channels.jsonl"
    history.write_text('{"epoch": 1, "layers": {"0": [8.0]}}\n')
    ran = sgsc_edge("explain", folder, "0")
    assert ran.code == 2
    assert "channels.jsonl" in ran.err


def rehashed(folder: Path, name: str, content: bytes | None) -> None:
    """Change a file of a build, or leave it out, and make the manifest fit."""
    manifest = check_manifest(folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    write_manifest(
        folder,
        [name for name in manifest.files if (folder / name).exists()],
        tools=manifest.tools,
        seeds=manifest.seeds,
        inputs=manifest.inputs,
        code=manifest.code,
    )


@pytest.mark.parametrize("part", ["scale", "bias", "weight"])
def test_a_stored_network_without_a_part_is_refused(built: Path, part: str) -> None:
    """Also where somebody made all hashes fit: the folder is read before the file is changed."""
    folder = built / "build" / "tflite-int8"
    build = read_build(folder)
    tensors = safetensors.numpy.load_file(folder / "compressed.safetensors")
    del tensors[f"5.{part}"]
    (folder / "compressed.safetensors").write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(FileFormatError, match="holds no"):
        stored_layer(build, "5")


def test_depths_of_other_channels_are_refused(pressed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pressed, tmp_path / "build"))
    rehashed(folder, "channels.jsonl", b'{"epoch": 1, "layers": {"0": [8.0]}}\n')
    ran = sgsc_edge("explain", folder, "0")
    assert ran.code == 2
    assert "channels.jsonl: has 1 depths for the 4 channels of '0'" in ran.err


# --- which channel is which -----------------------------------------------------------------------


def shipped(**constants: np.ndarray) -> onnx.ModelProto:
    """A model of constants alone."""
    tensors = [numpy_helper.from_array(value, name.replace("__", ".")) for name, value in constants.items()]
    return onnx.helper.make_model(onnx.helper.make_graph([], "constants", [], [], tensors))


def test_the_parts_of_a_layer_in_two_widths_keep_their_order() -> None:
    weight = np.arange(1, 13, dtype=np.int8).reshape(6, 2)
    weight[2] = 0
    stored = StoredLayer(weight, np.array([0.5, 0.25, 0.5, 0.5, 0.125, 0.25], np.float32))
    model = shipped(
        a_int4__weight_quantized=weight[[0, 3]],
        a_int4__scale=stored.scale[[0, 3]],
        a_int8__weight_quantized=weight[[1, 4, 5]],
        a_int8__scale=stored.scale[[1, 4, 5]],
    )
    assert numbers_of(model, "a_int4", stored) == [0, 3]
    assert numbers_of(model, "a_int8", stored) == [1, 4, 5]


def test_filters_that_lost_kernels_are_still_told_from_those_that_are_gone() -> None:
    """All with one scale; the second filter keeps no kernel but zeros, and is there for its bias."""
    weight = np.array([[1, 2, 3], [0, 0, 4], [0, 0, 0], [3, 1, 0]], np.int8)
    stored = StoredLayer(weight, np.full(4, 0.5, np.float32))
    model = shipped(a__weight_quantized=weight[[0, 1, 3], :2], a__scale=np.array([0.5], np.float32))
    assert numbers_of(model, "a", stored) == [0, 1, 3]


def test_filters_that_the_stored_layer_does_not_have_are_refused() -> None:
    stored = StoredLayer(np.ones((2, 2), np.int8), np.array([0.5, 0.25], np.float32))
    model = shipped(a__weight_quantized=np.ones((2, 2), np.int8), a__scale=stored.scale[::-1].copy())
    with pytest.raises(FileFormatError, match="are not found"):
        numbers_of(model, "a", stored)


def test_a_controller_that_gave_bits_back_is_quoted(project: Callable[..., Path]) -> None:
    """A pressure that is far too strong, held by the controller."""
    config = CONFIG.replace("max_drop = 1.0", 'max_drop = 0.01\nmetric = "loss"')
    config = config.replace("epochs = 3", "epochs = 10\ngamma = 10.0")
    folder = project(model=TRAINED, data=NOISY, config=config)
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build")
    assert ran.code in (0, 1), ran.err
    built = folder / "build" / "tflite-int8"
    actions = [json.loads(line) for line in (built / "controller.jsonl").read_text().splitlines()]
    restored = [
        (action["step"], row["channel"], row["before"], row["after"])
        for action in actions
        for row in action["restored"]
        if row["layer"] == "0"
    ]
    assert restored
    found = explained(built, "0")["restored"]
    assert [(one["step"], one["channel"], one["before"], one["after"]) for one in found] == restored
    step, channel, before, after = restored[0]
    text = sgsc_edge("explain", built, "0").out
    assert f"step {step}, watch " in text
    assert f"channel {channel} restored, {before:.2f} -> {after:.2f} bits" in text
