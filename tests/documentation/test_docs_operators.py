"""The page of operators is what the tables of ops say."""

from __future__ import annotations

import re
from pathlib import Path

from sgsc_edge import operator_reference
from sgsc_edge.lowering import supported_ops

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the table under a heading, by the first one."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


def test_the_page_is_what_the_tables_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == operator_reference.reference(), "run: make docs"


def test_each_op_has_its_row_in_both_tables() -> None:
    ops = [row.op for row in supported_ops()]
    assert list(rows("ONNX ops")) == list(rows("Quantizers and limits")) == ops
    assert all(cells[2] == "yes" for cells in rows("ONNX ops").values())  # int8 is what there is


def test_figures_that_are_known_otherwise() -> None:
    ops, device = rows("ONNX ops"), rows("Device ops")
    assert ops["Conv"][0] == "`Conv2D`, `DepthwiseConv2D`, `Pad`"
    assert ops["Conv"][4] == "`tflite-int4`, `tflm-int4`"
    assert ops["Add"][4] == "–"
    header = re.search(r"\| device op \| (.*) \|", PAGE.read_text(encoding="utf-8"))
    assert header is not None
    targets = header[1].split(" | ")
    assert device["Conv2D"][targets.index("`tflite-int8`")] == "6"
    assert device["FullyConnected"][targets.index("`tflite-int4`")] == "9"
