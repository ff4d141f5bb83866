"""Writes a project's float model as ONNX, batch 1, opset 18: what onnx2tf is given to convert.

`python -m benchmarks.float_onnx PROJECT OUT.onnx`
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sgsc_edge.project import load_project


def main(project: str, out: str) -> None:
    """Export the model that the project's checkpoint holds."""
    loaded = load_project(Path(project))
    sample = torch.zeros(1, *loaded.config.model.input.shape)
    model = loaded.load_model().eval()
    torch.onnx.export(model, (sample,), out, dynamo=True, external_data=False, opset_version=18)


if __name__ == "__main__":
    main(*sys.argv[1:])
