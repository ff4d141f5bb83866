"""A build whose C code packs each channel at its own width, as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipeline.conftest import CONFIG, sgsc_edge

BUDGET = 140


def test_a_build_for_c_code_ships_the_widths_that_it_learned(project: Callable[..., Path]) -> None:
    folder = project(config=CONFIG.replace("epochs = 3", f'epochs = 12\nbudget = "{BUDGET} B"'))
    ran = sgsc_edge("build", folder, "--target", "c-learned", "--out", folder / "build")
    assert ran.code == 0, ran.err
    built = folder / "build" / "c-learned"
    assert sgsc_edge("verify", built).code == 0

    plan = json.loads((built / "plan.json").read_text())
    planned = {layer["name"]: [b for b in layer["chosen"]["packed"] if b] for layer in plan["layers"]}
    shown = json.loads(sgsc_edge("inspect", built / "model.tflite", "--json").out)
    found = {
        tensor["name"].removesuffix(".weight"): tensor["channel_bits"]
        for tensor in shown["tensors"]
        if tensor["channel_bits"]
    }
    assert found.keys() == planned.keys()
    for name, widths in found.items():
        assert len(widths) == len(planned[name])
        assert all(bits <= most for bits, most in zip(widths, planned[name], strict=True))

    packages = {}
    for weights in ((), ("--weights", "stored")):
        made = sgsc_edge("package", built, "--format", "c-code", *weights, "--json")
        assert made.code == 0, made.err
        packages[len(weights)] = json.loads(made.out)
    assert (packages[0]["weights"], packages[2]["weights"]) == ("learned", "stored")
    assert packages[0]["constant_bytes"] <= plan["bytes"] <= BUDGET < packages[2]["constant_bytes"]
