"""Layers that training removed, whole ones among them, are counted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import safetensors.torch
from certification.build_folders import BUILT, SIZES, context, recorded_arrays
from compression.shrink_networks import SAMPLE, Block, build, compressed, fed, kill

from sgsc_edge.artifacts import write_manifest, write_npz
from sgsc_edge.certification.verify import certify_folder
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.export import export_onnx
from sgsc_edge.graph import reference
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import lower
from sgsc_edge.report import read_build, render
from sgsc_edge.report.sections.layers import layers_view


def test_a_residual_branch_that_is_dead_is_counted(tmp_path: Path) -> None:
    model = compressed(build([Block("conv"), Block("identity")], "pool"))
    dead = model.layers()["1.body.1.0"]
    kill(dead, range(4), bias=True)
    shrunk = shrink(model, SAMPLE)
    gone = [layer.name for layer in shrunk.report.layers if layer.is_gone]
    assert gone == ["1.body.0.0", "1.body.1.0"]
    channels = [[[one.name], one.outputs[0]] for one in shrunk.report.layers if not one.is_gone]
    onnx = export_onnx(shrunk.model, SAMPLE, name="dead", metadata={"channels": channels})
    (tmp_path / "model.qdq.onnx").write_bytes(onnx.SerializeToString())
    graph = lower(onnx)
    (tmp_path / "model.tflite").write_bytes(write_tflite(graph))
    (tmp_path / "compressed.safetensors").write_bytes(safetensors.torch.save(model.tensors()))
    arrays = recorded_arrays()
    for number, part in enumerate(SIZES):
        inputs = fed(model, len(arrays[f"{part}_ids"]) - 3, seed=number)
        arrays[f"{part}_inputs"] = inputs
        arrays[f"{part}_compressed_logits"] = reference.run(graph, inputs)
        arrays[f"{part}_labels"] = arrays[f"{part}_compressed_logits"].argmax(1).astype(np.int64)
        arrays[f"{part}_float_logits"] = np.eye(3, dtype=np.float32)[arrays[f"{part}_labels"]]
    write_npz(tmp_path / "preservation.npz", arrays)
    write_manifest(tmp_path, (*BUILT, "compressed.safetensors"), tools={}, seeds={}, inputs={}, code={})
    certify_folder(tmp_path, context())

    found = read_build(tmp_path)
    view = layers_view(found)
    assert view is not None
    # The first convolution's 4 channels and the head's 3 stay; the branch had 2 layers of 4.
    assert (view.channels, view.removed) == (15, 8)
    assert [(row.name, row.kept, row.before) for row in view.rows[-2:]] == [(name, 0, 4) for name in gone]
    page = re.sub(r"\s+", " ", render(found).decode())
    assert "8 of 15 channels left the network." in page
    assert "0 of 4" in page
    assert "left whole, with a dead branch" in page
