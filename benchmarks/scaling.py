"""How planning and lowering grow with a network's layers and weights.

Chains of 3×3 convolutions with random weights, written as QDQ ONNX. Lowering is the whole process
`python -m sgsc_edge.lowering model.qdq.onnx out.tflite`, less the time and the memory of one that lowers a
single small layer; memory is the process's largest resident set. Planning chooses a width for each of 50
layers in a budget, estimates included::

    python -m benchmarks.scaling [--runs 3]
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
from sgsc_edge.compression.snapping import Choices
from sgsc_edge.compression.widths import legal_storages
from sgsc_edge.targets import load_target

LAYERS = (10, 50, 200)
WEIGHTS = (1_000_000, 10_000_000, 50_000_000)
WEIGHTS_HELD, LAYERS_HELD = 1_000_000, 20
LINEAR = 1.3
"""Cost for each layer (or weight) may rise to this multiple of the smallest network's."""

MEMORY_LIMIT = 4.0
PLANNED_LAYERS, PLAN_LIMIT_S = 50, 10.0
SIDE = 8


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds, and bytes of its largest resident set."""

    seconds: float
    memory: int


def main() -> int:
    """Lower every network, plan one, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        least = lowered(folder, 1, 100, runs)
        by_layers = {count: less(lowered(folder, count, WEIGHTS_HELD, runs), least) for count in LAYERS}
        by_weights = {count: less(lowered(folder, LAYERS_HELD, count, runs), least) for count in WEIGHTS}
    seconds = planning()
    found = [
        *growth("layers", f"{WEIGHTS_HELD / 1e6:g} M weights", by_layers),
        *growth("weights", f"{LAYERS_HELD} layers", by_weights),
        *memory(by_weights),
        Row(
            f"planning the widths of {PLANNED_LAYERS} layers",
            f"{seconds:.2f} s",
            f"≤ {PLAN_LIMIT_S:g} s",
            seconds <= PLAN_LIMIT_S,
        ),
    ]
    return finish("scaling", found, {"runs": runs, "least_s": least.seconds, "least_bytes": least.memory})


def less(cost: Cost, least: Cost) -> Cost:
    """What a process takes beyond the least one."""
    return Cost(max(cost.seconds - least.seconds, 1e-3), max(cost.memory - least.memory, 0))


def growth(what: str, held: str, costs: dict[int, Cost]) -> list[Row]:
    """Time at each size, and the cost of one unit against that of the smallest network."""
    sizes = sorted(costs)
    each = [costs[size].seconds / size for size in sizes]
    worst = max(each[1:]) / each[0]
    times = ", ".join(f"{size:,d}: {costs[size].seconds:.2f} s" for size in sizes)
    return [
        Row(f"lowering by {what} ({held}), beyond a process that lowers one small layer", times),
        Row(
            f"its cost for each of the {what}, largest over smallest network's",
            f"{worst:.2f}",
            f"≤ {LINEAR:g}",
            worst <= LINEAR,
        ),
    ]


def memory(costs: dict[int, Cost]) -> list[Row]:
    """Peak memory as multiples of the float model."""
    shares = {count: cost.memory / (4 * count) for count, cost in costs.items()}
    return [
        Row(
            "lowering: peak memory beyond that process, over the float model's size",
            ", ".join(f"{count / 1e6:g} M weights: {share:.1f}" for count, share in shares.items()),
            f"≤ {MEMORY_LIMIT:g}",
            all(share <= MEMORY_LIMIT for share in shares.values()),
        )
    ]


def lowered(folder: Path, layers: int, weights: int, runs: int) -> Cost:
    """The median time and memory of lowering a chain."""
    path = folder / "model.qdq.onnx"
    path.write_bytes(chain(layers, weights).SerializeToString())
    found = [process(path, folder / "out.tflite") for _ in range(runs)]
    return Cost(
        statistics.median(cost.seconds for cost in found),
        int(statistics.median(cost.memory for cost in found)),
    )


def process(source: Path, target: Path) -> Cost:
    """Lower once, in a process of its own."""
    command = [sys.executable, "-m", "sgsc_edge.lowering", str(source), str(target)]
    started = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"lowering ended with status {status}")
    return Cost(time.perf_counter() - started, usage.ru_maxrss * 1024)


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
    legal = legal_storages(model, load_target("tflm-int4").weights)
    started = time.perf_counter()
    choices = Choices(model, masks, legal, fisher)
    smallest, _ = choices.best()
    choices.best(0.75 * smallest.bytes_in_8_bits)
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
