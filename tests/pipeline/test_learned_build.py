"""A build whose C code packs each channel at its own width, as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipeline.conftest import CONFIG, sgsc_edge

from sgsc_edge import api
from sgsc_edge.report import read_build
from sgsc_edge.report.sections.sizes import sizes_view

BUDGET = 140


def test_a_build_for_c_code_ships_the_widths_that_it_learned(project: Callable[..., Path]) -> None:
    folder = project(config=CONFIG.replace("epochs = 3", f'epochs = 12\nbudget = "{BUDGET} B"'))
    ran = sgsc_edge("build", folder, "--target", "c-learned", "--out", folder / "build")
    assert ran.code == 0, ran.err
    built = folder / "build" / "c-learned"

    plan = json.loads((built / "plan.json").read_text())
    planned = {layer["name"]: [b for b in layer["chosen"]["packed"] if b] for layer in plan["layers"]}
    found = {
        tensor.name.removesuffix(".weight"): tensor.channel_bits
        for tensor in api.inspect(built / "model.tflite").tensors
        if tensor.channel_bits
    }
    assert found.keys() == planned.keys()
    for name, widths in found.items():
        assert all(bits <= most for bits, most in zip(widths, planned[name], strict=True))

    learned = api.package(built).description
    stored = api.package(built, learned=False).description
    assert (learned["weights"], stored["weights"]) == ("learned", "stored")
    assert sizes_view(read_build(built)).parameters[-1].nbytes == learned["constant_bytes"]
    assert learned["constant_bytes"] <= plan["bytes"] <= BUDGET < stored["constant_bytes"]
