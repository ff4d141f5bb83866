"""How planning and lowering grow with a network's layers and weights.

Chains of 3×3 convolutions with random weights, written as QDQ ONNX, are lowered from the file to the bytes
of the `.tflite`, timed in this process; memory is the largest resident set of a process that does it, less
that of one that lowers a single small layer (the imports). Planning chooses a width for each of 50 layers in
a budget, estimates included::

    python -m benchmarks.scaling [--runs 5]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from benchmarks.record import Row, finish
from sgsc_edge.compression.layers import quantize_model
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.snapping import Choices
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import lower
from sgsc_edge.targets import load_target

LAYERS = (10, 50, 200)
WEIGHTS = (1_000_000, 10_000_000, 50_000_000)
WEIGHTS_HELD, LAYERS_HELD = 1_000_000, 20
LINEAR = 1.3
"""What one layer (or weight) more costs may rise to this multiple as networks grow."""

MEMORY_LIMIT = 4.0
PLANNED_LAYERS, PLAN_LIMIT_S = 50, 10.0
SIDE = 8


@dataclass(frozen=True)
class Cost:
    """Seconds of lowering, and bytes of the largest resident set of a process that does it."""

    seconds: float
    memory: int


def main() -> int:
    """Lower every network, plan one, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        least = lowered(folder, 1, 100, runs)
        by_layers = {count: lowered(folder, count, WEIGHTS_HELD, runs) for count in LAYERS}
        by_weights = {count: lowered(folder, LAYERS_HELD, count, runs) for count in WEIGHTS}
    seconds = planning()
    found = [
        *growth("layers", f"{WEIGHTS_HELD / 1e6:g} M weights", by_layers),
        *growth("weights", f"{LAYERS_HELD} layers", by_weights),
        *memory(by_weights, least.memory),
        Row(
            f"planning the widths of {PLANNED_LAYERS} layers",
            f"{seconds:.2f} s",
            f"≤ {PLAN_LIMIT_S:g} s",
            seconds <= PLAN_LIMIT_S,
        ),
    ]
    return finish("scaling", found, {"runs": runs, "least_s": least.seconds, "least_bytes": least.memory})


def growth(what: str, held: str, costs: dict[int, Cost]) -> list[Row]:
    """Time at each size; and what one more costs among the large networks, against among the small ones."""
    small, middle, large = sorted(costs)
    first, second = (
        (costs[more].seconds - costs[less].seconds) / (more - less)
        for less, more in ((small, middle), (middle, large))
    )
    times = ", ".join(f"{size:,d}: {cost.seconds:.2f} s" for size, cost in sorted(costs.items()))
    ratio = second / max(first, 1e-12)
    return [
        Row(f"lowering by {what} ({held}), reading and writing the files", times),
        Row(
            f"what one more of the {what} costs, {middle:,d} to {large:,d} over {small:,d} to {middle:,d}",
            f"{ratio:.2f}",
            f"≤ {LINEAR:g}",
            first > 0 and ratio <= LINEAR,
        ),
    ]


def memory(costs: dict[int, Cost], least: int) -> list[Row]:
    """Peak memory beyond that of the least process, as multiples of the float model."""
    shares = {count: max(cost.memory - least, 0) / (4 * count) for count, cost in costs.items()}
    return [
        Row(
            "lowering: peak memory beyond a process that lowers one small layer, over the float model's size",
            ", ".join(f"{count / 1e6:g} M weights: {share:.1f}" for count, share in shares.items()),
            f"≤ {MEMORY_LIMIT:g}",
            all(share <= MEMORY_LIMIT for share in shares.values()),
        )
    ]


def lowered(folder: Path, layers: int, weights: int, runs: int) -> Cost:
    """The median time of lowering and writing a chain in this process, and the memory of a process for it."""
    path = folder / "model.qdq.onnx"
    path.write_bytes(chain(layers, weights).SerializeToString())
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        write_tflite(lower(path))
        times.append(time.perf_counter() - started)
    return Cost(statistics.median(times), memory_of(path, folder / "out.tflite"))


def memory_of(source: Path, target: Path) -> int:
    """Bytes of the largest resident set of a process that lowers."""
    command = [sys.executable, "-m", "sgsc_edge.lowering", str(source), str(target)]
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"lowering ended with status {status}")
    return usage.ru_maxrss * 1024


def chain(layers: int, weights: int) -> onnx.ModelProto:
    """A chain of convolutions with so many weights together, int8 with a scale for each channel."""
    channels = max(round(math.sqrt(weights / layers / 9)), 1)
    random = np.random.default_rng(0)
    nodes, constants = [], []

    def constant(name: str, values: object) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    grid = (constant("scale", np.float32(0.05)), constant("zero_point", np.int8(0)))

    def rounded(value: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [value, *grid], [f"{value}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{value}_q", *grid], [f"{value}_dq"]))
        return f"{value}_dq"

    value = rounded("input")
    scales = np.full(channels, 0.05 / (40 * 9 * channels) ** 0.5, np.float32)
    for number in range(layers):
        integers = random.integers(-127, 128, (channels, channels, 3, 3), dtype=np.int8)
        stored = [constant(f"w{number}", integers), constant(f"s{number}", scales)]
        nodes.append(helper.make_node("DequantizeLinear", stored, [f"w{number}_dq"], axis=0))
        nodes.append(
            helper.make_node(
                "Conv", [value, f"w{number}_dq"], [f"y{number}"], name=f"conv{number}", pads=[1, 1, 1, 1]
            )
        )
        value = rounded(f"y{number}")
    shape = ["batch", channels, SIDE, SIDE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", value)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def planning() -> float:
    """Seconds to choose the widths of a network's layers in three quarters of its 8-bit bytes."""
    layers: list[nn.Module] = []
    for number in range(PLANNED_LAYERS):
        width = 32 if number % 2 else 96
        layers += [nn.Conv2d(128 - width, width, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers).eval()
    model = quantize_model(network, torch.zeros(32, SIDE, SIDE))
    masks = {name: layer.mask for name, layer in model.layers()}
    generator = torch.Generator().manual_seed(0)
    fisher = {name: torch.rand(layer.weight.shape, generator=generator) for name, layer in model.layers()}
    device = Device.of(load_target("tflm-int4"))
    started = time.perf_counter()
    choices = Choices(model, masks, device, fisher)
    smallest, _ = choices.best()
    choices.best(0.75 * smallest.bytes_in_8_bits)
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
